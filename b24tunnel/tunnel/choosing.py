"""Which tunnels a name means, and which of them may be tried when nobody has named one."""

from __future__ import annotations

import difflib
import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from b24tunnel.errors import WrongUsage
from b24tunnel.settings import ProjectSettings
from b24tunnel.tunnel.facts import FACTS, Facts
from b24tunnel.tunnel.local import LocalTunnel
from b24tunnel.tunnel.provider import Tunnel
from b24tunnel.tunnel.supervisor import Candidate
from b24tunnel.tunnel.url import UrlTunnel

# The providers' modules are imported when they are needed: some bring large libraries along.

# Those whose own address a user may know better than the program does.
_WITH_PUBLIC_URL = ("url", "ssh", "cloudflared", "frp")
_WITHOUT_DOMAIN = {"local", "url", "ssh"}
# Without an account and with nothing but Python; the one whose address stays the same first.
_AUTOMATIC_SERVICES = ("srv.us", "localhost.run", "pinggy", "serveo")
# Those whose address is the same at the next start, and what to say of the others.
_STAYING = ("ssh", "ngrok", "srv.us")
_BETTER = (
    "This address is another one at the next start. One that stays comes from a server of your own ([tunnels.ssh] "
    "in the settings), from ngrok (NGROK_AUTHTOKEN; not from Russia) or from --tunnel srv.us."
)


@dataclass(frozen=True)
class Wish:
    """What the user has asked for.

    ``name``: a provider; without one the settings', else the first that is usable. ``public_url``: an address of
    the user's own. ``domain``: the fixed name to ask the provider for. ``here``: whether only this machine has
    to reach it. ``recordings`` tells projects of this user from one another.
    """

    name: str | None = None
    public_url: str | None = None
    domain: str | None = None
    here: bool = False
    recordings: Path = Path("recordings")


def choose(wish: Wish, settings: ProjectSettings, home: Path) -> tuple[Candidate, ...]:
    """The tunnels to try, in this order. Raises `WrongUsage` for what does not fit together, or is unknown.

    ``home`` is where this tool keeps its state: keys and known hosts.
    """
    name = wish.name or ("url" if wish.public_url else settings.tunnel) or "auto"
    choice = _Choice(wish, settings, home)
    _check_tables(settings)
    if wish.domain is not None and name in _WITHOUT_DOMAIN | {
        n for n, t in settings.tunnels.items() if "command" in t
    }:
        raise WrongUsage(f"The tunnel {name!r} cannot be asked for a name: leave --domain out.")
    if name == "auto":
        if wish.public_url is not None:
            raise WrongUsage("--public-url names the address, --tunnel auto looks for one: leave one of them out.")
        if wish.domain is not None:
            raise WrongUsage("--domain is a name of one provider's: say of which with --tunnel.")
        if wish.here:
            return (Candidate(LocalTunnel()),)
        return tuple(choice.automatic())
    own = settings.tunnels.get(name, {})
    if wish.public_url is not None and name not in _WITH_PUBLIC_URL and "command" not in own:
        raise WrongUsage(f"--public-url belongs to the tunnel 'url', not to {name!r}: leave one of them out.")
    return (Candidate(choice.named(name)),)


def _check_tables(settings: ProjectSettings) -> None:
    """Raise `WrongUsage` for a table that is no provider's: most likely a name that was mistyped."""
    files = " or ".join(map(str, settings.sources))
    for name, table in settings.tunnels.items():
        if name in ("auto", "local", "url"):
            raise WrongUsage(f"[tunnels.{name}] in {files}: there is nothing to settle of {name!r}, leave it out.")
        if name not in FACTS and "command" not in table:
            near = difflib.get_close_matches(name, FACTS, n=1)
            hint = f"did you mean {near[0]!r}? A" if near else "a"
            raise WrongUsage(f"[tunnels.{name}] in {files}: {hint} program of your own needs command and url.")


@dataclass(frozen=True)
class Known:
    """A provider as this machine has it: what it ``lacks`` to be usable now, if anything, in a few words.

    ``automatic``: its place, from 1 on, among those that the automatic choice tries now.
    """

    name: str
    facts: Facts
    lacks: str | None
    automatic: int | None


def survey(settings: ProjectSettings, home: Path) -> list[Known]:
    """Every provider, the user's own last."""
    choice = _Choice(Wish(), settings, home)
    lacks = {name: choice.lacks(name) for name in provider_names(settings) if name != "auto"}
    tried = [name for name in choice.automatic_names() if lacks[name] is None]
    own = Facts("its program, from the settings", "unknown", "unknown", "")
    return [
        Known(name, FACTS.get(name, own), lacking, tried.index(name) + 1 if name in tried else None)
        for name, lacking in lacks.items()
    ]


def provider_names(settings: ProjectSettings) -> tuple[str, ...]:
    """Every name that ``--tunnel`` takes, the user's own last."""
    return ("auto", *FACTS, *(name for name in settings.tunnels if name not in FACTS and name != "auto"))


