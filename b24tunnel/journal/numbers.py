"""A number for each of very many recordings, by id, without holding their ids."""

from __future__ import annotations

from array import array
from typing import Literal

# Numbers of a session follow each other, so pages fill; an id from outside with a number far out costs one page.
_PAGE = 256
_MOST_NUMBERS = 10**12


class Numbers:
    """A whole number for each id, 0 at first, of four bytes ("I") or eight ("Q").

    Memory is about that many bytes for each id that was given one, in pages.
    """

    def __init__(self, typecode: Literal["I", "Q"]) -> None:
        self._typecode = typecode
        self._nothing = bytes(_PAGE * array(typecode).itemsize)
        self._pages: dict[int, array[int]] = {}

    def __getitem__(self, place: tuple[int, int]) -> int:
        """The number of the id with this session and number."""
        page, offset = divmod(place[0] * _MOST_NUMBERS + place[1], _PAGE)
        found = self._pages.get(page)
        return found[offset] if found is not None else 0

    def __setitem__(self, place: tuple[int, int], value: int) -> None:
        page, offset = divmod(place[0] * _MOST_NUMBERS + place[1], _PAGE)
        found = self._pages.get(page)
        if found is None:
            found = self._pages[page] = array(self._typecode, self._nothing)
        found[offset] = value
