"""Work that can wait lets others in, and for longer where they have much to do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from b24tunnel import unhurried
from b24tunnel.unhurried import Unhurried


@pytest.fixture
def rests(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The rests that were taken, in seconds; each passes at once."""
    taken: list[float] = []
    sleep = asyncio.sleep

    async def at_once(seconds: float, *rest: Any) -> None:
        taken.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", at_once)
    return taken


async def test_it_goes_on_until_it_has_worked_for_a_while(rests: list[float]) -> None:
    patient = Unhurried(lambda: 0)
    for _ in range(100_000):
        await patient.pause()
        if rests:
            break
    assert rests == [0], "others are let in, and then it goes on, for there is nothing else to do"


async def test_the_more_was_done_elsewhere_the_longer_it_rests(
    rests: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unhurried, "_WORK_SECONDS", 0)
    done = 0
    patient = Unhurried(lambda: done)
    for more in (0, 10, 100, 10_000, 0):
        done += more
        await patient.pause()
    assert rests == [pytest.approx(seconds) for seconds in (0, 0.001, 0.01, 0.05, 0)]
