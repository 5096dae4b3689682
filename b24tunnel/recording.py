"""Recording and Attempt: what the journal holds, and their JSON (record format, version 1)."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from json.encoder import encode_basestring as _quoted  # in C
from typing import Any, Literal, TypeVar, cast
from urllib.parse import quote

from b24tunnel.event import Event
from b24tunnel.form import FormError
from b24tunnel.through import Through

FORMAT_VERSION = 1

Headers = tuple[tuple[str, str], ...]
Source = Literal["tunnel", "offline", "import", "trigger"]
Verdict = Literal["verified", "unverified", "mismatched"]
Cause = Literal["forward", "replay", "against"]
RequestType = Literal["event", "robot", "placement", "page", "settings", "other"]

PAGES: tuple[RequestType, ...] = ("page", "placement", "settings")
"""Requests of a user's browser, or whose answer the portal reads: they want the application's own answer."""

LONGEST_COMMAND_LINE = 8 << 20
"""In characters, with one more for each argument. No system takes a longer one."""

# Causes of attempts that hand a recording over.
_HANDING_OVER = ("forward", "replay")

# What `Attempt.error` begins with when there was no connection: the handler has seen nothing of the delivery.
UNREACHED = "cannot connect"
# ... and when this program stopped first: nobody knows what the handler made of it.
INTERRUPTED = "interrupted"

# What reading a record that is not as it should be can raise.
_WRONG_PART = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
_T = TypeVar("_T")

_ID = re.compile(r"([1-9][0-9]{0,8})-([1-9][0-9]{0,11})", re.ASCII)


class UnreadableRecord(ValueError):
    """A line that is no record of a version that this program knows."""


def parse_id(text: str) -> tuple[int, int] | None:
    """``"12-345"`` as ``(12, 345)``: session and number in it; None when ``text`` is no id."""
    match = _ID.fullmatch(text)
    return (int(match[1]), int(match[2])) if match else None


@dataclass(frozen=True)
class Recording:
    """One delivery as it came in, byte for byte.

    ``headers`` keeps order and spelling; bytes in it that are no UTF-8 are surrogate escapes.
    ``received_at`` is aware UTC. ``target`` is the request target with its query. ``code`` is the event's code
    as sent, or None for a delivery that is no event. ``type`` is what Bitrix24 wants with the request; left out,
    it is an event where there is a code. ``passed_through``: the application's own answer went back to its sender.
    """

    id: str
    received_at: datetime
    method: str
    target: str
    headers: Headers
    body: bytes
    http_version: str = "1.1"
    code: str | None = None
    remote: str | None = None
    source: Source = "tunnel"
    verdict: Verdict = "unverified"
    portal: str | None = None
    name: str | None = None
    type: RequestType = "event"
    passed_through: bool = False

    def __post_init__(self) -> None:
        if self.code is None and self.type == "event":
            object.__setattr__(self, "type", "other")

    @property
    def to_be_forwarded(self) -> bool:
        """Whether a handler is to get it after its sender was answered: not what somebody else sent."""
        return self.verdict != "mismatched" and not self.passed_through

    @property
    def event(self) -> Event:
        """The parsed view of the delivery (query and body), kept; an empty one beyond the codec's bound."""
        # functools.cached_property of Python 3.11 has one lock for all recordings: a small one would wait for a
        # large one that another thread reads.
        kept: Event | None = self.__dict__.get("_event")
        if kept is None:
            try:
                kept = Event.from_request(self.target, self.body)
            except FormError:
                kept = Event({})
            self.__dict__["_event"] = kept
        return kept

    @property
    def session(self) -> int:
        """The number of the session that recorded it."""
        parsed = parse_id(self.id)
        return parsed[0] if parsed else 0

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON object of format version 1."""
        record: dict[str, Any] = {
            "v": FORMAT_VERSION,
            "kind": "recording",
            "id": self.id,
            "received_at": time_text(self.received_at),
            "code": self.code,
            "request": {
                "method": self.method,
                "target": self.target,
                "http_version": self.http_version,
                "headers": self.headers,
                **_body_json(self.body),
            },
            "remote": self.remote,
            "source": self.source,
            "verdict": self.verdict,
            "portal": self.portal,
        }
        if self.name is not None:
            record["name"] = self.name
        if self.type != _plain_type(self.code):
            record["type"] = self.type
        if self.passed_through:
            record["passed_through"] = True
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Recording:
        """The recording that ``record`` describes; raises ``UnreadableRecord``."""
        _check_version(record, "recording")
        try:
            request = record["request"]
            return cls(
                id=_str(record["id"]),
                received_at=_time(record["received_at"]),
                method=_str(request["method"]),
                target=_str(request["target"]),
                http_version=_str(request.get("http_version", "1.1")),
                headers=_headers(request["headers"]),
                body=_body(request),
                code=_optional(record.get("code"), str),
                remote=_optional(record.get("remote"), str),
                source=cast("Source", _str(record.get("source", "tunnel"))),
                verdict=cast("Verdict", _str(record.get("verdict", "unverified"))),
                portal=_optional(record.get("portal"), str),
                name=_optional(record.get("name"), str),
                type=cast("RequestType", _str(record.get("type", "event"))),
                passed_through=bool(record.get("passed_through", False)),
            )
        except _WRONG_PART as error:
            raise UnreadableRecord(f"a recording with a wrong or missing part ({_named(error)})") from error


@dataclass(frozen=True)
class Attempt:
    """One try to hand a recording to a handler, with the answer.

    ``cause`` is ``forward``, ``replay``, or ``against`` for a second handler that a replay got an answer from to
    hold the first one's against; what was read may have another, of a later b24tunnel. ``duration_ms`` is
    milliseconds on a monotonic clock. Exactly one of ``status`` and ``error`` is set.
    ``body`` is the answer's, cut at a bound; ``truncated`` tells that it was.
    """

    recording: str
    cause: Cause
    target: str
    started_at: datetime
    duration_ms: float
    status: int | None = None
    headers: Headers = ()
    body: bytes = b""
    truncated: bool = False
    error: str | None = None

    @property
    def ok(self) -> bool:
        """The handler answered 2xx."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def hands_over(self) -> bool:
        """It says what became of the recording: not one ``against`` a second handler, nor of an unknown cause."""
        return self.cause in _HANDING_OVER

    @property
    def cut_off(self) -> bool:
        """This program stopped before the handler had answered."""
        return self.error is not None and self.error.startswith(INTERRUPTED)

    @property
    def delivered(self) -> bool:
        """The try is over and the handler was reached, whatever it made of it."""
        return self.error is None or not self.error.startswith((UNREACHED, INTERRUPTED))

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON object of format version 1."""
        record: dict[str, Any] = {
            "v": FORMAT_VERSION,
            "kind": "attempt",
            "recording": self.recording,
            "cause": self.cause,
            "target": self.target,
            "started_at": time_text(self.started_at),
            "duration_ms": round(self.duration_ms, 3),
            "status": self.status,
            "headers": self.headers,
            **_body_json(self.body),
            "error": self.error,
        }
        if self.truncated:
            record["truncated"] = True
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Attempt:
        """The attempt that ``record`` describes; raises ``UnreadableRecord``."""
        _check_version(record, "attempt")
        try:
            return cls(
                recording=_str(record["recording"]),
                cause=cast("Cause", _str(record["cause"])),
                target=_str(record["target"]),
                started_at=_time(record["started_at"]),
                duration_ms=_finite(record["duration_ms"]),
                status=_optional(record.get("status"), int),
                headers=_headers(record.get("headers", ())),
                body=_body(record),
                truncated=bool(record.get("truncated", False)),
                error=_optional(record.get("error"), str),
            )
        except _WRONG_PART as error:
            raise UnreadableRecord(f"an attempt with a wrong or missing part ({_named(error)})") from error


@dataclass(frozen=True)
class SessionStart:
    """The first line of a session's file: when it began and where it forwards to (None: only records).

    ``routes`` are there where not every handler gets everything: a handler's URL with the codes and globs that it
    gets; ``forward`` is then the first of these handlers. ``arguments`` is the command line of a replay,
    ``resumes`` the session of the run that it goes on with, and ``through`` what the run selects from.
    """

    session: int
    started_at: datetime
    forward: str | None = None
    purpose: str = "listen"
    routes: tuple[tuple[str, tuple[str, ...]], ...] = ()
    arguments: tuple[str, ...] = ()
    resumes: int | None = None
    through: Through | None = None

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON object of format version 1."""
        record: dict[str, Any] = {
            "v": FORMAT_VERSION,
            "kind": "session",
            "session": self.session,
            "purpose": self.purpose,
            "started_at": time_text(self.started_at),
            "forward": self.forward,
        }
        if self.routes:
            record["routes"] = [{"to": url, "events": list(events)} for url, events in self.routes]
        if self.arguments:
            record["arguments"] = list(self.arguments)
        if self.resumes is not None:
            record["resumes"] = self.resumes
        if self.through is not None:
            record["through"] = {
                "at": time_text(self.through.at),
                "session": self.through.session,
                "numbers": {str(session): number for session, number in self.through.numbers.items()},
            }
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> SessionStart:
        """The start that ``record`` describes; raises ``UnreadableRecord``."""
        _check_version(record, "session")
        try:
            return cls(
                session=int(record["session"]),
                started_at=_time(record["started_at"]),
                forward=_optional(record.get("forward"), str),
                purpose=_str(record.get("purpose", "listen")),
                routes=tuple(
                    (_str(route["to"]), tuple(_str(event) for event in route["events"]))
                    for route in record.get("routes", ())
                ),
                arguments=_arguments(record.get("arguments", [])),
                resumes=_session_number(record.get("resumes")),
                through=_through(record.get("through")),
            )
        except _WRONG_PART as error:
            raise UnreadableRecord(f"a session's start with a wrong or missing part ({_named(error)})") from error


