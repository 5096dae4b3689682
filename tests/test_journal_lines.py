"""What the head of a line says unparsed is what parsing it says."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b24tunnel.journal import lines
from b24tunnel.recording import time_text

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@given(st.datetimes(datetime(1970, 1, 1), datetime(9998, 12, 31), timezones=st.just(UTC)))
def test_a_time_in_a_head_is_that_of_the_record(moment: datetime) -> None:
    written = time_text(moment)[:-1].encode()
    assert lines.moment(written) == moment
    microseconds = lines.microseconds(written)
    assert microseconds is not None
    assert _EPOCH + timedelta(microseconds=microseconds) == moment


@pytest.mark.parametrize(
    "written",
    [
        b"1969-12-31T23:59:59.999999",
        b"9999-01-01T00:00:00.000000",
        b"2026-13-01T00:00:00.000000",
        b"2026-02-30T00:00:00.000000",
        b"2026-01-01T24:00:00.000001",
    ],
)
def test_what_is_no_time_that_a_record_may_have_is_none(written: bytes) -> None:
    assert lines.moment(written) is lines.microseconds(written) is None
