"""The form codec: what PHP reads out of a urlencoded body, and what it writes into one.

Bitrix24 builds its bodies with PHP's `http_build_query`, and PHP handlers read them by the rules of
`parse_str`. This module follows both (PHP manual: parse_str, http_build_query, urlencode, "Variables From
External Sources"; PHP source: main/php_variables.c, Zend/zend_hash.c, ext/standard/http.c). The tests compare
it with PHP 8.2.

Text is UTF-8. Bytes that are none are kept as surrogate escapes (PEP 383), in keys too, so nothing is lost on
the way there and back.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from itertools import islice
from operator import eq
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar
from urllib.parse import quote_from_bytes, unquote_to_bytes

Array: TypeAlias = "dict[str, Value] | list[Value]"
Value: TypeAlias = "str | dict[str, Value] | list[Value]"

MAX_PARAMETERS: Final = 1_000_000
"""Pairs in one body. PHP's own bound (`max_input_vars`, 1,000) is a server's setting and is not applied."""

MAX_NESTING: Final = 64
"""Brackets after a name, PHP's `max_input_nesting_level`."""

_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**63 - 1

_AT_ONCE: Final = 1 << 16

_PAIR = re.compile(rb"[^&\0]+")
_DECIMAL = re.compile(r"0|-?[1-9][0-9]{0,18}")
_ESCAPED = re.compile(r"\\([\\.])|(\.)")
_MANGLED = bytes.maketrans(b" .[", b"___")
# Browsers grant cookies of these names some trust, so PHP lets no other spelling turn into one.
_COOKIE_PREFIXES = (b"__Host-", b"__Secure-")


class FormError(ValueError):
    """A body, a value or a path that the codec refuses; the message is one sentence for the user."""


class UnknownPath(FormError, LookupError):
    """A path that leads to no leaf of this body."""


class Field(NamedTuple):
    """One pair of a body: where its bytes lie and what PHP makes of it.

    All positions are byte offsets into the body: the name is `body[start:name_end]`, the value
    `body[value_start:value_end]`. A bare key (no `=`) has no value: `value_start == name_end`.
    """

    path: tuple[str, ...] | None
    """The keys from the top to the leaf, `[]` resolved to its index; None when PHP ignores the pair."""
    name: str
    """The name as sent, only decoded; still known where there is no path."""
    value: str
    start: int
    name_end: int
    value_start: int
    end: int

    @property
    def value_end(self) -> int:
        """The same as `end`: a pair ends with its value."""
        return self.end

    @property
    def is_bare(self) -> bool:
        """True when the pair has no `=`."""
        return self.value_start == self.name_end


def parse(body: bytes) -> Array:
    """Read a body as PHP's `parse_str` does, in the shape that `json_encode` would give the result.

    An array whose keys are 0…n-1 in order is a list (so an empty one is `[]`, at the top too), every other
    array a dict with string keys, every leaf a string. Keys keep the place of their first insertion.

    Like `parse_str`, it stops at a raw NUL byte (`$_POST` does not; `%00` is no raw NUL).

    Raises FormError beyond MAX_PARAMETERS pairs. No other input is an error.
    """
    root: _Array[str] = _Array()
    for span in _spans(body, 0, _visible_end(body)):
        _assign(root, _unescape(body[span.start : span.name_end]), _text(body[span.value_start : span.end]))
    return _collapse(root)


def fields(body: bytes) -> Iterator[Field]:
    """Every pair of the body in order, those that PHP ignores or overwrites later included.

    Empty pairs (`&&`) are skipped. Pairs behind a raw NUL byte have no path, because `parse` does not see
    them, but they are there for whoever has to clean every byte of a body.

    Raises FormError beyond MAX_PARAMETERS pairs.
    """
    root: _Array[None] = _Array()
    visible_end = _visible_end(body)
    for span in _spans(body, 0, len(body)):
        name = _unescape(body[span.start : span.name_end])
        path = _assign(root, name, None) if span.start < visible_end else None
        yield Field(path, _decode(name), _text(body[span.value_start : span.end]), *span)


