"""Telling what happens very often only now and then, with the number of times in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class _Spell:
    """What is told of one kind until its time is over."""

    tell: Callable[[str], None]
    more: str
    timer: asyncio.TimerHandle
    count: int = 0


class Seldom:
    """Of each kind it tells the first at once and then, every ``seconds``, how many more there were.

    Use it in one event loop, and `finish` it in the end, which tells what was counted since.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._spells: dict[str, _Spell] = {}

    def say(self, kind: str, sentence: str, more: str, tell: Callable[[str], None]) -> None:
        """``more`` is the sentence for those in between; its ``{count}`` is their number."""
        if (spell := self._spells.get(kind)) is not None:
            spell.count += 1
            return
        self._spells[kind] = _Spell(tell, more, self._later(kind))
        tell(sentence)

    def finish(self) -> None:
        """Tell what was counted since the last word of each kind."""
        for spell in self._spells.values():
            spell.timer.cancel()
            _tell_count(spell)
        self._spells.clear()

    def _later(self, kind: str) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(self._seconds, self._over, kind)

    def _over(self, kind: str) -> None:
        spell = self._spells[kind]
        if not spell.count:
            del self._spells[kind]  # it was quiet: the next one is told at once again
            return
        _tell_count(spell)
        spell.count, spell.timer = 0, self._later(kind)


def _tell_count(spell: _Spell) -> None:
    if spell.count:
        spell.tell(spell.more.replace("{count}", f"{spell.count:,}"))
