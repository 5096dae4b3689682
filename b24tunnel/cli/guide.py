"""Leading a person through the sign-in on the terminal: what to paste where, and what is typed back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import webbrowser
from collections.abc import Iterator

import click

from b24tunnel.cli.terminal import visible
from b24tunnel.cli.typed import typed_lines
from b24tunnel.portal import Portal
from b24tunnel.signing_in import Way

_STEPS: dict[Way, str] = {
    "oauth": """\
On {host}: Developer resources → Integrations → your local application.
Paste this address as its handler path ("Your handler path"), and save:

  {address}
""",
    "install": """\
On {host}: Developer resources → Other → Local application.
Tick "Uses only API" (script only), choose the scopes, paste this address as both the handler path and the
initial installation path, and save (in an application that is there already: reinstall it):

  {address}

Waiting for the installation that the portal tells then …""",
    "webhook": """\
On {host}: Developer resources → Other → Outgoing webhook.
Paste this address as its handler ("URL of your handler"), choose the events, and save:

  {address}

Where the tunnel gives another address at each start, this one ends with the login: paste the one that
'b24tunnel listen --no-bind --portal {name}' shows later.
""",
}


class TerminalGuide:
    """What `signing_in.sign_in` leads a person with. Where nobody can type, nothing is waited for."""

    def __init__(self, portal: Portal, way: Way, *, waits: bool, opens: bool, asks_token: bool) -> None:
        """``waits`` for Enter once the address is pasted, ``opens`` the browser, ``asks_token`` of a webhook."""
        self._portal = portal
        self._way = way
        self._waits = waits and os.name == "posix" and sys.stdin.isatty() and sys.stdout.isatty()
        self._opens = opens
        self._asks_token = asks_token

    def paste(self, address: str) -> None:
        host = visible(self._portal.domain or self._portal.name)
        click.echo(_STEPS[self._way].format(host=host, address=visible(address), name=self._portal.name))

    async def pasted(self) -> None:
        if self._waits:
            await _line("Then press Enter here: ")

    def browse(self, address: str) -> None:
        click.echo(f"Sign in and agree there:\n\n  {visible(address)}\n\nWaiting for the browser to come back …")
        if self._opens:
            # A browser of the terminal's own, or one that BROWSER names, may run until the person leaves it: then
            # neither the sign-in nor the end of this program waits for it.
            threading.Thread(target=self._open, args=(address, asyncio.get_running_loop()), daemon=True).start()

    async def token(self) -> str:
        if not self._asks_token:
            await self.pasted()
            return ""
        kept = "; Enter keeps the one that is stored" if self._portal.application_token else ""
        question = f"Application token, which is not shown{kept}: "
        if os.name != "posix":  # where nothing that is typed reaches an event loop
            return str(await asyncio.to_thread(click.prompt, question, "", True, prompt_suffix=""))
        while True:
            with _unseen():
                token = await _line(question)
            click.echo()
            if token or kept:
                return token

    def say(self, message: str) -> None:
        click.echo(visible(message), err=True)

    def _open(self, address: str, loop: asyncio.AbstractEventLoop) -> None:
        try:
            opened = webbrowser.open(address)
        except (webbrowser.Error, OSError):
            opened = False
        if not opened:
            with contextlib.suppress(RuntimeError):  # it is over already
                loop.call_soon_threadsafe(self.say, "No browser could be opened: open the address yourself.")


async def _line(question: str) -> str:
    """What is typed up to Enter, while everything else goes on."""
    line: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def typed(text: str) -> None:
        if not line.done():
            line.set_result(text)

    with typed_lines(typed):
        click.echo(question, nl=False)
        return await line


@contextlib.contextmanager
def _unseen() -> Iterator[None]:
    """What is typed inside the block is not shown on the terminal."""
    import termios

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    hidden = termios.tcgetattr(terminal)
    hidden[3] &= ~termios.ECHO
    # What was typed ahead stays: it may be the token, pasted at once.
    termios.tcsetattr(terminal, termios.TCSADRAIN, hidden)
    try:
        yield
    finally:
        with contextlib.suppress(termios.error):  # it was closed meanwhile
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)
