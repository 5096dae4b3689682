"""Searching the journal gives exactly what parsing every line and asking the query about it gives."""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tinydb import where

from b24tunnel.journal import Journal, files, reader, scan
from b24tunnel.recording import Attempt, Recording, SessionStart, UnreadableRecord, from_line, to_line

NOW = datetime(2026, 11, 25, 14, 15, 3, 123456, tzinfo=UTC)
KEYS = ("id", "session", "code", "received_at", "method", "target", "source", "verdict", "portal", "remote")
CODES = [
    None,
    "",
    "ONCRMDEALADD",
    "ONX",
    'ON"X',
    "ON\\X",
    "ОНХ",
    "ON\x01X",
    "ON\udce9",
    "\x7f",
    "A" * 200,
    "on x!~",
]


def reordered(line: bytes) -> bytes:
    return json.dumps(dict(reversed(json.loads(line).items()))).encode() + b"\n"


# Ways in which the same recording, or a spoiled one, may stand in a file.
SHAPES: dict[str, Callable[[bytes], bytes]] = {
    "ours": lambda line: line,
    "spaced": lambda line: json.dumps(json.loads(line)).encode() + b"\n",
    "reordered": reordered,
    "a space behind our beginning": lambda line: line.replace(b'"id":"', b'"id": "', 1),
    "a space before the code": lambda line: line.replace(b'"code":', b'"code" :', 1),
    "indented": lambda line: b"  " + line,
    "escaped id": lambda line: line.replace(b'"id":"3-', b'"id":"3\\u002d', 1),
    "another id": lambda line: line.replace(b'"id":"3-', b'"id":"x-', 1),
    "another time": lambda line: line.replace(b"123456Z", b"123+02:00", 1),
    "no such month": lambda line: line.replace(b"2026-11", b"2026-13", 1),
    "no such year": lambda line: line.replace(b'"2026-11', b'"0001-11', 1),
    "cut": lambda line: line[:-20] + b"\n",
    "no request": lambda line: line.replace(b'"request":{', b'"request":1,"x":{', 1),
    "a number for a code": lambda line: line.replace(b'"code":null', b'"code":7', 1),
    "no code": lambda line: line.replace(b'"code":null,', b"", 1),
}
QUERIES: dict[str, Any] = {
    "code": where("code") == "ONCRMDEALADD",
    "no code": where("code") == None,  # noqa: E711  the query language
    "not the code": ~(where("code") == "ONX"),
    "one of": where("code").one_of(["", "ОНХ", 'ON"X', "ON\\X", "A" * 200]),
    "search": where("code").search("X"),
    "there is a code": where("code").exists(),
    "code and data": (where("code") == "ONX") & (where("data").ID == "7"),
    "code or data": (where("code") == "ONX") | (where("data").ID == "7"),
    "no data": ~(where("data").exists()),
    "id": where("id").one_of(["3-1", "3-2"]),
    "session": where("session") == 3,
    "time": where("received_at") >= NOW,
    "mapped": where("code").map(lambda code: (code or "").lower()) == "onx",
    "nonsense": where("nonsense") == 1,
    "not nonsense": ~(where("nonsense") == 1),
    "a function": lambda document: len(document) == 14 and document.get("code") in ("ONX", None),
    "a function that fails without data": lambda document: document.get("data")["ID"] == "7",
    "a function of all": lambda document: "ONX" in [document[key] for key in document if key != "fields"],
}


def slowly(lines: list[bytes], query: Callable[[Mapping[str, Any]], bool]) -> Iterator[Recording]:
    for line in lines:
        try:
            record = from_line(line)
        except UnreadableRecord:
            continue
        if isinstance(record, Recording):
            parsed = {key: getattr(record.event, key) for key in ("data", "auth", "ts", "fields")}
            if query({**{key: getattr(record, key) for key in KEYS}, **parsed}):
                yield record


_LINES = st.tuples(st.sampled_from(CODES), st.sampled_from(list(SHAPES)), st.integers(-1, 1), st.booleans())


@settings(max_examples=200, deadline=None)
@given(st.lists(_LINES, max_size=12), st.sampled_from([0, 1, 1000]))
@example([(code, shape, 0, True) for code in CODES for shape in SHAPES], 1000)
def test_every_query_finds_what_it_finds_slowly(drawn: list[tuple[Any, str, int, bool]], remembered: int) -> None:
    written = []
    for number, (code, shape, seconds, seven) in enumerate(drawn, 1):
        body = b"data[ID]=7" if seven else b"data[ID]=8"
        moment = NOW + timedelta(seconds=seconds)
        written.append(SHAPES[shape](to_line(Recording(f"3-{number}", moment, "POST", "/", (), body, code=code))))
        written.append(to_line(Attempt(f"3-{number}", "forward", "http://h/", moment, 1.0, 200)))
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "_CODES_REMEMBERED", remembered)
        files.prepare_directory(Path(directory, "journal"))
        path = files.segment_path(Path(directory, "journal"), 3, 1)
        path.write_bytes(b"".join([to_line(SessionStart(3, NOW)), *written]))
        journal = Journal.open(directory)
        for name, query in QUERIES.items():
            assert list(journal.search(query)) == list(slowly(written, query)), name
        assert list(journal.recordings()) == list(slowly(written, lambda document: True))
        for recording in journal.recordings():
            found = journal.get(recording.id)
            assert found is None or found.id == recording.id
            assert (found is not None) == recording.id.startswith("3-")


class TestWhatIsParsed:
    @pytest.fixture
    def parsed(self, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
        seen: list[bytes] = []

        def noted(line: bytes) -> Any:
            seen.append(line)
            return from_line(line)

        monkeypatch.setattr(scan, "from_line", noted)
        return seen

    @pytest.fixture
    def journal(self, tmp_path: Path) -> Journal:
        files.prepare_directory(tmp_path / "journal")
        records = [Recording(f"3-{n}", NOW, "POST", "/", (), b"a=1", code=f"ON{n % 3}") for n in range(1, 10)]
        path = files.segment_path(tmp_path / "journal", 3, 1)
        path.write_bytes(b"".join(map(to_line, [SessionStart(3, NOW), *records])))
        return Journal.open(tmp_path)

    def test_only_what_is_found(self, journal: Journal, parsed: list[bytes]) -> None:
        assert len(list(journal.search(where("code") == "ON1"))) == len(parsed) == 3
        assert len(list(journal.search(where("id") == "3-4"))) == 1
        assert len(list(journal.search(where("received_at") < NOW))) == 0
        assert len(parsed) == 4

    def test_a_query_is_asked_once_about_a_code_that_it_refuses_by_the_code(self, journal: Journal) -> None:
        asked = []
        query = where("code").test(lambda code: asked.append(code) or code == "ON1")
        assert len(list(journal.search(query))) == 3
        assert asked == ["ON1", "ON2", "ON0", "ON1", "ON1"]

    def test_a_function_is_asked_about_each(self, journal: Journal) -> None:
        asked = []
        assert list(journal.search(lambda document: asked.append(document["code"]))) == []  # type: ignore[func-returns-value]
        assert len(asked) == 9

    def test_its_own_failure_is_not_hidden(self, journal: Journal) -> None:
        with pytest.raises(ZeroDivisionError):
            list(journal.search(lambda document: document["code"] == 1 // 0))
