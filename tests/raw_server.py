"""HTTP with raw sockets at both ends: a server that keeps each request's bytes, a client that sends given ones."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from programs import DEADLINE, wait_until

# What a server can do with a request besides answering with bytes.
RESET = None


def answer_with(status: str = "200 OK", body: bytes = b"", *headers: str) -> bytes:
    """The bytes of a whole answer, after which the connection is closed."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "Connection: close"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


EMPTY_ANSWER = answer_with()


@dataclass(frozen=True)
class Request:
    """One request as it came: ``head`` without the empty line that ends it, ``body`` as its length says."""

    head: bytes
    body: bytes

    @property
    def line(self) -> bytes:
        """The request line."""
        return self.head.split(b"\r\n")[0]

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Names and values in order and as spelled."""
        return headers_of(self.head)

    def header(self, name: bytes) -> list[bytes]:
        """Every value of the header ``name``, which is compared without regard to case."""
        return [value for known, value in self.headers if known.lower() == name.lower()]


@dataclass(frozen=True)
class Answer:
    """What a server sent back."""

    status: int
    head: bytes
    body: bytes


def headers_of(head: bytes) -> list[tuple[bytes, bytes]]:
    """The headers of a request's or an answer's head."""
    pairs = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    return [(name, value.strip(b" \t")) for name, _, value in pairs]


class RawServer:
    """Keeps each request in ``requests`` and answers it with ``answer``, each in a thread of its own.

    ``answer`` is the bytes of the answer, ``RESET`` for a connection that is cut with a TCP reset, or a function
    of the request that gives one of these. While ``hold`` is set to an event, answers wait for it; ``answered``
    counts those that were sent. Not ``listening``, it keeps its port and refuses connections until `listen`.
    """

    def __init__(
        self,
        answer: bytes | Callable[[Request], bytes | None] | None = EMPTY_ANSWER,
        *,
        listening: bool = True,
        hold: threading.Event | None = None,
    ) -> None:
        self.answer = answer
        self.hold = hold
        self.requests: list[Request] = []
        self.answered = 0
        self._lock = threading.Lock()
        self._closing = False
        self._connections: list[threading.Thread] = []
        self._accepting: threading.Thread | None = None
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}/handler"
        if listening:
            self.listen()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def listen(self) -> None:
        """Take connections from now on."""
        self._socket.listen(128)
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def wait_for(self, count: int) -> list[Request]:
        """The requests, once there are ``count`` of them."""
        wait_until(
            lambda: len(self.requests) >= count, f"{count} requests at {self.url}, not {len(self.requests)}"
        )
        return list(self.requests)

    def bodies(self) -> list[bytes]:
        """The bodies so far, in the order in which they were complete."""
        return [request.body for request in self.requests]

    def close(self) -> None:
        """Take no more connections, let those that are held go, and end every thread."""
        self._closing = True
        if self.hold is not None:
            self.hold.set()
        if self._accepting is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._accepting.join(DEADLINE)
        self._socket.close()
        for connection in self._connections:
            connection.join(DEADLINE)

    def _accept(self) -> None:
        while not self._closing:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._connections.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(DEADLINE)
            request = _read_request(connection)
            if request is None:
                return  # somebody looked whether we listen
            with self._lock:
                self.requests.append(request)
            if self.hold is not None:
                self.hold.wait(DEADLINE)
            answer = self.answer(request) if callable(self.answer) else self.answer
            with self._lock:
                self.answered += 1
            if answer is RESET:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                connection.sendall(answer)


def _read_request(connection: socket.socket) -> Request | None:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return None
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    if any(
        value.lower() == b"chunked" for name, value in headers_of(head) if name.lower() == b"transfer-encoding"
    ):
        while not body.endswith(b"0\r\n\r\n"):
            body += connection.recv(65536)
        return Request(head, body)
    lengths = [int(value) for name, value in headers_of(head) if name.lower() == b"content-length"]
    while lengths and len(body) < lengths[0]:
        piece = connection.recv(65536)
        if not piece:
            return None
        body += piece
    return Request(head, body)


def exchange(url: str, data: bytes) -> Answer:
    """Send exactly ``data`` to the host of ``url`` and read the answer to its length or the connection's end."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    with socket.create_connection((parts.hostname, parts.port), timeout=DEADLINE) as connection:
        with contextlib.suppress(ConnectionError):  # an early refusal is answered before all of it is read
            connection.sendall(data)
        received = b""
        while b"\r\n\r\n" not in received:
            piece = connection.recv(65536)
            if not piece:
                raise ConnectionResetError(f"no answer from {url}, only {received!r}")
            received += piece
        head, _, body = received.partition(b"\r\n\r\n")
        lengths = [int(value) for name, value in headers_of(head) if name.lower() == b"content-length"]
        while not lengths or len(body) < lengths[0]:
            piece = connection.recv(65536)
            if not piece:
                break
            body += piece
    return Answer(int(head.split(b" ")[1]), head, body)


def delivery(url: str, body: bytes, *headers: str, method: str = "POST") -> bytes:
    """The bytes of a request with ``body`` to ``url`` as Bitrix24's queue sends it, ``headers`` added."""
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    lines = [
        f"{method} {target} HTTP/1.1",
        f"Host: {parts.netloc}",
        "User-Agent: Bitrix24 Webhook Engine",
        "Content-Type: application/x-www-form-urlencoded",
        f"Content-Length: {len(body)}",
        "Accept-Encoding: gzip",
        *headers,
        "Connection: close",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def deliver(url: str, body: bytes) -> Answer:
    """`exchange` of one `delivery`."""
    return exchange(url, delivery(url, body))
