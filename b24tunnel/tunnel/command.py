"""A tunnel that is a program: started, read for its address, and ended with all that it has started."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from b24tunnel.errors import WrongUsage
from b24tunnel.redact import MASK, Masker
from b24tunnel.this_machine import leads_to_this_machine
from b24tunnel.tunnel.child import Child
from b24tunnel.tunnel.command_settings import CommandSettings, PresetSettings
from b24tunnel.tunnel.preset import OPTIONS, Invocation, Preset
from b24tunnel.tunnel.provider import Lost, Say, TunnelFailed, never
from b24tunnel.tunnel.reader import Failed, Reader
from b24tunnel.tunnel.url import UrlTunnel

__all__ = ["CommandSettings", "CommandTunnel", "PresetSettings"]

# What the program gets in its environment: for frpc's configuration, which can read it from there.
_PORT_VARIABLE = "B24TUNNEL_PORT"
_LONGEST_SAID = 300
_DOMAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")
_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSW|API_?KEY|LICENSE|CREDENTIAL|(?:^|[-_])KEY$", re.IGNORECASE)
_BEHIND_SECRET_NAME = re.compile(r"(?i)((?:token|secret|password|license|key)\"?\s?[=:]\s?\"?)[^\s\"',;]{4,}")
_USER_IN_ADDRESS = re.compile(r"//[^/\s@]+@")
_TELLING = re.compile(r"(?i)error|fail|denied|refused|invalid|cannot|unable|expired|ошибка")


class CommandTunnel:
    """A program whose output is known (`of_preset`), or one of the user's own (`of_program`)."""

    def __init__(self, preset: Preset, settings: PresetSettings) -> None:
        """Use `of_preset` or `of_program`."""
        self.name = preset.name
        self.probe_seconds = preset.probe_seconds
        self._preset = preset
        self._settings = settings
        self._masker = Masker(())
        self._reader = Reader(preset, 0)
        self._news = asyncio.Event()
        self._say: Say = _ignore
        self._said = 0
        self._child: Child | None = None
        self._ending: asyncio.Task[int] | None = None
        self._program = ""
        self._url: str | None = None

    @classmethod
    def of_preset(cls, preset: Preset, settings: PresetSettings) -> CommandTunnel:
        """The program of a preset. Raises `WrongUsage` when the settings do not fit it."""
        name = preset.name
        if settings.domain is not None:
            if not _DOMAIN.fullmatch(settings.domain):
                raise WrongUsage(f"{settings.domain!r} is no name that {name} can be asked for, such as my-shop.")
            if not any(_template(preset, invocation, settings.domain) for invocation in preset.invocations):
                raise WrongUsage(f"{name} cannot be asked for the name {settings.domain!r}: leave it out.")
        if (settings.public_url is None) != (preset.ready is None):
            raise WrongUsage(
                f"{name} prints its address: leave public_url out."
                if preset.ready is None
                else f"{name} never prints its address: give it as public_url in [tunnels.{name}]."
            )
        if settings.public_url is not None:
            UrlTunnel(settings.public_url)  # says what is wrong with it
        for option in settings.options:
            if reason := preset.forbidden.get(option.partition("=")[0]):
                raise WrongUsage(f"{option.partition('=')[0]} is no option for {name} here: {reason}.")
        return cls(preset, settings)

    @classmethod
    def of_program(cls, name: str, settings: CommandSettings) -> CommandTunnel:
        """A program of the user's own, called ``name``."""
        return cls(settings.as_preset(name), PresetSettings(public_url=settings.public_url))

    async def open(self, port: int, say: Say) -> str:
        """Start the program and wait for its address; see `Tunnel.open`."""
        await self.close()
        program, arguments = self._call(port)
        environment = self._environment(port)
        self._program = Path(program).name
        self._masker = Masker(_secrets(environment, arguments))
        public_url = self._settings.public_url
        self._reader = Reader(
            self._preset, port, self._settings.domain, public_url.rstrip("/") if public_url else None
        )
        self._say, self._said = say, 0
        try:
            self._child = await Child.start([program, *arguments], self._take, environment)
            self._ending = asyncio.create_task(self._child.wait())
            self._ending.add_done_callback(lambda _: self._news.set())
            self._url = url = await self._first_address(self._child, self._ending)
        except BaseException:
            await self.close()
            raise
        if not self._reader.granted:
            say(f"{self.name} was asked for the name {self._settings.domain}, and has not given it but {url}.")
        if url.startswith("http:") and not leads_to_this_machine(url):
            say(f"{url} is plain http: what is sent to it can be read on its way.")
        return url

    async def lost(self) -> Lost:
        """Wait until the program ends, says that the tunnel is gone, or names another address."""
        while self._child is not None and self._ending is not None:
            if self._ending.done():
                return Lost(f"{self._ended(self._child, self._ending.result())}.")
            if found := self._reader.failure:
                return Lost(f"The program {self._program} has lost its tunnel, it said {self._shown(found.line)}.")
            if self._reader.url != self._url:
                self._url = self._reader.url
                return Lost(f"The program {self._program} has given another address.", self._url)
            self._news.clear()
            await self._news.wait()
        return await never()

    async def close(self) -> None:
        """End the program with all that it has started; see `Tunnel.close`."""
        child, ending = self._child, self._ending
        if child is not None:
            await child.end()  # before it is forgotten: who is cancelled meanwhile closes once more
        if ending is not None:
            ending.cancel()
        if self._child is child:
            self._child = self._ending = self._url = None

    async def _first_address(self, child: Child, ending: asyncio.Task[int]) -> str:
        deadline = asyncio.get_running_loop().time() + self._preset.seconds
        while True:
            if found := self._reader.failure:
                raise self._failure(found)
            if self._reader.url is not None:
                return self._reader.url
            if ending.done():
                setup = self._preset.setup
                raise TunnelFailed(f"{self._ended(child, ending.result())}, without an address: {setup}.")
            self._news.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._news.wait()
            except TimeoutError:
                raise self._nothing_came(child) from None

    def _take(self, line: str) -> None:
        self._reader.feed(line)
        for sentence in self._reader.notes[self._said :]:
            self._said += 1
            self._say(sentence)
        self._news.set()

    def _call(self, port: int) -> tuple[str, list[str]]:
        """The program, with its path, and its arguments."""
        program, invocation = self._found()
        domain = self._settings.domain
        template = _template(self._preset, invocation, domain)
        if template is None:
            raise TunnelFailed(
                f"{invocation.binary} cannot be asked for the name {domain!r}: install a newer version, or leave "
                "the name out.",
                permanent=True,
            )
        label = (domain or "").partition(".")[0]
        values = {"port": str(port), "label": label, "domain": domain or ""}
        values["host"] = (domain or "") if "." in (domain or "") else label + self._preset.suffix
        arguments = []
        for part in template:
            for argument in self._settings.options if part == OPTIONS else (part,):
                known = {"port": str(port)} if part == OPTIONS else values
                for name, value in known.items():
                    argument = argument.replace(f"{{{name}}}", value)
                arguments.append(argument)
        return program, arguments

    def _found(self) -> tuple[str, Invocation]:
        invocations = self._preset.invocations
        if self._settings.binary is not None:
            given = Path(self._settings.binary).expanduser()
            stem = given.name.removesuffix(".exe")
            chosen = next((known for known in invocations if known.binary == stem), invocations[0])
            return shutil.which(given) or str(given), chosen
        for invocation in invocations:
            if program := shutil.which(Path(invocation.binary).expanduser()):
                return program, invocation
        names = " or ".join(repr(binary) for binary in self._preset.binaries)
        raise TunnelFailed(
            f"The tunnel {self.name} needs the program {names}, which is not installed: {self._preset.setup}.",
            permanent=True,
        )

    def _environment(self, port: int) -> dict[str, str]:
        environment = {
            name: value for name, value in os.environ.items() if name.upper() not in self._preset.removed
        }
        return {**environment, **self._preset.environment, _PORT_VARIABLE: str(port)}

    def _failure(self, found: Failed) -> TunnelFailed:
        known = found.failure
        return TunnelFailed(
            f"The program {self._program} gives no address, it said {self._shown(found.line)}: {known.advice}.",
            permanent=known.permanent,
            pause=known.pause,
        )

    def _nothing_came(self, child: Child) -> TunnelFailed:
        within = f"The program {self._program} has given no address within {self._preset.seconds:.0f} s"
        if child.last_lines:
            return TunnelFailed(f"{within}{self._last_words(child)}: {self._preset.unheard}.")
        because = f" ({self._preset.silence})" if self._preset.silence else ""
        return TunnelFailed(f"{within} and printed nothing{because}: try again, or take another tunnel.")

    def _ended(self, child: Child, code: int) -> str:
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return f"The program {self._program} {how}{self._last_words(child)}"

    def _last_words(self, child: Child) -> str:
        # Not where it said that all is well.
        lines = [line for line in child.last_lines if self._url is None or self._url not in line]
        if not lines:
            return ""
        # A stack's last line says less than the one with the error.
        line = next((line for line in reversed(lines) if _TELLING.search(line)), lines[-1])
        return f" and said {self._shown(line)}"

    def _shown(self, line: str) -> str:
        line = self._masker.text(line.strip())
        line = _USER_IN_ADDRESS.sub(f"//{MASK}@", _BEHIND_SECRET_NAME.sub(rf"\1{MASK}", line))
        return repr(line if len(line) <= _LONGEST_SAID else line[: _LONGEST_SAID - 1] + "…")


def _template(preset: Preset, invocation: Invocation, domain: str | None) -> tuple[str, ...] | None:
    """The arguments for this name; None if the program cannot be asked for it."""
    if domain is None:
        return invocation.arguments
    if "." not in domain or (preset.suffix and domain.lower().endswith(preset.suffix)):
        return invocation.named
    if invocation.custom is not None or preset.suffix:
        return invocation.custom
    return invocation.named


def _secrets(environment: dict[str, str], arguments: Sequence[str]) -> Iterator[str]:
    """Values that may not be shown: of variables and of arguments that are named like secrets."""
    yield from (value for name, value in environment.items() if _SECRET_NAME.search(name))
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name.startswith("-") and _SECRET_NAME.search(name):
            yield from (value,) if equals else arguments[place + 1 : place + 2]


def _ignore(_: str) -> None:
    """Before it is opened nothing has to be said."""
