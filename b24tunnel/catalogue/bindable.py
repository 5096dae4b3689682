"""Which codes a user may name to be bound."""

from __future__ import annotations

from collections.abc import Iterable

from b24tunnel.catalogue import lookup, suggest
from b24tunnel.errors import WrongUsage

_NOT_DELIVERED = {
    "polling": "is only polled for and never sent to a handler",
    "wizard": "is sent to the settings page of an application and cannot be bound",
}


def bindable_codes(codes: Iterable[str]) -> tuple[str, ...]:
    """The codes in upper case, each once; raises `WrongUsage` with a suggestion for one that cannot be bound."""
    checked: dict[str, None] = {}
    for code in codes:
        entry = lookup(code)
        if entry is None and any(sign in code for sign in "*?["):
            raise WrongUsage(f"A glob cannot be bound: name the events that 'b24tunnel events {code!r}' lists.")
        if entry is None:
            near = suggest(code)
            hint = f"did you mean {' or '.join(near)}?" if near else "see them with 'b24tunnel events'."
            raise WrongUsage(f"Bitrix24 has no event {code}: {hint}")
        if not entry.delivered:
            reason = _NOT_DELIVERED.get(entry.delivery, "is not sent to handlers")
            raise WrongUsage(f"{entry.code} {reason}: leave it out.")
        if "{" in code:
            raise WrongUsage(
                f"{entry.code} stands for a family: put the type's number in, as in {_member(entry.code)}."
            )
        checked[code.upper()] = None
    return tuple(checked)


def _member(pattern: str) -> str:
    return pattern.partition("{")[0] + "128"
