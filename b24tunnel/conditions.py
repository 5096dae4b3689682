"""A condition on one value of a recording, as text: ``data.FIELDS.ID>=7405``."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass, field
from datetime import datetime
from decimal import Decimal
from difflib import get_close_matches
from typing import Any

from b24tunnel import form
from b24tunnel.errors import WrongUsage
from b24tunnel.moments import parse_moment
from b24tunnel.recording import Recording, parse_id, time_text

Query = Callable[[Mapping[str, Any]], Any]
"""What a condition is: a question to a recording's document. Those of TinyDB are such as well."""

KEYS = (
    *("id", "session", "code", "received_at", "type", "verdict", "source", "portal", "remote", "method", "target"),
    *("data", "auth", "ts", "fields", "headers", "body"),
)
"""What a path may begin with (and ``request_type``, which is ``type``)."""

_IN_HEAD = ("id", "session", "code", "received_at")
_TIMES = ("received_at", "ts")
_LONGEST = 10_000

# An operator's character in a key has a backslash before it.
_PATH = re.compile(r"(?:\\(?:.|\Z)|[^\\=<>~!]|!(?![=~]))*", re.DOTALL)
_OPERATOR = re.compile(r"!=|!~|<=|>=|=|<|>|~")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)
_NUMBER = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?", re.ASCII)

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Condition:
    """A question about one value, asked by calling it with a document; also where TinyDB takes a query.

    ``path`` has the keys down to the value. ``operator`` is ``=``, ``!=``, ``<``, ``<=``, ``>``, ``>=``, ``~``
    (the regular expression ``value`` is found in it), ``!~``, ``""`` (it is there) or ``!`` (it is not).

    Where both sides are numbers they are compared as such, exactly; ids (``12-345``) by session and number;
    ``received_at`` and ``ts`` as times (`parse_moment`, which is told ``now``); codes by ``=`` and ``!=`` without
    regard to case; all else as text, exactly. What is not there, and an array, is compared with nothing: ``!=``
    and ``!~`` hold for it, the others do not.
    """

    path: tuple[str, ...]
    operator: str = ""
    value: str = ""
    now: InitVar[datetime | None] = None
    _holds: Callable[[Any], bool] = field(init=False, repr=False, compare=False)

    def __post_init__(self, now: datetime | None) -> None:
        """Raises `WrongUsage` for an unknown first key, and for a value that is no expression or no time."""
        if self.path[:1] == ("request_type",):
            object.__setattr__(self, "path", ("type", *self.path[1:]))
        _check_first_key(self.path)
        object.__setattr__(self, "_holds", _comparison(self.path, self.operator, self.value, now))

    @classmethod
    def parse(cls, text: str, now: datetime | None = None) -> Condition:
        r"""``PATH OPERATOR VALUE``, ``PATH`` (it is there) or ``!PATH``; raises `WrongUsage`.

        A path is as for `form.split_path` (``\.`` is a literal dot, and so ``\=`` is a literal operator); an item
        of a list is named by its index, a header (``headers.User-Agent``) without regard to case. Spaces around
        the operator do not count. An age, and a time of day, are as ``now`` (aware) has them.
        """
        if len(text) > _LONGEST:
            raise WrongUsage(f"A condition has at most {_LONGEST:,} characters, not {len(text):,}.")
        end = _PATH.match(text).end()  # type: ignore[union-attr]  # it matches the empty text, too
        path, rest = text[:end].strip(), text[end:]
        found = _OPERATOR.match(rest)
        negated = path.startswith("!")
        if (found is None and rest) or (found is not None and negated) or not path.lstrip("!"):
            raise WrongUsage(
                f"{_shown(text)} is no condition: give a path and what it is held against, as in "
                "data.FIELDS.ID=5, or a path alone (it is there) or with ! before it (it is not)."
            )
        keys = form.split_path(_ESCAPED.sub(_unescaped, path[1:] if negated else path))
        if found is None:
            return cls(keys, "!" if negated else "", now=now)
        return cls(keys, found[0], rest[found.end() :].lstrip(), now)

    def __call__(self, document: Mapping[str, Any]) -> bool:
        """Whether it holds for a recording's document."""
        return self._holds(_value_at(document, self.path))

    def is_cacheable(self) -> bool:
        """For TinyDB: the answer depends on the document alone."""
        return True

    @property
    def in_head(self) -> bool:
        """Whether it asks for nothing that a journal's line has to be parsed for."""
        return self.path[0] in _IN_HEAD

    @property
    def path_text(self) -> str:
        """The path as text, for the terminal."""
        text = form.join_path(self.path)
        return text if text.isprintable() else repr(text)