class _Choice:
    def __init__(self, wish: Wish, settings: ProjectSettings, home: Path) -> None:
        self._wish = wish
        self._settings = settings
        self._home = home

    def named(self, name: str) -> Tunnel:
        """The provider of this name."""
        from b24tunnel.tunnel.presets import PRESETS
        from b24tunnel.tunnel.ssh_services import SSH_SERVICES

        makers: dict[str, Callable[[], Tunnel]] = {
            "local": LocalTunnel,
            "url": self._url,
            "ngrok": self._ngrok,
            "cloudflared": self._cloudflared,
            "ssh": self._ssh,
        }
        if name in makers:
            return makers[name]()
        if name in SSH_SERVICES:
            return self._service(name)
        if name in PRESETS:
            return self._preset(name)
        if name in self._settings.tunnels:
            return self._program(name)
        names = provider_names(self._settings)
        files = "" if self._wish.name else f" ({' or '.join(map(str, self._settings.sources))})"
        near = difflib.get_close_matches(name.lower(), names, n=1)
        hint = f"did you mean {near[0]!r}? There are" if near else "there are"
        raise WrongUsage(f"There is no tunnel provider {name!r}{files}: {hint} {', '.join(names)}.")

    def automatic(self) -> Iterator[Candidate]:
        """What is usable on this machine as far as can be told without trying it, the best first."""
        for name in self.automatic_names():
            if self.lacks(name) is None:
                yield Candidate(self.named(name), self._why(name), "" if name in _STAYING else _BETTER)

    def automatic_names(self) -> Iterator[str]:
        """What may be tried unasked, the best first: what the user has settled or installed, then what is free."""
        from b24tunnel.tunnel.presets import PRESETS

        yield "ssh"
        yield from (name for name, table in self._settings.tunnels.items() if "command" in table)
        yield "ngrok"
        yield from (name for name, preset in PRESETS.items() if preset.automatic)
        yield "cloudflared"
        yield from _AUTOMATIC_SERVICES

    def lacks(self, name: str) -> str | None:
        """What a provider would need to be usable now, in a few words; None if nothing."""
        from b24tunnel.tunnel.ngrok import NgrokSettings, token_known
        from b24tunnel.tunnel.presets import PRESETS

        table = self._settings.tunnels.get(name, {})
        if name == "url":
            return "an address of yours: --public-url"
        if name == "ssh" and "host" not in table:
            return "a server: host in [tunnels.ssh]"
        if name == "ngrok" and not token_known(self._settings.section("ngrok", NgrokSettings)):
            return "a token: NGROK_AUTHTOKEN"
        if name == "frp" and "public_url" not in table:
            return "its address: public_url in [tunnels.frp]"
        if name in PRESETS or name == "cloudflared":
            return None if self._program_of(name) else f"the program {self._programs(name)[0]}"
        return None

    def _why(self, name: str) -> str:
        if name in _AUTOMATIC_SERVICES:
            return "it needs no account and no program"
        if name == "ngrok":
            return "a token for it is known"
        if program := self._program_of(name):
            return f"the program {program} is installed"
        return "it is in the settings"

    def _program_of(self, name: str) -> str | None:
        """The installed program of a provider."""
        return next((known for known in self._programs(name) if shutil.which(Path(known).expanduser())), None)

    def _programs(self, name: str) -> tuple[str, ...]:
        from b24tunnel.tunnel.presets import PRESETS

        if "binary" in (table := self._settings.tunnels.get(name, {})):
            return (str(table["binary"]),)
        if name == "cloudflared":
            return ("cloudflared",)
        return tuple(PRESETS[name].binaries) if name in PRESETS else ()

    def _url(self) -> Tunnel:
        if self._wish.public_url is None:
            raise WrongUsage("The tunnel 'url' needs the address that you have: --public-url https://….")
        return UrlTunnel(self._wish.public_url)

    def _ngrok(self) -> Tunnel:
        from b24tunnel.tunnel.ngrok import NgrokSettings, NgrokTunnel

        return NgrokTunnel(self._settings.section("ngrok", NgrokSettings, domain=self._wish.domain), self._home)

    def _cloudflared(self) -> Tunnel:
        from b24tunnel.tunnel.cloudflared import CloudflaredSettings, CloudflaredTunnel

        hostname = self._wish.public_url or self._wish.domain
        settings = self._settings.section("cloudflared", CloudflaredSettings, hostname=hostname)
        return CloudflaredTunnel(settings, self._home)

    def _ssh(self) -> Tunnel:
        from b24tunnel.tunnel.ssh import SshSettings, SshTunnel

        return SshTunnel(self._settings.section("ssh", SshSettings, public_url=self._wish.public_url))

    def _service(self, name: str) -> Tunnel:
        from b24tunnel.tunnel.ssh_services import SSH_SERVICES, ServiceSettings, SshServiceTunnel

        settings = self._settings.section(name, ServiceSettings, domain=self._wish.domain)
        return SshServiceTunnel(SSH_SERVICES[name], settings, self._home, slot=_slot(self._wish.recordings))

    def _preset(self, name: str) -> Tunnel:
        from b24tunnel.tunnel.command import CommandTunnel, PresetSettings
        from b24tunnel.tunnel.presets import PRESETS

        more = {"domain": self._wish.domain, "public_url": self._wish.public_url}
        return CommandTunnel.of_preset(PRESETS[name], self._settings.section(name, PresetSettings, **more))

    def _program(self, name: str) -> Tunnel:
        from b24tunnel.tunnel.command import CommandSettings, CommandTunnel

        return CommandTunnel.of_program(
            name, self._settings.section(name, CommandSettings, public_url=self._wish.public_url)
        )


def _slot(recordings: Path) -> int:
    """A number from 1 to 65,000 that is the same for a project each time, and another for most others."""
    digest = hashlib.sha256(str(recordings.absolute()).encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:4], "big") % 65_000 + 1