@dataclass(frozen=True)
class SessionEnd:
    """The last line of a session that stopped in order: how many recordings were still to be forwarded."""

    pending: int
    ended_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON object of format version 1."""
        return {
            "v": FORMAT_VERSION,
            "kind": "end",
            "ended_at": time_text(self.ended_at),
            "pending": self.pending,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> SessionEnd:
        """The end that ``record`` describes; raises ``UnreadableRecord``."""
        _check_version(record, "end")
        try:
            return cls(pending=int(record["pending"]), ended_at=_time(record["ended_at"]))
        except _WRONG_PART as error:
            raise UnreadableRecord(f"a session's end with a wrong or missing part ({_named(error)})") from error


Record = Recording | Attempt | SessionStart | SessionEnd

_READERS: dict[str, Any] = {
    "recording": Recording.from_json,
    "attempt": Attempt.from_json,
    "session": SessionStart.from_json,
    "end": SessionEnd.from_json,
}


def to_line(record: Record) -> bytes:
    """One line of the journal with its newline.

    Text stays readable (no ``\\uXXXX`` for Cyrillic); surrogate escapes become JSON escapes, which read back
    as they were.
    """
    # A sender waits while a recording's line is made, and attempts are many: both are put together in one pass.
    if isinstance(record, Recording):
        text = _recording_text(record)
    elif isinstance(record, Attempt):
        text = _attempt_text(record)
    else:
        text = _json(record.to_json())
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _recording_text(recording: Recording) -> str:
    """`Recording.to_json` as compact JSON."""
    code, remote, portal, name = recording.code, recording.remote, recording.portal, recording.name
    return (
        f'{{"v":{FORMAT_VERSION},"kind":"recording","id":{_quoted(recording.id)},'
        f'"received_at":"{time_text(recording.received_at)}",'
        f'"code":{"null" if code is None else _quoted(code)},'
        f'"request":{{"method":{_quoted(recording.method)},"target":{_quoted(recording.target)},'
        f'"http_version":{_quoted(recording.http_version)},"headers":{_headers_text(recording.headers)},'
        f"{_body_text(recording.body)}}},"
        f'"remote":{"null" if remote is None else _quoted(remote)},"source":{_quoted(recording.source)},'
        f'"verdict":{_quoted(recording.verdict)},"portal":{"null" if portal is None else _quoted(portal)}'
        + ("" if name is None else f',"name":{_quoted(name)}')
        + ("" if recording.type == _plain_type(code) else f',"type":{_quoted(recording.type)}')
        + (',"passed_through":true}' if recording.passed_through else "}")
    )


def _attempt_text(attempt: Attempt) -> str:
    """`Attempt.to_json` as compact JSON."""
    status, error = attempt.status, attempt.error
    return (
        f'{{"v":{FORMAT_VERSION},"kind":"attempt","recording":{_quoted(attempt.recording)},'
        f'"cause":{_quoted(attempt.cause)},"target":{_quoted(attempt.target)},'
        f'"started_at":"{time_text(attempt.started_at)}","duration_ms":{round(attempt.duration_ms, 3)!r},'
        f'"status":{"null" if status is None else int(status)},"headers":{_headers_text(attempt.headers)},'
        f'{_body_text(attempt.body)},"error":{"null" if error is None else _quoted(error)}'
        + (',"truncated":true}' if attempt.truncated else "}")
    )


def _headers_text(headers: Headers) -> str:
    return "[" + ",".join([f"[{_quoted(key)},{_quoted(value)}]" for key, value in headers]) + "]"


def _body_text(body: bytes) -> str:
    try:
        return f'"body":{_quoted(body.decode("utf-8"))}'
    except UnicodeDecodeError:
        return f'"body_base64":{_quoted(base64.b64encode(body).decode("ascii"))}'


def _plain_type(code: str | None) -> RequestType:
    """The type that goes without saying."""
    return "other" if code is None else "event"


# Kept, for `json.dumps` makes one each time.
_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def from_line(line: bytes) -> Record:
    """The record that one line of the journal holds; raises ``UnreadableRecord``."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UnreadableRecord("a line that is no JSON") from error
    if not isinstance(record, dict):
        raise UnreadableRecord("a line that is no JSON object")
    kind = record.get("kind")
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        _check_version(record, str(kind))
        raise UnreadableRecord(f"a record of the unknown kind {kind!r}")
    result: Record = reader(record)
    return result


