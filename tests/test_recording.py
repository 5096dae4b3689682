"""The record format, version 1: what is written comes back, and what is no record is refused in one way."""

import base64
import contextlib
import json
import string
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from raw_cases import RAW_CASES, RawCase

from b24tunnel.recording import (
    LONGEST_COMMAND_LINE,
    Attempt,
    Record,
    Recording,
    SessionEnd,
    SessionStart,
    UnreadableRecord,
    from_line,
    parse_id,
    to_line,
)
from b24tunnel.through import Through

NOW = datetime(2026, 11, 25, 14, 15, 3, 123456, tzinfo=UTC)


def a_recording(**changes: Any) -> Recording:
    parts: dict[str, Any] = {
        "id": "12-345",
        "received_at": NOW,
        "method": "POST",
        "target": "/b24/x",
        "headers": (("Host", "example.org"),),
        "body": b"event=ONCRMDEALADD",
        "code": "ONCRMDEALADD",
    }
    return Recording(**{**parts, **changes})


def an_attempt(**changes: Any) -> Attempt:
    parts: dict[str, Any] = {
        "recording": "12-345",
        "cause": "forward",
        "target": "http://127.0.0.1:8000/handler",
        "started_at": NOW,
        "duration_ms": 12.3,
        "status": 200,
    }
    return Attempt(**{**parts, **changes})


def line_of(record: dict[str, Any]) -> bytes:
    return json.dumps(record).encode() + b"\n"


# Text as it comes off a socket: any bytes, those that are no UTF-8 as surrogate escapes.
wire_text = st.binary(max_size=40).map(lambda octets: octets.decode("utf-8", "surrogateescape"))
header_lists = st.lists(st.tuples(wire_text, wire_text), max_size=6).map(tuple)
moments = st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2999, 1, 1)).map(
    lambda moment: moment.replace(tzinfo=UTC)
)
recordings = st.builds(
    Recording,
    id=st.tuples(st.integers(1, 10**6), st.integers(1, 10**9)).map(lambda parts: f"{parts[0]}-{parts[1]}"),
    received_at=moments,
    method=st.sampled_from(["GET", "POST", "PUT", "PROPFIND"]),
    target=wire_text,
    headers=header_lists,
    body=st.binary(max_size=300),
    http_version=st.sampled_from(["1.0", "1.1"]),
    code=st.none() | wire_text,
    remote=st.none() | st.ip_addresses().map(str),
    source=st.sampled_from(["tunnel", "offline", "import", "trigger"]),
    verdict=st.sampled_from(["verified", "unverified", "mismatched"]),
    portal=st.none() | st.text(max_size=20),
    name=st.none() | st.text(max_size=20),
)
attempts = st.builds(
    Attempt,
    recording=st.just("12-345"),
    cause=st.sampled_from(["forward", "replay", "against"]),
    target=wire_text,
    started_at=moments,
    duration_ms=st.integers(0, 10**9).map(lambda microseconds: microseconds / 1000),
    status=st.none() | st.integers(100, 599),
    headers=header_lists,
    body=st.binary(max_size=300),
    truncated=st.booleans(),
    error=st.none() | wire_text,
)


class TestLines:
    @given(recordings)
    @example(a_recording(body=b"\xff\x00", code=None, remote="::1", portal='a"b\\', name="\u2028"))
    @example(a_recording(method='P"', http_version='1."', source='a"', verdict='b"', id='"'))
    def test_a_recordings_line_is_its_json(self, recording: Recording) -> None:
        text = json.dumps(recording.to_json(), ensure_ascii=False, separators=(",", ":"))
        assert to_line(recording) == text.encode("utf-8", "backslashreplace") + b"\n"


