"""Differences as lines for people."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from b24tunnel.cli.terminal import one_line, visible
from b24tunnel.masked_differences import masked

if TYPE_CHECKING:
    from b24tunnel.difference import Difference
    from b24tunnel.redact import Masker

# Columns before the first difference that are shown of a value which is too long.
_LEAD = 20
_LONGEST_LINE = 2000


def difference_lines(
    differences: Sequence[Difference], masker: Masker | None, *, colours: bool, width: int | None = None
) -> list[str]:
    """Lines for people: the place, then what stands there before (``- ``) and after (``+ ``).

    Without a masker nothing is masked. ``width``: columns that a line may have; left out, the terminal's where
    there are colours, and else so many that megabytes are not among them. A value that is too long is cut around
    what differs first; JSON has it whole.
    """
    if width is None:
        width = shutil.get_terminal_size().columns if colours else _LONGEST_LINE
    lines: list[str] = []
    for difference in differences:
        where, before, after = masked(difference, masker)
        lines.append(_cut(_shown(where), 0, width))
        if before is None and after is None:
            continue
        old, new = None if before is None else _shown(before), None if after is None else _shown(after)
        if old == new and old is not None and new is not None:
            # Characters that a terminal would obey are written out, and so may stand for themselves.
            old, new = ascii(before), ascii(after)
        start = _first_difference(old or "", new or "") if old is not None and new is not None else 0
        for sign, text, colour in (("-", old, "red"), ("+", new, "green")):
            if text is not None:
                line = f"  {sign} {_cut(text, start, width - 4) or '(empty)'}"
                lines.append(click.style(line, fg=colour) if colours else line)
    return lines


def _shown(text: str) -> str:
    return visible(one_line(text)).replace("\t", "\\t")


def _first_difference(before: str, after: str) -> int:
    pairs = enumerate(zip(before, after, strict=False))
    return next((place for place, (old, new) in pairs if old != new), min(len(before), len(after)))


def _cut(text: str, start: int, width: int) -> str:
    """At most ``width`` columns of it, with the character at ``start``, and ``…`` where something is left out."""
    from rich.cells import cell_len, set_cell_size

    width = max(width, 2 * _LEAD)
    if len(text) <= width and cell_len(text) <= width:
        return text
    if start > _LEAD and start > width // 2:
        text = "…" + text[start - _LEAD :]
    text = text[: width + 1]  # no character is less than a column wide, or it would not be shown
    return text if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"