def edit(body: bytes, path: str | Sequence[str], value: str) -> bytes:
    """The body with one leaf set to `value`; every byte that does not spell that value stays.

    `path` is a sequence of keys, or a string as for `split_path`. Where several pairs give the same leaf, the
    one that PHP ends up with is changed. A bare key gets `=value`.

    Raises UnknownPath when the path leads to nothing or to an array, FormError for text that has no bytes.
    """
    spans = list(_spans(body, 0, _visible_end(body)))
    found = spans[index_of((_unescape(body[span.start : span.name_end]) for span in spans), path)]
    spelled = _escape(value).encode("ascii")
    if found.value_start == found.name_end:
        spelled = b"=" + spelled
    return body[: found.value_start] + spelled + body[found.end :]


def remove(body: bytes, path: str | Sequence[str]) -> bytes:
    """The body without a leaf, or without a whole array; with each pair goes one `&`, every other byte stays.

    `path` is as for `edit`. Every pair that gives the leaf goes, those that a later one overwrites included, and
    so do those that would come back in place of an array of which nothing else is left (`a=1` before `a[b]=2`).
    What `[]` stands for is counted anew: in `a[]=x&a[]=y` without `a.0`, PHP finds `y` at `a.0`.

    Raises UnknownPath when the path leads to nothing.
    """
    spans = list(_spans(body, 0, _visible_end(body)))
    names = (_unescape(body[span.start : span.name_end]) for span in spans)
    kept = bytearray()
    position = 0
    for index in indexes_of(names, path):
        span = spans[index]
        kept += body[position : span.start]
        position = span.end
        if body[position : position + 1] == b"&":
            position += 1
        elif kept.endswith(b"&"):
            del kept[-1]
    return bytes(kept + body[position:])


def assign(pairs: Iterable[tuple[bytes, str]]) -> Array:
    """What PHP makes of names and values that are decoded: `parse` for forms that are spelled another way."""
    root: _Array[str] = _Array()
    for name, value in pairs:
        _assign(root, name, value)
    return _collapse(root)


def index_of(names: Iterable[bytes], path: str | Sequence[str]) -> int:
    """Which of the decoded names gives the leaf that PHP ends up with.

    Raises UnknownPath when the path leads to nothing or to an array.
    """
    root: _Array[int] = _Array()
    for index, name in enumerate(names):
        _assign(root, name, index)
    keys = _keys(path)
    found = _at(root, keys)
    if not isinstance(found, int):
        raise unknown_path(keys, _paths(root, arrays=False), is_array=found is not None)
    return found


def indexes_of(names: Iterable[bytes], path: str | Sequence[str]) -> list[int]:
    """Which of the decoded names have to go, in order, for PHP to find nothing at a path and below it.

    Raises UnknownPath when the path leads to nothing.
    """
    keys = _keys(path)
    root: _Array[None] = _Array()
    found: list[tuple[int, int]] = []
    # By the number of keys that a name shares with the path: the last that ends there, the last that goes on.
    ends = [-1] * (len(keys) + 1)
    goes_on = [-1] * (len(keys) + 1)
    for index, name in enumerate(names):
        place = _assign(root, name, None)
        shared = -1 if place is None else _shared(place, keys)
        if place is not None and (shared or not keys):
            found.append((index, shared))
            (ends if len(place) == shared else goes_on)[shared] = index
    if max(ends[-1], goes_on[-1]) < 0 or not _leads_to_something(root, keys):
        raise unknown_path(keys, _paths(root))
    # An array on the way may have replaced a value. Where nothing is left that makes it one, all of it goes.
    depth = len(keys)
    last_below = -1
    for above in range(len(keys) - 1, 0, -1):
        last_below = max(last_below, goes_on[above])
        if ends[above] > last_below:
            depth, last_below = above, -1
        else:
            last_below = max(last_below, ends[above])
    return [index for index, shared in found if shared >= depth]