class TestThereAndBack:
    @given(recordings)
    @example(a_recording(body=b"", headers=(), target="", code=""))
    @example(a_recording(body=b"\n\r\n\x00\xff", code="\udcff"))
    @example(a_recording(body="\u2028\u2029\x85\x7f".encode()))
    def test_a_recording_comes_back_as_it_was(self, recording: Recording) -> None:
        assert from_line(to_line(recording)) == recording

    @given(attempts)
    def test_an_attempt_comes_back_as_it_was(self, attempt: Attempt) -> None:
        assert from_line(to_line(attempt)) == attempt

    @pytest.mark.parametrize(
        "record",
        [
            SessionStart(7, NOW, "http://127.0.0.1:8000/", "listen"),
            SessionStart(7, NOW, None, "replay"),
            SessionStart(7, NOW, None, "replay", arguments=("replay", "", "\udcff", "ю\n"), resumes=6),
            SessionStart(7, NOW, None, "replay", through=Through(NOW, 0)),
            SessionStart(7, NOW, None, "replay", resumes=6, through=Through(NOW, 5, {2: 0, 5: 10**12 - 1})),
            SessionEnd(3, NOW),
        ],
    )
    def test_a_sessions_marks_come_back_as_they_were(self, record: Record) -> None:
        assert from_line(to_line(record)) == record

    @given(recordings | attempts)
    def test_one_record_is_one_line(self, record: Record) -> None:
        line = to_line(record)
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        line.decode("utf-8")

    @pytest.mark.parametrize("case", RAW_CASES, ids=lambda case: case.name)
    def test_a_real_delivery_is_kept_byte_for_byte(self, case: RawCase) -> None:
        recording = a_recording(body=case.body, code=case.event)
        back = from_line(to_line(recording))
        assert isinstance(back, Recording)
        assert back.body == case.body
        assert back.event.fields == case.expect

    @given(recordings)
    def test_a_fixture_comes_back_from_pretty_printed_json(self, recording: Recording) -> None:
        pretty = json.dumps(recording.to_json(), indent=2)
        assert Recording.from_json(json.loads(pretty)) == recording


class TestTheLine:
    def test_cyrillic_is_readable_in_it(self) -> None:
        line = to_line(a_recording(body="title=Новый лид".encode(), portal="Портал"))
        assert "title=Новый лид".encode() in line
        assert "Портал".encode() in line
        assert b"\\u" not in line

    def test_a_body_that_is_utf8_is_text(self) -> None:
        request = json.loads(to_line(a_recording(body="лид".encode())))["request"]
        assert request["body"] == "лид"
        assert "body_base64" not in request

    def test_a_body_that_is_no_utf8_is_base64(self) -> None:
        request = json.loads(to_line(a_recording(body=b"\xcd\xee")))["request"]
        assert base64.b64decode(request["body_base64"]) == b"\xcd\xee"
        assert "body" not in request

    def test_it_has_the_documented_keys(self) -> None:
        assert json.loads(to_line(a_recording(remote="203.0.113.7", portal="name"))) == {
            "v": 1,
            "kind": "recording",
            "id": "12-345",
            "received_at": "2026-11-25T14:15:03.123456Z",
            "code": "ONCRMDEALADD",
            "request": {
                "method": "POST",
                "target": "/b24/x",
                "http_version": "1.1",
                "headers": [["Host", "example.org"]],
                "body": "event=ONCRMDEALADD",
            },
            "remote": "203.0.113.7",
            "source": "tunnel",
            "verdict": "unverified",
            "portal": "name",
        }
        assert json.loads(to_line(an_attempt(duration_ms=12.34567, body=b"ok"))) == {
            "v": 1,
            "kind": "attempt",
            "recording": "12-345",
            "cause": "forward",
            "target": "http://127.0.0.1:8000/handler",
            "started_at": "2026-11-25T14:15:03.123456Z",
            "duration_ms": 12.346,
            "status": 200,
            "headers": [],
            "body": "ok",
            "error": None,
        }

    def test_only_a_replay_from_the_command_line_has_its_keys(self) -> None:
        plain = {
            "v": 1,
            "kind": "session",
            "session": 7,
            "purpose": "replay",
            "started_at": "2026-11-25T14:15:03.123456Z",
            "forward": None,
        }
        start = SessionStart(7, NOW, purpose="replay")
        assert json.loads(to_line(start)) == plain
        started = replace(start, arguments=("replay", "last"), resumes=6)
        assert json.loads(to_line(started)) == {**plain, "arguments": ["replay", "last"], "resumes": 6}
        started = replace(start, through=Through(NOW, 6, {3: 8, 6: 0}))
        through = {"at": plain["started_at"], "session": 6, "numbers": {"3": 8, "6": 0}}
        assert json.loads(to_line(started)) == {**plain, "through": through}

    def test_a_time_of_another_zone_is_written_as_utc(self) -> None:
        moscow = NOW.astimezone(timezone(timedelta(hours=3)))
        assert json.loads(to_line(a_recording(received_at=moscow)))["received_at"] == "2026-11-25T14:15:03.123456Z"

    def test_a_time_without_a_zone_is_read_as_utc(self) -> None:
        record = {**a_recording().to_json(), "received_at": "2026-11-25T14:15:03"}
        assert Recording.from_json(record).received_at == datetime(2026, 11, 25, 14, 15, 3, tzinfo=UTC)


