"""What a comparison leaves out: places of a JSON body by JSONPath, fields of a recording by name."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import cache
from typing import TYPE_CHECKING, Any

from b24tunnel.errors import WrongUsage

if TYPE_CHECKING:
    from jsonpath import JSONPathEnvironment

Place = tuple[str | int, ...]
"""Keys and indexes from the root of a JSON value; () is the root itself."""

DEEPEST = 100
"""Levels of a JSON value that paths are looked for in."""

_LONGEST_PATH = 1000


class Ignored:
    """Places of a JSON body that a comparison leaves out, with all that is below them."""

    def __init__(self, paths: Iterable[str] = ()) -> None:
        """``paths`` are JSONPaths (RFC 9535): ``$.time``, ``$.items[*].id``, ``$..ts``. Raises `WrongUsage`."""
        self.paths = tuple(paths)
        self._queries = [_compiled(path) for path in self.paths]

    def __bool__(self) -> bool:
        return bool(self.paths)

    def __repr__(self) -> str:
        return f"Ignored({list(self.paths)!r})"

    def places(self, value: Any) -> frozenset[Place]:
        """Every place of a parsed JSON value, at most `DEEPEST` levels deep, that one of the paths leads to."""
        if not isinstance(value, (dict, list)):
            # The library would take a string for JSON text.
            return frozenset({()} if "$" in map(str.strip, self.paths) else ())
        return frozenset(match.parts for query in self._queries for match in query.finditer(value))


class IgnoredFields:
    """Differences that are left out by where they are: ``auth.*``, ``ts``, ``header Host``.

    A pattern is a glob over the place's name, or over that of anything that it lies in: ``auth`` is all of
    ``auth``. Headers are named without regard to case.
    """

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        """Raises `WrongUsage` for an empty pattern."""
        self._patterns = [_lowered_header(pattern) for pattern in patterns]
        if "" in self._patterns:
            raise WrongUsage("An empty name of what to ignore: give a field, such as auth.* or 'header Host'.")

    def __contains__(self, where: object) -> bool:
        if not self._patterns or not isinstance(where, str):
            return False
        where = _lowered_header(where)
        names = [where, *(where[:place] for place, mark in enumerate(where) if mark == ".")]
        return any(fnmatchcase(name, pattern) for name in names for pattern in self._patterns)


def split_ignored(patterns: Iterable[str]) -> tuple[Ignored, IgnoredFields]:
    """What begins with ``$`` as JSONPaths, the rest as names of fields. Raises `WrongUsage`."""
    given = tuple(patterns)
    return (
        Ignored(pattern for pattern in given if pattern.startswith("$")),
        IgnoredFields(pattern for pattern in given if not pattern.startswith("$")),
    )


def _lowered_header(where: str) -> str:
    return where.lower() if where[:7].lower() == "header " else where


def _compiled(path: str) -> Any:
    if not path.startswith("$"):
        meant = f"$.{path}" if path and path[0] not in ".[" else f"${path}"
        example = meant if path else "$.time"
        raise WrongUsage(f"{_shown(path)} is no JSONPath: it begins with $, as {_shown(example)} does.")
    if len(path) > _LONGEST_PATH:
        raise WrongUsage(f"A JSONPath of {len(path):,} characters is too long: {_LONGEST_PATH:,} is the most.")
    from jsonpath import JSONPathError

    try:
        return _environment().compile(path)
    except (JSONPathError, RecursionError) as error:
        reason = str(error.args[0]).partition("\n")[0].rstrip(".") if error.args else "it cannot be read"
        raise WrongUsage(
            f"{_shown(path)} is no JSONPath ({reason[:100]}): write it as $.time or $.items[*].id."
        ) from error


def _shown(path: str) -> str:
    return repr(path if len(path) <= 60 else f"{path[:59]}…")


@cache
def _environment() -> JSONPathEnvironment:
    from jsonpath import JSONPathEnvironment

    class Environment(JSONPathEnvironment):
        # To it a leaf is a level, too.
        max_recursion_depth = DEEPEST + 1

    return Environment(strict=True)
