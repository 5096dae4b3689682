"""A byte for each of very many recordings, by id, without holding their ids."""

from __future__ import annotations

# Numbers of a session follow each other, so pages fill; an id from outside with a number far out costs one page.
_PAGE = 1024
_MOST_NUMBERS = 10**12


class Marks:
    """A byte for each id, 0 at first. Memory is about a byte for each id that was marked, in pages."""

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}

    def __getitem__(self, place: tuple[int, int]) -> int:
        """The byte of the id with this session and number."""
        session, number = place
        page, offset = divmod(session * _MOST_NUMBERS + number, _PAGE)
        found = self._pages.get(page)
        return found[offset] if found is not None else 0

    def __setitem__(self, place: tuple[int, int], value: int) -> None:
        session, number = place
        page, offset = divmod(session * _MOST_NUMBERS + number, _PAGE)
        found = self._pages.get(page)
        if found is None:
            found = self._pages[page] = bytearray(_PAGE)
        found[offset] = value
