"""What happens very often is told now and then, and nothing of it is left uncounted."""

from __future__ import annotations

import asyncio

from programs import DEADLINE
from waiting import until

from b24tunnel.seldom import Seldom


async def test_the_first_is_told_at_once_and_the_others_as_a_number_in_the_end() -> None:
    told: list[str] = []
    seldom = Seldom(3600)
    for number in range(1235):
        seldom.say("odd", f"No. {number} was odd.", "{count} more were odd.", told.append)
    assert told == ["No. 0 was odd."]
    seldom.finish()
    assert told == ["No. 0 was odd.", "1,234 more were odd."]
    seldom.finish()
    assert len(told) == 2


async def test_each_kind_is_counted_for_itself() -> None:
    told: list[str] = []
    seldom = Seldom(3600)
    for kind in ("a", "b", "a", "b", "b"):
        seldom.say(kind, kind, f"{{count}} {kind}", told.append)
    seldom.finish()
    assert told == ["a", "b", "1 a", "2 b"]


async def test_the_number_is_told_when_its_time_is_over_and_counting_goes_on() -> None:
    told: list[str] = []
    seldom = Seldom(0.02)
    for expected in range(1, 4):
        seldom.say("a", "first", "{count} more", told.append)
        seldom.say("a", "first", "{count} more", told.append)
        await until(lambda count=expected: len(told) >= count)
    assert told[0] == "first"
    seldom.finish()
    assert sum(1 if word == "first" else int(word.split()[0]) for word in told) == 6


async def test_after_a_quiet_time_the_next_is_told_at_once_again() -> None:
    told: list[str] = []
    seldom = Seldom(0.01)
    seldom.say("a", "first", "{count} more", told.append)
    async with asyncio.timeout(DEADLINE):
        while len(told) < 2:
            await asyncio.sleep(0.02)
            seldom.say("a", "again", "{count} more", told.append)
    assert told == ["first", "again"]
    seldom.finish()


async def test_a_sentence_with_braces_is_told_as_it_is() -> None:
    told: list[str] = []
    seldom = Seldom(3600)
    for _ in range(2):
        seldom.say("a", "{x}", "{count} more {x} {}", told.append)
    seldom.finish()
    assert told == ["{x}", "1 more {x} {}"]