def unknown_path(
    keys: Sequence[str],
    known: Iterable[Sequence[str]],
    *,
    is_array: bool = False,
    where: str | None = None,
) -> UnknownPath:
    """The error for keys that lead to nothing, or to an array, with the nearest of the paths that are there.

    ``where`` takes the place of "in this body".
    """
    path = join_path(keys)
    if is_array:
        named = f"{path or 'The empty path'} {where}" if where else path or "The empty path"
        problem = f"{named} names an array, not a value"
    else:
        problem = f"There is no {path} {where or 'in this body'}"
    # Without case, because `data.fields.id` for `data.FIELDS.ID` is the commonest slip. Bounded, because
    # comparing texts is slow, and a body may hold a million keys of any length.
    spelled = {leaf.casefold(): leaf for leaf in islice(map(join_path, known), 1000) if len(leaf) <= 200}
    wanted = path.casefold()[:200]
    below = [leaf for leaf in spelled if is_array and leaf.startswith(f"{wanted}." if wanted else "")]
    close = below[:1] or get_close_matches(wanted, spelled, n=1)
    message = f"{problem}; did you mean {spelled[close[0]]}?" if close else f"{problem}."
    return UnknownPath(message.encode("utf-8", "backslashreplace").decode("utf-8"))


def encode(value: dict[Any, Any] | list[Any] | tuple[Any, ...]) -> bytes:
    """Write a structure as PHP's `http_build_query` does.

    Takes dicts (keys: str or int), lists and tuples; leaves are str, int, float, bool (`1`, `0`) and None,
    which is left out, as are empty arrays. Floats have 14 digits, PHP's default `precision`.

    Raises TypeError for anything else, FormError for an array that contains itself or for text that has no
    bytes.
    """
    if not isinstance(value, (dict, list, tuple)):
        raise TypeError(f"A form is made of a dict or a list, not of {type(value).__name__}.")
    pairs: list[str] = []
    # A stack instead of recursion: the depth is the caller's, not ours.
    opened = [_entries(value)]
    inside = {id(value): None}
    prefix: list[str] = []
    while opened:
        for key, item in opened[-1]:
            bracketed = f"%5B{_escape(key)}%5D" if prefix else _escape(key)
            if isinstance(item, (dict, list, tuple)):
                if id(item) in inside:
                    raise FormError(f"{_spelled_name(prefix, bracketed)} contains itself, so it has no end.")
                opened.append(_entries(item))
                inside[id(item)] = None
                prefix.append(bracketed)
                break
            if item is not None:
                leaf = _leaf(item)
                if leaf is None:
                    where = _spelled_name(prefix, bracketed)
                    raise TypeError(f"{where} is of type {type(item).__name__}: make it a string first.")
                pairs.append(f"{''.join(prefix)}{bracketed}={_escape(leaf)}")
        else:
            opened.pop()
            inside.popitem()
            if prefix:
                prefix.pop()
    return "&".join(pairs).encode("ascii")


def split_path(path: str) -> tuple[str, ...]:
    r"""The keys that a path in a string names: `data.FIELDS.ID`; `\.` is a literal dot, `\\` a backslash."""
    keys = [""]
    position = 0
    for mark in _ESCAPED.finditer(path):
        keys[-1] += path[position : mark.start()] + (mark[1] or "")
        if mark[2]:
            keys.append("")
        position = mark.end()
    keys[-1] += path[position:]
    return tuple(keys)


def join_path(keys: Sequence[str]) -> str:
    """The string that `split_path` takes apart into these keys."""
    return ".".join(key.replace("\\", "\\\\").replace(".", "\\.") for key in keys)


# Pairs


class _Span(NamedTuple):
    start: int
    name_end: int
    value_start: int
    end: int


def _visible_end(body: bytes) -> int:
    """Where `parse_str` stops reading: it holds its input as a C string."""
    nul = body.find(b"\0")
    return len(body) if nul < 0 else nul


