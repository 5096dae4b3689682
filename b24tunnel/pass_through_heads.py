"""The heads of what is passed through: a request's for the application, and the application's answer read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.http import HttpVersion11

from b24tunnel.connection_headers import HOP_BY_HOP
from b24tunnel.errors import WrongUsage
from b24tunnel.forward import check_handler_url

RawHeaders = tuple[tuple[bytes, bytes], ...]
# Which host the application is told: the public one that the browser asked, or its own.
Host = Literal["public", "application"]

_HOP_BY_HOP = frozenset(name.encode() for name in HOP_BY_HOP)
# RFC 9110 §7.6.1: `Connection` must not name what is meant for every recipient, and a stranger must not take away
# what the tunnel says of them.
_END_TO_END = re.compile(
    rb"(?:x-forwarded|cf|content|accept|if|sec)-.*|x-real-ip|x-client-ip|true-client-ip|forwarded|via|host"
    rb"|authorization|cookie|accept|cache-control|origin|referer|user-agent|range|expect|date|from|pragma"
)
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(rb"[^\0\r\n]*")
_TARGET = re.compile(rb"[^\0-\x20\x7f]+")
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: [^\0\r\n]*)?")
# More digits than any body has bytes, and few enough for an integer.
_LENGTH = re.compile(rb"[0-9]{1,18}")


class NoHttp(Exception):
    """What came is no HTTP, or could be read in two ways."""


@dataclass(frozen=True)
class Application:
    """Where the developer's application listens."""

    url: str
    scheme: str
    host: str
    port: int
    authority: str
    """Host and port as in its URL."""
    prefix: str
    """Its path, without a slash at the end."""

    @classmethod
    def at(cls, url: str) -> Application:
        """The application at an http or https URL without query or user; raises `WrongUsage` for any other."""
        url = check_handler_url(url)
        parts = urlsplit(url)
        if parts.query or parts.username is not None or parts.password is not None:
            raise WrongUsage(
                "The application's URL may have a host, a port and a path: leave out user, password and query."
            )
        assert parts.hostname is not None
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return cls(url, parts.scheme, parts.hostname, port, parts.netloc, parts.path.rstrip("/"))


def check_request(request: web.BaseRequest) -> str | None:
    """Why a request cannot be passed on as the one request that it is, in words for its sender; None: it can."""
    target = request.raw_path.encode("utf-8", "surrogateescape")
    if not _TOKEN.fullmatch(request.method.encode("utf-8", "surrogateescape")) or not _TARGET.fullmatch(target):
        return "This request line is no HTTP."
    if not (target.startswith(b"/") or b"://" in target or (target == b"*" and request.method == "OPTIONS")):
        return "This request has no path."
    headers = request.raw_headers
    if not all(_TOKEN.fullmatch(name) and _VALUE.fullmatch(value) for name, value in headers):
        return "A header of this request is no HTTP."
    lengths, encodings = _values(headers, b"content-length"), _values(headers, b"transfer-encoding")
    if encodings and (
        lengths or [encoding.lower() for encoding in encodings] != [b"chunked"] or request.version < HttpVersion11
    ):
        return "The length of this request's body could be read in two ways."
    if len(lengths) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
        return "The length of this request's body could be read in two ways."
    if len(_values(headers, b"host")) > 1:
        return "This request names two hosts."
    return None


def declared_length(request: web.BaseRequest) -> int | None:
    """Bytes of a request's body, 0 where there is none, None for a chunked one."""
    if _values(request.raw_headers, b"transfer-encoding"):
        return None
    lengths = _values(request.raw_headers, b"content-length")
    return int(lengths[0]) if lengths else 0


def wants_websocket(request: web.BaseRequest) -> bool:
    """Whether a request asks for another protocol that is carried through (RFC 6455 §4.1)."""
    return (
        request.method == "GET"
        and request.version >= HttpVersion11
        and [value.lower() for value in _values(request.raw_headers, b"upgrade")] == [b"websocket"]
        and b"upgrade" in _connection_options(request.raw_headers)
        and declared_length(request) == 0
    )


def expects_continue(request: web.BaseRequest) -> bool:
    """Whether the sender waits with its body until it is asked for (RFC 9110 §10.1.1)."""
    return (
        request.version >= HttpVersion11
        and [value.lower() for value in _values(request.raw_headers, b"expect")] == [b"100-continue"]
        and declared_length(request) != 0
    )


def passed_target(application: Application, target: str) -> str:
    """The target at the application, byte for byte behind the application's own path."""
    if target == "*":
        return target
    if not target.startswith("/"):  # RFC 9112 §3.2.2: a whole address
        _, slash, path = target.partition("://")[2].partition("/")
        target = slash + path if slash else "/"
    return application.prefix + target


