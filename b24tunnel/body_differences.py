"""Where two bodies differ: as JSON where both are, else line by line, else as bytes."""

from __future__ import annotations

import codecs
import hashlib
import re
from dataclasses import dataclass
from functools import cached_property

from b24tunnel import json_tree
from b24tunnel.aligning import Budget, aligned
from b24tunnel.difference import Found
from b24tunnel.ignoring import Ignored
from b24tunnel.json_tree import Node, NoJson, key_path

_CHARSET = re.compile(r";\s{0,9}charset\s{0,9}=\s{0,9}\"?([\w.-]{1,40})", re.IGNORECASE | re.ASCII)
# Encodings of text: Python knows more, of which some compress, and some take very long.
_TEXT = re.compile(r"utf-?(8|16|32)([-_]?[bl]e)?|ascii|cp\d{3,4}|iso8859-\d{1,2}|koi8-[rtu]|mac-\w+", re.ASCII)
_JSON = re.compile(r"application/([\w.-]{1,80}\+)?json", re.IGNORECASE | re.ASCII)

CUT_OFF = " (it was cut off)"
"""Behind the place of a difference between bodies of which not all was kept."""

_NOTHING = Ignored()


@dataclass(frozen=True)
class Body:
    """A body as it is to be compared; ``cut``: only its beginning was kept."""

    data: bytes
    content_type: str = ""
    cut: bool = False

    @cached_property
    def text(self) -> str | None:
        """Its text, in the character set that it names or in UTF-8; None where that is not what it is."""
        for charset in (_named_charset(self.content_type), "utf-8"):
            if charset is not None:
                try:
                    # A character whose end was cut off is left out.
                    return codecs.getincrementaldecoder(charset)("strict").decode(self.data, not self.cut)
                except UnicodeError:
                    continue
        return None

    @cached_property
    def searchable(self) -> str:
        """Its text; bytes that are none are surrogate escapes."""
        return self.data.decode("utf-8", "surrogateescape") if self.text is None else self.text

    def is_json(self, tree: Node) -> bool:
        """Whether JSON was meant: it says so, or it is an object or an array."""
        return bool(_JSON.match(self.content_type.strip())) or tree.leaf is None


def add_body_differences(found: Found, before: Body, after: Body, ignored: Ignored = _NOTHING) -> None:
    """Add each place in which two bodies differ: ``body $.result.id``, ``body line 3``, ``body from byte 7``.

    Of bodies that were cut off what was kept of both is compared.
    """
    if before.data == after.data:
        if before.cut != after.cut:
            found.add(f"body{CUT_OFF}", _length(before), _length(after))
        return
    note = CUT_OFF if before.cut or after.cut else ""
    if note:
        before, after = _as_far_as(before, after), _as_far_as(after, before)
        if before.data == after.data:
            return
    elif _add_json_differences(found, before, after, ignored):
        return
    if before.text is None or after.text is None or before.text == after.text:
        _add_byte_difference(found, before.data, after.data, note)
        return
    old, new = before.text.split("\n"), after.text.split("\n")
    if before.cut and after.cut and (old[-1].startswith(new[-1]) or new[-1].startswith(old[-1])):
        old[-1] = new[-1] = ""  # nobody knows how they go on
    for i, j in aligned(old, new, Budget()):
        here, there = None if i is None else old[i], None if j is None else new[j]
        if here != there:
            line = i if i is not None else j if j is not None else 0
            found.add(f"body line {line + 1}{note}", here, there)


def add_tree_differences(found: Found, before: Node, after: Node) -> None:
    """Add each place in which two JSON values differ."""
    _add_below(found, "$", before, after, Budget())


def json_trees(before: Body, after: Body, ignored: Ignored = _NOTHING) -> tuple[Node | None, Node | None] | None:
    """Both bodies as JSON, None in place of what is ignored whole; None where they are not both JSON."""
    if before.text is None or after.text is None:
        return None
    try:
        values = json_tree.parse(before.text), json_tree.parse(after.text)
    except NoJson:
        return None
    trees = json_tree.tree(values[0], _NOTHING), json_tree.tree(values[1], _NOTHING)
    for body, tree in zip((before, after), trees, strict=True):
        if tree is not None and not body.is_json(tree):
            return None
    return (json_tree.tree(values[0], ignored), json_tree.tree(values[1], ignored)) if ignored else trees


def _add_json_differences(found: Found, before: Body, after: Body, ignored: Ignored) -> bool:
    """Whether both are JSON, and so compared as such."""
    trees = json_trees(before, after, ignored)
    if trees is None:
        return False
    if trees[0] is not None and trees[1] is not None:
        add_tree_differences(found, trees[0], trees[1])
    return True


def _add_below(found: Found, path: str, before: Node, after: Node, budget: Budget) -> None:
    if before.digest == after.digest:
        return
    if before.object is not None and after.object is not None:
        for key, child in before.object.items():
            _add_pair(found, path, key, child, after.object.get(key), budget)
        for key, child in after.object.items():
            if key not in before.object:
                _add_pair(found, path, key, None, child, budget)
    elif before.array is not None and after.array is not None:
        old, new = before.array, after.array
        pairs = aligned(
            [child.digest for _, child in old],
            [child.digest for _, child in new],
            budget,
            lambda i, j: old[i][1].alike(new[j][1]),
        )
        for i, j in pairs:
            here, there = None if i is None else old[i], None if j is None else new[j]
            index = here[0] if here is not None else there[0] if there is not None else 0
            _add_pair(found, path, index, here and here[1], there and there[1], budget)
    else:
        found.add_made(f"body {path}", lambda: (before.text, after.text))


def _add_pair(
    found: Found, path: str, key: str | int, before: Node | None, after: Node | None, budget: Budget
) -> None:
    """What differs of one member; the path's text is made only where something does."""
    if before is not None and after is not None and before.digest == after.digest:
        return
    below = f"{path}[{key}]" if isinstance(key, int) else key_path(path, key)
    if before is not None and after is not None:
        _add_below(found, below, before, after, budget)
    else:
        found.add_made(f"body {below}", lambda: (before and before.text, after and after.text))


def _add_byte_difference(found: Found, before: bytes, after: bytes, note: str) -> None:
    """Bytes say nothing to people, and nobody could mask what is secret in them: told apart by a digest."""
    first = first_difference(before, after)
    found.add(f"body from byte {first}{note}", described(before), described(after))


def first_difference(before: bytes, after: bytes) -> int:
    """The offset of the first byte that differs."""
    low, high = 0, min(len(before), len(after))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if before[:middle] == after[:middle] else (low, middle - 1)
    return low


def _length(body: Body) -> str:
    return f"{'more than ' if body.cut else ''}{len(body.data):,} bytes"


def described(data: bytes) -> str:
    """Bytes without what they are: their number and a digest."""
    return f"{len(data):,} bytes, SHA-256 {hashlib.sha256(data).hexdigest()[:16]}…"


def _as_far_as(body: Body, other: Body) -> Body:
    """What of a body the other one's kept part can be compared with."""
    if not other.cut or len(body.data) <= len(other.data):
        return body
    return Body(body.data[: len(other.data)], body.content_type, cut=True)


def _named_charset(content_type: str) -> str | None:
    found = _CHARSET.search(content_type)
    if found is None:
        return None
    try:
        name = codecs.lookup(found[1]).name
    except LookupError:
        return None
    return name if _TEXT.fullmatch(name) else None
