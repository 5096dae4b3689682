"""Delivers at a fixed rate and prints exact percentiles of how long the answers took.

A delivery's time runs from the moment at which it was due, so that waiting for a free connection counts too.
"""

from __future__ import annotations

import argparse
import json
import re
import select
import socket
import sys
import time
from collections import deque
from urllib.parse import urlsplit

import delivery

_WORD_SECONDS = 20.0
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)


class Connection:
    """One kept connection with at most one delivery under way."""

    def __init__(self, host: str, port: int) -> None:
        self.due = 0.0
        self._socket = socket.create_connection((host, port), timeout=_WORD_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, request: bytes, due: float) -> None:
        self.due = due
        self._received = b""
        self._socket.sendall(request)

    def answered(self) -> bool:
        """Take what has come; whether the answer is whole. Raises ``RuntimeError`` for a wrong or a lost one."""
        piece = self._socket.recv(65536)
        if not piece:
            raise RuntimeError("the connection was closed before the answer")
        self._received += piece
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return False
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"answered {head[:40]!r}")
        length = _LENGTH.search(head)
        return len(body) >= (int(length[1]) if length else 0)


def deliver(connections: list[Connection], request: bytes, rate: float, count: int) -> list[float]:
    """Deliver ``count`` times, ``rate`` a second; seconds from due to answered of each."""
    took: list[float] = []
    free = deque(connections)
    busy: list[Connection] = []
    waiting: deque[float] = deque()
    start = time.perf_counter()
    begun = 0
    while len(took) < count:
        now = time.perf_counter()
        while begun < count and start + begun / rate <= now:
            waiting.append(start + begun / rate)
            begun += 1
        while waiting and free:
            connection = free.popleft()
            connection.send(request, waiting.popleft())
            busy.append(connection)
        wait = max(0.0, start + begun / rate - time.perf_counter()) if begun < count else _WORD_SECONDS
        ready, _, _ = select.select(busy, [], [], wait)
        if not ready and begun == count:
            raise RuntimeError(f"no answer for {_WORD_SECONDS:.0f} s")
        for connection in ready:
            if connection.answered():
                took.append(time.perf_counter() - connection.due)
                busy.remove(connection)
                free.append(connection)
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--rate", type=float, default=500.0, help="deliveries a second")
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    url = urlsplit(options.url)
    assert url.hostname
    assert url.port
    connections = [Connection(url.hostname, url.port) for _ in range(options.connections)]
    request = delivery.request(url.netloc, url.path, delivery.body())
    try:
        deliver(connections, request, options.rate, options.connections)  # so that each connection is warm
        count = max(10, round(options.rate * options.seconds))
        took = sorted(deliver(connections, request, options.rate, count))
    except RuntimeError as error:
        sys.exit(str(error))

    def percentile(share: float) -> float:
        return took[min(len(took) - 1, int(len(took) * share))]

    print(json.dumps({"count": len(took), "p50": percentile(0.5), "p99": percentile(0.99), "worst": took[-1]}))


if __name__ == "__main__":
    main()
