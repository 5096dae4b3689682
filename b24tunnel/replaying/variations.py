"""Recordings left out, repeated and in another order, by chance that a seed brings back."""

from __future__ import annotations

import hashlib
import re
import secrets
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from b24tunnel.errors import WrongUsage
from b24tunnel.recording import Recording

MOST_TIMES = 1000
HIGHEST_SEED = 2**63 - 1
# A shuffle holds the recordings in memory, and a reference for each sending.
MOST_SHUFFLED = 100_000
MOST_SHUFFLED_SENDINGS = 1_000_000
MOST_SHUFFLED_BYTES = 256 * 1024 * 1024

_SEED_BITS = 32
_SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})\s*(%?)", re.ASCII)


@dataclass(frozen=True)
class Variation:
    """What becomes of the recordings before they are sent: first dropped, then repeated, then shuffled.

    ``drop``: the chance of each recording to be left out, 0 to less than 1. ``times``: how often each of the
    others is sent, in a row. ``shuffle``: all of these in another order. ``seed``: where one is needed and None is
    given, it is chosen, and can be read. Raises `WrongUsage` for a number out of bounds.

    The seed and a recording's id decide, on every platform and version of Python, and nothing else that is
    selected does: where some recordings have gone, the same of the others are dropped, and the others come in
    the same order. So what is selected twice is dropped twice or never. The one exception: an order that turns
    out to be that in which the recordings were given is drawn again, unless there is no other one.

    Chance is a keyed hash, BLAKE2b of 8 bytes, whose key is the seed as 8 bytes, the most significant first. What
    is dropped has for the id (UTF-8) under the personalisation ``drop`` a number whose first 53 bits, read as a
    fraction, are less than the share. The order is that of the numbers for the ordinal of a sending among those
    of the same id (from 0, decimal), a space and the id, under the personalisation ``order``; the salt counts, as
    8 bytes, how often it was drawn again.
    """

    times: int = 1
    shuffle: bool = False
    drop: float = 0.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.times <= MOST_TIMES:
            raise WrongUsage(f"A recording can be sent 1 to {MOST_TIMES} times, not {self.times}.")
        if not 0 <= self.drop < 1:
            raise WrongUsage(f"The share to leave out must be 0 or more and less than 1, not {self.drop:g}.")
        if self.seed is None:
            if self.needs_seed:
                object.__setattr__(self, "seed", secrets.randbits(_SEED_BITS))
        elif not 0 <= self.seed <= HIGHEST_SEED:
            raise WrongUsage(f"The seed must be 0 to {HIGHEST_SEED}, not {self.seed}.")

    @property
    def needs_seed(self) -> bool:
        """Whether chance has a part in it."""
        return self.shuffle or self.drop > 0

    def varied(self, recordings: Iterable[Recording]) -> Iterator[Recording]:
        """The recordings as they are to be sent.

        Without ``shuffle`` they are taken one by one; with it, all of them before the first is given. Raises
        `WrongUsage` when they are too many or too large for that.
        """
        kept = self._kept(recordings)
        if self.shuffle:
            yield from self._shuffled(self._held(kept))
            return
        for recording in kept:
            for _ in range(self.times):
                yield recording

    def _kept(self, recordings: Iterable[Recording]) -> Iterator[Recording]:
        if not self.drop:
            yield from recordings
            return
        chance = self._chance(b"drop")
        for recording in recordings:
            if (chance.number(_octets(recording.id)) >> 11) * 2.0**-53 >= self.drop:
                yield recording

    def _held(self, recordings: Iterable[Recording]) -> list[Recording]:
        """The recordings, each as often as it is to be sent."""
        held: list[Recording] = []
        size = 0
        for number, recording in enumerate(recordings, 1):
            size += _size(recording)
            if number > MOST_SHUFFLED:
                raise WrongUsage(
                    f"More than {MOST_SHUFFLED:,} recordings cannot be shuffled, because a shuffle holds them in "
                    "memory: select fewer, or send them in their order."
                )
            if number * self.times > MOST_SHUFFLED_SENDINGS:
                raise WrongUsage(
                    f"More than {MOST_SHUFFLED_SENDINGS:,} sendings cannot be shuffled, because a shuffle holds "
                    f"them in memory, and each recording is sent {self.times} times: select fewer recordings or "
                    "send each less often."
                )
            if size > MOST_SHUFFLED_BYTES:
                raise WrongUsage(
                    f"Recordings of more than {MOST_SHUFFLED_BYTES // 1024 // 1024} MiB cannot be shuffled, "
                    "because a shuffle holds them in memory: select fewer, or send them in their order."
                )
            held += [recording] * self.times
        return held

    def _shuffled(self, ordered: list[Recording]) -> list[Recording]:
        """The recordings in another order than theirs, wherever there is another."""
        if all(recording == ordered[0] for recording in ordered):
            return ordered
        # Of two recordings every second shuffle leaves the order as it was: that run would test nothing, and its
        # success would be taken for the handler's.
        drawn = 0
        while (shuffled := self._drawn(ordered, drawn)) == ordered:
            drawn += 1
        return shuffled

    def _drawn(self, ordered: list[Recording], drawn: int) -> list[Recording]:
        chance = self._chance(b"order", drawn)
        ordinals: Counter[str] = Counter()
        numbers = array("Q")
        for recording in ordered:
            numbers.append(chance.number(b"%d %b" % (ordinals[recording.id], _octets(recording.id))))
            ordinals[recording.id] += 1
        # Sorting is stable: of equal numbers the first stays the first.
        return [ordered[place] for place in sorted(range(len(ordered)), key=numbers.__getitem__)]

    def _chance(self, purpose: bytes, drawn: int = 0) -> _Chance:
        """One source of chance for dropping and one for the order, so that asking for one changes no other."""
        assert self.seed is not None, "chosen at the start"
        return _Chance(self.seed, purpose, drawn)


class _Chance:
    """Numbers that look like chance and are always the same ones for the same thing."""

    def __init__(self, seed: int, purpose: bytes, drawn: int) -> None:
        self._hash = hashlib.blake2b(
            digest_size=8, key=seed.to_bytes(8, "big"), person=purpose, salt=drawn.to_bytes(8, "big")
        )

    def number(self, thing: bytes) -> int:
        """A number of 64 bits."""
        keyed = self._hash.copy()
        keyed.update(thing)
        return int.from_bytes(keyed.digest(), "big")


def _octets(recording_id: str) -> bytes:
    # An id from outside can be any text, also one that is no UTF-8.
    return recording_id.encode("utf-8", "surrogatepass")


def _size(recording: Recording) -> int:
    """Bytes of what a sender can make as large as it likes."""
    headers = sum(len(name) + len(value) for name, value in recording.headers)
    return len(recording.body) + len(recording.target) + headers


def parse_share(text: str) -> float:
    """``"10%"`` and ``"0.1"`` as 0.1. Raises `WrongUsage` for what is no share of 0 to less than 1."""
    match = _SHARE.fullmatch(text.strip())
    share = float(match[1]) / (100 if match[2] else 1) if match else 1.0
    if not 0 <= share < 1:
        raise WrongUsage(f"{text!r} is no share of less than the whole: give one like 10% or 0.1.")
    return share
