"""Faults that a test switches on: the next requests for a method meet them instead of, or after, the answer."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Literal

from b24tunnel.errors import WrongUsage

TOKEN = "oauth/token"
ANY = "*"
MAX_SECONDS = 3600
MAX_TIMES = 1_000_000

Kind = Literal["error", "http", "hang", "drop", "slow"]


@dataclass(frozen=True, slots=True)
class Fault:
    """What a request meets. Made by ``error``, ``http``, ``hang``, ``drop`` and ``slow``."""

    kind: Kind
    code: str = ""
    description: str = ""
    status: int = 0
    body: bytes = b""
    content_type: str = ""
    after: bool = False
    seconds: float = 0.0

    @property
    def carries_out(self) -> bool:
        """Whether the call is carried out all the same."""
        return self.after or self.kind == "slow"

    @classmethod
    def error(cls, code: str, description: str = "", status: int = 400) -> Fault:
        """A refusal in Bitrix24's form: JSON with ``error`` and ``error_description``, and an HTTP status."""
        return cls("error", code, description, _status(status))

    @classmethod
    def http(cls, status: int, body: bytes = b"", content_type: str = "text/html") -> Fault:
        """An answer that is none of Bitrix24's REST: a proxy's error page, for example."""
        return cls("http", status=_status(status), body=body, content_type=content_type)

    @classmethod
    def hang(cls) -> Fault:
        """No answer until the client goes or the sandbox stops; the call is not carried out."""
        return cls("hang")

    @classmethod
    def drop(cls, after: bool = False) -> Fault:
        """The connection is closed without an answer; with ``after`` the call is carried out first."""
        return cls("drop", after=after)

    @classmethod
    def slow(cls, seconds: float) -> Fault:
        """The call is carried out at once and answered ``seconds`` later; they count as operating time."""
        if not (math.isfinite(seconds) and 0 <= seconds <= MAX_SECONDS):
            raise WrongUsage(f"An answer cannot be {seconds} seconds slow: give 0 to {MAX_SECONDS}.")
        return cls("slow", seconds=seconds)


class Faults:
    """The faults that wait for requests, in the order in which they were switched on."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[tuple[Fault, int]]] = {}

    def add(self, what: str, fault: Fault, times: int) -> None:
        """The next ``times`` requests for ``what`` meet ``fault``, after those switched on before for it."""
        if not 1 <= times <= MAX_TIMES:
            raise WrongUsage(f"A fault cannot be met {times} times: give 1 to {MAX_TIMES}.")
        self._waiting.setdefault(what, deque()).append((fault, times))

    def take(self, name: str) -> Fault | None:
        """The fault that a request meets. One for its own name goes before one for any REST call."""
        for what in (name,) if name == TOKEN else (name, ANY):
            waiting = self._waiting.get(what)
            if not waiting:
                continue
            fault, times = waiting.popleft()
            if times > 1:
                waiting.appendleft((fault, times - 1))
            return fault
        return None


def _status(status: int) -> int:
    if not 200 <= status <= 599:
        raise WrongUsage(f"{status} is no HTTP status of an answer: give 200 to 599.")
    return status
