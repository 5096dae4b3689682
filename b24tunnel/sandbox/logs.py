"""A log that forgets its oldest entries, bounded in number and in bytes."""

from collections import deque
from typing import Generic, TypeVar

Entry = TypeVar("Entry")


class BoundedLog(Generic[Entry]):
    """Keeps the newest ``length`` entries whose sizes add up to at most ``max_bytes``."""

    def __init__(self, length: int, max_bytes: int) -> None:
        self._length = length
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: deque[tuple[Entry, int]] = deque()

    def append(self, entry: Entry, size: int) -> None:
        """Adds an entry that weighs about ``size`` bytes."""
        self._entries.append((entry, size))
        self._bytes += size
        while len(self._entries) > self._length or (self._bytes > self._max_bytes and len(self._entries) > 1):
            self._bytes -= self._entries.popleft()[1]

    def entries(self) -> list[Entry]:
        """The entries, oldest first, as a new list."""
        return [entry for entry, _ in self._entries]