def _check_version(record: Mapping[str, Any], kind: str) -> None:
    version = record.get("v")
    if version != FORMAT_VERSION:
        raise UnreadableRecord(
            f"record format {version!r} of a {kind} is not known to this b24tunnel, which reads version "
            f"{FORMAT_VERSION}: use a newer b24tunnel for this file"
        )


def _named(error: Exception) -> str:
    """What is wrong with a record without anything of its contents, which may be secret."""
    return f"no {error.args[0]}" if isinstance(error, KeyError) and error.args else type(error).__name__


def _body_json(body: bytes) -> dict[str, str]:
    try:
        return {"body": body.decode("utf-8")}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body).decode("ascii")}


def _body(record: Mapping[str, Any]) -> bytes:
    text = record.get("body")
    if text is not None:
        if not isinstance(text, str):
            raise TypeError(f"text expected, not {type(text).__name__}")
        return text.encode("utf-8")
    return base64.b64decode(record.get("body_base64", ""), validate=True)


def _headers(pairs: Any) -> Headers:
    # Of what JSON holds, only text has an isascii.
    return tuple(
        [
            (name, value) if name.isascii() and value.isascii() else (_str(name), _str(value))
            for name, value in pairs
        ]
    )


def with_query(url: str, target: str) -> str:
    """The handler's URL with the query of a request target added to its own."""
    query = target.partition("?")[2]
    if not query:
        return url
    return f"{url}{'&' if '?' in url else '?'}{as_in_addresses(query)}"


