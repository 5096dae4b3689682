"""What a program or a server prints, cut into clean lines whatever it is."""

from __future__ import annotations

import re

LONGEST = 8192
# Control sequences, operating system commands (window titles, hyperlinks), and shorter escapes (character sets).
_ANSI = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]")
# Also what is invisible or turns the direction of writing: an address would not be what it looks like.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
_END = re.compile(rb"\r\n|\r|\n")


class Lines:
    """Takes pieces of output as they come, gives whole lines without colours, controls and end of line.

    A carriage return ends a line, too: progress is shown that way. A line of more than `LONGEST` bytes is cut
    there; what follows it until its end is thrown away.
    """

    def __init__(self) -> None:
        self._begun = bytearray()
        self._cut = False
        self._after_return = False

    def feed(self, piece: bytes) -> list[str]:
        """The lines that this piece completes."""
        lines = []
        if self._after_return and piece.startswith(b"\n"):
            piece = piece[1:]  # the end of a line that came in two pieces
            self._after_return = False
        if piece:
            self._after_return = piece.endswith(b"\r")
        *whole, rest = _END.split(piece)
        for end in whole:
            self._add(end)
            lines.append(self._taken())
        self._add(rest)
        return lines

    def finish(self) -> list[str]:
        """What came without an end of line, now that nothing comes any more."""
        return [self._taken()] if self._begun else []

    def _add(self, piece: bytes) -> None:
        if not self._cut:
            self._begun += piece
            if len(self._begun) > LONGEST:
                del self._begun[LONGEST:]
                self._cut = True

    def _taken(self) -> str:
        text = self._begun.decode("utf-8", "replace")
        self._begun.clear()
        self._cut = False
        return clean(text)


def clean(text: str) -> str:
    """One line without terminal control sequences and control characters; a tab becomes a space."""
    return _UNPRINTABLE.sub("", _ANSI.sub("", text).replace("\t", " ")).rstrip()
