"""Entries of the offline queue, read with bounds."""

from typing import Any

import pytest

from b24tunnel.portal.offline import (
    DamagedEntry,
    OfflineEntry,
    is_free,
    read_entry,
    reserved_under,
)

ENTRY: dict[str, Any] = {
    "ID": "5",
    "TIMESTAMP_X": "2026-11-25T13:00:00+03:00",
    "EVENT_NAME": "onCrmDealAdd",
    "EVENT_DATA": {"FIELDS": {"ID": 7, "OK": True, "NO": False, "NULL": None, "SUM": 1.5, "LIST": [1, "x"]}},
    "EVENT_ADDITIONAL": {"user_id": "3"},
    "MESSAGE_ID": "0123456789abcdef0123456789abcdef",
}


def test_an_entry_as_documented() -> None:
    data = {"FIELDS": {"ID": "7", "OK": "1", "NO": "0", "NULL": "", "SUM": 1.5, "LIST": ["1", "x"]}}
    assert read_entry(ENTRY) == OfflineEntry("5", ENTRY["MESSAGE_ID"], 1795600800, "ONCRMDEALADD", data, "3")


@pytest.mark.parametrize("additional", [None, [], {}, "x", {"user_id": None}, {"user_id": 0}, {"user_id": "x"}])
def test_nobody_may_have_caused_it(additional: Any) -> None:
    assert read_entry({**ENTRY, "EVENT_ADDITIONAL": additional}).user_id == ""


@pytest.mark.parametrize("data", [[], {}, None, "x", 5])
def test_data_may_be_anything_that_travels(data: Any) -> None:
    assert read_entry({**ENTRY, "EVENT_DATA": data}).code == "ONCRMDEALADD"


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    "changes",
    [
        {"ID": None},
        {"ID": "-5"},
        {"ID": "5" * 21},
        {"ID": []},
        {"MESSAGE_ID": ENTRY["MESSAGE_ID"] + "0"},
        {"MESSAGE_ID": " " + ENTRY["MESSAGE_ID"][1:]},
        {"MESSAGE_ID": 5},
        {"EVENT_NAME": None},
        {"EVENT_NAME": "X" * 256},
        {"EVENT_NAME": "A\nB"},
        {"TIMESTAMP_X": None},
        {"TIMESTAMP_X": 5},
        {"TIMESTAMP_X": "2026-11-25T13:00:00"},
        {"TIMESTAMP_X": "0001-01-01T00:00:00+03:00"},
        {"EVENT_DATA": nested(80)},
        {"EVENT_DATA": {"k" * 10_000: ["x"] * 1000}},
        {"EVENT_DATA": "x" * 5_000_000},
        {"EVENT_DATA": {"\udfff": 1}},
        {"EVENT_DATA": {"a": "\ud800"}},
    ],
)
def test_what_is_not_as_documented_is_no_entry_and_its_contents_are_not_told(changes: dict[str, Any]) -> None:
    with pytest.raises(DamagedEntry) as caught:
        read_entry({**ENTRY, **changes})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize("value", [None, "x", 5, [], [ENTRY]])
def test_what_is_no_object_is_no_entry(value: Any) -> None:
    with pytest.raises(DamagedEntry):
        read_entry(value)
    assert not is_free(value)
    assert reserved_under(value) == ""


@pytest.mark.parametrize("error", ["0", 0, "", None, False])
def test_a_row_is_free_reserved_or_failed(error: Any) -> None:
    assert is_free({"PROCESS_ID": "", "ERROR": error})
    assert is_free({"PROCESS_ID": None, "ERROR": error})
    assert not is_free({"PROCESS_ID": "P", "ERROR": error})
    assert reserved_under({"PROCESS_ID": "P", "ERROR": error}) == "P"
    assert reserved_under({"PROCESS_ID": "", "ERROR": error}) == ""
    assert reserved_under({"PROCESS_ID": 5, "ERROR": error}) == ""


@pytest.mark.parametrize("error", ["1", 1, True])
def test_a_failed_row_is_somebody_elses_affair(error: Any) -> None:
    assert not is_free({"PROCESS_ID": "", "ERROR": error})
    assert reserved_under({"PROCESS_ID": "P", "ERROR": error}) == ""
