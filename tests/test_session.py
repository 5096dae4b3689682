"""One `listen` without a portal: its parts together, what it tells, and what it leaves behind."""

import asyncio
import contextlib
import os
import socket
import stat
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web
from raw_cases import RAW_CASES
from running_session import DEADLINE, Running, tried

from b24tunnel import session as session_module
from b24tunnel.errors import OutsideFailure, WrongUsage
from b24tunnel.forward import Forwarder
from b24tunnel.handler_path import handler_segment
from b24tunnel.happenings import Attempted, Note, Pending, Ready, Recorded, Stopped, Trouble
from b24tunnel.journal import Journal, JournalUnreadable, files
from b24tunnel.portal import Portal
from b24tunnel.recording import SessionEnd, from_line
from b24tunnel.session import Settings, check_reachable
from b24tunnel.tunnel import Say, TunnelFailed
from b24tunnel.tunnel.local import LocalTunnel
from b24tunnel.tunnel.url import UrlTunnel


class Place:
    """Starts sessions over one directory, and sees to it that all end."""

    def __init__(self, directory: Path) -> None:
        self.settings = Settings(recordings=directory, tunnels=tried(LocalTunnel()), bind=False)
        self._all: list[Running] = []

    def start(self, **changes: Any) -> Running:
        running = Running(replace(self.settings, **changes))
        self._all.append(running)
        return running

    async def end_all(self) -> None:
        for running in self._all:
            running.task.cancel()
        await asyncio.gather(*(running.task for running in self._all), return_exceptions=True)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    place = Place(tmp_path)
    yield place
    await place.end_all()


class Handler:
    """A handler that answers with ``status``, once the gate is open."""

    def __init__(self) -> None:
        self.status = 200
        self.gate = asyncio.Event()
        self.gate.set()
        self.bodies: list[bytes] = []
        self._server = web.Server(self._answer)
        self._listening: asyncio.Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/handler"

    async def start(self) -> None:
        self._listening = await asyncio.get_running_loop().create_server(self._server, "127.0.0.1", self.port)
        self.port = self._listening.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self.gate.set()
        if self._listening is not None:
            self._listening.close()
            self._listening = None
            await self._server.shutdown(0.1)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.bodies.append(await request.read())
        await self.gate.wait()
        return web.Response(status=self.status)


@pytest.fixture
async def handler() -> AsyncIterator[Handler]:
    handler = Handler()
    await handler.start()
    yield handler
    await handler.stop()


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as client:
        yield client


async def deliver(client: aiohttp.ClientSession, url: str, body: bytes = b"event=ONCRMDEALADD") -> int:
    async with client.post(url, data=body) as answer:
        return answer.status


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def last_line(directory: Path) -> Any:
    [*_, path] = sorted((directory / "journal").glob("session-*"))
    return from_line(path.read_bytes().splitlines(keepends=True)[-1])


