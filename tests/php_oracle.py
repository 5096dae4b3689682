"""The real PHP as the judge of the form codec: one `php` process that parses and encodes on request."""

import contextlib
import json
import os
import selectors
import struct
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

SCRIPT = Path(__file__).with_suffix(".php")

SETTINGS = {
    "max_input_vars": "100000000",
    "max_input_nesting_level": "64",
    "memory_limit": "2G",
    "arg_separator.input": "&",
    "arg_separator.output": "&",
    "default_charset": "UTF-8",
    "precision": "14",
    # Fatal errors go to standard error, where they are read when PHP dies; warnings go nowhere.
    "error_reporting": "1",
    "display_errors": "0",
    "log_errors": "1",
}


class PhpOracle:
    """Runs PHP while it is entered. Every call ends within `deadline` seconds, or fails and ends PHP."""

    def __init__(self, php: str = "php", deadline: float = 30.0) -> None:
        self._php = php
        self._deadline = deadline
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None

    def __enter__(self) -> Self:
        self._errors = tempfile.TemporaryFile()
        # -n: no php.ini, so that the machine's settings do not matter.
        command = [self._php, "-n", *(f"-d{name}={value}" for name, value in SETTINGS.items()), str(SCRIPT)]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, bufsize=0
            )
        except BaseException:
            self.close()
            raise
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End PHP and wait until it is gone. Does nothing the second time."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(OSError):
                process.stdin.close()
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=5)
            process.stdout.close()
        if self._errors is not None:
            self._errors.close()
            self._errors = None

    def parse(self, body: bytes) -> Any:
        """What `parse_str` makes of the body, in the conventions of `form.parse`."""
        return _value(json.loads(self._ask(b"P" + body)))

    def encode(self, value: Any) -> bytes:
        """What `http_build_query` makes of the structure."""
        return self._ask(b"E" + json.dumps(_shown(value)).encode())

    def _ask(self, request: bytes) -> bytes:
        try:
            return self._exchange(request)
        except (OSError, EOFError) as error:
            raise AssertionError(
                f"PHP did not answer a request of {len(request)} bytes: {self._fate()}"
            ) from error

    def _exchange(self, request: bytes) -> bytes:
        assert self._process is not None, "PHP is not running"
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        unsent = memoryview(struct.pack(">I", len(request)) + request)
        received = bytearray()
        give_up_at = time.monotonic() + self._deadline
        with selectors.DefaultSelector() as selector:
            selector.register(stdin, selectors.EVENT_WRITE)
            selector.register(stdout, selectors.EVENT_READ)
            while len(received) < 4 or len(received) < 4 + struct.unpack_from(">I", received)[0]:
                ready = selector.select(max(0.0, give_up_at - time.monotonic()))
                if not ready:
                    self._process.kill()
                    raise TimeoutError(f"no answer within {self._deadline} seconds")
                for key, _ in ready:
                    if key.fileobj is stdin:
                        unsent = unsent[os.write(stdin.fileno(), unsent[:65536]) :]
                        if not unsent:
                            selector.unregister(stdin)
                    elif chunk := os.read(stdout.fileno(), 1 << 20):
                        received += chunk
                    else:
                        raise EOFError("PHP closed its output")
        return bytes(received[4:])

    def _fate(self) -> str:
        assert self._process is not None
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "it is still running"
        assert self._errors is not None
        self._errors.seek(0)
        return f"it ended with {code}. {self._errors.read().decode('utf-8', 'replace')}"


def _text(spelled: str) -> str:
    return bytes.fromhex(spelled).decode("utf-8", "surrogateescape")


def _hex(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").hex()


def _value(shown: Any) -> Any:
    if isinstance(shown, str):
        return _text(shown)
    kind, content = shown
    if kind == "list":
        return [_value(item) for item in content]
    return {_text(key): _value(item) for key, item in content}


def _shown(value: Any) -> Any:
    match value:
        case dict():
            return ["map", [[_hex(str(key)), _shown(item)] for key, item in value.items()]]
        case list():
            return ["list", [_shown(item) for item in value]]
        case str():
            return ["str", _hex(value)]
        case float():
            return ["float", struct.pack(">d", value).hex()]
        case _:
            return ["json", value]
