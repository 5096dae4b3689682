"""crm.deal.*, crm.lead.* and crm.contact.*: add, update, get, delete, list and fields.

Pages of the same names in the Bitrix24 REST documentation. Each change raises the entity's event, which tells
the ID of what changed and nothing else.
"""

from collections.abc import Callable
from typing import Any

from .answers import Refusal
from .calls import Call, Listing, Method, scalar
from .entities import KINDS, Kind, Shelf

PAGE = 50


def _methods(kind: Kind) -> dict[str, Method]:
    def shelf(call: Call) -> Shelf:
        return call.portal.shelves[kind.name]

    def changed(call: Call, verb: str, number: int) -> None:
        data = {"FIELDS": {"ID": str(number)}}
        connector = call.text("auth_connector")
        call.portal.raise_event(kind.event(verb), data, call.user_id, call.depth, connector)

    def add(call: Call) -> int:
        number = shelf(call).add(call.table("fields"), call.user_id)
        changed(call, "ADD", number)
        return number

    def update(call: Call) -> bool:
        number = _number(call)
        shelf(call).update(number, call.table("fields"), call.user_id)
        changed(call, "UPDATE", number)
        return True

    def get(call: Call) -> dict[str, Any]:
        return shelf(call).full(shelf(call).get(_number(call)))

    def delete(call: Call) -> bool:
        number = _number(call)
        shelf(call).delete(number)
        changed(call, "DELETE", number)
        return True

    def listing(call: Call) -> Listing:
        found = shelf(call).select(call.table("filter"), call.table("order"))
        start = max(0, call.number("start", 0))
        picked = _picker(kind, call.items("select"))
        rows = [picked(shelf(call).full(row)) for row in found[start : start + PAGE]]
        return Listing(rows, len(found), start + PAGE if start + PAGE < len(found) else None)

    def fields(call: Call) -> dict[str, dict[str, Any]]:
        return kind.description()

    runs: dict[str, Callable[[Call], object]] = {
        "add": add,
        "update": update,
        "get": get,
        "delete": delete,
        "list": listing,
        "fields": fields,
    }
    return {f"crm.{kind.name}.{name}": Method(run, scope="crm") for name, run in runs.items()}


def _number(call: Call) -> int:
    number = call.number("id", 0)
    if number <= 0:
        raise Refusal("", "ID is not defined or invalid.")
    return number


def _picker(kind: Kind, wanted: list[str]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What ``select`` leaves of a row; the ID always. ``*``: all plain fields, ``UF_*``: all custom ones."""
    names = {scalar(name).upper() for name in wanted} or {"*"}

    def pick(row: dict[str, Any]) -> dict[str, Any]:
        def shown(name: str) -> bool:
            custom = name.startswith("UF_")
            return name in names or name == "ID" or ("UF_*" if custom else "*") in names

        return {name: value for name, value in row.items() if shown(name)}

    return pick


METHODS = {name: method for kind in KINDS for name, method in _methods(kind).items()}
