"""Every real delivery, and odd ones, through `listen`: answered, recorded, forwarded, replayed as they came."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
from programs import Program, Programs
from raw_cases import CASES, RAW_CASES, RawCase
from raw_server import Answer, RawServer, Request, answer_with, exchange, headers_of

from b24tunnel import Journal, Recording, form

MAX_BODY = 65536
GET_QUERY = b"event=ONTASKUPDATE&data[FIELDS_AFTER][ID]=226"  # case 49: brackets as they are
# What Bitrix24's queue sends (case 16), in this order and spelling.
QUEUE_HEADERS = (
    (b"Host", b"203.0.113.10:8001"),
    (b"User-Agent", b"Bitrix24 Webhook Engine"),
    (b"Content-Type", b"application/x-www-form-urlencoded"),
    (b"Accept-Encoding", b"gzip"),
    (b"Connection", b"close"),
)


@dataclass(frozen=True)
class Sent:
    """One delivery: what is put on the wire, and the body that it means."""

    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = QUEUE_HEADERS
    method: bytes = b"POST"
    query: bytes = b""
    chunks: tuple[bytes, ...] = ()
    path: bytes | None = None

    def target(self, path: bytes) -> bytes:
        """The request target at this handler's path."""
        return (self.path or path) + (b"?" + self.query if self.query else b"")

    def all_headers(self) -> list[tuple[bytes, bytes]]:
        """The headers as sent, the one that tells the body's length included."""
        if self.chunks:
            return [*self.headers, (b"Transfer-Encoding", b"chunked")]
        if self.method == b"GET" or any(name.lower() == b"content-length" for name, _ in self.headers):
            return list(self.headers)
        return [*self.headers, (b"Content-Length", b"%d" % len(self.body))]

    def wire(self, path: bytes) -> bytes:
        """All bytes of the request."""
        lines = [b"%s %s HTTP/1.1" % (self.method, self.target(path))]
        lines += [b"%s: %s" % pair for pair in self.all_headers()]
        body = b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in (*self.chunks, b"")) if self.chunks else self.body
        return b"\r\n".join(lines) + b"\r\n\r\n" + body


def as_captured(case: RawCase) -> Sent:
    """A case as it was sent: with its own head where the whole request was captured."""
    if "-http-" not in case.name:
        return Sent(case.body)
    head = (CASES / f"{case.name}.txt").read_bytes().partition(b"\r\n\r\n")[0]
    target = head.split(b" ")[1]
    return Sent(case.body, tuple(headers_of(head)), query=target.partition(b"?")[2])


