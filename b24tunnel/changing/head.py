"""Changes to a recording's head: its headers and the path of its target."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Self
from urllib.parse import quote

from b24tunnel.connection_headers import SENDERS_OWN
from b24tunnel.errors import WrongUsage
from b24tunnel.recording import Recording

# RFC 9110 §5.6.2 and §5.5.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_LONGEST = 32 * 1024


@dataclass(frozen=True)
class SetHeader:
    """One header in place of every one of its name: where the first stood and with its spelling, or at the end."""

    name: str
    value: str

    def __post_init__(self) -> None:
        """Raises `WrongUsage` for a name or a value that no header can have, or that the sender makes itself."""
        _check_name(self.name)
        found = _CONTROL.search(self.value)
        if found:
            raise WrongUsage(
                f"The value of {self.name} has the character {found[0]!r} in it, which no header may have: give "
                "it in one line."
            )
        if len(self.value) > _LONGEST:
            raise WrongUsage(f"The value of {self.name} has more than {_LONGEST:,} characters: shorten it.")
        try:
            self.value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise WrongUsage(f"The value of {self.name} has a lone surrogate, which stands for no byte.") from None

    @classmethod
    def parse(cls, text: str) -> Self:
        """The change that ``X-Name: value`` asks for. Raises `WrongUsage`."""
        name, colon, value = text.partition(":")
        if not colon:
            # Not shown: without a colon nobody knows where a secret begins.
            raise WrongUsage("A header without a colon sets nothing: give a name and a value, as in X-Debug: 1.")
        return cls(name.strip(" \t"), value.strip(" \t"))

    def __call__(self, recording: Recording) -> Recording:
        """The recording with this header."""
        wanted = self.name.lower()
        headers: list[tuple[str, str]] = []
        is_there = False
        for name, value in recording.headers:
            if name.lower() != wanted:
                headers.append((name, value))
            elif not is_there:
                is_there = True
                headers.append((name, self.value))
        if not is_there:
            headers.append((self.name, self.value))
        return replace(recording, headers=tuple(headers))


@dataclass(frozen=True)
class UnsetHeader:
    """No header of this name."""

    name: str

    def __post_init__(self) -> None:
        """Raises `WrongUsage` for a name that no header can have, or that the sender makes itself."""
        _check_name(self.name)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The change that ``X-Name`` asks for. Raises `WrongUsage`."""
        return cls(text.strip(" \t"))

    def __call__(self, recording: Recording) -> Recording:
        """The recording without it. Raises `WrongUsage` where there is none."""
        wanted = self.name.lower()
        headers = tuple((name, value) for name, value in recording.headers if name.lower() != wanted)
        if len(headers) == len(recording.headers):
            raise WrongUsage(f"There is no header {self.name} in {recording.id}.")
        return replace(recording, headers=headers)


@dataclass(frozen=True)
class SetPath:
    """Another path of the request's target. The query stays, unless ``path`` has a ``?`` and so one of its own."""

    path: str

    def __post_init__(self) -> None:
        """Raises `WrongUsage` for what is no path."""
        if not self.path.startswith("/") or "#" in self.path or _CONTROL.search(self.path):
            raise WrongUsage(
                f"{self.path[:200]!r} is no path: give one that begins with / and has no #, as in /bitrix/handler."
            )
        try:
            self.path.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise WrongUsage("The path has a lone surrogate, which stands for no byte.") from None

    def __call__(self, recording: Recording) -> Recording:
        """The recording with this path; what an address cannot hold as it is goes percent-encoded."""
        path, mark, query = re.sub(r"[^!-~]+", _percent_encoded, self.path).partition("?")
        if not mark:
            _, mark, query = recording.target.partition("?")
        return replace(recording, target=f"{path}{mark}{query}")


def _check_name(name: str) -> None:
    if not _TOKEN.fullmatch(name):
        raise WrongUsage(
            f"{name[:80]!r} is no header's name: letters, digits and hyphens make one, such as X-Debug."
        )
    if name.lower() in SENDERS_OWN:
        raise WrongUsage(f"{name} is made anew for each sending, so it cannot be changed: leave it out.")


def _percent_encoded(found: re.Match[str]) -> str:
    return quote(found[0].encode("utf-8", "surrogateescape"))
