"""The parsed view of a delivery: what a PHP handler would find in it."""

import contextlib
import json
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import pytest
from hypothesis import given
from hypothesis import strategies as st
from programs import Programs, free_port, wait_until
from raw_cases import RAW_CASES, RawCase

from b24tunnel import form
from b24tunnel.event import Event

by_name = pytest.mark.parametrize("case", RAW_CASES, ids=lambda case: case.name)


@by_name
def test_a_real_delivery_reads_as_its_sender_meant_it(case: RawCase) -> None:
    event = Event.from_body(case.body)
    assert event.fields == case.expect
    assert event.code == case.event
    assert event.data == case.expect.get("data")
    assert event.auth == case.expect.get("auth")
    token = case.expect.get("auth", {}).get("application_token")
    assert event.application_token == token


@by_name
def test_a_real_delivery_has_the_time_that_it_was_queued_at(case: RawCase) -> None:
    ts = Event.from_body(case.body).ts
    expected = case.expect.get("ts")
    assert (str(int(ts.timestamp())) if ts else None) == expected
    assert ts is None or ts.utcoffset() == UTC.utcoffset(None)


def test_a_time_is_aware_utc() -> None:
    assert Event.from_body(b"ts=1545851621").ts == datetime(2018, 12, 26, 19, 13, 41, tzinfo=UTC)


@pytest.mark.parametrize(
    "spelled", ["", "-1", "1e9", "1.5", " 1", "٣", "soon", "9" * 12, "9" * 5000, "253402300800"]
)
def test_a_time_that_is_none_is_no_error(spelled: str) -> None:
    assert Event.from_body(b"ts=" + quote(spelled).encode()).ts is None


def test_the_last_second_that_a_date_can_hold_is_still_a_time() -> None:
    ts = Event.from_body(b"ts=253402300799").ts
    assert ts is not None
    assert ts.year == 9999


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"event_handler_id=58", "58"),
        (b"event_id=59", "59"),
        (b"event_id=59&event_handler_id=58", "58"),
        (b"event=X", None),
        (b"event_handler_id[]=58", None),
    ],
)
def test_the_handlers_id_has_had_two_names(body: bytes, expected: str | None) -> None:
    assert Event.from_body(body).handler_id == expected


@pytest.mark.parametrize(
    "body", [b"", b"event[]=A", b"event[a]=B", b"auth=text&data=", b"auth[application_token][]=x"]
)
def test_fields_of_another_shape_are_absent_rather_than_wrong(body: bytes) -> None:
    event = Event.from_body(body)
    assert (event.code, event.application_token, event.handler_id) == (None, None, None)
    assert event.auth is None or event.auth == {"application_token": ["x"]}


def test_a_body_whose_names_are_0_to_n_is_still_a_mapping() -> None:
    assert Event.from_body(b"0=a&1=b").fields == {"0": "a", "1": "b"}


def test_a_get_delivery_carries_its_event_in_the_query() -> None:
    event = Event.from_request("/b24/x?event=ONCRMDEALADD&data%5BFIELDS%5D%5BID%5D=7", b"")
    assert event.code == "ONCRMDEALADD"
    assert event.data == {"FIELDS": {"ID": "7"}}


def test_the_bodys_fields_win_over_the_querys() -> None:
    event = Event.from_request("/b24/x?event=FALSE&lang=ru", b"event=TRUE")
    assert event.fields == {"event": "TRUE", "lang": "ru"}


def test_a_target_without_a_query_adds_nothing() -> None:
    assert Event.from_request("/b24/event=X", b"a=1").fields == {"a": "1"}


def test_bytes_in_a_query_that_are_no_utf8_are_kept() -> None:
    target = b"/b24/x?name=\xcd\xee".decode("utf-8", "surrogateescape")
    assert Event.from_request(target, b"").fields["name"].encode("utf-8", "surrogateescape") == b"\xcd\xee"


@pytest.mark.php
def test_query_and_body_together_are_what_php_has_in_request(programs: Programs, tmp_path: Path) -> None:
    (tmp_path / "show.php").write_text("<?php echo json_encode($_REQUEST);")
    address = f"127.0.0.1:{free_port()}"
    programs.start("php", "-n", "-d", "request_order=GP", "-S", address, "show.php")
    wait_until(lambda: _can_connect(address), "PHP's server listens")
    for query, body in [
        ("event=A&lang=ru", "event=B"),
        ("data[a]=1", "data[b]=2"),
        ("auth[domain]=d&auth[member_id]=m", "auth[member_id]=n"),
        ("x=1", "x[a]=2"),
        ("x[a]=2", "x=1"),
        ("x[]=1&x[]=2", "x[]=3"),
    ]:
        with urlopen(f"http://{address}/?{query}", data=body.encode(), timeout=30) as answer:
            in_php = json.load(answer)
        assert Event.from_request(f"/b24/x?{query}", body.encode()).fields == in_php, (query, body)


def _can_connect(address: str) -> bool:
    host, _, port = address.partition(":")
    with contextlib.suppress(OSError):
        socket.create_connection((host, int(port)), timeout=1).close()
        return True
    return False


@given(st.binary(max_size=200), st.binary(max_size=100))
def test_any_request_has_an_event(body: bytes, query: bytes) -> None:
    event = Event.from_request("/p?" + query.decode("utf-8", "surrogateescape"), body)
    values: list[Any] = [event.code, event.handler_id, event.application_token]
    assert all(value is None or isinstance(value, str) for value in values)
    assert event.ts is None or event.ts.tzinfo is UTC
    assert event.auth is None or isinstance(event.auth, dict)
    _ = event.data


def test_more_parameters_than_the_bound_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(form, "MAX_PARAMETERS", 2)
    with pytest.raises(form.FormError, match="more than 2 parameters"):
        Event.from_body(b"a=1&b=2&c=3")
