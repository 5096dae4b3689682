"""A body in any of its forms, as a tree of values that can be changed one by one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from b24tunnel import form
from b24tunnel.changing import json_spans, multipart
from b24tunnel.recording import Recording

_INDEX = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)


class NotChangeable(ValueError):
    """A body that nothing can be changed in; the message completes "The body of 12-5 …"."""


class Place(Protocol):
    """Bytes that hold values by keys."""

    def parse(self) -> Any:
        """The values as nested dicts and lists; the scalars are what `text_of` takes. Raises NotChangeable."""

    def edit(self, keys: Sequence[str], value: str) -> bytes:
        """The bytes with one leaf changed. Raises form.UnknownPath, NotChangeable."""

    def remove(self, keys: Sequence[str]) -> bytes:
        """The bytes without a leaf or an array. Raises form.UnknownPath, NotChangeable."""


class FormPlace:
    """A urlencoded body, or a query."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets

    def parse(self) -> Any:
        """What PHP makes of it."""
        try:
            return form.parse(self._octets)
        except form.FormError:
            raise _too_many() from None

    def edit(self, keys: Sequence[str], value: str) -> bytes:
        """As `form.edit`."""
        self._check()
        return form.edit(self._octets, keys, value)

    def remove(self, keys: Sequence[str]) -> bytes:
        """As `form.remove`."""
        self._check()
        return form.remove(self._octets, keys)

    def _check(self) -> None:
        if self._octets.count(b"&") >= form.MAX_PARAMETERS:
            raise _too_many()


class MultipartPlace:
    """A multipart/form-data body. Files are no leaves."""

    def __init__(self, octets: bytes, boundary: bytes) -> None:
        self._octets = octets
        self._boundary = boundary

    def parse(self) -> Any:
        """What PHP makes of it."""
        octets = self._octets
        return form.assign(
            (part.name, _decoded(octets[part.value_start : part.value_end])) for part in self._parts()
        )

    def edit(self, keys: Sequence[str], value: str) -> bytes:
        """The value's bytes, which are not encoded, are replaced."""
        spelled = value.encode("utf-8", "surrogateescape")
        parts = self._parts()
        index = form.index_of((part.name for part in parts), keys)
        part = parts[index]
        changed = self._octets[: part.value_start] + spelled + self._octets[part.value_end :]
        # The boundary may be in the value, and a carriage return before a lone line feed is taken for its part.
        now = list(multipart.parts(changed, self._boundary))
        if len(now) != len(parts) or changed[now[index].value_start : now[index].value_end] != spelled:
            raise NotChangeable("cannot hold this value, which has the boundary between its parts in it")
        return changed

    def remove(self, keys: Sequence[str]) -> bytes:
        """Each part goes with one boundary."""
        parts = self._parts()
        pieces: list[bytes] = []
        position = 0
        for index in form.indexes_of((part.name for part in parts), keys):
            part = parts[index]
            start, end = (
                (part.before, part.value_end) if part.next_start is None else (part.start, part.next_start)
            )
            pieces.append(self._octets[position:start])
            position = end
        return b"".join([*pieces, self._octets[position:]])

    def _parts(self) -> list[multipart.Part]:
        try:
            return list(multipart.parts(self._octets, self._boundary))
        except multipart.TooManyParts:
            raise _too_many() from None