def _check_first_key(path: tuple[str, ...]) -> None:
    first = path[0] if path else ""
    if first in KEYS:
        return
    close = get_close_matches(first.casefold()[:100], KEYS, n=1)
    asked = f"did you mean {close[0]}?" if close else f"it is one of {', '.join(KEYS)}."
    raise WrongUsage(f"No recording has {_shown(first)} for a condition's path to begin with; {asked}")


def _comparison(path: tuple[str, ...], sign: str, value: str, now: datetime | None) -> Callable[[Any], bool]:
    """What a value, None where nothing is there, is asked."""
    if sign == "":
        return lambda found: found is not None
    if sign == "!":
        return lambda found: found is None
    if sign in ("~", "!~"):
        search = _expression(value).search
        return _or_absent(sign, lambda text: (search(text) is None) == (sign == "!~"))
    compare = _COMPARE.get(sign)
    if compare is None:
        raise WrongUsage(f"{_shown(sign)} is no operator: use = != < <= > >= ~ or !~.")
    if len(path) == 1 and path[0] in _TIMES:
        moment = parse_moment(value, now)
        return lambda found: compare(found, moment) if _is_moment(found) else sign == "!="
    if path == ("id",) and (place := parse_id(value)) is not None:
        return _or_absent(
            sign, lambda text: compare(text, value) if (own := parse_id(text)) is None else compare(own, place)
        )
    if path == ("code",) and sign in ("=", "!="):
        upper = value.upper()
        return _or_absent(sign, lambda text: compare(text.upper(), upper))
    number = _number(value)
    if number is None:
        return _or_absent(sign, lambda text: compare(text, value))
    return _or_absent(
        sign, lambda text: compare(text, value) if (own := _number(text)) is None else compare(own, number)
    )


def _or_absent(sign: str, holds: Callable[[str], bool]) -> Callable[[Any], bool]:
    """The question to a text, which for what is no text has the answer of the sign."""
    without = sign in ("!=", "!~")

    def asked(found: Any) -> bool:
        text = found if isinstance(found, str) else _text(found)
        return without if text is None else holds(text)

    return asked


def _text(found: Any) -> str | None:
    """A leaf as text; None where there is none."""
    if isinstance(found, datetime):
        return time_text(found) if _is_moment(found) else found.isoformat()
    if isinstance(found, (int, float, Decimal)):
        return str(found)
    return None


def _is_moment(found: Any) -> bool:
    return isinstance(found, datetime) and found.tzinfo is not None


def _number(text: str) -> int | Decimal | None:
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    return int(text) if match[1] is None else Decimal(text)


def _expression(value: str) -> re.Pattern[str]:
    try:
        return re.compile(value)
    except (re.error, RecursionError, OverflowError) as error:
        raise WrongUsage(f"{_shown(value)} is no regular expression ({error}): mend it.") from error


def _value_at(document: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    """What stands at a path; None where nothing does."""
    first = path[0]
    if first == "headers" and len(path) > 1:
        return _header(document, path[1]) if len(path) == 2 else None
    try:
        value = document[first]
    except KeyError:
        value = _of_recording(document, first)
    for key in path[1:]:
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, list) and _INDEX.fullmatch(key) and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value


def _of_recording(document: Mapping[str, Any], key: str) -> Any:
    """What a recording itself has and its document has not."""
    recording = getattr(document, "recording", None)
    if not isinstance(recording, Recording):
        return None
    if key == "type":
        return recording.type
    if key == "body":
        return recording.body.decode("utf-8", "surrogateescape") if recording.body else None
    if key == "headers":
        return recording.headers or None
    return None


def _header(document: Mapping[str, Any], name: str) -> str | None:
    """A header's value; those of several with one name follow each other as in HTTP."""
    lowered = name.lower()
    headers = document["headers"] if "headers" in document else _of_recording(document, "headers")
    values = [value for own, value in headers or () if own.lower() == lowered]
    return ", ".join(values) if values else None


def _unescaped(match: re.Match[str]) -> str:
    return match[1] if match[1] in "=<>~!" else match[0]


def _shown(text: str) -> str:
    """A text for a sentence, cut, with nothing in it that a terminal obeys."""
    return repr(text if len(text) <= 100 else f"{text[:100]}…")
