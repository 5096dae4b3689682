"""A journal of very many recordings, each with an attempt, made by writing lines as the journal's own look."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import delivery
from filelock import FileLock

from b24tunnel.journal.files import prepare_directory, segment_path
from b24tunnel.recording import Attempt, Recording, SessionEnd, SessionStart, to_line

# One in a hundred recordings is of this event ...
SOMETIMES = "ONCRMLEADADD"
# ... and a few of all, so that whoever looks for them looks at everything.
SELDOM = "ONCRMQUOTEADD"
SELDOM_COUNT = 20

_SESSIONS = 10
_BEGAN = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)
_BETWEEN = timedelta(seconds=7.3)
_HANDLER = "http://127.0.0.1:8000/handler"
# What stands in a template where lines differ.
_MOMENT = datetime(2001, 2, 3, 4, 5, 6, 7, tzinfo=UTC)
_PLACES = {
    "2001-02-03T04:05:06.000007Z": "%(moment)s",
    "@id@": "%(id)s",
    "@code@": "%(code)s",
    "@deal@": "%(deal)d",
}
_LINES_A_WRITE = 2000


def made_journal(cache: Path, count: int) -> Path:
    """The directory of recordings with a journal of ``count``, made now or earlier in the same format."""
    format_now = hashlib.sha256(_template() + Path(__file__).read_bytes()).hexdigest()[:12]
    directory = cache / f"journal-{count}-{format_now}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"journal-{count}.lock"):
        if not (directory / "whole").exists():
            for other in cache.glob(f"journal-{count}-*"):  # of a format that is gone, or not made to its end
                shutil.rmtree(other)
            _make(directory, count)
            (directory / "whole").touch()
    return directory


def found_sometimes(count: int) -> int:
    """How many recordings of `SOMETIMES` there are."""
    return sum(1 for number in range(count) if _code(number, count) == SOMETIMES)


def _code(number: int, count: int) -> str:
    if number % max(1, count // SELDOM_COUNT) == 1:
        return SELDOM
    if number % 100 == 50:
        return SOMETIMES
    return ("ONCRMDEALUPDATE", "ONCRMDEALUPDATE", "ONCRMCONTACTUPDATE", "ONCRMDEALADD", "ONTASKUPDATE")[number % 5]


def _template() -> bytes:
    """A recording's and its attempt's line, with named places where they differ."""
    content = delivery.body("@code@", "@deal@").replace(b"%40", b"@")
    headers = (*delivery.headers(content), ("Connection", "close"))
    recording = Recording(
        "@id@",
        _MOMENT,
        "POST",
        "/b24/AAAAAAAAAAAAAAAAAAAAAAAA",
        headers,
        content,
        code="@code@",
        remote="203.0.113.7",
    )
    answered = (
        ("Server", "nginx"),
        ("Date", "Sun, 01 Mar 2026 08:00:00 GMT"),
        ("Content-Type", "text/html; charset=UTF-8"),
        ("Connection", "keep-alive"),
    )
    attempt = Attempt("@id@", "forward", _HANDLER, _MOMENT, 41.5, 200, answered, b"ok")
    lines = (to_line(recording) + to_line(attempt)).replace(b"%", b"%%").decode()
    for place, name in _PLACES.items():
        assert place in lines, f"{place} is not in a line of the journal"
        lines = lines.replace(place, name)
    return lines.encode()


def _make(directory: Path, count: int) -> None:
    journal = directory / "journal"
    prepare_directory(journal)
    each = -(-count // _SESSIONS)
    for session in range(1, _SESSIONS + 1):
        numbers = range((session - 1) * each, min(session * each, count))
        began = _BEGAN + _BETWEEN * numbers.start
        path = segment_path(journal, session, 1)
        with path.open("wb", buffering=0) as file:
            file.write(to_line(SessionStart(session, began, _HANDLER)))
            for piece in _pieces(session, numbers, count):
                file.write(piece)
            file.write(to_line(SessionEnd(0, _BEGAN + _BETWEEN * numbers.stop)))
            os.fsync(file.fileno())
        ended = (_BEGAN + _BETWEEN * numbers.stop).timestamp()
        os.utime(path, (ended, ended))  # as if it had been written then


def _pieces(session: int, numbers: range, count: int) -> Iterator[bytes]:
    template = _template().decode()
    lines = []
    for place, number in enumerate(numbers, 1):
        moment = (_BEGAN + _BETWEEN * number).isoformat(timespec="microseconds")[:26] + "Z"
        values = {"id": f"{session}-{place}", "code": _code(number, count), "moment": moment, "deal": number}
        lines.append(template % values)
        if len(lines) == _LINES_A_WRITE:
            yield "".join(lines).encode()
            lines = []
    yield "".join(lines).encode()
