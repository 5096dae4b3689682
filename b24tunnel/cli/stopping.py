"""Running until Ctrl-C, SIGTERM or the closing of the terminal, and leaving at once at the second signal."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio


def run_until_stopped(main: Callable[[asyncio.Event], Awaitable[None]], at_second_signal: str) -> None:
    """Run ``main`` with an event that Ctrl-C, SIGTERM and the closing of the terminal set.

    The second Ctrl-C or SIGTERM ends the process at once, after printing ``at_second_signal``. The closing of
    the terminal never does: it comes beside other signals, and nobody is there who could be in a hurry.
    """
    import asyncio

    from b24tunnel import event_loop

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        asked = False

        def on_signal(number: int) -> None:
            nonlocal asked
            # Not whether `stop` is set: that a closed terminal cannot be written to any more sets it, too.
            if asked and number != getattr(signal, "SIGHUP", None):
                _say(at_second_signal)
                os._exit(130)
            asked = True
            stop.set()
            if sys.stderr.isatty():
                _say("")  # the terminal has just shown ^C

        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is None:
                continue
            try:
                loop.add_signal_handler(number, on_signal, number)
            except NotImplementedError:  # Windows: its loop cannot, so the signal is handed over to it
                signal.signal(number, lambda got, _: loop.call_soon_threadsafe(on_signal, got))
        loop.set_exception_handler(_told_once())
        await main(stop)

    event_loop.run(run())


def _told_once() -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """Tells what the event loop itself cannot do, such as taking a connection, in one sentence and once."""
    told: set[str] = set()

    def tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        failure = context.get("exception")
        reason = getattr(failure, "strerror", None) or type(failure).__name__
        sentence = f"Trouble: {context['message']} ({reason})."
        if sentence not in told and len(told) < 100:
            told.add(sentence)
            _say(sentence)

    return tell


def _say(text: str) -> None:
    """To standard error, where that can be written at all."""
    with contextlib.suppress(OSError, ValueError):
        os.write(2, text.encode("utf-8", "replace") + b"\n")
