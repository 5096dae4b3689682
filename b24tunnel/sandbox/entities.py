"""Deals, leads and contacts of the simulated portal, in memory and bounded."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from .answers import ERROR_CORE, Refusal
from .calls import scalar

MAX_ENTITIES = 10_000
MAX_ORDER = 10
MAX_BYTES = 64 * 1024 * 1024

_READ_ONLY = {
    "ID": "integer",
    "DATE_CREATE": "datetime",
    "DATE_MODIFY": "datetime",
    "CREATED_BY_ID": "user",
    "MODIFY_BY_ID": "user",
}
_SHARED = {
    "ASSIGNED_BY_ID": "user",
    "COMMENTS": "string",
    "OPENED": "char",
    "SOURCE_ID": "crm_status",
    "SOURCE_DESCRIPTION": "string",
    "ORIGINATOR_ID": "string",
    "ORIGIN_ID": "string",
    "UTM_SOURCE": "string",
}
_PERSON = {
    "NAME": "string",
    "SECOND_NAME": "string",
    "LAST_NAME": "string",
    "POST": "string",
    "BIRTHDATE": "date",
    "COMPANY_ID": "crm_company",
    "PHONE": "crm_multifield",
    "EMAIL": "crm_multifield",
    "WEB": "crm_multifield",
    "IM": "crm_multifield",
}
_MONEY = {"OPPORTUNITY": "double", "CURRENCY_ID": "crm_currency"}
_MULTIFIELDS = frozenset(name for name, kind in _PERSON.items() if kind == "crm_multifield")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of entity: its name in method and event codes, its fields with their types, its defaults."""

    name: str
    fields: Mapping[str, str]
    defaults: Mapping[str, str]

    def event(self, verb: str) -> str:
        """The code of the event that a change raises; ``verb`` is ADD, UPDATE or DELETE."""
        return f"ONCRM{self.name.upper()}{verb}"

    def writable(self, name: str) -> bool:
        """Whether a caller may set this field; custom fields (``UF_CRM_…``) always."""
        return (name in self.fields and name not in _READ_ONLY) or name.startswith("UF_CRM_")

    def description(self) -> dict[str, dict[str, Any]]:
        """The answer of ``crm.<kind>.fields``."""
        return {
            name: {
                "type": kind,
                "isRequired": False,
                "isReadOnly": name in _READ_ONLY,
                "isImmutable": False,
                "isMultiple": kind == "crm_multifield",
                "isDynamic": False,
                "title": name,
            }
            for name, kind in self.fields.items()
        }


KINDS = (
    Kind(
        "deal",
        {
            **_READ_ONLY,
            "TITLE": "string",
            "TYPE_ID": "crm_status",
            "CATEGORY_ID": "crm_category",
            "STAGE_ID": "crm_status",
            "CLOSED": "char",
            "PROBABILITY": "integer",
            "BEGINDATE": "date",
            "CLOSEDATE": "date",
            "COMPANY_ID": "crm_company",
            "CONTACT_ID": "crm_contact",
            "LEAD_ID": "crm_lead",
            **_MONEY,
            **_SHARED,
        },
        {"TYPE_ID": "SALE", "CATEGORY_ID": "0", "STAGE_ID": "NEW", "CLOSED": "N", "OPENED": "Y"},
    ),
    Kind(
        "lead",
        {
            **_READ_ONLY,
            "TITLE": "string",
            "STATUS_ID": "crm_status",
            "CONTACT_ID": "crm_contact",
            **_PERSON,
            **_MONEY,
            **_SHARED,
        },
        {"STATUS_ID": "NEW", "OPENED": "Y"},
    ),
    Kind(
        "contact",
        {**_READ_ONLY, "TYPE_ID": "crm_status", "EXPORT": "char", "LEAD_ID": "crm_lead", **_PERSON, **_SHARED},
        {"TYPE_ID": "CLIENT", "EXPORT": "Y", "OPENED": "Y"},
    ),
)


class _Wanted(NamedTuple):
    """What a condition compares with: the first of its values, and all of them."""

    first: str
    texts: frozenset[str]


