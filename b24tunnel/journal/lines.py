"""The journal's lines as bytes: of which kind one is, what its head says unparsed, and what is wrong with it."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta

from b24tunnel.recording import FORMAT_VERSION, Cause, UnreadableRecord

_OURS = b'{"v":1,"kind":"'
RECORDING = _OURS + b'recording",'
ATTEMPT = _OURS + b'attempt",'
_SESSION_OR_END = (_OURS + b'session",', _OURS + b'end",')

# What a line begins with that surely is of another kind. One that begins unlike ours may be anything.
NO_RECORDING = (ATTEMPT, *_SESSION_OR_END)
NO_ATTEMPT = (RECORDING, *_SESSION_OR_END)
NO_RECORDING_OR_ATTEMPT = _SESSION_OR_END

# Text that JSON writes as it is; where there is anything else, a pattern does not match and the line is parsed.
_PLAIN = rb"[ !#-\[\]-~]*"
_ID = rb"(([1-9][0-9]{0,8})-([1-9][0-9]{0,11}))"
_TIME = rb"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6})Z"

# A recording's head. Groups: 1 the id, 2 its session, 3 its number, 4 received_at (UTC, without the Z), 5 the code
# (None where it is null). None for a line that is to be parsed.
recording_head = re.compile(
    rb'\{"v":1,"kind":"recording","id":"' + _ID + rb'","received_at":"' + _TIME + rb'",'
    rb'"code":(?:null|"(' + _PLAIN + rb')"),"request":'
).match  # fmt: skip

# An attempt's head. Groups: 1 the recording's id, 2 its session, 3 its number, 4 started_at, 5 the status (None
# where it is null). None for a line that is to be parsed.
attempt_head = re.compile(
    rb'\{"v":1,"kind":"attempt","recording":"' + _ID + rb'","cause":"[a-z]+","target":"' + _PLAIN + rb'",'
    rb'"started_at":"' + _TIME + rb'","duration_ms":[0-9][0-9.e+-]*,"status":(?:null|([0-9]{1,9})),'
).match  # fmt: skip

# The recording that a line is or is about, whatever follows. Groups as the first three of the others.
named_id = re.compile(rb'\{"v":1,"kind":"(?:recording","id|attempt","recording)":"' + _ID + rb'",').match


def cause_mark(cause: Cause) -> bytes:
    """What follows the recording's id in the head of an attempt with this cause."""
    return b'","cause":"%s",' % cause.encode()


# An attempt with any other cause hands nothing over.
FORWARDED = cause_mark("forward")
REPLAYED = cause_mark("replay")
HANDING_OVER = (FORWARDED, REPLAYED)

_NAMES = ATTEMPT + b'"recording":"'


def attempted_id(line: bytes) -> bytes | None:
    """The id of the recording that an attempt's line names plainly; None for a line that is to be parsed."""
    if not line.startswith(_NAMES):
        return None
    end = line.find(b'"', len(_NAMES))
    named = line[len(_NAMES) : end]
    return None if end < 0 or b"\\" in named else named


def code(head: re.Match[bytes]) -> str | None:
    """The code in a recording's head."""
    found = head[5]
    return None if found is None else found.decode("ascii")


def moment(time: bytes) -> datetime | None:
    """The time in a head, aware; None where it is none, which parsing the line finds wrong as well."""
    naive = _naive(time)
    return None if naive is None else naive.replace(tzinfo=UTC)


def microseconds(time: bytes) -> int | None:
    """The same in microseconds since 1970."""
    naive = _naive(time)
    return None if naive is None else (naive - _EPOCH) // _MICROSECOND


def _naive(time: bytes) -> datetime | None:
    try:
        naive = datetime.fromisoformat(time.decode("ascii"))
    except ValueError:
        return None
    return naive if 1970 <= naive.year <= 9998 else None


_EPOCH = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)

_VERSION = re.compile(rb'\s*\{\s*"v"\s*:\s*([0-9]{1,9})\s*[,}]')


def head_of_recording(recording_id: str) -> bytes:
    """What the line of the recording with this id begins with, where it begins as ours do."""
    return RECORDING + b'"id":"' + recording_id.encode() + b'",'


def later_version(first_line: bytes) -> int | None:
    """The format version of a file with this first line (which may be torn) where it is later than ours."""
    if first_line.startswith(_OURS):
        return None
    version: object = None
    if match := _VERSION.match(first_line):
        version = int(match[1])
    else:
        try:
            record = json.loads(first_line)
        except (ValueError, RecursionError):
            return None
        if isinstance(record, dict):
            version = record.get("v")
    return version if isinstance(version, int) and version > FORMAT_VERSION else None


def spoiled(line: bytes, error: UnreadableRecord) -> str:
    """What is wrong with a line that cannot be read, without anything of its contents: they may hold tokens."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return "a line that is no JSON"
    if not isinstance(record, dict):
        return "a line that is no JSON object"
    version, kind = record.get("v"), record.get("kind")
    if isinstance(version, int) and version > FORMAT_VERSION:
        return f"a record of a later format than {FORMAT_VERSION}: use a newer b24tunnel for it"
    if version != FORMAT_VERSION:
        return "a record of an unknown format"
    if kind not in ("recording", "attempt", "session", "end"):
        return "a record of an unknown kind"
    missing = error.__cause__
    part = f" ({missing.args[0]})" if isinstance(missing, KeyError) and missing.args else ""
    return f"a record of kind {kind} with a wrong or missing part{part}"
