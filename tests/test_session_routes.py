"""A session with several handlers: each gets what its routes want, has its own attempts, and is owed its own."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from raw_server import RawServer
from running_session import Running, tried

from b24tunnel.cli.render import renderer
from b24tunnel.errors import OutsideFailure
from b24tunnel.handler_path import handler_segment
from b24tunnel.happenings import Attempted, Pending, Ready
from b24tunnel.journal import Journal
from b24tunnel.journal.prune import prune
from b24tunnel.routes import Route
from b24tunnel.session import Settings
from b24tunnel.tunnel import Say, TunnelFailed
from b24tunnel.tunnel.local import LocalTunnel


class Place:
    """Sessions over one directory with two handlers, one for deals and one for tasks and deals."""

    def __init__(self, directory: Path, deals: RawServer, both: RawServer) -> None:
        self.directory = directory
        self.deals = deals
        self.both = both
        self.settings = Settings(
            recordings=directory,
            tunnels=tried(LocalTunnel()),
            bind=False,
            routes=(
                Route(("ONCRMDEAL*",), deals.url),
                Route(("oncrmdealadd", "ONTASKADD"), f"{both.url}?key=1"),
            ),
        )
        self._all: list[Running] = []

    def start(self, **changes: Any) -> Running:
        running = Running(replace(self.settings, **changes))
        self._all.append(running)
        return running

    async def end_all(self) -> None:
        for running in self._all:
            running.task.cancel()
        await asyncio.gather(*(running.task for running in self._all), return_exceptions=True)

    def got(self, server: RawServer) -> list[bytes]:
        """Bodies in order of their codes: several are under way at the same time."""
        return sorted(request.body for request in server.requests)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    with RawServer() as deals, RawServer(listening=False) as both:
        place = Place(tmp_path, deals, both)
        yield place
        await place.end_all()


async def deliver(running: Running, *codes: str) -> None:
    ready: Ready = await running.ready()
    async with aiohttp.ClientSession() as client:
        for code in codes:
            async with client.post(ready.handler_url, data=f"event={code}".encode()) as answer:
                assert answer.status == 200


def owed(place: Place) -> list[str | None]:
    journal = Journal.open(place.directory)
    return [recording.code for recording in journal.these(journal.pending())]


async def test_each_handler_gets_what_its_routes_want(place: Place) -> None:
    place.both.listen()
    running = place.start()
    await deliver(running, "ONCRMDEALADD", "ONTASKADD", "ONCRMDEALUPDATE", "ONCRMLEADADD")
    await running.until(lambda: len(running.of(Attempted)) == 4)
    stopped = await running.stopped()
    assert place.got(place.deals) == [b"event=ONCRMDEALADD", b"event=ONCRMDEALUPDATE"]
    assert place.got(place.both) == [b"event=ONCRMDEALADD", b"event=ONTASKADD"]
    assert (stopped.recorded, stopped.answered, stopped.pending) == (4, 4, 0)
    assert owed(place) == []


async def test_each_attempt_is_noted_with_its_handler(place: Place) -> None:
    place.both.listen()
    running = place.start()
    await deliver(running, "ONCRMDEALADD")
    await running.until(lambda: len(running.of(Attempted)) == 2)
    await running.stopped()
    attempts = Journal.open(place.directory).attempts("1-1")
    assert {attempt.target for attempt in attempts} == {place.deals.url, f"{place.both.url}?key=1"}


async def test_one_url_in_two_routes_gets_an_event_once(place: Place) -> None:
    url = place.deals.url
    running = place.start(routes=(Route(("ONCRM*",), url), Route(("ONCRMDEALADD",), url)), forward=url)
    await deliver(running, "ONCRMDEALADD", "ONTASKADD")
    await running.until(lambda: len(running.of(Attempted)) == 2)
    await running.stopped()
    assert place.got(place.deals) == [b"event=ONCRMDEALADD", b"event=ONTASKADD"]


async def test_a_handler_that_is_away_does_not_hold_up_the_other_and_is_owed_its_own(place: Place) -> None:
    running = place.start()
    await deliver(running, "ONCRMDEALADD", "ONTASKADD", "ONCRMDEALUPDATE", "ONCRMLEADADD")
    await running.until(lambda: len(place.deals.requests) == 2)
    stopped = await running.stopped()
    assert stopped.pending == 2
    assert owed(place) == ["ONCRMDEALADD", "ONTASKADD"]
    # What is owed is not pruned.
    assert prune(place.directory / "journal", keep=0).not_forwarded == 2

    place.both.listen()
    again = place.start(resume=True)
    await again.until(lambda: len(place.both.requests) == 2)
    assert [happening.resumed for happening in again.of(Pending)] == [True]
    await again.until(lambda: len(again.of(Attempted)) == 2)
    await again.stopped()
    assert place.got(place.both) == [b"event=ONCRMDEALADD", b"event=ONTASKADD"]
    assert len(place.deals.requests) == 2  # it had got its own
    assert owed(place) == []


async def test_a_request_without_a_code_goes_where_everything_goes(place: Place) -> None:
    running = place.start(routes=(*place.settings.routes, Route(("*",), f"{place.deals.url}/all")))
    ready = await running.ready()
    async with aiohttp.ClientSession() as client, client.post(ready.handler_url, data=b"workflow_id=1"):
        pass
    await running.until(lambda: running.of(Attempted))
    await running.stopped()
    assert [request.line for request in place.deals.requests] == [b"POST /handler/all HTTP/1.1"]
    assert place.both.requests == []


async def test_a_session_without_handlers_owes_nothing(place: Place) -> None:
    running = place.start(routes=())
    await deliver(running, "ONCRMDEALADD")
    await running.stopped()
    assert owed(place) == []


async def test_two_handlers_that_differ_by_their_query_are_two(place: Place) -> None:
    # The one without a query is away, and what the other got is not its own.
    away = place.both.url
    routes = (Route(("*",), away), Route(("*",), f"{place.deals.url}?kind=crm"))
    running = place.start(routes=routes)
    await deliver(running, "ONCRMDEALADD")
    await running.until(lambda: place.deals.requests)
    await running.stopped()
    assert owed(place) == ["ONCRMDEALADD"]


async def test_who_got_it_does_not_get_it_again_when_it_is_the_only_one_left(place: Place) -> None:
    running = place.start()
    await deliver(running, "ONCRMDEALADD")
    await running.until(lambda: place.deals.requests)
    await running.stopped()
    again = place.start(routes=(), forward=place.deals.url, resume=True)
    await again.ready()
    await again.stopped()
    assert len(place.deals.requests) == 1
    # Nobody of this session is owed anything; the other handler still is.
    assert again.of(Pending) == []
    assert owed(place) == ["ONCRMDEALADD"]


async def test_what_was_acknowledged_before_it_was_ready_is_owed(place: Place) -> None:
    class Opening(LocalTunnel):
        """Opens only once a delivery was acknowledged, and fails then."""

        async def open(self, port: int, say: Say) -> str:
            path = f"/b24/{handler_segment(place.directory)}"
            url = f"http://127.0.0.1:{port}{path}"
            async with aiohttp.ClientSession() as client, client.post(url, data=b"event=ONTASKADD") as answer:
                assert answer.status == 200
            raise TunnelFailed("it does not open.")

    running = place.start(tunnels=tried(Opening()))
    with pytest.raises(OutsideFailure):
        await running.task
    assert owed(place) == ["ONTASKADD"]


async def test_with_several_handlers_each_line_says_whose_answer_it_is(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.both.listen()
    running = place.start()
    await deliver(running, "ONCRMDEALADD")
    await running.until(lambda: len(running.of(Attempted)) == 2)
    await running.stopped()
    show = renderer("plain")
    for happening in running.told:
        show(happening)()
    told = [line for line in capsys.readouterr().out.splitlines() if "→" in line]
    assert len(told) == 2
    for url in (place.deals.url, place.both.url):
        assert [line for line in told if f"→ {url}: 200 in" in line]
