"""A program on a terminal of its own, typed at and read as a person does."""

from __future__ import annotations

import codecs
import contextlib
import os
import pty
import sys
import termios
from pathlib import Path

from programs import wait_until


class Terminal:
    """The command on a terminal of its own, typed at and read as a person does."""

    def __init__(
        self, directory: Path, *arguments: str, program: tuple[str, ...] = (sys.executable, "-m", "b24tunnel")
    ) -> None:
        self.shown = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            os.chdir(directory)
            os.execvp(program[0], [*program, *arguments])
        os.set_blocking(self._terminal, False)

    def wait_for(self, text: str) -> None:
        """Wait until the terminal has shown ``text``."""
        wait_until(lambda: text in self.read(), f"{text!r} on the terminal, which shows: {self.shown}")

    def type(self, text: str) -> None:
        """Press these keys."""
        os.write(self._terminal, text.encode())

    def echoes(self) -> bool:
        """Whether the terminal shows what is typed."""
        return bool(termios.tcgetattr(self._terminal)[3] & termios.ECHO)

    def type_unseen(self, text: str) -> None:
        """Press these keys once they are not shown: what was typed before that is thrown away."""
        wait_until(lambda: not self.echoes(), f"what is typed is not shown any more, after: {self.shown}")
        self.type(text)

    def close(self) -> int:
        """Close the window, as a person does with the mouse; the exit code, once the program has ended."""
        os.close(self._terminal)

        def ended() -> tuple[int, int] | None:
            result = os.waitpid(self._pid, os.WNOHANG)
            return result if result[0] == self._pid else None

        return os.waitstatus_to_exitcode(wait_until(ended, "the program has ended")[1])

    def exit_code(self) -> int:
        """The exit code, once the program has ended by itself."""

        def ended() -> tuple[int, int] | None:
            self.read()
            result = os.waitpid(self._pid, os.WNOHANG)
            return result if result[0] == self._pid else None

        _, status = wait_until(ended, f"the program ends, which shows: {self.shown}")
        self.read()  # what it has shown between the last look and its end
        os.close(self._terminal)
        return os.waitstatus_to_exitcode(status)

    def read(self) -> str:
        """All that it has shown so far."""
        with contextlib.suppress(OSError):  # nothing to read now, or the program is gone
            while piece := os.read(self._terminal, 65536):
                self.shown += self._decoder.decode(piece)
        return self.shown