def request_head(
    request: web.BaseRequest,
    application: Application,
    *,
    host: Host,
    scheme: str,
    whole: bytes | None,
) -> bytes:
    """The head of the request to the application: headers in order and spelling, less those of one connection.

    ``scheme`` is that of the public address, for when nobody on the way has said so. ``whole`` is the body where
    it has been read already. X-Forwarded-For gets the peer's address added; X-Forwarded-Proto and
    X-Forwarded-Host are left as the tunnel has set them, else they are added.
    """
    raw = request.raw_headers
    dropped = _HOP_BY_HOP | {name for name in _connection_options(raw) if not _END_TO_END.fullmatch(name)}
    if whole is not None:
        dropped |= {b"expect"}
    public = _host(request)
    own = application.authority.encode()
    headers: list[tuple[bytes, bytes]] = []
    places: dict[bytes, int] = {}
    for name, value in raw:
        lowered = name.lower()
        if lowered in dropped:
            continue
        if lowered == b"host":
            value = own if host == "application" or public is None else public
        places[lowered] = len(headers)
        headers.append((name, value))
    if b"host" not in places:
        headers.insert(0, (b"Host", own if host == "application" or public is None else public))
        places = {name: place + 1 for name, place in places.items()}
    peer = (request.remote or "unknown").encode()
    if (place := places.get(b"x-forwarded-for")) is not None:
        name, value = headers[place]
        headers[place] = (name, value + b", " + peer if value else peer)
    else:
        headers.append((b"X-Forwarded-For", peer))
    if b"x-forwarded-proto" not in places:
        headers.append((b"X-Forwarded-Proto", scheme.encode()))
    if b"x-forwarded-host" not in places and public is not None:
        headers.append((b"X-Forwarded-Host", public))
    if _values(raw, b"transfer-encoding"):
        headers.append(
            (b"Transfer-Encoding", b"chunked") if whole is None else (b"Content-Length", b"%d" % len(whole))
        )
    if wants_websocket(request):
        headers += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    else:
        headers.append((b"Connection", b"close"))
    target = passed_target(application, request.raw_path).encode("utf-8", "surrogateescape")
    return _head(request.method.encode() + b" " + target + b" HTTP/1.1", headers)


@dataclass(frozen=True)
class AnswerHead:
    """The head of an application's answer. ``line`` is its status and reason without the version."""

    status: int
    line: bytes
    headers: RawHeaders

    def passed_on(self, version: str, *added: tuple[bytes, bytes], keep: frozenset[bytes] = frozenset()) -> bytes:
        """The head for a client of HTTP ``version``; ``keep`` are names that would be dropped otherwise."""
        dropped = (_HOP_BY_HOP | _connection_options(self.headers) - {b"content-length"}) - keep
        kept = [pair for pair in self.headers if pair[0].lower() not in dropped]
        return _head(f"HTTP/{version} ".encode() + self.line, [*kept, *added])

    def body(self, method: str) -> int | Literal["chunked", "until closed"]:
        """How the body ends: after so many bytes, or in one of two other ways; raises `NoHttp` (RFC 9112 §6.3)."""
        lengths, encodings = _values(self.headers, b"content-length"), _values(self.headers, b"transfer-encoding")
        if lengths and encodings:
            raise NoHttp("it has both a length and chunks")
        if len(set(lengths)) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
            raise NoHttp("its length is none")
        if encodings and [encoding.lower() for encoding in encodings] != [b"chunked"]:
            raise NoHttp("it has an unknown transfer encoding")
        if method == "HEAD" or self.status in (204, 304):
            return 0
        if encodings:
            return "chunked"
        return int(lengths[0]) if lengths else "until closed"

    @property
    def is_websocket(self) -> bool:
        """Whether the application speaks WebSocket from here on."""
        return self.status == 101 and [value.lower() for value in _values(self.headers, b"upgrade")] == [
            b"websocket"
        ]


def read_answer_head(head: bytes) -> AnswerHead:
    """The head of an answer, which ends with an empty line; raises `NoHttp`."""
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    found = _STATUS_LINE.fullmatch(first)
    if found is None:
        raise NoHttp("its first line is none of HTTP/1")
    headers: list[tuple[bytes, bytes]] = []
    for line in lines:
        if line[:1] in (b" ", b"\t") and headers:  # RFC 9112 §5.2: a folded line is made one
            name, value = headers[-1]
            headers[-1] = (name, value + b" " + line.strip(b" \t"))
            continue
        name, colon, value = line.partition(b":")
        if not colon or not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise NoHttp("it has a line that is no header")
        headers.append((name, value.strip(b" \t")))
    return AnswerHead(int(found[1]), first.partition(b" ")[2], tuple(headers))


def _host(request: web.BaseRequest) -> bytes | None:
    """The host that was asked for: that of a whole address goes before the header (RFC 9112 §3.2.2)."""
    target = request.raw_path
    if not target.startswith("/") and "://" in target:
        return target.partition("://")[2].partition("/")[0].encode("utf-8", "surrogateescape")
    hosts = _values(request.raw_headers, b"host")
    return hosts[0] if hosts and hosts[0] else None


def _values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value.strip(b" \t") for known, value in headers if known.lower() == name]


def _connection_options(headers: Iterable[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """The names that ``Connection`` lists, in lower case."""
    listed = b",".join(_values(headers, b"connection"))
    return frozenset(option.strip(b" \t").lower() for option in listed.split(b","))


def _head(line: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"\r\n".join([line, *(name + b": " + value for name, value in headers), b"", b""])
