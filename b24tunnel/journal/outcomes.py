"""What came of the attempts with each recording: whether the last one failed, whether any reached a handler."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from b24tunnel.journal import lines
from b24tunnel.journal.files import Segment
from b24tunnel.journal.marks import Marks
from b24tunnel.journal.numbers import Numbers
from b24tunnel.journal.scan import Scan
from b24tunnel.recording import INTERRUPTED, UNREACHED, Attempt, parse_id, time_text

_OK = 1
_NOT_OK = 2
_DELIVERED = 4
_UNSURE = 8
_OUTCOME = _OK | _NOT_OK | _UNSURE

_TARGET = b'"target":"'
# In a JSON text a quote is escaped, so this is the key itself.
_ERROR = b',"error":"'
_NOT_DELIVERED = (UNREACHED.encode(), INTERRUPTED.encode())


class Outcomes:
    """The outcome of each recording's last attempt, in the order of `attempts.in_order`.

    Memory is about a byte for each recording, and 20 more for each of which sessions that ran at the same time
    had different answers. An attempt's line counts as its head says, which is not parsed further; one that does
    not hand the recording over (`Attempt.hands_over`) does not count.
    """

    def __init__(self, to: str | None, before: datetime | None) -> None:
        self._to = None if to is None else _spellings(to)
        self._until = None if before is None else time_text(before)[:26].encode()
        self._marks = Marks()
        self._session = 0
        self._latest = b""  # when the last attempt of this session and those before it started, as in the line
        self._before = b""  # the same of those before it alone
        self._unsure = False

    @classmethod
    def of(
        cls,
        scan: Scan,
        *,
        to: str | None = None,
        before: datetime | None = None,
        without: Collection[int] = (),
    ) -> Outcomes:
        """Read all attempts, or those with the handler at the URL ``to`` (its query apart), or made ``before``.

        Those of the sessions ``without`` are left out.
        """
        outcomes = cls(to, before)
        segments = [segment for segment in scan.segments() if segment.session not in without]
        for segment in segments:
            outcomes._begin(segment.session)
            for attempt in outcomes._attempts(scan, segment):
                outcomes._note(attempt)
        if outcomes._unsure:
            outcomes._settle(scan, segments)
        return outcomes

    def failed(self, place: tuple[int, int] | None) -> bool:
        """Whether the last attempt with the recording of this session and number was not answered 2xx."""
        return place is not None and bool(self._marks[place] & _NOT_OK)

    def delivered(self, place: tuple[int, int] | None) -> bool:
        """Whether any attempt with it reached a handler (`Attempt.delivered`)."""
        return place is not None and bool(self._marks[place] & _DELIVERED)

    def _attempts(self, scan: Scan, segment: Segment) -> Iterator[_Tried]:
        """A segment's attempts that are looked at."""
        to, until = self._to, self._until
        for line in scan.lines(segment, lines.NO_ATTEMPT):
            head = lines.attempt_head(line)
            if head is None:
                tried = _parsed(scan, segment, line, to)
                if tried is None:
                    continue
            else:
                if not line.startswith(lines.HANDING_OVER, head.end(1)):
                    continue
                if to is not None and _target(line, head.end(1)) not in to:
                    continue
                _, session, number, started_at, status = head.groups()
                ok = status is not None and len(status) == 3 and status[0] == 50  # "2"
                delivered = status is not None or _was_delivered(line)
                tried = _Tried((int(session), int(number)), started_at, ok, delivered)
            if until is None or tried.started_at < until:
                yield tried

    def _begin(self, session: int) -> None:
        if session != self._session:
            self._session, self._before = session, self._latest

    def _note(self, attempt: _Tried) -> None:
        place, started_at, ok, delivered = attempt
        mark = self._marks[place]
        outcome = _OK if ok else _NOT_OK
        if started_at < self._before and mark & _OUTCOME not in (0, outcome):
            outcome |= _UNSURE
            self._unsure = True
        self._marks[place] = outcome | mark & _DELIVERED | (_DELIVERED if delivered else 0)
        if started_at > self._latest:
            self._latest = started_at

    def _settle(self, scan: Scan, segments: Sequence[Segment]) -> None:
        """Read the attempts once more, for the recordings of which it is unknown which of theirs was the last."""
        session_of, latest, earlier = Numbers("I"), Numbers("Q"), Numbers("Q")
        for segment in segments:
            for place, started_at, ok, _ in self._attempts(scan, segment):
                mark = self._marks[place]
                if not mark & _UNSURE:
                    continue
                if session_of[place] != segment.session:
                    session_of[place] = segment.session
                    earlier[place] = max(earlier[place], latest[place])
                    latest[place] = 0
                latest[place] = max(latest[place], lines.microseconds(started_at) or 0)
                if latest[place] >= earlier[place]:
                    self._marks[place] = mark & ~_OUTCOME | _UNSURE | (_OK if ok else _NOT_OK)


class _Tried(NamedTuple):
    """An attempt: with which recording, when as in a line's head, and what came of it."""

    place: tuple[int, int]
    started_at: bytes
    ok: bool
    delivered: bool


def _parsed(scan: Scan, segment: Segment, line: bytes, to: frozenset[bytes] | None) -> _Tried | None:
    """An attempt whose line is not as ours are."""
    attempt = scan.read(segment.path, line)
    if not isinstance(attempt, Attempt) or not attempt.hands_over:
        return None
    if (place := parse_id(attempt.recording)) is None:
        return None
    if to is not None and _handler(attempt.target).encode("utf-8", "surrogateescape") not in to:
        return None
    started_at = time_text(attempt.started_at)[:26].encode()
    return _Tried(place, started_at, attempt.ok, attempt.delivered)


def _was_delivered(line: bytes) -> bool:
    """`Attempt.delivered` of a line without a status."""
    return not line.rpartition(_ERROR)[2].startswith(_NOT_DELIVERED)


def _target(line: bytes, after: int) -> bytes:
    """The handler in an attempt's line with a head, without its query."""
    start = line.find(_TARGET, after) + len(_TARGET)
    return line[start : line.find(b'"', start)].partition(b"?")[0]


def _handler(url: str) -> str:
    return url.partition("#")[0].partition("?")[0]


def _spellings(url: str) -> frozenset[bytes]:
    """How attempts may have written a handler's URL: without a path, it has the path ``/``."""
    plain = _handler(url)
    spellings = {plain}
    if plain.count("/") == 2:
        spellings.add(f"{plain}/")
    elif plain.count("/") == 3 and plain.endswith("/"):
        spellings.add(plain[:-1])
    return frozenset(spelling.encode("utf-8", "surrogateescape") for spelling in spellings)