class TestRecording:
    async def test_it_is_ready_with_an_address_that_takes_deliveries(
        self, place: Place, client: aiohttp.ClientSession, tmp_path: Path
    ) -> None:
        running = place.start()
        ready = await running.ready()
        assert (ready.session, ready.tunnel, ready.portal, ready.forward) == (1, "local", None, None)
        for case in RAW_CASES:
            assert await deliver(client, ready.handler_url, case.body) == 200
        await running.until(lambda: len(running.of(Recorded)) == len(RAW_CASES))
        assert [one.recording.body for one in running.of(Recorded)] == [case.body for case in RAW_CASES]
        assert await running.stopped() == Stopped(1, len(RAW_CASES), 0, 0, 0, 0)
        assert [one.body for one in Journal.open(tmp_path).recordings()] == [case.body for case in RAW_CASES]

    async def test_what_was_answered_is_told_though_it_stops_at_once(
        self, place: Place, client: aiohttp.ClientSession
    ) -> None:
        running = place.start()
        ready = await running.ready()
        answers = await asyncio.gather(*(deliver(client, ready.handler_url) for _ in range(50)))
        assert answers == [200] * 50
        assert (await running.stopped()).recorded == 50
        assert len(running.of(Recorded)) == 50

    async def test_what_nobody_has_told_yet_is_told_at_the_end(
        self, place: Place, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def never(*arguments: Any) -> AsyncIterator[Any]:
            await asyncio.Event().wait()
            yield

        monkeypatch.setattr(session_module, "follow", never)
        running = place.start()
        ready = await running.ready()
        await deliver(client, ready.handler_url)
        assert running.of(Recorded) == []
        assert await running.stopped() == Stopped(1, 1, 0, 0, 0, 0)
        assert len(running.of(Recorded)) == 1

    async def test_the_address_of_a_tunnel_has_the_path_behind_it(self, place: Place, tmp_path: Path) -> None:
        running = place.start(tunnels=tried(UrlTunnel("https://hooks.example.org/below/")), probe=False)
        ready = await running.ready()
        assert ready.handler_url == f"https://hooks.example.org/below/b24/{handler_segment(tmp_path)}"
        assert ready.tunnel == "url"

    async def test_the_path_stays_the_same_over_sessions(self, place: Place) -> None:
        paths = []
        for _ in range(2):
            running = place.start()
            paths.append(urlsplit((await running.ready()).handler_url).path)
            await running.stopped()
        assert paths[0] == paths[1]
        assert len(paths[0]) > 16

    async def test_its_end_is_in_the_journal_and_its_port_is_free(self, place: Place, tmp_path: Path) -> None:
        running = place.start()
        port = urlsplit((await running.ready()).handler_url).port
        await running.stopped()
        end = last_line(tmp_path)
        assert isinstance(end, SessionEnd)
        assert end.pending == 0
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port or 0)) != 0
        assert not [thread for thread in threading.enumerate() if thread.name == "journal-1"]

    async def test_no_task_survives_it(self, place: Place, handler: Handler) -> None:
        before = asyncio.all_tasks()
        running = place.start(forward=handler.url)
        await running.ready()
        await running.stopped()
        left = {task for task in asyncio.all_tasks() - before if not task.done()}
        assert left == set()

    async def test_a_torn_line_of_a_crashed_session_is_told_once(self, place: Place, tmp_path: Path) -> None:
        files.prepare_directory(tmp_path / "journal")
        files.segment_path(tmp_path / "journal", 1, 1).write_bytes(b'{"v":1,"kind":"session",')
        for expected in (1, 0):
            running = place.start()
            await running.ready()
            await running.stopped()
            assert len([t for t in running.of(Trouble) if "middle of a write" in t.message]) == expected


class TestForwarding:
    async def test_each_delivery_reaches_the_handler_and_is_told(
        self, place: Place, handler: Handler, client: aiohttp.ClientSession
    ) -> None:
        running = place.start(forward=handler.url)
        ready = await running.ready()
        assert ready.forward == handler.url
        for case in RAW_CASES:
            assert await deliver(client, ready.handler_url, case.body) == 200
        await running.until(lambda: len(running.of(Attempted)) == len(RAW_CASES))
        assert sorted(handler.bodies) == sorted(case.body for case in RAW_CASES)
        assert await running.stopped() == Stopped(1, len(RAW_CASES), len(RAW_CASES), 0, 0, 0)

    async def test_a_handler_that_answers_500_is_counted_as_failed(
        self, place: Place, handler: Handler, client: aiohttp.ClientSession
    ) -> None:
        handler.status = 500
        running = place.start(forward=handler.url)
        await deliver(client, (await running.ready()).handler_url)
        await running.until(lambda: running.of(Attempted))
        assert await running.stopped() == Stopped(1, 1, 0, 1, 0, 0)

    async def test_a_handler_that_does_not_answer_does_not_hold_up_an_acknowledgement_or_the_end(
        self, place: Place, handler: Handler, client: aiohttp.ClientSession, tmp_path: Path
    ) -> None:
        handler.gate.clear()
        running = place.start(forward=handler.url, concurrency=2)
        ready = await running.ready()
        for _ in range(5):
            assert await deliver(client, ready.handler_url) == 200
        await running.until(lambda: len(handler.bodies) == 2)
        assert await running.stopped() == Stopped(1, 5, 0, 0, 5, 0)
        assert last_line(tmp_path).pending == 5
        assert Journal.open(tmp_path).pending() == [f"1-{n}" for n in range(1, 6)]
        assert len(Journal.open(tmp_path).attempts("1-1")) == 1

    async def test_what_was_not_handed_over_is_offered_and_resumed_when_asked(
        self, place: Place, handler: Handler, client: aiohttp.ClientSession, tmp_path: Path
    ) -> None:
        await handler.stop()
        first = place.start(forward=handler.url)
        ready = await first.ready()
        bodies = [b"n=%d" % number for number in range(5)]
        for body in bodies:
            await deliver(client, ready.handler_url, body)
        await first.until(lambda: first.of(Trouble))
        assert await first.stopped() == Stopped(1, 5, 0, 0, 5, 0)
        ids = tuple(f"1-{n}" for n in range(1, 6))

        await handler.start()
        offered = place.start(forward=handler.url)
        await offered.ready()
        assert offered.of(Pending) == [Pending(ids, False)]
        await offered.stopped()
        assert handler.bodies == []

        resumed = place.start(forward=handler.url, resume=True, concurrency=1)
        await resumed.ready()
        assert resumed.of(Pending) == [Pending(ids, True)]
        await resumed.until(lambda: len(handler.bodies) == 5)
        assert await resumed.stopped() == Stopped(3, 0, 5, 0, 0, 0)
        assert handler.bodies == bodies
        assert Journal.open(tmp_path).pending() == []

    async def test_without_a_handler_nothing_is_offered(self, place: Place, client: aiohttp.ClientSession) -> None:
        running = place.start()
        await deliver(client, (await running.ready()).handler_url)
        await running.stopped()
        again = place.start()
        await again.ready()
        assert again.of(Pending) == []
        await again.stopped()


