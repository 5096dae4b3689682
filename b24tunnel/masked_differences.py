"""A difference without secrets, whose two sides can still be told apart."""

from __future__ import annotations

import re

from b24tunnel.body_differences import CUT_OFF
from b24tunnel.difference import Difference
from b24tunnel.redact import MASK, Masker, is_secret_field

_ANOTHER = "[masked, another]"
_BETWEEN_NAMES = re.compile(r"[.\[\]'\\]+")


def masked(difference: Difference, masker: Masker | None) -> Difference:
    """The difference without secrets: by the name of its place, and by value.

    Two secrets that differ are ``[masked]`` and ``[masked, another]``. Without a masker nothing is masked.
    """
    if masker is None:
        return difference
    before, after = (_masked(difference.where, text, masker) for text in difference[1:])
    if before == after and before is not None and after is not None:
        head, mask, tail = after.rpartition(MASK)
        after = f"{head}{_ANOTHER}{tail}" if mask else after
    return difference._replace(where=masker.text(difference.where), before=before, after=after)


def _masked(where: str, text: str | None, masker: Masker) -> str | None:
    """What stands at a place, masked by the place's name, and by value."""
    if text is None:
        return None
    if where.startswith("header "):
        return masker.headers([(where.removeprefix("header "), text)])[0][1]
    if where == "request path":
        return masker.target(text)
    if where in ("body bytes", "query bytes"):
        return masker.body(text.encode("utf-8", "surrogateescape"))
    names = _BETWEEN_NAMES.split(where.removeprefix("query "))
    is_parameter = where in ("query auth", "query code")
    if text and (is_parameter or any(map(is_secret_field, names))):
        return MASK
    return masker.cut_text(text) if where.endswith(CUT_OFF) else masker.text(text)
