"""The supervisor: an address that is seen to work, is watched, and is opened again for as long as it takes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from altering_way import Passing, answer, as_json, without
from receiving import DEADLINE, PATH, Place, receiving
from waiting import until
from way_tunnel import WayTunnel

from b24tunnel.errors import OutsideFailure
from b24tunnel.tunnel import TunnelFailed
from b24tunnel.tunnel.probe import Prober, Unprobed
from b24tunnel.tunnel.supervisor import Candidate, Pace, Supervisor, TunnelState
from b24tunnel.tunnel.url import UrlTunnel

PACE = Pace(
    settle=0.3, settle_given=0.3, patience=60, confirm=(0.01, 0.01), back_off=(0.01, 0.02), stay=2, look=0.05
)


class Watched:
    """A supervisor over tunnels to a receiver, and everything that it says."""

    def __init__(
        self, place: Place, prober: Prober | Unprobed, *tunnels: WayTunnel | Candidate | UrlTunnel
    ) -> None:
        self.notes: list[str] = []
        self.troubles: list[str] = []
        self.states: list[TunnelState] = []
        self.addresses: list[str] = []
        self.slept = 0.0
        self.supervisor = Supervisor(
            [tunnel if isinstance(tunnel, Candidate) else Candidate(tunnel) for tunnel in tunnels],
            prober,
            say=self.notes.append,
            trouble=self.troubles.append,
            on_state=self.states.append,
            pace=PACE,
            wall_clock=lambda: time.time() + self.slept,
        )
        self._place = place

    @property
    def state(self) -> TunnelState:
        assert self.supervisor.state is not None
        return self.supervisor.state

    async def open(self, **options: bool) -> str:
        async with asyncio.timeout(DEADLINE):
            return await self.supervisor.open(self._place.receiver.port, **options)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.supervisor.watch(self.addresses.append))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await self.supervisor.close()


@pytest.fixture
def prober() -> Prober:
    return Prober(PATH, seconds=5)


@pytest.fixture
async def place(tmp_path: Path, prober: Prober) -> AsyncIterator[Place]:
    async with receiving(tmp_path, on_probe=prober.arrived) as started:
        yield started


async def test_an_address_is_given_once_a_probe_has_come_back(place: Place, prober: Prober) -> None:
    tunnel = WayTunnel()
    watched = Watched(place, prober, tunnel)
    assert await watched.open() == tunnel.opened[0]
    assert tunnel.way is not None
    assert tunnel.way.passed == 1
    assert (watched.state.up, watched.state.losses, watched.state.reason) == (True, 0, None)
    assert watched.state.latency_ms is not None
    await watched.supervisor.close()


async def test_an_address_that_takes_a_moment_is_waited_for(place: Place, prober: Prober) -> None:
    tries = 0

    def slow_start(passing):  # type: ignore[no-untyped-def]
        nonlocal tries
        tries += 1
        return answer(502)(passing) if tries < 2 else passing

    watched = Watched(place, prober, WayTunnel(deed=slow_start))
    await watched.open()
    assert tries == 2
    await watched.supervisor.close()


@pytest.mark.parametrize(
    ("deed", "words"),
    [
        (as_json, "rewritten as JSON"),
        (without("Content-Type"), "Content-Type"),
        (answer(200, "<title>Click here</title>"), "Click here"),
        (answer(302, Location="https://example.org/login"), "example.org"),
        (answer(502), "502"),
    ],
)
async def test_nothing_is_given_that_does_not_work(place: Place, prober: Prober, deed, words: str) -> None:  # type: ignore[no-untyped-def]
    tunnel = WayTunnel(deed=deed)
    with pytest.raises(OutsideFailure, match=words):
        await Watched(place, prober, tunnel).open()
    assert tunnel.way is None, "it was closed"


async def test_the_next_candidate_has_its_turn_when_the_probe_of_one_fails(place: Place, prober: Prober) -> None:
    broken, refusing, good = WayTunnel("broken", as_json), WayTunnel("refusing"), WayTunnel("good")
    refusing.failures = [TunnelFailed("No token.", permanent=True)]
    watched = Watched(
        place,
        prober,
        Candidate(broken, "a program is installed"),
        Candidate(refusing, "a token is known"),
        Candidate(good, "it needs nothing", "Better would be another."),
    )
    assert await watched.open() == good.opened[0]
    assert broken.way is None
    said = " ".join(watched.notes)
    for words in ("broken: a program is installed", "rewritten as JSON", "No token.", "good: it needs nothing"):
        assert words in said
    assert watched.notes[-1] == "Better would be another."
    assert watched.state.provider == "good"
    await watched.supervisor.close()


async def test_where_none_works_each_ones_reason_is_told(place: Place, prober: Prober) -> None:
    first, second = WayTunnel("first"), WayTunnel("second", without("User-Agent"))
    first.failures = [TunnelFailed("There is no token.")]
    with pytest.raises(OutsideFailure, match=r"first: There is no token\. second: .*User-Agent"):
        await Watched(place, prober, first, second).open()


async def test_a_single_probe_that_fails_is_no_loss(place: Place, prober: Prober) -> None:
    tunnel = WayTunnel()
    watched = Watched(place, prober, tunnel)
    await watched.open()
    failed = 0

    def fail_once(passing):  # type: ignore[no-untyped-def]
        nonlocal failed
        failed += 1
        return answer(502)(passing) if failed == 1 else passing

    assert tunnel.way is not None
    tunnel.way.deed = fail_once
    async with watched.watching():
        await until(lambda: failed > 3)
    assert watched.state.losses == 0
    assert len(tunnel.opened) == 1
    assert watched.troubles == []


async def test_a_tunnel_that_looks_alive_and_passes_nothing_is_opened_again(place: Place, prober: Prober) -> None:
    tunnel = WayTunnel()
    watched = Watched(place, prober, tunnel)
    await watched.open()
    async with watched.watching():
        assert tunnel.way is not None
        tunnel.way.deed = answer(502, "<title>No tunnel here</title>")
        await until(lambda: watched.addresses)
        assert watched.addresses == [tunnel.opened[1]]
        assert watched.state.up
        assert watched.state.losses == 1
        assert watched.state.url == tunnel.opened[1]
    assert "No tunnel here" in watched.troubles[0]
    assert "up again, " in watched.notes[-1]
    assert "after it was last seen to work" in watched.notes[-1]
    down = next(state for state in watched.states if not state.up)
    assert down.reason is not None
    assert down.latency_ms is None


async def test_a_loss_that_the_provider_notices_is_not_left_to_the_next_probe(
    place: Place, prober: Prober
) -> None:
    tunnel = WayTunnel()
    tunnel.probe_seconds = 3600
    watched = Watched(place, prober, tunnel)
    await watched.open()
    async with watched.watching():
        tunnel.lose("The program has ended.")
        await until(lambda: watched.addresses)
    assert "The program has ended." in watched.troubles[0]


async def test_an_address_that_the_provider_replaces_by_itself_is_taken_over_once_it_works(
    place: Place, prober: Prober
) -> None:
    tunnel = WayTunnel()
    tunnel.probe_seconds = 3600
    watched = Watched(place, prober, tunnel)
    await watched.open()
    async with watched.watching():
        another = await tunnel.announce_another()
        await until(lambda: watched.addresses)
        assert watched.addresses == [another]
        assert watched.state.losses == 0
        assert watched.state.url == another
        assert len(tunnel.opened) == 1


async def test_opening_is_tried_again_until_it_works_and_each_new_reason_is_told_once(
    place: Place, prober: Prober
) -> None:
    tunnel = WayTunnel()
    watched = Watched(place, prober, tunnel)
    await watched.open()
    tunnel.failures = [TunnelFailed("No route."), TunnelFailed("No route."), TunnelFailed("Too many.", pause=0.02)]
    async with watched.watching():
        tunnel.lose()
        await until(lambda: watched.addresses)
    assert [trouble for trouble in watched.troubles if "still down" in trouble] == [
        "Tunnel way is still down: No route.",
        "Tunnel way is still down: Too many.",
    ]
    assert watched.state.losses == 1


async def test_another_candidate_has_its_turn_after_some_failures_of_the_first(
    place: Place, prober: Prober
) -> None:
    first, second = WayTunnel("first"), WayTunnel("second")
    watched = Watched(place, prober, first, second)
    await watched.open()
    first.failures = [TunnelFailed("No.")] * 3
    async with watched.watching():
        first.lose()
        await until(lambda: watched.addresses)
        assert watched.addresses == [second.opened[0]]
        assert watched.state.provider == "second"
    assert first.failures == [], "it was tried alone twice (Pace.stay), and first in the round with the other"


async def test_a_network_that_is_away_for_long_does_not_end_with_another_tunnel(
    place: Place, prober: Prober
) -> None:
    first, second = WayTunnel("first"), WayTunnel("second")
    watched = Watched(place, prober, second, first)
    second.failures = [TunnelFailed("No network.")]
    await watched.open()
    assert watched.state.provider == "first"
    first.failures, second.failures = [TunnelFailed("No network.")] * 6, [TunnelFailed("No network.")] * 1000
    async with watched.watching():
        first.lose()
        await until(lambda: watched.addresses)
        assert watched.state.provider == "first"
    assert len(second.failures) < 1000, "it had its turns"


async def test_a_rate_limit_of_one_does_not_keep_the_others_waiting(place: Place, prober: Prober) -> None:
    limited, other = WayTunnel("limited"), WayTunnel("other")
    watched = Watched(place, prober, limited, other)
    await watched.open()
    limited.failures = [TunnelFailed("Too many.", pause=3600)] * 2
    async with watched.watching():
        limited.lose()
        await until(lambda: watched.addresses)
    assert watched.state.provider == "other"
    assert len(limited.failures) == 1


async def test_one_that_is_lost_as_soon_as_it_is_up_is_opened_with_longer_and_longer_pauses(
    place: Place, prober: Prober, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("test_tunnel_supervisor.PACE", replace(PACE, back_off=(0.01, 0.01, 3600)))
    tunnel = WayTunnel()
    watched = Watched(place, prober, tunnel)
    await watched.open()
    async with watched.watching():
        for opened in (2, 3):
            tunnel.lose()
            await until(lambda opened=opened: len(tunnel.opened) == opened and watched.state.up)
        tunnel.lose()
        await until(lambda: not watched.state.up)
        for _ in range(50):
            await asyncio.sleep(0.001)
        assert len(tunnel.opened) == 3, "it rests"


async def test_after_a_failure_that_is_permanent_the_next_has_its_turn_at_once(
    place: Place, prober: Prober
) -> None:
    first, second = WayTunnel("first"), WayTunnel("second")
    watched = Watched(place, prober, first, second)
    await watched.open()
    first.failures = [TunnelFailed("The token was revoked.", permanent=True)] * 2
    async with watched.watching():
        first.lose()
        await until(lambda: watched.addresses)
    assert len(first.failures) == 1


async def test_waking_from_sleep_is_followed_by_a_probe_at_once(place: Place, prober: Prober) -> None:
    tunnel = WayTunnel()
    tunnel.probe_seconds = 3600
    watched = Watched(place, prober, tunnel)
    await watched.open()
    async with watched.watching():
        probes = len(watched.states)
        watched.slept = 8 * 3600
        await until(lambda: len(watched.states) > probes)
    assert watched.state.up


async def test_an_outage_is_counted_from_when_it_was_last_seen_to_work(place: Place, prober: Prober) -> None:
    tunnel = WayTunnel()
    tunnel.probe_seconds = 3600
    watched = Watched(place, prober, tunnel)
    await watched.open()
    async with watched.watching():
        assert tunnel.way is not None
        tunnel.way.deed = answer(502)
        watched.slept = 3700
        await until(lambda: watched.addresses)
    assert "up again, 1 h 1 min after it was last seen to work" in watched.notes[-1]


async def test_an_opening_that_takes_its_time_is_told(
    place: Place, prober: Prober, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("test_tunnel_supervisor.PACE", replace(PACE, patience=0.05, settle=20))
    watched: list[Watched] = []

    def until_told(passing: Passing) -> Passing | web.Response:
        return passing if watched[0].notes else answer(502)(passing)

    watched.append(Watched(place, prober, WayTunnel(deed=until_told)))
    await watched[0].open()
    [note] = watched[0].notes
    assert note.startswith("Tunnel way takes its time (127.0.0.1:")
    assert "502" in note
    await watched[0].supervisor.close()


async def test_an_address_that_is_taken_for_granted_is_never_said_to_have_been_seen(place: Place) -> None:
    watched = Watched(place, Unprobed(), WayTunnel(deed=answer(403)))
    await watched.open()
    assert (watched.state.up, watched.state.seen_at, watched.state.latency_ms) == (True, None, None)
    await watched.supervisor.close()


async def test_an_address_of_the_users_own_is_watched_and_never_changes(place: Place, prober: Prober) -> None:
    way = WayTunnel()
    url = await way.open(place.receiver.port, lambda message: None)
    own = UrlTunnel(url)
    own.probe_seconds = 0.02
    watched = Watched(place, prober, own)
    assert await watched.open() == url
    async with watched.watching():
        assert way.way is not None
        way.way.deed = answer(502)
        await until(lambda: not watched.state.up)
        way.way.deed = lambda passing: passing
        await until(lambda: watched.state.up)
    assert watched.addresses == [url]
    assert watched.state.losses == 1
    await way.close()


async def test_an_address_that_does_not_lead_here_yet_is_told_and_waited_for_where_that_is_wanted(
    place: Place, prober: Prober
) -> None:
    way = WayTunnel(deed=answer(502))
    url = await way.open(place.receiver.port, lambda message: None)
    watched = Watched(place, prober, UrlTunnel(url))
    assert await watched.open(unproven=True) == url
    assert not watched.state.up
    assert "does not lead here yet" in watched.troubles[0]
    async with watched.watching():
        assert way.way is not None
        way.way.deed = lambda passing: passing
        await until(lambda: watched.state.up)
        await until(lambda: "The address leads here now." in watched.notes)
    assert watched.state.losses == 0
    await way.close()


async def test_what_is_told_of_the_state_is_the_same_between_changes_but_for_the_latency(
    place: Place, prober: Prober
) -> None:
    watched = Watched(place, prober, WayTunnel())
    await watched.open()
    async with watched.watching():
        await until(lambda: len(watched.states) > 4)
    assert len({replace(state, latency_ms=None, seen_at=None) for state in watched.states}) == 1


async def test_a_close_while_it_opens_again_leaves_nothing_open(place: Place, prober: Prober) -> None:
    tunnel = WayTunnel()
    watched = Watched(place, prober, tunnel)
    await watched.open()
    async with watched.watching():
        tunnel.hangs_once_open = True
        tunnel.lose()
        await until(lambda: len(tunnel.opened) == 2)
        assert tunnel.way is not None, "half open"
    assert tunnel.way is None
