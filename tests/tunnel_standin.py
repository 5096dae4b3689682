"""A program for a tunnel that does what it is told: prints lines, forwards really, misbehaves.

Its deeds are the lines of TUNNEL_STANDIN, in order, each a word and what belongs to it behind a colon (see
`Standin`). It forwards to the port B24TUNNEL_PORT. Notes of the run go into the directory TUNNEL_STANDIN_NOTES
as PID.json.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tcp_relay import port_of, relay_to

# A child that ends by nothing but the strongest signal.
CHILD = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"


class Standin:
    """One run."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.child: subprocess.Popen[bytes] | None = None

    async def do(self, deed: str) -> None:
        """One deed. ``{url}`` in what is printed is the relay's address."""
        word, _, rest = deed.partition(":")
        await getattr(self, f"do_{word}")(rest.replace("{url}", self.url))

    async def do_print(self, text: str) -> None:
        """Print a line."""
        print(text, flush=True)

    async def do_error(self, text: str) -> None:
        """Print a line on standard error."""
        print(text, file=sys.stderr, flush=True)

    async def do_write(self, text: str) -> None:
        """Print it as JSON spells it, with whatever ends of line and controls."""
        os.write(1, json.loads(f'"{text}"').encode("latin-1"))

    async def do_garbage(self, text: str) -> None:
        """Print bytes of all kinds."""
        os.write(1, bytes(range(256)) * int(text) + b"\n")

    async def do_exit(self, text: str) -> None:
        """End at once."""
        os._exit(int(text))

    async def do_deaf(self, _: str) -> None:
        """Take no notice of being asked to end."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    async def do_mute(self, _: str) -> None:
        """Close what it prints to, and go on."""
        os.close(1)
        os.close(2)

    async def do_child(self, _: str) -> None:
        """Start a program of its own, which takes no notice either, and holds the pipes."""
        self.child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE)  # noqa: ASYNC220
        assert self.child.stdout is not None
        await asyncio.to_thread(self.child.stdout.readline)
        self.note()

    async def do_flood(self, text: str) -> None:
        """Print so many mebibytes without an end of line."""
        for _ in range(int(text)):
            await asyncio.to_thread(os.write, 1, b"x" * 1024 * 1024)

    async def do_until(self, text: str) -> None:
        """Go on once there is such a file."""
        while not Path(text).exists():  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.005)

    def note(self) -> None:
        """Tell the test about this run."""
        path = Path(os.environ["TUNNEL_STANDIN_NOTES"], f"{os.getpid()}.json")
        notes = {"pid": os.getpid(), "arguments": sys.argv[1:], "environment": dict(os.environ)}
        if self.child is not None:
            notes["child"] = self.child.pid
        whole = path.with_suffix(".part")
        whole.write_text(json.dumps(notes))
        whole.rename(path)


async def main() -> None:
    """Do all of it, and stay."""
    relay = await relay_to(int(os.environ["B24TUNNEL_PORT"]))
    standin = Standin(f"http://127.0.0.1:{port_of(relay)}")
    standin.note()
    for deed in os.environ["TUNNEL_STANDIN"].splitlines():
        await standin.do(deed)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
