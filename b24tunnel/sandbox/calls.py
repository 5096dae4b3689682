"""What a REST method of the sandbox is given, and what describes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from .answers import missing

if TYPE_CHECKING:
    from .store import Portal
    from .tokens import App, Token


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a method.

    ``params``: the parameters by lower-case name, tokens left out; leaves are strings from a form, JSON values
    from a JSON body. ``token``: None when the call came over the incoming webhook.
    """

    portal: Portal
    params: Mapping[str, Any]
    token: Token | None

    @property
    def app(self) -> App:
        """The application that calls; ours when the call came over the incoming webhook."""
        return self.portal.own if self.token is None else self.token.app

    @property
    def user_id(self) -> int:
        """The user on whose behalf the call is made."""
        return self.portal.user_id if self.token is None else self.token.user_id

    @property
    def depth(self) -> int:
        """How many deliveries in a row led to this call; 0 for a call with an ordinary token."""
        return 0 if self.token is None else self.token.depth

    def text(self, name: str) -> str:
        """A scalar parameter as text; ``""`` when it is absent, null or an array."""
        return scalar(self.params.get(name))

    def need(self, name: str) -> str:
        """A scalar parameter that must be there; refuses the call otherwise."""
        value = self.text(name)
        if not value:
            raise missing(name.upper())
        return value

    def table(self, name: str) -> dict[str, Any]:
        """An array parameter with text keys; empty when absent."""
        value = self.params.get(name)
        if isinstance(value, dict):
            return value
        if isinstance(value, list):
            return {str(index): item for index, item in enumerate(value)}
        return {}

    def items(self, name: str) -> list[str]:
        """An array parameter's values as texts; a scalar counts as an array of one."""
        value = self.params.get(name)
        if isinstance(value, dict):
            value = list(value.values())
        if not isinstance(value, list):
            value = [] if value is None else [value]
        return [scalar(item) for item in value]

    def number(self, name: str, default: int) -> int:
        """A scalar parameter as a whole number, as PHP's ``intval`` would read it; ``default`` when absent."""
        value = self.text(name)
        if not value:
            return default
        try:
            return int(value)
        except ValueError:
            return 0

    def yes(self, name: str) -> bool:
        """Whether a flag is set: true, 1, Y."""
        return self.text(name).lower() in ("1", "y", "true")


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of a list: the rows, how many there are in all, and where the next page starts."""

    rows: list[Any]
    total: int
    next: int | None

    def extra(self) -> dict[str, int]:
        """What stands beside the result in the answer."""
        return {"total": self.total} if self.next is None else {"next": self.next, "total": self.total}


@dataclass(frozen=True, slots=True)
class Method:
    """A REST method: what runs it, the scope that it needs, whether a webhook may not call it."""

    run: Callable[[Call], object]
    scope: str = "basic"
    application_only: bool = False


@dataclass(frozen=True, slots=True)
class LoggedCall:
    """One REST call in ``Sandbox.calls``, or a request for tokens, whose method is ``oauth/token``.

    ``params``: without tokens; empty with ``params_left_out`` set when they were too big to keep; of a request
    for tokens only ``grant_type``. ``status``: of the answer, 0 where there was none. ``error``: the code of the
    refusal, None on success. ``fault``: the kind of the fault that it met.
    """

    at: datetime
    method: str
    params: Mapping[str, Any]
    status: int
    error: str | None
    params_left_out: bool = False
    fault: str | None = None


def scalar(value: object) -> str:
    """A scalar as Bitrix24 puts it on the wire: true ``"1"``, false ``"0"``, null and arrays ``""``."""
    if value is None or isinstance(value, (dict, list)):
        return ""
    if isinstance(value, bool):
        return "1" if value else "0"
    return str(value)
