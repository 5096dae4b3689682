"""A run's results as a JUnit XML file, which CI systems read."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from xml.sax.saxutils import escape, quoteattr

from b24tunnel.durable import sync_directory
from b24tunnel.errors import OutsideFailure
from b24tunnel.masked_differences import masked
from b24tunnel.recording import Attempt
from b24tunnel.redact import Masker
from b24tunnel.replaying.answered import answered
from b24tunnel.replaying.result import Result

# What is there may lead to a file that somebody else is writing, such as /dev/stdout.
_NO_FILES = (("/", "dev"), ("/", "proc"))
_LONGEST_MESSAGE = 500
_LONGEST_NAME = 200
_LONGEST_VALUE = 2_000
_LONGEST_ANSWER = 2_000
_MOST_LISTED = 100
_GZIP = b"\x1f\x8b"

# What XML 1.0 can hold as a character or as a reference to one: its production 2, "Char".
_UNHOLDABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NOT_SENT = "The run ended before it had sent everything: what came after this was not sent."


class JUnitFile:
    """Takes results one by one and puts the file in its place when it is closed, in one step.

    Test cases are written as they come to a temporary file beside it, so that memory does not grow with the run.
    Use as a context manager: left without `close`, nothing is put in place and nothing is left behind.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises `OutsideFailure` when there can be no file at ``path``. What is there stays until `close`."""
        self.path = Path(path)
        self._started_at = datetime.now(UTC)
        self._tests = self._failures = self._errors = self._skipped = 0
        self._broken = False
        with self._outside():
            self._target = _target(self.path)
            self._beside = self._target.parent / f".junit-{secrets.token_hex(8)}.tmp"
            self._cases: IO[str] | None = _created(self._beside, "x+")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def add(self, result: Result) -> None:
        """Write one result, without the secrets of its recording and what is secret by its name.

        Raises `OutsideFailure` when it cannot be written; then there will be no file.
        """
        attempt, recording = result.attempt, result.recording
        kind = "error" if attempt.status is None else "failure" if not result.ok else None
        name = f"{recording.id} #{result.number}"
        self._tests += 1
        if kind is None:
            self._write(_case(recording.code or recording.type, name, attempt.duration_ms))
            return
        if kind == "error":
            self._errors += 1
        else:
            self._failures += 1
        masker = result.masker
        found = (
            f"<{kind} message={_attribute(_cut(masker.text(_message(result)), _LONGEST_MESSAGE))} "
            f"type={_attribute(_type(result))}>{_content(_details(result, masker))}</{kind}>"
        )
        self._write(_case(recording.code or recording.type, name, attempt.duration_ms, found))

    def close(self, name: str, seconds: float, unsent: bool) -> None:
        """Put the whole file in place. ``name`` is the suite's, ``seconds`` how long the run took.

        ``unsent``: the run ended before it had sent everything; then a skipped test case at the end says so.
        Raises `OutsideFailure` when it cannot be written.
        """
        try:
            if unsent:
                self._tests += 1
                self._skipped += 1
                skipped = f"<skipped message={_attribute(_NOT_SENT)}/>"
                self._write(_case("replay", "the rest of the run", 0, skipped))
            with self._outside():
                self._put_in_place(_head(self._counts(_cut(name, _LONGEST_NAME), seconds), self._started_at))
        finally:
            self.discard()

    def discard(self) -> None:
        """Take back what is not yet in place; does nothing after `close`."""
        cases, self._cases = self._cases, None
        if cases is not None:
            # On a full disk its last lines cannot be written; they are not wanted any more.
            with suppress(OSError):
                cases.close()
            with self._outside():
                self._beside.unlink(missing_ok=True)

    def _write(self, case: str) -> None:
        with self._outside():
            assert self._cases is not None, "add to it before it is closed"
            self._cases.write(case)

    def _put_in_place(self, head: str) -> None:
        assert self._cases is not None, "close it once"
        if self._broken:
            raise OSError("a test case could not be written")
        # The sums stand at the beginning of the file and are known at its end.
        whole = self._beside.with_suffix(".whole.tmp")
        try:
            with _created(whole, "x") as file:
                file.write(head)
                self._cases.seek(0)
                shutil.copyfileobj(self._cases, file, 1024 * 1024)
                file.write("</testsuite>\n</testsuites>\n")
                file.flush()
                os.fsync(file.fileno())
            whole.replace(self._target)
        except BaseException:
            whole.unlink(missing_ok=True)
            raise
        sync_directory(self._target.parent)

    def _counts(self, name: str, seconds: float) -> str:
        return (
            f'name={_attribute(name)} tests="{self._tests}" failures="{self._failures}" errors="{self._errors}" '
            f'skipped="{self._skipped}" time="{_seconds(seconds)}"'
        )

    @contextmanager
    def _outside(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._broken = True
            raise OutsideFailure(
                f"The JUnit file {_plain(str(self.path))} cannot be written ({error.strerror or error}): give a "
                "file in a directory that you may write to."
            ) from error


def _target(path: Path) -> Path:
    """The file to replace: what a link leads to. Raises `OSError` where a file cannot be put."""
    try:
        if path.parts[:2] in _NO_FILES or str(path) == "-":
            raise OSError("it is no file of its own")
        target = path.resolve()
    except (ValueError, RuntimeError) as error:  # a zero byte, and links that lead to each other
        raise OSError(str(error)) from error
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return target
    if not stat.S_ISREG(mode):
        raise OSError("it is a directory" if stat.S_ISDIR(mode) else "it is no regular file")
    if not os.access(target, os.W_OK):
        raise OSError("it is not writable")
    return target


def _created(path: Path, mode: str) -> IO[str]:
    return path.open(mode, encoding="utf-8", newline="\n")


def _head(counts: str, started_at: datetime) -> str:
    # Without a time zone, as the format's schema has it; UTC.
    timestamp = started_at.strftime("%Y-%m-%dT%H:%M:%S")
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<testsuites {counts}>\n<testsuite {counts} timestamp="{timestamp}">\n'
    )


def _case(classname: str, name: str, duration_ms: float, content: str = "") -> str:
    head = (
        f"<testcase classname={_attribute(_cut(classname, _LONGEST_NAME))} "
        f'name={_attribute(_cut(name, _LONGEST_NAME))} time="{_seconds(duration_ms / 1000)}"'
    )
    return f"{head}>{content}</testcase>\n" if content else f"{head}/>\n"


def _type(result: Result) -> str:
    if result.attempt.status is None:
        return "no answer"
    return "wrong answer" if result.problems else "different answer"


def _message(result: Result) -> str:
    """One line that says what is wrong."""
    said = list(result.problems[:_MOST_LISTED])
    if not said and result.attempt.error is not None:
        said.append(f"no answer: {result.attempt.error}")
    if result.differences:
        places = ", ".join(difference.where for difference in result.differences[:_MOST_LISTED])
        said.append(f"differs in {places}")
    return "; ".join(said)


def _details(result: Result, masker: Masker) -> str:
    """What is wrong in full, and what was answered."""
    attempt = result.attempt
    # Masked before it is cut: half a token would not be known as one.
    lines = [_cut(masker.text(problem), _LONGEST_VALUE) for problem in result.problems[:_MOST_LISTED]]
    for difference in result.differences[:_MOST_LISTED]:
        where, before, after = masked(difference, masker)
        lines.append(f"{_cut(where, _LONGEST_VALUE)}:")
        for sign, value in (("-", before), ("+", after)):
            lines.append(f"  {sign} {'(nothing)' if value is None else _cut(value, _LONGEST_VALUE)}")
    unlisted = len(result.problems[_MOST_LISTED:]) + len(result.differences[_MOST_LISTED:])
    if unlisted:
        lines.append(f"and {unlisted} more")
    if attempt.status is None:
        lines.append(f"no answer: {_cut(masker.text(attempt.error or ''), _LONGEST_VALUE)}")
    else:
        lines.append(f"status: {attempt.status}")
    if attempt.body:
        lines += ["answer:", _cut(_answer(attempt, masker), _LONGEST_ANSWER)]
    return "\n".join(lines)


def _answer(attempt: Attempt, masker: Masker) -> str:
    """An answer's body without secrets; one that stays compressed cannot be looked through."""
    body, why_not = answered(attempt)
    if why_not is not None or body.data.startswith(_GZIP):
        return f"({len(attempt.body):,} bytes, {why_not or 'compressed'})"
    return masker.cut_text(body.searchable) if body.cut else masker.text(body.searchable)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _seconds(seconds: float) -> str:
    return f"{max(0.0, seconds):.6f}"


def _plain(text: str) -> str:
    """The text with each character that XML cannot hold, or byte that is no UTF-8, written as its number."""
    return _UNHOLDABLE.sub(_number, text)


def _number(found: re.Match[str]) -> str:
    number = ord(found[0])
    if 0xDC80 <= number <= 0xDCFF:  # a byte that is no UTF-8, as a surrogate escape
        number -= 0xDC00
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def _attribute(text: str) -> str:
    return quoteattr(_plain(text))


def _content(text: str) -> str:
    # A parser makes a line feed of a carriage return that stands there as it is.
    return escape(_plain(text), {"\r": "&#13;"})
