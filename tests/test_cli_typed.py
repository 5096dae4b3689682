"""Lines that are typed on a terminal while an event loop goes on."""

from __future__ import annotations

import asyncio
import os
import pty
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import until

from b24tunnel.cli import typed


class Keyboard:
    """What types on a terminal that is this process's standard input."""

    def __init__(self, master: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self._master = master
        self.in_foreground = True
        self.asked = 0
        monkeypatch.setattr(os, "tcgetpgrp", self._group)

    def _group(self, terminal: int) -> int:
        self.asked += 1
        return os.getpgrp() if self.in_foreground else 0

    def type(self, text: bytes) -> None:
        os.write(self._master, text)


@pytest.fixture
def keyboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Keyboard]:
    master, terminal = pty.openpty()
    with os.fdopen(terminal) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield Keyboard(master, monkeypatch)
    os.close(master)


async def test_each_line_is_given(keyboard: Keyboard) -> None:
    lines: list[str] = []
    with typed.typed_lines(lines.append):
        keyboard.type("yes\nтест\nhalf a".encode())
        await until(lambda: len(lines) == 2)
        keyboard.type(b" line\n")
        await until(lambda: len(lines) == 3)
    assert lines == ["yes", "тест", "half a line"]


async def test_in_the_background_a_line_is_left_to_others_and_looked_for_only_now_and_then(
    keyboard: Keyboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    keyboard.in_foreground = False
    with typed.typed_lines(lines.append):
        keyboard.type(b"for somebody else\n")
        await until(lambda: keyboard.asked)
        for _ in range(200):  # rounds of the event loop, in each of which the line is still there
            await asyncio.sleep(0)
        assert keyboard.asked == 1
    assert lines == []


async def test_in_the_foreground_again_it_reads_on(keyboard: Keyboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typed, "_BACKGROUND_SECONDS", 0.01)
    lines: list[str] = []
    keyboard.in_foreground = False
    with typed.typed_lines(lines.append):
        keyboard.type(b"now\n")
        await until(lambda: keyboard.asked > 2)
        keyboard.in_foreground = True
        await until(lambda: lines)
    assert lines == ["now"]


async def test_where_nobody_can_type_nothing_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "file").open("w+") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with typed.typed_lines(pytest.fail):
            await asyncio.sleep(0)
    monkeypatch.setattr(sys, "stdin", None)
    with typed.typed_lines(pytest.fail):
        await asyncio.sleep(0)
