"""A program that runs for a tunnel: started in a group of its own, read to the end, and gone afterwards."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from b24tunnel.tunnel.lines import Lines
from b24tunnel.tunnel.provider import TunnelFailed
from b24tunnel.tunnel.warden import Warden

_PIECE = 65536
_TERMINATE_SECONDS = 1.0
_KILL_SECONDS = 1.0
_KEPT_LINES = 20


class _Protocol(asyncio.subprocess.SubprocessStreamProtocol):
    """Knows of the program's end when it comes.

    The wait of `asyncio.subprocess.Process` is in many versions of Python also one for the pipes' end, and a child
    of the program may hold these for as long as it likes.
    """

    def __init__(self) -> None:
        super().__init__(limit=_PIECE, loop=asyncio.get_running_loop())
        self.exited = asyncio.Event()

    def process_exited(self) -> None:
        """Called by the event loop."""
        super().process_exited()
        self.exited.set()


class Child:
    """One run of a program; ``last_lines`` are the last it has printed, on either stream."""

    def __init__(
        self, transport: asyncio.SubprocessTransport, protocol: _Protocol, on_line: Callable[[str], None]
    ) -> None:
        """Made by `start`."""
        self.last_lines: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)
        self._transport = transport
        self._exited = protocol.exited
        self._on_line = on_line
        self._warden = Warden(self.pid)
        self._readers = [
            asyncio.create_task(self._read(stream)) for stream in (protocol.stdout, protocol.stderr) if stream
        ]

    @classmethod
    async def start(
        cls,
        arguments: Sequence[str],
        on_line: Callable[[str], None],
        environment: Mapping[str, str] | None = None,
    ) -> Child:
        """Start the program; ``on_line`` gets each line that it prints on either stream, in the event loop.

        ``environment`` takes the place of this process's. Raises `TunnelFailed` when there is no such program.
        """
        settings: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            settings = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        try:
            transport, protocol = await asyncio.get_running_loop().subprocess_exec(
                _Protocol,
                *arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=None if environment is None else dict(environment),
                **settings,
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise TunnelFailed(
                f"The program {arguments[0]!r} cannot be started ({reason}): install it, or name another tunnel.",
                permanent=True,
            ) from error
        try:
            return cls(transport, protocol, on_line)
        except OSError as error:
            # No warden: without one the program could outlive this process.
            transport.close()  # which kills it
            await protocol.exited.wait()
            raise TunnelFailed(
                f"No process can be started to watch over {arguments[0]!r} ({error.strerror}): end some others."
            ) from error

    @property
    def pid(self) -> int:
        """The program's process id, which is also its group's."""
        return self._transport.get_pid()

    async def wait(self) -> int:
        """Its exit code (negative: the signal), once it has ended and all that it printed is read.

        May be cancelled and awaited again.
        """
        await self._exited.wait()
        # A grandchild may hold the pipes open for as long as it likes.
        await asyncio.wait(self._readers, timeout=1.0)
        return self._transport.get_returncode() or 0

    async def end(self) -> None:
        """End it with all that it started: asked first, killed a moment later. Fine when it has ended already."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_TERMINATE_SECONDS):
                await self._exited.wait()
        self._signal(getattr(signal, "SIGKILL", signal.SIGTERM))  # what is left of its group, too
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_KILL_SECONDS):
                await self._exited.wait()
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        self._transport.close()  # who has left the group may hold the pipes
        self._warden.release()

    async def _read(self, stream: asyncio.StreamReader) -> None:
        lines = Lines()
        while piece := await stream.read(_PIECE):
            for line in lines.feed(piece):
                self._take(line)
        for line in lines.finish():
            self._take(line)

    def _take(self, line: str) -> None:
        if line:
            self.last_lines.append(line)
            try:
                self._on_line(line)
            except Exception as error:  # told, and read on: nobody else would, and a full pipe stops the program
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "A line of a tunnel's program was not understood", "exception": error}
                )

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if sys.platform == "win32":
                self._transport.send_signal(number)
            else:
                os.killpg(self.pid, number)