class JsonPlace:
    """A JSON body."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets

    def parse(self) -> Any:
        """As `json_spans.parse`."""
        try:
            return json_spans.parse(self._octets)
        except json_spans.NoJson as error:
            raise NotChangeable(f"cannot be changed, because it {error}") from None

    def edit(self, keys: Sequence[str], value: str) -> bytes:
        """As `json_spans.replace`."""
        document = self.parse()
        span = json_spans.find(self._octets, keys)
        if span is None or self._octets[span[0] : span[0] + 1] in (b"{", b"["):
            known = (path for path, _ in leaves_of(document))
            raise form.unknown_path(keys, known, is_array=span is not None)
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise NotChangeable("is JSON, which holds no bytes but UTF-8") from None
        return json_spans.replace(self._octets, span, value)

    def remove(self, keys: Sequence[str]) -> bytes:
        """As `json_spans.remove`."""
        document = self.parse()
        if not keys or json_spans.find(self._octets, keys) is None:
            raise form.unknown_path(keys, (path for path, _ in leaves_of(document)))
        return json_spans.remove(self._octets, keys)


class Unreadable:
    """A body that cannot be looked into, and why."""

    def __init__(self, why: str) -> None:
        self._why = why

    def parse(self) -> Any:
        """Nothing can be read."""
        raise NotChangeable(self._why)

    def edit(self, keys: Sequence[str], value: str) -> bytes:
        """Nothing can be changed."""
        raise NotChangeable(self._why)

    def remove(self, keys: Sequence[str]) -> bytes:
        """Nothing can be removed."""
        raise NotChangeable(self._why)


def body_of(recording: Recording) -> Place:
    """The body, by what its headers say of it.

    Where they say nothing, or something that is neither a form nor JSON, it is JSON if it reads as an object or a
    list, and else a urlencoded form, which any bytes are.
    """
    content_type, encoding = "", ""
    for name, value in recording.headers:
        lowered = name.lower()
        if lowered == "content-type":
            content_type = value
        elif lowered == "content-encoding" and value.strip().lower() not in ("", "identity"):
            encoding = value.strip().lower()
    if not recording.body:
        return FormPlace(b"")
    if encoding:
        return Unreadable(f"is compressed ({encoding[:40]}) and cannot be changed in place")
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        boundary = multipart.boundary_of(content_type)
        if boundary is None:
            return Unreadable("cannot be changed, because its Content-Type names no boundary")
        return MultipartPlace(recording.body, boundary)
    if kind == "application/x-www-form-urlencoded":
        return FormPlace(recording.body)
    if kind == "application/json" or kind.endswith("+json"):
        return JsonPlace(recording.body)
    if recording.body.lstrip(b" \t\r\n")[:1] in (b"{", b"["):
        place = JsonPlace(recording.body)
        try:
            place.parse()
        except NotChangeable:
            return FormPlace(recording.body)
        return place
    return FormPlace(recording.body)


def query_of(recording: Recording) -> FormPlace | None:
    """The query of the request's target; None where it has none."""
    query = recording.target.partition("?")[2]
    return FormPlace(query.encode("utf-8", "surrogateescape")) if query else None


def leaves_of(value: Any) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every leaf of a parsed body, in order."""
    if not isinstance(value, dict | list):
        yield (), json_spans.text_of(value)
        return
    # A stack instead of recursion: JSON nests as deep as it likes.
    opened: list[Iterator[tuple[str, Any]]] = [_entries(value)]
    above: list[str] = []
    while opened:
        for key, item in opened[-1]:
            if isinstance(item, dict | list):
                opened.append(_entries(item))
                above.append(key)
                break
            yield (*above, key), json_spans.text_of(item)
        else:
            opened.pop()
            if above:
                above.pop()


def covers(value: Any, keys: Sequence[str]) -> bool:
    """Whether a parsed body has something at these keys, or a scalar above them, so that a query's is hidden."""
    for key in keys:
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and _INDEX.fullmatch(key) and int(key) < len(value):
            value = value[int(key)]
        else:
            return not isinstance(value, dict | list)
    return True


def _entries(value: dict[str, Any] | list[Any]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    else:
        for index, item in enumerate(value):
            yield str(index), item


def _decoded(octets: bytes) -> str:
    return octets.decode("utf-8", "surrogateescape")


def _too_many() -> NotChangeable:
    return NotChangeable(f"has more than {form.MAX_PARAMETERS:,} values and cannot be changed")
