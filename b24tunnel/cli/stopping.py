"""Running until Ctrl-C, SIGTERM or the closing of the terminal, and leaving at once at the second signal."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable


def run_until_stopped(main: Callable[[asyncio.Event], Awaitable[None]], at_second_signal: str) -> None:
    """Run ``main`` with an event that Ctrl-C, SIGTERM and the closing of the terminal set.

    The second signal ends the process at once, after printing ``at_second_signal``.
    """

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def on_signal() -> None:
            if stop.is_set():
                sys.stderr.write(at_second_signal + "\n")
                sys.stderr.flush()
                os._exit(130)
            if sys.stderr.isatty():
                sys.stderr.write("\n")  # the terminal has just shown ^C
            stop.set()

        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is None:
                continue
            try:
                loop.add_signal_handler(number, on_signal)
            except NotImplementedError:  # Windows: its loop cannot, so the signal is handed over to it
                signal.signal(number, lambda *_: loop.call_soon_threadsafe(on_signal))
        await main(stop)

    asyncio.run(run())