class TestWhatGoesWrong:
    async def test_a_taken_port_is_told_and_the_session_is_closed(self, place: Place, tmp_path: Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            running = place.start(port=taken.getsockname()[1])
            async with asyncio.timeout(DEADLINE):
                with pytest.raises(OutsideFailure, match="Cannot listen on"):
                    await running.task
        assert isinstance(last_line(tmp_path), SessionEnd)

    async def test_a_bad_handlers_address_is_told_before_anything_is_made(
        self, place: Place, tmp_path: Path
    ) -> None:
        running = place.start(forward="nowhere")
        with pytest.raises(WrongUsage):
            await running.task
        assert names_in(tmp_path) == []

    async def test_a_directory_that_cannot_be_written_is_told(self, place: Place, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        running = place.start(recordings=tmp_path / "file")
        with pytest.raises(OutsideFailure):
            await running.task

    async def test_a_tunnel_that_does_not_open_is_told_and_the_port_is_free(self, place: Place) -> None:
        tunnel = _Broken()
        running = place.start(tunnels=tried(tunnel))
        with pytest.raises(OutsideFailure, match="no tunnel today"):
            await running.task
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", tunnel.port)) != 0

    async def test_stopped_before_it_was_ready_it_takes_back_what_it_began(
        self, place: Place, tmp_path: Path
    ) -> None:
        tunnel = _Slow()
        running = place.start(tunnels=tried(tunnel))
        await running.until(tunnel.opening.is_set)
        running.stop.set()
        async with asyncio.timeout(DEADLINE):
            await running.task
        assert running.of(Ready) == []
        assert [note for note in running.of(Note) if "before it was ready" in note.message]
        assert isinstance(last_line(tmp_path), SessionEnd)
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", tunnel.port)) != 0

    async def test_cancelled_it_closes_everything_all_the_same(
        self, place: Place, handler: Handler, tmp_path: Path
    ) -> None:
        running = place.start(forward=handler.url)
        await running.ready()
        running.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running.task
        assert isinstance(last_line(tmp_path), SessionEnd)

    async def test_a_part_that_fails_ends_it_with_one_sentence(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def broken(*arguments: Any) -> AsyncIterator[Any]:
            raise RuntimeError("a bug")
            yield

        monkeypatch.setattr(session_module, "follow", broken)
        running = place.start()
        async with asyncio.timeout(DEADLINE):
            with pytest.raises(OutsideFailure, match=r"stopped unexpectedly: RuntimeError\('a bug'\)"):
                await running.task

    async def test_the_tunnel_is_closed_at_the_end(self, place: Place) -> None:
        tunnel = _Counted()
        running = place.start(tunnels=tried(tunnel))
        await running.ready()
        assert tunnel.closed == 0
        await running.stopped()
        assert tunnel.closed == 1


class _Counted(LocalTunnel):
    def __init__(self) -> None:
        self.closed = 0
        self.port = 0

    async def open(self, port: int, say: Say) -> str:
        self.port = port
        return await super().open(port, say)

    async def close(self) -> None:
        self.closed += 1


class _Broken(_Counted):
    async def open(self, port: int, say: Say) -> str:
        self.port = port
        raise TunnelFailed("There is no tunnel today.")


class _Slow(_Counted):
    def __init__(self) -> None:
        super().__init__()
        self.opening = asyncio.Event()

    async def open(self, port: int, say: Say) -> str:
        self.port = port
        self.opening.set()
        await asyncio.Event().wait()
        raise AssertionError("never")


class TestTheHandlersPath:
    def test_it_is_long_private_and_kept(self, tmp_path: Path) -> None:
        segment = handler_segment(tmp_path)
        assert len(segment) >= 24
        assert segment.replace("-", "").replace("_", "").isalnum()
        assert handler_segment(tmp_path) == segment
        assert stat.S_IMODE((tmp_path / "journal" / "handler-path").stat().st_mode) == 0o600
        assert (tmp_path / "journal" / ".gitignore").exists()

    def test_each_directory_has_its_own(self, tmp_path: Path) -> None:
        assert len({handler_segment(tmp_path / str(number)) for number in range(20)}) == 20

    @pytest.mark.parametrize(
        "content", ["\n", "short", "../../../../../etc/passwd", "x" * 65, "with spaces in the path"]
    )
    def test_a_file_that_holds_none_is_told_with_what_to_do(self, tmp_path: Path, content: str) -> None:
        files.prepare_directory(tmp_path / "journal")
        (tmp_path / "journal" / "handler-path").write_text(content)
        with pytest.raises(OutsideFailure, match=r"handler-path does not hold .*: remove it"):
            handler_segment(tmp_path)

    def test_a_file_that_cannot_be_read_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "journal" / "handler-path").mkdir(parents=True)
        with pytest.raises(OutsideFailure, match="check its permissions"):
            handler_segment(tmp_path)

    def test_one_that_another_process_makes_at_the_same_moment_is_taken(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        theirs = "theirs" * 5
        original = os.open

        def late(path: Any, *arguments: Any, **options: Any) -> int:
            file = Path(path)
            if file.name.startswith("handler-path") and not (file.parent / "handler-path").exists():
                (file.parent / "handler-path").write_text(theirs + "\n")
            return original(path, *arguments, **options)

        monkeypatch.setattr(os, "open", late)
        assert handler_segment(tmp_path) == theirs


class TestReachability:
    def portal(self, client_endpoint: str) -> Portal:
        return Portal(name="mine", client_endpoint=client_endpoint)

    @pytest.mark.parametrize(
        "endpoint", ["http://127.0.0.1:8001/rest/", "http://localhost:8001/rest/", "http://[::1]:8001/rest/"]
    )
    def test_a_portal_on_this_machine_reaches_it(self, tmp_path: Path, endpoint: str) -> None:
        check_reachable(Settings(tmp_path, tried(LocalTunnel()), portal=self.portal(endpoint)))

    @pytest.mark.parametrize(
        "endpoint",
        [
            "https://example.bitrix24.ru/rest/",
            "https://localhost.example.org/rest/",
            "https://127.example.org/rest/",
        ],
    )
    def test_a_portal_on_the_internet_does_not(self, tmp_path: Path, endpoint: str) -> None:
        settings = Settings(tmp_path, tried(LocalTunnel()), portal=self.portal(endpoint))
        with pytest.raises(WrongUsage, match=r"'mine' is on .* cannot reach .*--public-url"):
            check_reachable(settings)
        check_reachable(replace(settings, bind=False))
        check_reachable(replace(settings, tunnels=tried(UrlTunnel("https://hooks.example.org"))))
        check_reachable(replace(settings, portal=None))


class TestWhatWouldGoWrong:
    async def test_forwarding_to_its_own_receiver_is_refused(self, place: Place) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with pytest.raises(WrongUsage, match="own port"):
            await place.start(port=port, forward=f"http://localhost:{port}/b24/x").task

    async def test_two_that_start_at_once_do_not_both_hand_over_what_was_left(
        self, place: Place, handler: Handler, client: aiohttp.ClientSession
    ) -> None:
        await handler.stop()
        first = place.start(forward=handler.url)
        await deliver(client, (await first.ready()).handler_url)
        await first.stopped()
        handler.gate.clear()  # it does not answer the first of them, so the second sees it unsettled
        await handler.start()
        runs = [place.start(forward=handler.url, resume=True) for _ in range(2)]
        for run in runs:
            await run.ready()
        assert sorted(len(run.of(Pending)) for run in runs) == [0, 1]
        handler.gate.set()
        ends = [await run.stopped() for run in runs]
        assert sum(end.answered for end in ends) == 1
        assert len(handler.bodies) == 1

    async def test_what_a_part_failed_with_is_what_the_user_is_told(
        self, place: Place, handler: Handler, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def failing(self: Forwarder) -> None:
            raise JournalUnreadable("Cannot read the journal (it burned).")

        monkeypatch.setattr(Forwarder, "_take", failing)
        with pytest.raises(JournalUnreadable, match="it burned"):
            await place.start(forward=handler.url).task

    async def test_a_handlers_path_that_a_crash_left_empty_is_made_anew(self, tmp_path: Path) -> None:
        files.prepare_directory(tmp_path / "journal")
        (tmp_path / "journal" / "handler-path").touch()
        assert handler_segment(tmp_path) == handler_segment(tmp_path) != ""