# Every key that means something somewhere, so that arbitrary values hit the readers and not only the kind.
_KEYS = [
    *("v", "kind", "id", "received_at", "code", "request", "remote", "source", "verdict", "portal", "name"),
    *("recording", "cause", "target", "started_at", "duration_ms", "status", "headers", "body", "body_base64"),
    *("truncated", "error", "session", "purpose", "forward", "pending", "ended_at", "method", "http_version"),
    *("arguments", "resumes", "through", "at", "numbers"),
]
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, float("inf"), float("-inf"), float("nan"), 1e308])
    | st.floats()
    | st.text(max_size=10)
    | st.sampled_from(["2026-11-25T14:15:03Z", "0001-01-01T00:00:00+23:59", "1-1", "AA==", "AA=", "\ud800"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=6),
    max_leaves=12,
)
_GOOD: list[dict[str, Any]] = [
    json.loads(to_line(record))
    for record in (
        a_recording(),
        an_attempt(),
        SessionStart(7, NOW, arguments=("a",), resumes=6, through=Through(NOW, 6, {6: 1})),
        SessionEnd(0, NOW),
    )
]


@st.composite
def spoiled_records(draw: st.DrawFn) -> dict[str, Any]:
    """A good record in which some values were replaced or removed."""
    record: dict[str, Any] = json.loads(json.dumps(draw(st.sampled_from(_GOOD))))
    for key in draw(st.lists(st.sampled_from(sorted(record)), min_size=1, max_size=2, unique=True)):
        if key == "request" and draw(st.booleans()):
            inner = draw(st.sampled_from(sorted(record["request"])))
            record["request"][inner] = draw(json_values)
        elif draw(st.integers(0, 3)):
            record[key] = draw(json_values)
        else:
            record.pop(key, None)
    return record


