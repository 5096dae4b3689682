"""What tests of tunnels have in common: a receiver's stand-in, a way to knock, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from programs import DEADLINE
from tcp_relay import port_of


@contextlib.asynccontextmanager
async def answering() -> AsyncIterator[int]:
    """A server on a free port, given, that answers each line with itself backwards."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                writer.write(line.strip()[::-1] + b"\n")
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, limit=2**24) as server:
        yield port_of(server)


async def knock(port: int, line: bytes) -> bytes:
    """What comes back for a line sent to a port of 127.0.0.1, without its end; empty when it is cut off."""
    async with asyncio.timeout(DEADLINE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
        try:
            writer.write(line + b"\n")
            return (await reader.readline()).strip()
        except ConnectionError:
            return b""
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def nothing_left(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> AsyncIterator[None]:
    """Fails when the body leaves a task, an error that nobody took, a line in the log or one on the screen."""
    loop = asyncio.get_running_loop()
    unhandled: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda loop, context: unhandled.append(context))
    before = asyncio.all_tasks()
    caplog.set_level(logging.WARNING)
    yield
    # What is only unwinding does so; what waits for something stays.
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:
        await asyncio.wait(left, timeout=DEADLINE)
    _expect([task for task in left if not task.done()], [], "tasks that still wait")
    gc.collect()
    await asyncio.sleep(0)
    _expect(unhandled, [], "errors that nobody took")
    _expect([record.getMessage() for record in caplog.get_records("call")], [], "what was logged")
    _expect(tuple(capfd.readouterr()), ("", ""), "what was printed")


def _expect(found: object, wanted: object, what: str) -> None:
    if found != wanted:
        raise AssertionError(f"{what}: {found!r}")
