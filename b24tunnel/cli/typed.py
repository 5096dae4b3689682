"""Lines that a person types on the terminal while a command goes on."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

_LONGEST = 4096
_BACKGROUND_SECONDS = 1.0


@contextlib.contextmanager
def typed_lines(on_line: Callable[[str], None]) -> Iterator[None]:
    """``on_line`` gets each line in the event loop, inside the block; none where nobody can type.

    Windows' event loop cannot wait for what is typed.
    """
    import asyncio

    if os.name != "posix" or not sys.stdin or not sys.stdin.isatty():
        yield
        return
    try:
        # Opened anew: what is typed may be thrown away by Ctrl-C after it was announced, and on standard input
        # itself only the whole terminal, with what is printed there, could be told never to wait.
        terminal = os.open(os.ttyname(sys.stdin.fileno()), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        yield
        return
    loop = asyncio.get_running_loop()
    begun = b""
    later: asyncio.TimerHandle | None = None

    def look_again() -> None:
        loop.add_reader(terminal, typed)

    def typed() -> None:
        nonlocal begun, later
        try:
            if os.tcgetpgrp(terminal) != os.getpgrp():
                # Typed for somebody else, and who reads in the background is stopped. It may lie there for long.
                loop.remove_reader(terminal)
                later = loop.call_later(_BACKGROUND_SECONDS, look_again)
                return
            piece = os.read(terminal, _LONGEST)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece:  # the terminal is gone, or Ctrl-D was pressed
            loop.remove_reader(terminal)
            return
        *lines, begun = (begun + piece)[-_LONGEST:].split(b"\n")
        for line in lines:
            on_line(line.decode("utf-8", "replace").strip())

    loop.add_reader(terminal, typed)
    try:
        yield
    finally:
        if later is not None:
            later.cancel()
        loop.remove_reader(terminal)
        os.close(terminal)