class TestRefusals:
    @given(st.binary(max_size=60))
    @example(b"")
    @example(b"[" * 100_000)
    @example(b'{"v":' + b"9" * 5000 + b"}")
    def test_bytes_that_are_no_record_are_unreadable(self, line: bytes) -> None:
        with pytest.raises(UnreadableRecord):
            from_line(line)

    @given(json_values)
    def test_json_that_is_no_record_is_unreadable(self, value: Any) -> None:
        with pytest.raises(UnreadableRecord):
            from_line(json.dumps(value).encode())

    @given(spoiled_records())
    @example({**_GOOD[2], "session": float("inf")})
    @example({**_GOOD[3], "pending": float("inf")})
    @example({**_GOOD[1], "duration_ms": 10**400})
    @example({**_GOOD[1], "headers": 5})
    @example({**_GOOD[1], "headers": [["a"]]})
    @example({**_GOOD[0], "request": []})
    @example({**_GOOD[0], "request": None})
    def test_a_spoiled_record_is_read_or_unreadable_and_nothing_else(self, record: dict[str, Any]) -> None:
        with contextlib.suppress(UnreadableRecord):
            from_line(line_of(record))

    @given(spoiled_records())
    @example({**_GOOD[0], "code": 7})
    @example({**_GOOD[1], "error": 5, "status": None})
    @example({**_GOOD[1], "status": "200"})
    @example({**_GOOD[0], "request": {**_GOOD[0]["request"], "target": "/?\ud800"}})
    @example({**_GOOD[0], "received_at": "0001-01-01T00:00:00+23:59"})
    def test_what_was_read_can_be_used(self, record: dict[str, Any]) -> None:
        try:
            read = from_line(line_of(record))
        except UnreadableRecord:
            return
        to_line(read)
        if isinstance(read, Recording):
            assert read.code is None or isinstance(read.code, str)
            _ = (read.event.code, read.session)
        elif isinstance(read, Attempt):
            assert isinstance(read.ok, bool)
            assert isinstance(read.delivered, bool)

    @pytest.mark.parametrize("kind", ["recording", "attempt", "session", "end", "a kind of the future"])
    @pytest.mark.parametrize("version", [2, 0, None, "1", [1]])
    def test_another_version_is_refused_with_what_to_do(self, kind: str, version: Any) -> None:
        good = next((record for record in _GOOD if record["kind"] == kind), {"kind": kind})
        with pytest.raises(UnreadableRecord, match=r"reads version 1: use a newer b24tunnel") as refusal:
            from_line(line_of({**good, "v": version}))
        assert repr(version) in str(refusal.value)

    def test_an_unknown_kind_of_this_version_is_named(self) -> None:
        with pytest.raises(UnreadableRecord, match="unknown kind 'thought'"):
            from_line(b'{"v":1,"kind":"thought"}')

    @pytest.mark.parametrize(
        "part", ["id", "received_at", "request", "request.method", "request.target", "request.headers"]
    )
    def test_a_recording_without_a_part_is_refused(self, part: str) -> None:
        record = json.loads(to_line(a_recording()))
        inner, _, key = part.rpartition(".")
        del (record[inner] if inner else record)[key]
        with pytest.raises(UnreadableRecord, match=f"recording.*{key}"):
            from_line(line_of(record))

    @pytest.mark.parametrize(
        "body", [{"body": 5}, {"body": "\udcff"}, {"body_base64": "AA="}, {"body_base64": "я"}]
    )
    def test_a_body_that_is_none_is_refused(self, body: dict[str, Any]) -> None:
        record = json.loads(to_line(a_recording()))
        del record["request"]["body"]
        record["request"].update(body)
        with pytest.raises(UnreadableRecord):
            from_line(line_of(record))

    @pytest.mark.parametrize(
        "changes",
        [
            {"arguments": "replay"},
            {"arguments": ["replay", 5]},
            {"arguments": None},
            {"arguments": ["\ud800"]},
            {"arguments": ["x"] * (LONGEST_COMMAND_LINE // 2 + 1)},
            {"arguments": ["x" * LONGEST_COMMAND_LINE]},
            {"resumes": 0},
            {"resumes": -1},
            {"resumes": 10**9},
            {"resumes": "6"},
            {"through": 5},
            {"through": []},
            {"through": {}},
            {"through": {"at": "soon", "session": 1, "numbers": {}}},
            {"through": {"at": "2026-11-25T14:15:03Z", "session": -1, "numbers": {}}},
            {"through": {"at": "2026-11-25T14:15:03Z", "session": True, "numbers": {}}},
            {"through": {"at": "2026-11-25T14:15:03Z", "session": 1, "numbers": [1]}},
            {"through": {"at": "2026-11-25T14:15:03Z", "session": 1, "numbers": {"x": 1}}},
            {"through": {"at": "2026-11-25T14:15:03Z", "session": 1, "numbers": {"1": "1"}}},
            {"through": {"at": "2026-11-25T14:15:03Z", "session": 1, "numbers": {"1": 10**12}}},
        ],
        ids=lambda changes: repr(changes)[:100],
    )
    def test_a_session_that_resumes_nonsense_is_refused(self, changes: dict[str, Any]) -> None:
        with pytest.raises(UnreadableRecord, match="session's start"):
            from_line(line_of({**json.loads(to_line(SessionStart(7, NOW))), **changes}))


def test_a_cause_that_is_not_known_yet_is_read_and_hands_nothing_over() -> None:
    causes: dict[Any, bool] = {"forward": True, "replay": True, "against": False, "dream": False}
    for cause, hands_over in causes.items():
        read = from_line(to_line(replace(an_attempt(), cause=cause)))
        assert isinstance(read, Attempt)
        assert (read.cause, read.hands_over) == (cause, hands_over)


class TestIds:
    @given(st.integers(1, 10**9 - 1), st.integers(1, 10**12 - 1))
    def test_an_id_is_a_session_and_a_number(self, session: int, number: int) -> None:
        assert parse_id(f"{session}-{number}") == (session, number)

    @pytest.mark.parametrize(
        "text", ["", "12", "12-", "-3", "0-1", "1-0", "01-1", "1-01", "1-1\n", "١-١", "1-1-1"]
    )
    def test_anything_else_is_none(self, text: str) -> None:
        assert parse_id(text) is None

    @given(st.text(alphabet=string.digits + "- ", max_size=12))
    def test_an_id_spells_itself(self, text: str) -> None:
        parsed = parse_id(text)
        assert parsed is None or f"{parsed[0]}-{parsed[1]}" == text

    def test_a_recording_knows_its_session(self) -> None:
        assert a_recording(id="12-345").session == 12
        assert a_recording(id="a-fixtures-name").session == 0


class TestAttempts:
    @pytest.mark.parametrize(
        ("status", "ok"), [(199, False), (200, True), (204, True), (299, True), (302, False), (500, False)]
    )
    def test_only_2xx_is_ok(self, status: int, ok: bool) -> None:
        assert an_attempt(status=status).ok is ok
        assert an_attempt(status=status).delivered

    @pytest.mark.parametrize(
        ("error", "delivered"),
        [
            ("cannot connect: connection refused", False),
            ("interrupted: b24tunnel stopped before the handler had answered", False),
            ("connection reset: the handler cut it without an answer", True),
            ("timed out: no whole answer within 60 seconds", True),
        ],
    )
    def test_a_handler_that_may_have_acted_counts_as_reached(self, error: str, delivered: bool) -> None:
        attempt = an_attempt(status=None, error=error)
        assert attempt.delivered is delivered
        assert not attempt.ok
