"""A tunnel of ngrok's: its agent runs through pyngrok, with the user's account."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from b24tunnel.errors import WrongUsage
from b24tunnel.tunnel.ngrok_binary import find_binary
from b24tunnel.tunnel.ngrok_errors import failure_for
from b24tunnel.tunnel.ngrok_token import find_token, write_config
from b24tunnel.tunnel.provider import Lost, Say, TunnelFailed, never

if TYPE_CHECKING:
    from b24tunnel.tunnel.ngrok_agent import Agent

_DEADLINE = 20.0
_DOWNLOAD_SECONDS = 180.0
_NO_ACCOUNT = 4018


@dataclass(frozen=True)
class NgrokSettings:
    """How ngrok is used.

    ``authtoken``: else that of NGROK_AUTHTOKEN, else that of the user's own ngrok configuration. ``domain``: a
    fixed host name of the account; without it ngrok chooses. ``binary``: the agent's name or path.
    """

    authtoken: str | None = None
    domain: str | None = None
    binary: str | None = None


def token_known(settings: NgrokSettings) -> bool:
    """Whether an ngrok authtoken is to be found, so that the tunnel can be tried without asking for one."""
    return find_token(settings.authtoken) is not None


class NgrokTunnel:
    """An address of ngrok's that leads to the receiver for as long as the agent runs."""

    name = "ngrok"
    # The free plan has 20,000 requests a month: a probe a minute leaves room for events on working days.
    probe_seconds = 60.0

    def __init__(
        self,
        settings: NgrokSettings,
        home: Path,
        *,
        deadline: float = _DEADLINE,
        download_seconds: float = _DOWNLOAD_SECONDS,
    ) -> None:
        """``home`` is where a file with the token lies while the agent starts.

        ``deadline``: seconds for the agent to give an address; ``download_seconds``: for it to be downloaded.
        Raises `WrongUsage` for a domain that is none.
        """
        self._settings = settings
        self._home = home
        self._deadline = deadline
        self._download_seconds = download_seconds
        self._domain: str | None = None
        if settings.domain is not None:
            self._domain = settings.domain.strip().removeprefix("https://").rstrip("/").lower()
            if not re.fullmatch(r"[\w-]+(\.[\w-]+)+(:\d+)?", self._domain):
                raise WrongUsage(
                    f"{settings.domain!r} is no ngrok domain: give a host name like name.ngrok-free.app."
                )
        self._agent: Agent | None = None

    async def open(self, port: int, say: Say) -> str:
        """Start the agent and have it lead an address to the port; see `Tunnel.open`."""
        await self.close()
        token = find_token(self._settings.authtoken)
        if token is None:
            raise failure_for(_NO_ACCOUNT)
        binary = await find_binary(self._settings.binary, say, self._download_seconds)
        from b24tunnel.tunnel.ngrok_agent import Agent  # pyngrok takes a while to import

        try:
            config = write_config(self._home, token)
        except OSError as error:
            raise TunnelFailed(
                f"The configuration of the ngrok agent cannot be written below {self._home} ({error.strerror})."
            ) from error
        self._agent = agent = Agent(binary, config, token, self._deadline)
        try:
            await agent.start()
            url = await agent.connect(port, self._domain)
            if self._domain is not None and url != f"https://{self._domain}":
                raise TunnelFailed(
                    f"ngrok gave {url} instead of the domain {self._domain}: correct the domain, or leave it out.",
                    permanent=True,
                )
        except BaseException:
            await self.close()
            raise
        finally:
            # The agent has read it: no file with the token stays behind.
            with contextlib.suppress(OSError):
                config.unlink(missing_ok=True)
        return url

    async def lost(self) -> Lost:
        """Wait until the agent ends, or ngrok refuses it with an error code; it retries anything else for ever."""
        if self._agent is None:
            return await never()
        return Lost(await self._agent.ended())

    async def close(self) -> None:
        """End the agent; see `Tunnel.close`."""
        if self._agent is not None:
            await self._agent.end()
            self._agent = None