def _spans(body: bytes, start: int, end: int) -> Iterator[_Span]:
    for count, pair in enumerate(_PAIR.finditer(body, start, end)):
        if count == MAX_PARAMETERS:
            raise FormError(f"The body has more than {MAX_PARAMETERS:,} parameters, so it was not read.")
        first, last = pair.span()
        equals = body.find(b"=", first, last)
        yield _Span(first, last, last, last) if equals < 0 else _Span(first, equals, equals + 1, last)


# Arrays

_Leaf = TypeVar("_Leaf")


class _Array(Generic[_Leaf]):
    """A PHP array under construction: keys in order, and the index that `[]` takes next."""

    __slots__ = ("entries", "next_index")

    def __init__(self) -> None:
        self.entries: dict[str, _Array[_Leaf] | _Leaf] = {}
        self.next_index = _INT_MIN

    def new_key(self) -> str | None:
        """The key that `[]` stands for, or None when the integers are used up."""
        # An array without integer keys starts at 0, one whose largest is -3 goes on at -2.
        key = "0" if self.next_index == _INT_MIN else str(self.next_index)
        return None if key in self.entries else key

    def put(self, key: str, item: "_Array[_Leaf] | _Leaf") -> None:
        if key not in self.entries and _DECIMAL.fullmatch(key):
            index = int(key)
            if self.next_index <= index <= _INT_MAX:
                self.next_index = min(index + 1, _INT_MAX)
        self.entries[key] = item


def _assign(root: _Array[_Leaf], name: bytes, leaf: _Leaf) -> tuple[str, ...] | None:
    """Put a leaf where PHP puts it and return its path, or None when PHP drops it."""
    # A dropped pair may leave traces: arrays made on the way, or a variable deleted.
    name = name.partition(b"\0")[0].lstrip(b" ")
    indexes = _split_name(name)
    if not indexes[0]:
        return None
    is_too_deep = len(indexes) > MAX_NESTING + 1
    last = MAX_NESTING if is_too_deep else len(indexes) - 1
    path: list[str] = []
    array = root
    for depth, index in enumerate(indexes):
        if depth == last and is_too_deep:
            # PHP gives up the whole variable here, with whatever earlier pairs put into it.
            root.entries.pop(path[0], None)
            return None
        if index is None:
            key = array.new_key()
            if key is None:
                return None
        elif index.startswith(_COOKIE_PREFIXES) and _is_disguised(index, name):
            return None
        else:
            key = _decode(index)
        path.append(key)
        if depth == last:
            array.put(key, leaf)
            return tuple(path)
        inner = array.entries.get(key)
        if not isinstance(inner, _Array):
            inner = _Array()
            array.put(key, inner)
        array = inner
    return None


def _split_name(name: bytes) -> list[bytes | None]:
    """The top-level name and the indexes after it: None for `[]`, at most one beyond the limit."""
    opening = name.find(b"[")
    if opening < 0:
        return [name.translate(_MANGLED)]
    indexes: list[bytes | None] = [name[:opening].translate(_MANGLED)]
    while len(indexes) <= MAX_NESTING:
        first = opening + 1
        # PHP skips one space when it looks for `[]`, but keeps it in an index.
        after_space = first + name[first : first + 1].isspace()
        closing = name.find(b"]", after_space)
        if closing < 0:
            # A first bracket that nobody closes is part of the name, a later one is dropped with the rest.
            return [name.translate(_MANGLED)] if len(indexes) == 1 and indexes[0] else indexes
        indexes.append(None if closing == after_space else name[first:closing])
        opening = closing + 1
        if name[opening : opening + 1] != b"[":
            return indexes
    return [*indexes, None]


def _is_disguised(key: bytes, name: bytes) -> bool:
    return any(key.startswith(prefix) and not name.startswith(prefix) for prefix in _COOKIE_PREFIXES)


def _collapse(array: _Array[str]) -> Array:
    # Recursion is safe: MAX_NESTING bounds the depth.
    entries: dict[str, Value] = {
        key: _collapse(item) if isinstance(item, _Array) else item for key, item in array.entries.items()
    }
    if all(map(eq, entries, map(str, range(len(entries))))):
        return list(entries.values())
    return entries


