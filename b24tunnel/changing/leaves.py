"""Single values of a recording: read, set, taken out, wherever they are and however they are spelled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from b24tunnel import form
from b24tunnel.changing.places import NotChangeable, Place, body_of, covers, leaves_of, query_of
from b24tunnel.errors import WrongUsage
from b24tunnel.recording import Recording

MAX_KEYS: Final = 8_000_000
"""Keys in all paths of one recording's leaves: JSON of a few megabytes can be made to have more."""


class UnknownPath(WrongUsage, form.UnknownPath):
    """A path that leads to no value of this recording."""


def leaves(recording: Recording) -> dict[tuple[str, ...], str]:
    """Every leaf of the query and the body by its keys, the body's over the query's as in PHP's ``$_REQUEST``.

    Numbers and words of JSON are as they are spelled there (``5``, ``true``, ``null``). Of a body that cannot be
    looked into, a compressed one for example, there are none. Raises `WrongUsage` beyond MAX_KEYS.
    """
    found: dict[tuple[str, ...], str] = {}
    keys = 0
    for path, value in _leaves(recording):
        keys += len(path)
        if keys > MAX_KEYS:
            raise WrongUsage(f"{recording.id} has too many values to be looked through: leave it out.")
        found[path] = value
    return found


def with_value(recording: Recording, keys: Sequence[str], value: str) -> Recording:
    """The recording with one leaf set; every byte that does not spell it stays.

    A leaf of the body is changed there, else one of the query. In JSON a string stays one; anything else becomes
    what JSON makes of ``value``, or a string where that is no JSON. A recorded Content-Length follows, and so does
    ``code`` where ``event`` is set.

    Raises `UnknownPath`, and `WrongUsage` for a body that cannot be changed and for a value that it cannot hold.
    """
    keys = tuple(keys)
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        path = form.join_path(keys).encode("utf-8", "backslashreplace").decode()
        raise WrongUsage(f"The value for {path} has a lone surrogate, which stands for no byte.") from None
    body, query = body_of(recording), query_of(recording)
    outcome = _tried(lambda: body.edit(keys, value))
    if isinstance(outcome, bytes):
        changed = _with_body(recording, outcome)
    elif query is None or _hides(body, keys):
        raise _error(recording, keys, outcome)
    else:
        in_query = _tried(lambda: query.edit(keys, value))
        if not isinstance(in_query, bytes):
            raise _error(recording, keys, outcome if isinstance(outcome, NotChangeable) else in_query)
        changed = _with_query(recording, in_query)
    return replace(changed, code=value) if keys == ("event",) and recording.code is not None else changed


def without(recording: Recording, keys: Sequence[str]) -> Recording:
    """The recording without one leaf or a whole array; every other byte stays, but for a separator with each pair.

    What the query has there goes as well as what the body has: it would come back in its place. Raises as
    `with_value` does.
    """
    keys = tuple(keys)
    body, query = body_of(recording), query_of(recording)
    outcome = _tried(lambda: body.remove(keys))
    changed = _with_body(recording, outcome) if isinstance(outcome, bytes) else recording
    if query is not None and (isinstance(outcome, bytes) or not _hides(body, keys)):
        in_query = _tried(lambda: query.remove(keys))
        if isinstance(in_query, bytes):
            changed = _with_query(changed, in_query)
        if not isinstance(in_query, NotChangeable):
            for depth in range(1, len(keys)):
                changed = _without_uncovered(changed, keys[:depth])
    if not isinstance(outcome, bytes) and changed is recording:
        raise _error(recording, keys, outcome, arrays=True)
    return replace(changed, code=None) if keys == ("event",) else changed


def _without_uncovered(recording: Recording, keys: tuple[str, ...]) -> Recording:
    """Without a value of the query in whose place there was an array of the body until now."""
    query = query_of(recording)
    if query is None or _hides(body_of(recording), keys) or dict(leaves_of(query.parse())).get(keys) is None:
        return recording
    return _with_query(recording, query.remove(keys))


def _leaves(recording: Recording) -> Iterator[tuple[tuple[str, ...], str]]:
    try:
        in_body = body_of(recording).parse()
    except NotChangeable:
        in_body = []
    query = query_of(recording)
    if query is not None:
        try:
            in_query = query.parse()
        except NotChangeable:
            in_query = []
        for path, value in leaves_of(in_query):
            if not covers(in_body, path):
                yield path, value
    yield from leaves_of(in_body)


def _tried(change: Callable[[], bytes]) -> bytes | NotChangeable | form.UnknownPath:
    try:
        return change()
    except (NotChangeable, form.UnknownPath) as refusal:
        return refusal


def _hides(body: Place, keys: tuple[str, ...]) -> bool:
    try:
        parsed: Any = body.parse()
    except NotChangeable:
        return False
    return covers(parsed, keys)


def _error(
    recording: Recording, keys: tuple[str, ...], refusal: NotChangeable | form.UnknownPath, *, arrays: bool = False
) -> WrongUsage:
    if isinstance(refusal, NotChangeable):
        return WrongUsage(f"The body of {recording.id} {refusal}: leave out this change or this recording.")
    known = (path for path, _ in _leaves(recording))
    is_array = not arrays and any(path[: len(keys)] == keys for path, _ in _leaves(recording))
    message = form.unknown_path(
        keys, _and_arrays(known) if arrays else known, is_array=is_array, where=f"in {recording.id}"
    )
    return UnknownPath(str(message))


def _and_arrays(paths: Iterable[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """The paths, and before the first one below an array the array's own."""
    former: tuple[str, ...] = ()
    for path in paths:
        for depth in range(1, len(path)):
            if path[:depth] != former[:depth]:
                yield path[:depth]
        yield path
        former = path


def _with_body(recording: Recording, body: bytes) -> Recording:
    headers = recording.headers
    if len(body) != len(recording.body):
        length = str(len(body))
        headers = tuple([(name, length if name.lower() == "content-length" else value) for name, value in headers])
    return replace(recording, body=body, headers=headers)


def _with_query(recording: Recording, query: bytes) -> Recording:
    path = recording.target.partition("?")[0]
    return replace(recording, target=f"{path}?{query.decode('utf-8', 'surrogateescape')}")