def as_in_addresses(text: str) -> str:
    """A path or a query, percent-encoded where an address cannot have it as it is; its bytes stay the same."""
    return re.sub(r"[^!-~]+|#", lambda found: quote(found[0].encode("utf-8", "surrogateescape")), text)


def decoded_headers(raw: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Headers as they came over the wire as text; what is no UTF-8 becomes surrogate escapes."""
    return tuple(
        [
            (name.decode("utf-8", "surrogateescape"), value.decode("utf-8", "surrogateescape"))
            for name, value in raw
        ]
    )


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text expected, not {type(value).__name__}")
    if not value.isascii():
        value.encode("utf-8", "surrogateescape")  # a lone surrogate that stands for no byte raises ValueError
    return value


def _optional(value: Any, kind: type[_T]) -> _T | None:
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{kind.__name__} or nothing expected, not {type(value).__name__}")
    if isinstance(value, str):
        _str(value)
    return value


def _arguments(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"a list expected, not {type(value).__name__}")
    arguments = tuple([_str(argument) for argument in value])
    if command_line_length(arguments) > LONGEST_COMMAND_LINE:
        raise ValueError("a shorter command line expected")
    return arguments


def command_line_length(arguments: Sequence[str]) -> int:
    """What `LONGEST_COMMAND_LINE` bounds."""
    return len(arguments) + sum(map(len, arguments))


def _through(value: Any) -> Through | None:
    if value is None:
        return None
    session = value["session"]
    numbers = {int(own): last for own, last in value["numbers"].items()}
    if not all(type(number) is int and 0 <= number < 10**12 for number in (session, *numbers, *numbers.values())):
        raise ValueError("numbers of sessions and recordings expected")
    return Through(_time(value["at"]), session, numbers)


def _session_number(value: Any) -> int | None:
    number = _optional(value, int)
    if number is not None and not 0 < number < 10**9:
        raise ValueError("the number of a session expected")
    return number


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("a finite number expected")
    return number


def time_text(moment: datetime) -> str:
    """A moment as the journal has it: UTC, to the microsecond."""
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return moment.isoformat(timespec="microseconds")[:26] + "Z"


def _time(text: Any) -> datetime:
    moment = datetime.fromisoformat(_str(text))
    if not 1970 <= moment.year <= 9998:  # beyond, other time zones' calendars end
        raise ValueError("a year from 1970 on expected")
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