# Paths


def _keys(path: str | Sequence[str]) -> tuple[str, ...]:
    return split_path(path) if isinstance(path, str) else tuple(path)


def _at(root: _Array[_Leaf], keys: tuple[str, ...]) -> _Array[_Leaf] | _Leaf | None:
    found: _Array[_Leaf] | _Leaf | None = root
    for key in keys:
        found = found.entries.get(key) if isinstance(found, _Array) else None
    return found


def _leads_to_something(root: _Array[None], keys: tuple[str, ...]) -> bool:
    above = _at(root, keys[:-1])
    return not keys or (isinstance(above, _Array) and keys[-1] in above.entries)


def _shared(place: Sequence[str], keys: Sequence[str]) -> int:
    """How many keys two paths have in common at their beginnings."""
    for depth, (one, other) in enumerate(zip(place, keys, strict=False)):
        if one != other:
            return depth
    return min(len(place), len(keys))


def _paths(array: _Array[_Leaf], above: tuple[str, ...] = (), *, arrays: bool = True) -> Iterator[tuple[str, ...]]:
    for key, item in array.entries.items():
        is_array = isinstance(item, _Array)
        if arrays or not is_array:
            yield (*above, key)
        if isinstance(item, _Array):
            yield from _paths(item, (*above, key), arrays=arrays)


# Text and numbers


def _unescape(spelled: bytes) -> bytes:
    """urldecode: `+` is a space, a percent sign without two hex digits stays."""
    text = spelled.replace(b"+", b" ")
    if len(text) <= _AT_ONCE:
        return unquote_to_bytes(text)
    # It takes a text apart at each percent sign, which of a very long one is more than memory holds.
    pieces = []
    start = 0
    while start < len(text):
        end = start + _AT_ONCE
        percent = text.rfind(b"%", end - 2, end)
        if percent >= 0:
            end = percent  # an escape stays whole
        pieces.append(unquote_to_bytes(text[start:end]))
        start = end
    return b"".join(pieces)


def _decode(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")


def _text(spelled: bytes) -> str:
    return _decode(_unescape(spelled))


def _escape(text: str) -> str:
    """urlencode: all but ASCII letters, digits, `-`, `_` and `.` is escaped, a space is `+`."""
    try:
        octets = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise FormError(f"The text has a lone surrogate at {error.start}, which stands for no byte.") from error
    return quote_from_bytes(octets, safe="").replace("~", "%7E").replace("%20", "+")


def _entries(array: dict[Any, Any] | list[Any] | tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    for key, item in array.items() if isinstance(array, dict) else enumerate(array):
        if not isinstance(key, (str, int)):
            raise TypeError(f"{key!r} is no key of a form: a key is a string or an integer.")
        yield key if isinstance(key, str) else str(int(key)), item


def _leaf(item: object) -> str | None:
    if isinstance(item, str):
        return item
    if isinstance(item, int):
        return str(int(item))
    if isinstance(item, float):
        return _float(item)
    return None


def _float(number: float) -> str:
    """As PHP prints it with 14 significant digits (its setting `precision`)."""
    digits, last = divmod(int(abs(number)), 10) if 1e14 <= abs(number) < 1e15 else (0, 0)
    if last == 5 and digits % 2 == 0 and number.is_integer():
        # A tie that is rounded down to even: the one case in which PHP leaves zeros at the end.
        return f"{'-' if number < 0 else ''}{str(digits)[0]}.{str(digits)[1:]}E+14"
    mantissa, has_exponent, exponent = f"{number:.14G}".partition("E")
    if not has_exponent:
        return mantissa
    # C writes 1E-05 where PHP writes 1.0E-5.
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}E{exponent[0]}{int(exponent[1:])}"


def _spelled_name(prefix: list[str], bracketed: str) -> str:
    name = unquote_to_bytes("".join([*prefix, bracketed]).replace("+", " "))
    return name.decode("utf-8", "backslashreplace")
