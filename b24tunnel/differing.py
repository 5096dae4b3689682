"""Where two recordings differ, field by field."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any

from b24tunnel import form
from b24tunnel.body_differences import (
    Body,
    add_body_differences,
    described,
    json_trees,
)
from b24tunnel.changing.places import FormPlace, MultipartPlace, NotChangeable, body_of, leaves_of
from b24tunnel.difference import Difference, Found
from b24tunnel.ignoring import Ignored, split_ignored
from b24tunnel.recording import Headers, Recording

MOST = 1000
"""Differences that are listed."""

_FORMS = ("", "application/x-www-form-urlencoded", "multipart/form-data")

# Names of places beside fields have a space in them, which the name of no form's field has (PHP makes it `_`).


def differences_of(
    before: Recording, after: Recording, ignore: Iterable[str] = (), most: int = MOST
) -> tuple[Difference, ...]:
    """Each place in which two recordings' requests differ, at most ``most`` of them and how many more there are.

    Places: the fields of a form by their path (``data.FIELDS.ID``), those of JSON as ``body $.data.id``, any other
    body as ``body line 3`` or ``body from byte 7``; ``request type``, ``event code``, ``request method``,
    ``request path``, ``HTTP version``, ``query NAME``, ``header NAME``. An event's code that only repeats the
    field ``event`` is left out. What reads the same and is written differently is one difference, ``body bytes``
    or ``query bytes``. Of headers neither the order nor the spelling of names matters. When, from where and with
    which verdict a recording came in is not compared.

    ``ignore``: JSONPaths (with ``$`` in front), and globs over the places, such as ``auth.*``, ``ts`` and
    ``header Host``; what lies below an ignored place is ignored too. Raises `WrongUsage`.
    """
    paths, names = split_ignored(ignore)
    found = Found(most, names)
    (path, _, query), (new_path, _, new_query) = before.target.partition("?"), after.target.partition("?")
    query_forms = _read(FormPlace(_bytes(query))), _read(FormPlace(_bytes(new_query)))
    body_forms = _read_body(before), _read_body(after)
    codes = before.code, after.code
    told = codes in (_event_codes(*query_forms), _event_codes(*body_forms))
    for where, old, new in (
        ("request type", before.type, after.type),
        ("event code", None if told else codes[0], None if told else codes[1]),
        ("request method", before.method, after.method),
        ("request path", path, new_path),
        ("HTTP version", before.http_version, after.http_version),
    ):
        if old != new:
            found.add(where, old, new)
    if query != new_query:
        _add_form_differences(found, "query ", query_forms, (_bytes(query), _bytes(new_query)))
    _add_header_differences(found, before.headers, after.headers)
    if before.body != after.body:
        if None not in body_forms:
            _add_form_differences(found, "", body_forms, (before.body, after.body))
        else:
            _add_body_differences(found, _body(before), _body(after), paths)
    return found.differences()


def _add_form_differences(found: Found, within: str, parsed: tuple[Any, Any], octets: tuple[bytes, bytes]) -> None:
    """Of two forms whose bytes differ; None in place of one that could not be read."""
    bytes_place = f"{within or 'body '}bytes"
    if None in parsed:
        found.add(bytes_place, *map(described, octets))
        return
    old, new = _leaves(parsed[0]), _leaves(parsed[1])
    if old != new:
        for path, value in old.items():
            if new.get(path) != value:
                found.add(within + form.join_path(path), value, new.get(path))
        for path, value in new.items():
            if path not in old:
                found.add(within + form.join_path(path), None, value)
    elif shapes := list(_array_differences((), *parsed)):
        for path, here, there in shapes:
            place = within + form.join_path(path) if path else f"{within or 'body '}keys"
            found.add(place, _keys(here), _keys(there))
    else:
        found.add(bytes_place, *_first_spelled_differently(*octets))


def _array_differences(
    path: tuple[str, ...], before: Any, after: Any
) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Arrays of forms with equal leaves of which one is a list and the other one is not: its keys are in disorder.

    PHP nests at most 64 deep, so this does too.
    """
    if isinstance(before, str) or isinstance(after, str):
        return
    if type(before) is not type(after):
        yield path, before, after
    old, new = _members(before), _members(after)
    for key, value in old.items():
        yield from _array_differences((*path, key), value, new[key])


def _members(array: Any) -> dict[str, Any]:
    return array if isinstance(array, dict) else {str(place): item for place, item in enumerate(array)}


def _keys(array: Any) -> str:
    kind = "a list" if isinstance(array, list) else "no list"
    return f"{kind}: its keys are {', '.join(_members(array))}"


def _first_spelled_differently(before: bytes, after: bytes) -> tuple[str, str]:
    """The first pairs of two forms that differ in their bytes, whole, so that secrets in them can be masked."""
    for old, new in zip_longest(form.fields(before), form.fields(after)):
        if old is None or new is None:
            break
        spelled = before[old.start : old.end], after[new.start : new.end]
        if spelled[0] != spelled[1]:
            return _text(spelled[0]), _text(spelled[1])
    return described(before), described(after)


def _add_header_differences(found: Found, before: Headers, after: Headers) -> None:
    old, new = _by_name(before), _by_name(after)
    for lowered in dict.fromkeys((*old, *new)):
        (name, values), (new_name, new_values) = old.get(lowered, ("", None)), new.get(lowered, ("", None))
        if values != new_values:
            found.add(f"header {name or new_name}", _joined(values), _joined(new_values))


def _by_name(headers: Headers) -> dict[str, tuple[str, list[str]]]:
    """A header's name as it was first spelled, and its values, by the name in lower case."""
    found: dict[str, tuple[str, list[str]]] = {}
    for name, value in headers:
        found.setdefault(name.lower(), (name, []))[1].append(value)
    return found


def _joined(values: list[str] | None) -> str | None:
    return None if values is None else ", ".join(values)


def _add_body_differences(found: Found, before: Body, after: Body, ignored: Ignored) -> None:
    """Of bodies that are not both forms."""
    trees = json_trees(before, after)
    if trees is not None and len({tree and tree.digest for tree in trees}) == 1:
        found.add("body bytes", described(before.data), described(after.data))
    else:
        add_body_differences(found, before, after, ignored)


def _read_body(recording: Recording) -> Any:
    """What PHP makes of a body that is a form; None where it is none, or too large a one."""
    place = body_of(recording)
    kind = _body(recording).content_type.partition(";")[0].strip().lower()
    return _read(place) if isinstance(place, FormPlace | MultipartPlace) and kind in _FORMS else None


def _read(place: FormPlace | MultipartPlace) -> Any:
    try:
        return place.parse()
    except NotChangeable:
        return None


def _leaves(parsed: Any) -> dict[tuple[str, ...], str]:
    return {} if parsed is None else dict(leaves_of(parsed))


def _event_codes(before: Any, after: Any) -> tuple[str | None, str | None]:
    return _event_code(before), _event_code(after)


def _event_code(parsed: Any) -> str | None:
    code = parsed.get("event") if isinstance(parsed, dict) else None
    return code if isinstance(code, str) else None


def _body(recording: Recording) -> Body:
    content_type = next((value for name, value in recording.headers if name.lower() == "content-type"), "")
    return Body(recording.body, content_type)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "surrogateescape")
