"""Every documented Bitrix24 event: its code, scope, meaning and the shape of its data.

The table is read from ``events.json`` at the first question and kept; importing this module costs nothing.
Source: the pages on events of the Bitrix24 REST documentation. Where a page shows no sample, the data is
a guess and marked so.
"""

import difflib
import fnmatch
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

__all__ = ["Entry", "events", "find", "lookup", "suggest"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One documented event.

    ``code``: as the portal stores it, upper case; a pattern has its variable part in braces
    (``ONCRMDYNAMICITEMADD_{entityTypeId}``).
    ``scope``: the permission that an application needs to bind it (``crm``, ``task``, …; ``basic``: none).
    ``meaning``: one short sentence.
    ``data``: a sample of ``data`` as JSON values, None where none is documented. On the wire every scalar is
    a string and an empty array is absent. Shared between callers: copy it before a change.
    ``auth_keys``: the keys of ``auth`` in the documented sample, empty where none is documented.
    ``pattern``: the code stands for a family of codes.
    ``delivered``: False for events that never reach a handler that was bound: those which are only polled for,
    and the settings wizard, whose requests want an answer with content.
    ``delivery``: how it arrives when not through ``event.bind``: ``""``, ``"polling"``, ``"wizard"`` or
    ``"bot registration or polling"``.
    ``guess``: ``data`` is inferred from similar events.
    ``envelope_keys``: the top-level keys of the documented sample, empty where none is documented.
    """

    code: str
    scope: str
    meaning: str
    data: Any
    auth_keys: tuple[str, ...]
    pattern: bool
    delivered: bool
    delivery: str = ""
    guess: bool = False
    envelope_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Table:
    """The table and what look-ups need: entries by upper-case code, and the families."""

    entries: Mapping[str, Entry]
    upper: dict[str, Entry]
    families: tuple[tuple[re.Pattern[str], Entry], ...]


@cache
def _table() -> _Table:
    # Costs more than the rest of this module, and --help needs none of it.
    from importlib import resources

    text = resources.files(__name__).joinpath("events.json").read_text(encoding="utf-8")
    entries: dict[str, Entry] = {}
    families: list[tuple[re.Pattern[str], Entry]] = []
    for record in json.loads(text):
        delivery = record.get("delivery", "")
        entry = Entry(
            code=record["code"],
            scope=record["scope"],
            meaning=record["meaning"],
            data=record.get("data"),
            auth_keys=tuple(record.get("auth_keys", ())),
            pattern="pattern" in record,
            delivered=delivery not in ("polling", "wizard"),
            delivery=delivery,
            guess=record.get("guess", False),
            envelope_keys=tuple(record.get("envelope_keys", ())),
        )
        entries[entry.code] = entry
        if entry.pattern:
            families.append((re.compile(record["pattern"]), entry))
    upper = {code.upper(): entry for code, entry in entries.items()}
    return _Table(MappingProxyType(entries), upper, tuple(families))


def events() -> Mapping[str, Entry]:
    """All entries by code, sorted by code; read-only."""
    return _table().entries


def find(pattern: str) -> list[Entry]:
    """The entries whose code matches, in order of code; case does not matter.

    A pattern with ``*``, ``?`` or ``[`` is a glob over the whole code (``ONCRM*ADD``), any other text is looked
    for anywhere in the code (``deal``). The empty text matches everything.
    """
    wanted = pattern.upper()
    if any(sign in wanted for sign in "*?["):
        return [entry for code, entry in _table().upper.items() if fnmatch.fnmatchcase(code, wanted)]
    return [entry for code, entry in _table().upper.items() if wanted in code]


def lookup(code: str) -> Entry | None:
    """The entry of one code, whatever its case, or None.

    A code of a family gives the family's entry: ``ONCRMDYNAMICITEMADD_128`` gives
    ``ONCRMDYNAMICITEMADD_{entityTypeId}``.
    """
    table = _table()
    wanted = code.upper()
    entry = table.upper.get(wanted)
    if entry is not None:
        return entry
    return next((entry for family, entry in table.families if family.fullmatch(wanted)), None)


def suggest(code: str) -> list[str]:
    """Up to three codes that look like ``code``, best first; for the message about an unknown code."""
    table = _table()
    matches = difflib.get_close_matches(code.upper(), table.upper, n=3, cutoff=0.6)
    return [table.upper[match].code for match in matches]
