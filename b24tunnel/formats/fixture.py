"""Fixtures: one recording as a JSON file that is committed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from b24tunnel.errors import WrongUsage
from b24tunnel.recording import Recording, UnreadableRecord, parse_id

_LARGEST = 128 * 1024 * 1024


class FixtureNotFound(WrongUsage):
    """No fixture with this name or path."""


class FixtureUnreadable(WrongUsage):
    """The file is there, but it is no fixture."""


def load(name: str | Path, directory: str | Path = "recordings") -> Recording:
    """The fixture with this name in ``directory`` (``load("oncrmdealadd")``), or at this path.

    Raises `FixtureNotFound` or `FixtureUnreadable`, each naming the file.
    """
    path = _find(str(name), Path(directory))
    try:
        if parse_id(path.stem):
            raise FixtureUnreadable(f"{path} has the name of a recording's id: give the fixture another name.")
        if path.stat().st_size > _LARGEST:
            raise FixtureUnreadable(f"{path} is larger than {_LARGEST:,} bytes: no fixture is.")
        record = json.loads(path.read_bytes())
        if not isinstance(record, dict):
            raise UnreadableRecord("not a JSON object")
        # Its name is its id: the id that it was recorded under means nothing in another journal.
        return replace(Recording.from_json(record), id=path.stem, name=path.stem)
    except (OSError, ValueError, RecursionError) as error:
        raise FixtureUnreadable(f"{path} is no fixture ({error}): save it again.") from error


def _find(name: str, directory: Path) -> Path:
    given = Path(name)
    candidates = [given] if given.suffix == ".json" else []
    if given.name == name:
        candidates += [directory / name, directory / f"{name}.json", directory / f"{name.lower()}.json"]
    elif given.suffix != ".json" and _is_file(given):
        raise FixtureUnreadable(f"{given} is no fixture: fixtures are .json files.")
    for candidate in candidates:
        if candidate.suffix == ".json" and _is_file(candidate):
            return candidate
    raise FixtureNotFound(f"There is no fixture {name!r} in {directory} and no file of that name.")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have: too long, or with a NUL in it
        return False
