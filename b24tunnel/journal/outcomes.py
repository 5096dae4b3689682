"""Which recordings' last attempt was not answered 2xx."""

from __future__ import annotations

from b24tunnel.journal import lines
from b24tunnel.journal.marks import Marks
from b24tunnel.journal.scan import Scan
from b24tunnel.recording import Attempt, parse_id

_OK = 1
_NOT_OK = 2
_UNSURE = 3


class Failed:
    """Which recordings may have a last attempt that was not answered 2xx; about a byte for each recording.

    It takes one too many where sessions that ran at the same
    time had different answers to the same recording; so whoever asks looks at the attempts themselves again.
    """

    def __init__(self) -> None:
        self._marks = Marks()
        self._session = 0
        self._latest = b""  # when the last attempt of this session and those before it started, as in the line
        self._before = b""  # the same of those before it alone

    @classmethod
    def of(cls, scan: Scan) -> Failed:
        """Read all attempts of the journal."""
        failed = cls()
        for segment in scan.segments():
            failed._begin(segment.session)
            for line in scan.lines(segment, lines.NO_ATTEMPT):
                if (head := lines.attempt_head(line)) is not None:
                    status = head[5]
                    ok = status is not None and len(status) == 3 and status.startswith(b"2")
                    failed._note((int(head[2]), int(head[3])), head[4], ok)
                elif isinstance(record := scan.read(segment.path, line), Attempt):
                    failed._note_parsed(record)
        return failed

    def may_include(self, place: tuple[int, int] | None) -> bool:
        """Whether the recording with this session and number may be one of them."""
        return place is not None and self._marks[place] >= _NOT_OK

    def _begin(self, session: int) -> None:
        if session != self._session:
            self._session, self._before = session, self._latest

    def _note_parsed(self, attempt: Attempt) -> None:
        if place := parse_id(attempt.recording):
            started_at = attempt.started_at.isoformat(timespec="microseconds")[:26].encode()
            self._note(place, started_at, attempt.ok)

    def _note(self, place: tuple[int, int], started_at: bytes, ok: bool) -> None:
        outcome = _OK if ok else _NOT_OK
        if started_at <= self._before and self._marks[place] not in (0, outcome):
            outcome = _UNSURE
        self._marks[place] = outcome
        if started_at > self._latest:
            self._latest = started_at