@dataclass(slots=True)
class Shelf:
    """All entities of one kind, by ID. Numbers are never used again."""

    kind: Kind
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    last_id: int = 0
    size: int = 0

    def add(self, fields: Mapping[str, Any], user_id: int) -> int:
        """Stores an entity and gives its ID. Refuses when the shelf is full."""
        now = _now()
        row: dict[str, Any] = {
            "ID": str(self.last_id + 1),
            **self.kind.defaults,
            "ASSIGNED_BY_ID": str(user_id),
            "CREATED_BY_ID": str(user_id),
            "MODIFY_BY_ID": str(user_id),
            "DATE_CREATE": now,
            "DATE_MODIFY": now,
        }
        row.update(self._accepted(fields))
        self._make_room(_weight(row), len(self.rows) + 1)
        self.last_id += 1
        self.rows[self.last_id] = row
        return self.last_id

    def update(self, number: int, fields: Mapping[str, Any], user_id: int) -> None:
        """Changes an entity. Refuses when there is none, or no room."""
        row = self.get(number)
        changed = {
            **row,
            **self._accepted(fields),
            "MODIFY_BY_ID": str(user_id),
            "DATE_MODIFY": _now(),
        }
        self._make_room(_weight(changed) - _weight(row), len(self.rows))
        self.rows[number] = changed

    def get(self, number: int) -> dict[str, Any]:
        """An entity's stored fields. Refuses when there is none: an empty code, as the method pages show."""
        row = self.rows.get(number)
        if row is None:
            raise Refusal("", "Not found")
        return row

    def delete(self, number: int) -> None:
        """Removes an entity. Refuses when there is none."""
        self.size -= _weight(self.get(number))
        del self.rows[number]

    def full(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row with every field of its kind, null where nothing is stored; multifields only when stored."""
        empty = {name: None for name in self.kind.fields if name not in _MULTIFIELDS}
        return {**empty, **row}

    def select(self, conditions: Mapping[str, Any], order: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Rows that meet all conditions, in order; by ID ascending when no order is given.

        A condition's key is an operator before a field's name (``>=ID``); conditions on unknown fields are
        passed over, as Bitrix24 does.
        """
        tests = [test for key, wanted in conditions.items() if (test := self._condition(key, wanted))]
        rows = [
            row
            for row in self.rows.values()
            if all(_holds(sign, row.get(name), want) for sign, name, want in tests)
        ]
        for name, direction in reversed(list(order.items())[:MAX_ORDER]):
            rows.sort(key=partial(_field_key, name.upper()), reverse=_descending(direction))
        return rows

    def _condition(self, key: str, wanted: Any) -> tuple[str, str, _Wanted] | None:
        match = re.fullmatch(r"(!=|>=|<=|!%|!@|[=!<>%@])?(\w+)", key)
        if match is None:
            return None
        sign, name = match[1] or "=", match[2].upper()
        if name not in self.kind.fields and not name.startswith("UF_CRM_"):
            return None
        if isinstance(wanted, dict):
            wanted = list(wanted.values())
        values = wanted if isinstance(wanted, list) else [wanted]
        texts = [scalar(value) for value in values]
        return sign, name, _Wanted(texts[0] if texts else "", frozenset(texts))

    def _accepted(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        named = {name.upper(): value for name, value in fields.items()}
        return {name: _stored(value) for name, value in named.items() if self.kind.writable(name)}

    def _make_room(self, added: int, count: int) -> None:
        if count > MAX_ENTITIES or self.size + added > MAX_BYTES:
            raise Refusal(
                ERROR_CORE,
                f"The sandbox keeps at most {MAX_ENTITIES} {self.kind.name}s and {MAX_BYTES} bytes of them; "
                "delete some or start a new sandbox",
            )
        self.size += added


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _stored(value: Any) -> Any:
    """A value as the portal keeps it: text, or an array of the like."""
    if isinstance(value, dict):
        return {key: _stored(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_stored(item) for item in value]
    if isinstance(value, bool):
        return "Y" if value else "N"
    return None if value is None else str(value)


def _weight(row: Mapping[str, Any]) -> int:
    return len(json.dumps(row))


def _descending(direction: Any) -> bool:
    return scalar(direction).upper() == "DESC"


def _field_key(name: str, row: Mapping[str, Any]) -> tuple[int, float, str]:
    return _sort_key(row.get(name))


def _sort_key(value: Any) -> tuple[int, float, str]:
    """Numbers by value before texts by letters, as the columns of the portal sort."""
    text = scalar(value)
    try:
        return (0, float(text), "")
    except ValueError:
        return (1, 0.0, text)


def _holds(sign: str, value: Any, wanted: _Wanted) -> bool:
    have = scalar(value)
    first = wanted.first
    match sign:
        case "=" | "@":
            return have in wanted.texts
        case "!" | "!=" | "!@":
            return have not in wanted.texts
        case "%":
            return first.lower() in have.lower()
        case "!%":
            return first.lower() not in have.lower()
        case ">":
            return _sort_key(have) > _sort_key(first)
        case ">=":
            return _sort_key(have) >= _sort_key(first)
        case "<":
            return _sort_key(have) < _sort_key(first)
        case _:
            return _sort_key(have) <= _sort_key(first)