def with_headers(*more: tuple[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
    """The queue's headers with others before the last one."""
    return (*QUEUE_HEADERS[:-1], *more, QUEUE_HEADERS[-1])


def of_type(content_type: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """The queue's headers with another content type."""
    return tuple((n, content_type if n == b"Content-Type" else v) for n, v in QUEUE_HEADERS)


HOP_BY_HOP = (
    (b"Keep-Alive", b"timeout=5"),
    (b"TE", b"trailers"),
    (b"Proxy-Authorization", b"Basic eDp5"),
    (b"X-Of-This-Connection", b"1"),
    (b"Connection", b"close, X-Of-This-Connection"),
)
GZIPPED = gzip.compress(b"event=ONCRMDEALADD&data%5BFIELDS%5D%5BID%5D=7", mtime=0)

# Case 53: another server than Bitrix24's own.
MULTIPART = (
    b"".join(
        b'--------------------------051ce47e1a01672c\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
        % field
        for field in (
            (b"event", b"ONAPPUNINSTALL"),
            (b"data[CLEAN]", b"1"),
            (b"note", "строка 1\nстрока 2".encode()),
        )
    )
    + b"--------------------------051ce47e1a01672c--\r\n"
)

ODD = {
    "get": Sent(method=b"GET", query=GET_QUERY),
    "query-and-body": Sent(b"event=ONCRMDEALADD", query=b"a%2Fb=%D1%8F&&x=+&flag"),
    "gzip": Sent(GZIPPED, with_headers((b"Content-Encoding", b"gzip"))),
    "chunked": Sent(b"event=ONCRMDEALADD&x=1", chunks=(b"event=ONCRM", b"DEALADD&", b"x=1")),
    "binary": Sent(bytes(range(256)) * 8, of_type(b"application/octet-stream")),
    "bytes-that-are-no-utf-8": Sent(b"event=ONCRMLEADADD&data[TITLE]=\xcd\xee\xe2\x00\r\n\xfb"),
    "empty": Sent(b""),
    "json": Sent('{"event": "x", "text": "№"}'.encode(), of_type(b"application/json")),
    "multipart": Sent(
        MULTIPART, of_type(b"multipart/form-data; boundary=------------------------051ce47e1a01672c")
    ),
    "put": Sent(b"a=1", method=b"PUT"),
    "as-large-as-allowed": Sent(b"x=" + b"y" * (MAX_BODY - 2)),
    "repeated-headers": Sent(
        b"a=1",
        with_headers((b"X-Same", b"1"), (b"X-Same", b"2"), (b"X-Cyrillic", "Сделка".encode()), (b"X-None", b"")),
    ),
    "repeated-in-two-spellings": Sent(b"a=1", with_headers((b"X-Same", b"first"), (b"x-SAME", b"second"))),
    "header-that-is-no-utf-8": Sent(
        b"a=1",
        with_headers(
            (b"X-Cp1251", b"\xcd\xee\xe2"),
        ),
    ),
    "hop-by-hop": Sent(b"a=1", (*QUEUE_HEADERS[:-1], *HOP_BY_HOP)),
}
REFUSED = {
    "elsewhere": (404, Sent(b"event=ONCRMDEALADD", path=b"/elsewhere")),
    "the-root": (404, Sent(b"event=ONCRMDEALADD", path=b"/")),
    "another-segment": (404, Sent(b"event=ONCRMDEALADD", path=b"/b24/AAAAAAAAAAAAAAAAAAAAAAAA")),
    "too-large": (413, Sent(b"y" * (MAX_BODY + 1))),
    "too-large-in-chunks": (413, Sent(chunks=(b"y" * MAX_BODY, b"y"))),
}
UNREADABLE = ("binary", "gzip", "bytes-that-are-no-utf-8", "header-that-is-no-utf-8", "empty")
SENT = {**{case.name: as_captured(case) for case in RAW_CASES}, **ODD}


@dataclass
class Walk:
    """One `listen` that got every delivery, and one `replay` of all of them."""

    path: bytes = b""
    answers: dict[str, Answer] = field(default_factory=dict)
    recordings: dict[str, Recording] = field(default_factory=dict)
    forwarded: dict[str, Request] = field(default_factory=dict)
    replayed: dict[str, Request] = field(default_factory=dict)
    handler_port: int = 0
    replay: Program | None = None
    troubles: list[str] = field(default_factory=list)
    listed: Program | None = None
    shown: dict[str, Program] = field(default_factory=dict)


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    """Walked once, looked at by every test of this file."""
    directory = tmp_path_factory.mktemp("walk")
    env = {"B24TUNNEL_HOME": str(directory / "home")}
    programs = Programs(directory)
    try:
        with RawServer(answer_with("202 Accepted", b"taken")) as handler:
            yield walk_through(programs, handler, env)
    finally:
        programs.end_all()


def walk_through(programs: Programs, handler: RawServer, env: dict[str, str]) -> Walk:
    walk = Walk(handler_port=handler.port)
    target = f"{handler.url}?key=a%2Fb"
    listen = programs.b24tunnel(
        *("listen", "--no-bind", "--tunnel", "local", "--forward", target, "--max-body", str(MAX_BODY)),
        *("--concurrency", "1", "--output", "json"),
        env=env,
    )
    address = listen.next_json("ready")["handler_url"]
    walk.path = urlsplit(address).path.encode()
    for name, (_, sent) in REFUSED.items():
        walk.answers[name] = exchange(address, sent.wire(walk.path))
    for name, sent in SENT.items():
        walk.answers[name] = exchange(address, sent.wire(walk.path))
    handler.wait_for(len(SENT))
    assert listen.stop() == 0, str(listen)
    happened = [json.loads(line) for line in listen.lines]
    walk.troubles = [happening["message"] for happening in happened if happening["type"] == "trouble"]
    recordings = list(Journal.open(programs.directory / "recordings").recordings())
    walk.recordings = dict(zip(SENT, recordings, strict=True))
    walk.forwarded = dict(zip(SENT, handler.requests, strict=True))
    handler.requests.clear()
    walk.replay = programs.run("replay", "1", "--to", target, env=env)
    walk.listed = programs.run("list", env=env)
    walk.shown = {name: programs.run("show", walk.recordings[name].id, env=env) for name in UNREADABLE}
    walk.replayed = dict(zip(SENT, handler.requests, strict=True))
    return walk


LATIN_1 = b"\xcd\xee\xe2".decode("latin-1").encode()
OF_THE_CONNECTION = {b"host", b"content-length", b"connection", b"transfer-encoding"}


def without(headers: list[tuple[bytes, bytes]], names: set[bytes]) -> list[tuple[bytes, bytes]]:
    """The headers that are none of these, their names in lower case, for case means nothing in them."""
    return [(name.lower(), value) for name, value in headers if name.lower() not in names]


every_delivery = pytest.mark.parametrize("name", SENT)


@every_delivery
def test_a_delivery_is_answered_200_with_nothing_in_it(walk: Walk, name: str) -> None:
    assert (walk.answers[name].status, walk.answers[name].body) == (200, b"")


@every_delivery
def test_a_recording_holds_the_bytes_and_the_headers_as_they_came(walk: Walk, name: str) -> None:
    sent, recording = SENT[name], walk.recordings[name]
    assert recording.body == sent.body
    assert [(n.encode(), v.encode("utf-8", "surrogateescape")) for n, v in recording.headers] == sent.all_headers()
    assert recording.method.encode() == sent.method
    assert recording.target.encode("utf-8", "surrogateescape") == sent.target(walk.path)
    assert recording.http_version == "1.1"


@every_delivery
def test_the_handler_gets_the_same_bytes_with_the_headers_that_are_not_of_the_connection(
    walk: Walk, name: str
) -> None:
    sent, request = SENT[name], walk.forwarded[name]
    assert request.body == sent.body
    query = b"key=a%2Fb" + (b"&" + sent.query if sent.query else b"")
    assert request.line == b"%s /handler?%s HTTP/1.1" % (sent.method, query)
    assert request.header(b"Host") == [b"127.0.0.1:%d" % walk.handler_port]
    assert request.header(b"X-B24tunnel-Recording") == [walk.recordings[name].id.encode()]
    if sent.method != b"GET":
        assert request.header(b"Content-Length") == [b"%d" % len(sent.body)]
    hop_by_hop = OF_THE_CONNECTION | {name.lower() for name, _ in HOP_BY_HOP}
    if name == "header-that-is-no-utf-8" and request.header(b"X-Cp1251") == [LATIN_1]:
        return  # an HTTP client that writes UTF-8 only: read as Latin-1 the bytes are still told apart
    assert without(request.headers, OF_THE_CONNECTION | {b"x-b24tunnel-recording"}) == without(
        sent.all_headers(), hop_by_hop
    )


def test_the_handler_gets_the_names_of_headers_as_they_were_spelled(walk: Walk) -> None:
    names = [name for name, _ in walk.forwarded["01-raw-outgoing-webhook-2018"].headers]
    assert names[1:4] == [b"User-Agent", b"Content-Type", b"Accept-Encoding"]


@every_delivery
def test_a_replay_sends_the_same_bytes_again(walk: Walk, name: str) -> None:
    first, again = walk.forwarded[name], walk.replayed[name]
    assert (again.line, again.body) == (first.line, first.body)
    assert without(again.headers, {b"connection"}) == without(first.headers, {b"connection"})


def test_the_list_has_a_line_for_each(walk: Walk) -> None:
    assert walk.listed is not None
    assert walk.listed.process.returncode == 0, str(walk.listed)
    assert [line.split()[0] for line in walk.listed.lines[1:]] == [each.id for each in walk.recordings.values()]


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_is_no_text_is_shown_all_the_same(walk: Walk, name: str) -> None:
    shown = walk.shown[name]
    assert shown.process.returncode == 0, str(shown)
    assert shown.errors == []
    assert f"Body ({len(SENT[name].body)} bytes):\n" in shown.lines
    told = "".join(shown.lines)
    assert all(character.isprintable() or character in "\n\t" for character in told)
    assert "202 in" in told


def test_a_handlers_address_is_encoded_as_an_address_has_to_be(programs: Programs) -> None:
    with RawServer() as handler:
        target = f"http://127.0.0.1:{handler.port}/сделка 1?key=№%2F"
        listen = programs.b24tunnel("listen", "--no-bind", "--forward", target, "--output", "json")
        address = listen.next_json("ready")["handler_url"]
        assert exchange(address, Sent(b"a=1", query=b"b=%2F").wire(urlsplit(address).path.encode())).status == 200
        [request] = handler.wait_for(1)
        assert listen.stop() == 0
    assert request.line == b"POST /%D1%81%D0%B4%D0%B5%D0%BB%D0%BA%D0%B0%201?key=%E2%84%96%2F&b=%2F HTTP/1.1"


def test_the_replay_says_how_many_it_sent(walk: Walk) -> None:
    assert walk.replay is not None
    assert walk.replay.process.returncode == 0, str(walk.replay)
    assert f"{len(SENT)} sent, all answered 2xx.\n" in walk.replay.lines


@pytest.mark.parametrize("case", RAW_CASES, ids=lambda case: case.name)
def test_a_recording_parses_to_what_php_makes_of_it(walk: Walk, case: RawCase) -> None:
    recording = walk.recordings[case.name]
    assert form.parse(recording.body) == case.expect
    assert recording.code == case.event


def test_a_get_delivery_is_an_event_out_of_its_query(walk: Walk) -> None:
    recording = walk.recordings["get"]
    assert recording.code == "ONTASKUPDATE"
    assert recording.event.data == {"FIELDS_AFTER": {"ID": "226"}}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_for_the_handler_or_too_large_is_refused_in_plain_words(walk: Walk, name: str) -> None:
    status, _ = REFUSED[name]
    answer = walk.answers[name]
    assert answer.status == status
    assert answer.body.decode("ascii").endswith(".\n")
    assert b"Traceback" not in answer.body


def test_what_was_refused_is_not_recorded_and_said_where_it_may_have_been_real(walk: Walk) -> None:
    assert len(walk.recordings) == len(SENT)
    refused = [trouble for trouble in walk.troubles if "Refused a delivery" in trouble]
    assert len(refused) == 1, "the second within a minute is a number"
    assert "--max-body" in refused[0]
