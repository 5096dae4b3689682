"""A recording as a query and a selector see it: read from its line no further than they ask."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from b24tunnel.journal import lines
from b24tunnel.recording import Record, Recording, parse_id

_PLAIN = ("id", "session", "code", "received_at", "method", "target", "source", "verdict", "portal", "remote")
_PARSED = ("data", "auth", "ts", "fields")


class Document(Mapping[str, Any]):
    """A recording's line with the keys that a TinyDB query may ask for.

    ``id``, ``session``, ``code`` and ``received_at`` come from the line's head; anything else parses the line,
    and what is in the body parses the body. A key of a line that turns out to be spoiled raises ``KeyError``.
    ``only_code`` tells that nothing but the code was asked for so far.
    """

    __slots__ = ("_head", "_line", "_read", "_recording", "only_code")

    def __init__(self, line: bytes, head: re.Match[bytes] | None, read: Callable[[bytes], Record | None]) -> None:
        """``head`` is what `lines.recording_head` made of the line, ``read`` what parses it."""
        self._line = line
        self._head = head
        self._read: Callable[[bytes], Record | None] | None = read
        self._recording: Recording | None = None
        self.only_code = True

    @property
    def recording(self) -> Recording | None:
        """The recording itself; None where the line is spoiled or is no recording's."""
        if self._read is not None:
            record = self._read(self._line)
            self._read = None
            self._recording = record if isinstance(record, Recording) else None
        return self._recording

    @property
    def place(self) -> tuple[int, int] | None:
        """The id as session and number; None where it is no id."""
        if self._head is not None:
            return int(self._head[2]), int(self._head[3])
        return parse_id(self.recording.id) if self.recording is not None else None

    def __getitem__(self, key: str) -> Any:
        head = self._head
        if key == "code":
            if head is not None:
                return lines.code(head)
        else:
            self.only_code = False
            if head is not None:
                if key == "id":
                    return head[1].decode("ascii")
                if key == "session":
                    return int(head[2])
                if key == "received_at" and (moment := lines.moment(head[4])) is not None:
                    return moment
        if key in _PLAIN and self.recording is not None:
            return getattr(self.recording, key)
        if key in _PARSED and self.recording is not None:
            return getattr(self.recording.event, key)
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        self.only_code = False
        return iter(_PLAIN + _PARSED)

    def __len__(self) -> int:
        self.only_code = False
        return len(_PLAIN) + len(_PARSED)


def code_in_head(code: str | None) -> bytes | None:
    """A code as the heads of lines have it."""
    return None if code is None else code.encode("utf-8", "surrogateescape")
