"""Changed requests as a real PHP server reads them: with one change that value differs, and nothing else."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from programs import DEADLINE, Program, free_port, wait_until
from raw_cases import CASES, RAW_CASES

from b24tunnel.changing import leaves, with_value, without
from b24tunnel.recording import Headers, Recording

pytestmark = pytest.mark.php

SCRIPT = Path(__file__).with_name("php_changed.php")
NOW = datetime(2026, 11, 25, 14, 15, tzinfo=UTC)
FORM = "application/x-www-form-urlencoded"
SOME = settings(
    deadline=None, max_examples=100, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

Leaves = dict[tuple[str, ...], Any]


class View:
    """What PHP made of a request: its leaves by their keys."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.get = _leaves(answer["get"])
        self.post = _leaves(answer["post"])
        self.all = _leaves(answer["all"])
        self.files = answer["files"]
        self.length = answer["length"]


def _leaves(pairs: list[Any]) -> Leaves:
    return {
        tuple(map(_text, path)): _text(value) if isinstance(value, str) else json.loads(value["json"])
        for path, value in pairs
    }


def _text(spelled: str) -> str:
    return bytes.fromhex(spelled).decode("utf-8", "surrogateescape")


class Php:
    """A PHP server, and a client that sends it recordings byte for byte."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        settings = ("max_input_vars=100000", "request_order=GP", "display_errors=0", "opcache.enable=0")
        options = [f"-d{setting}" for setting in settings]
        self.program = Program(["php", "-n", *options, "-S", f"127.0.0.1:{self.port}", str(SCRIPT)], directory)
        wait_until(self._answers, "php -S answers")

    def _answers(self) -> bool:
        assert self.program.process.poll() is None, str(self.program)
        try:
            return self._exchange(b"GET /ready HTTP/1.0\r\n\r\n").endswith(b"ready")
        except OSError:
            return False

    def view(self, recording: Recording) -> View:
        """What PHP finds in this recording."""
        headers = [(name, value) for name, value in recording.headers if name.lower() != "content-length"]
        # From a recording that has none as much as from one that tells the truth.
        headers.append(("Content-Length", str(len(recording.body))))
        head = "".join(f"{name}: {value}\r\n" for name, value in headers)
        request = f"{recording.method} {recording.target} HTTP/1.0\r\nHost: x\r\n{head}\r\n"
        answer = self._exchange(request.encode("utf-8", "surrogateescape") + recording.body)
        status, _, _ = answer.partition(b"\r\n")
        assert b" 200 " in status, (answer, str(self.program))
        return View(json.loads(answer.partition(b"\r\n\r\n")[2]))

    def _exchange(self, request: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE) as connection:
            connection.sendall(request)
            pieces = []
            while piece := connection.recv(1 << 16):
                pieces.append(piece)
        return b"".join(pieces)


@pytest.fixture(scope="module")
def php(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Php]:
    server = Php(tmp_path_factory.mktemp("php"))
    yield server
    server.program.kill()
    for stream in (server.program.process.stdout, server.program.process.stderr):
        assert stream is not None
        stream.close()


def request(
    body: bytes, content_type: str | None = FORM, target: str = "/hook", method: str = "POST"
) -> Recording:
    headers: Headers = (("Content-Type", content_type),) if content_type is not None else ()
    return Recording("12-5", NOW, method, target, headers, body)


def captured(name: str) -> Recording:
    """A whole request of the cases."""
    head, _, body = (CASES / name).read_bytes().partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    method, target, _ = first.split(" ")
    headers = [tuple(line.split(": ", 1)) for line in lines if not line.startswith(("Host", "Connection"))]
    return Recording("12-5", NOW, method, target, tuple((name, value) for name, value in headers), body)


BOUNDARY = "------------------------051ce47e1a01672c"
MULTIPART = "multipart/form-data; boundary=" + BOUNDARY


def multipart(*parts: tuple[str, bytes], end: str = "--\r\n", line: str = "\r\n") -> bytes:
    body = b""
    for disposition, value in parts:
        head = f"--{BOUNDARY}{line}Content-Disposition: form-data; {disposition}{line}{line}"
        body += head.encode("utf-8", "surrogateescape") + value + line.encode()
    return body + f"--{BOUNDARY}{end}".encode()


FIELDS = multipart(
    ('name="event"', b"ONAPPUNINSTALL"),
    ('name="data[CLEAN]"', b"1"),
    ('name="data[LANGUAGE_ID]"', b"ru"),
    ('name="file"; filename="event.txt"', b"event=x\r\n"),
    ('name="ts"', b"1655823904"),
    ('name="auth[domain]"', b"example.bitrix24.ru"),
    ('name="auth[application_token]"', b"45c65f15280fc83027cd60fa5963483b"),
    ("name=plain", b""),
    ('name="a.b [x]"', b"\xcd\xee"),
    ('name="note"', "строка 1\r\nстрока 2".encode()),
)
TASK_COMMENT = (
    rb'{"event":"ONTASKCOMMENTADD","data":{"FIELDS_BEFORE":"undefined","FIELDS_AFTER":{"ID":"6453"},"IS":[true,7,'
    rb'{"x":1.50}, null ,"\u0422\u0435\"\\\/"]},"ts":1652439800,"auth":{"client_endpoint":"https:\/\/crm\/"}}'
)

REQUESTS = {
    **{case.name: request(case.body) for case in RAW_CASES},
    "09 whole": captured("09-http-placement-query-and-body.txt"),
    "16 whole": captured("16-http-imbotv2-full-capture.txt"),
    "GET": request(b"", None, "/api/webhook/bitrix24.php?event=ONTASKUPDATE&data[FIELDS_AFTER][ID]=226", "GET"),
    "query under body": request(
        b"a[b]=1&x[]=5&c=2", target="/h?a[b]=0&a[z]=3&c[d]=4&x[1]=6&x[0][q]=7&%C3%A9=%D0%BF&api-key=k"
    ),
    "multipart": request(FIELDS, MULTIPART),
    "multipart over query": request(FIELDS, MULTIPART, "/h?event=E&data[MORE]=1&user=2"),
    "JSON": request(TASK_COMMENT, "application/json; charset=utf-8"),
    "JSON over query": request(TASK_COMMENT, "application/json", "/h?event=E&data[MORE]=1&user=2"),
    "spread JSON": request(
        json.dumps(json.loads(TASK_COMMENT), indent=2).encode() + b"\n", "application/json", "/h"
    ),
}


def spelled(value: Any) -> Any:
    """PHP's value as `leaves` has it."""
    return value if isinstance(value, str) else json.dumps(value)


@pytest.mark.parametrize("name", REQUESTS)
def test_php_finds_the_leaves_of_a_request(php: Php, name: str) -> None:
    recording = REQUESTS[name]
    seen = {path: spelled(value) for path, value in php.view(recording).all.items()}
    found = leaves(recording)
    if name.startswith(("JSON", "spread")):
        # PHP drops the zero of 1.50, which is kept as it was sent.
        assert found.pop(("data", "IS", "2", "x"), "1.5") in ("1.50", "1.5")
        del seen["data", "IS", "2", "x"]
    assert found == seen
    assert len(found) > 1


@pytest.mark.parametrize("name", REQUESTS)
def test_php_finds_one_value_changed_and_no_other(php: Php, name: str) -> None:
    recording = REQUESTS[name]
    before = php.view(recording)
    for path, value in before.all.items():
        for wanted in ("54321", 'я &=+%"\\\r\n'):
            changed = with_value(recording, path, wanted)
            after = php.view(changed)
            expected = json.loads(wanted) if not isinstance(value, str) and wanted == "54321" else wanted
            assert after.all == {**before.all, path: expected}, path
            assert after.files == before.files
            assert_one_place_differs(recording, changed)


@pytest.mark.parametrize("name", REQUESTS)
def test_php_misses_one_value_and_no_other(php: Php, name: str) -> None:
    recording = REQUESTS[name]
    before = php.view(recording)
    for path in before.all:
        after = php.view(without(recording, path))
        if may_shift(recording, path):
            assert len(after.all) == len(before.all) - 1, path
        else:
            assert after.all == {other: value for other, value in before.all.items() if other != path}, path
        assert after.files == before.files


@pytest.mark.parametrize("name", REQUESTS)
def test_php_misses_one_array_and_no_other_value(php: Php, name: str) -> None:
    recording = REQUESTS[name]
    before = php.view(recording)
    for path in {leaf[:length] for leaf in before.all for length in range(1, len(leaf))}:
        after = php.view(without(recording, path))
        kept = {other: value for other, value in before.all.items() if other[: len(path)] != path}
        if may_shift(recording, path):
            assert len(after.all) == len(kept), path
        else:
            assert after.all == kept, path


def may_shift(recording: Recording, path: tuple[str, ...]) -> bool:
    """Whether something behind the path is counted anew without it: in lists of JSON and after `[]`."""
    if recording.body[:1] == b"{":
        return "IS" in path[:-1]
    both = recording.target.encode() + recording.body
    return (b"[]" in both or b"%5B%5D" in both) and path[-1].isdecimal()


def assert_one_place_differs(one: Recording, other: Recording) -> None:
    """Either the targets or the bodies differ, and what differs is within one value."""
    assert (one.target == other.target) != (one.body == other.body)
    old, new = one.body, other.body
    if old == new:
        old, new = one.target.encode(), other.target.encode()
    shorter = min(len(old), len(new))
    start = next((place for place in range(shorter) if old[place] != new[place]), shorter)
    end = next((place for place in range(shorter - start) if old[-1 - place] != new[-1 - place]), shorter - start)
    middle = old[start : len(old) - end]
    assert b"&" not in middle
    assert b"--" + BOUNDARY.encode() not in middle
    assert b'":' not in middle


# Forms that hypothesis makes up


KEYS = st.sampled_from(["a", "b", "0", "1", "c d", "é", "x.y", ""])
NAMES = st.lists(KEYS, min_size=1, max_size=3).map(
    lambda keys: (keys[0] or "n") + "".join(f"[{key}]" for key in keys[1:])
)
VALUES = st.one_of(
    st.sampled_from([b"", b"\r\n", b"\n", b"--", b"--" + BOUNDARY.encode()[:-1], b"&a=1", b"\0", b"\xff\r"]),
    st.binary(max_size=12),
)
DISPOSITIONS = NAMES.flatmap(
    lambda name: st.sampled_from(
        [
            f'name="{name}"',
            f"name='{name}'",
            f'NAME = "{name}"',
            f'filename=""; name="{name}"',
            f'name="{name}"; filename="x"',
            f'name="no"; name="{name}"',
            f'x="a;name=no"; name="{name}"',
            f'name="\\"{name}\\\\ \\q"',
            f"name={name.replace(' ', '')} other",
            f'x=1;\r\n name="{name}"\r\nX-More: 1',
            f'attachment\r\nX: form-data; name="{name}"',
        ]
    )
)
PARTS = st.lists(st.tuples(DISPOSITIONS, VALUES), max_size=5)
ENDS = st.sampled_from(["--\r\n", "--", "", "\r\n", "\n", "x", "--\r\nmore\r\n--" + BOUNDARY + "\r\n\r\n"])


@SOME
@given(PARTS, ENDS, st.sampled_from(["\r\n", "\n"]), st.sampled_from([b"", b"preamble\r\n", b"\r\n"]))
@example([('name="a"', b"1"), ("", b"2"), ('name="b"', b"3")], "--", "\r\n", b"")
@example([('name="a\\";b"', b"1"), ("name='c;\\'d'", b"2")], "--", "\r\n", b"")
@example([('name="a"', b"1"), ('xname="n"', b"2"), ('name="b"', b"3")], "--", "\r\n", b"")
def test_a_multipart_body_has_the_leaves_that_php_finds(
    php: Php, parts: list[tuple[str, bytes]], end: str, line: str, preamble: bytes
) -> None:
    recording = request(preamble + multipart(*parts, end=end, line=line), MULTIPART)
    assert leaves(recording) == php.view(recording).post


@SOME
@given(PARTS.filter(bool), ENDS, VALUES, st.data())
def test_a_multipart_body_is_changed_in_one_value(
    php: Php, parts: list[tuple[str, bytes]], end: str, value: bytes, data: st.DataObject
) -> None:
    recording = request(multipart(*parts, end=end), MULTIPART)
    before = leaves(recording)
    if not before:
        return
    path = data.draw(st.sampled_from(list(before)))
    text = value.decode("utf-8", "surrogateescape")
    changed = with_value(recording, path, text)
    assert php.view(changed).post == {**before, path: text}
    after = php.view(without(recording, path)).post
    if any("[]" in disposition for disposition, _ in parts):
        assert len(after) <= len(before)
    else:
        assert after == {other: kept for other, kept in before.items() if other != path}


QUERIES = st.lists(st.tuples(NAMES, st.sampled_from(["", "=", "=1", "=%ff+x"])).map("".join), max_size=4).map(
    lambda pairs: "&".join(pairs).replace(" ", "+").replace("é", "%C3%A9")
)


@SOME
@given(QUERIES, QUERIES, st.data())
def test_body_and_query_are_changed_where_php_looks(php: Php, query: str, body: str, data: st.DataObject) -> None:
    recording = request(body.encode(), target=f"/h?{query}")
    before = php.view(recording).all
    assert leaves(recording) == before
    if not before:
        return
    path = data.draw(st.sampled_from(list(before)))
    assert php.view(with_value(recording, path, "я")).all == {**before, path: "я"}
    after = php.view(without(recording, path)).all
    if "[]" not in query + body:
        assert after == {other: kept for other, kept in before.items() if other != path}


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.text(max_size=5))
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text('ab0"\\é', max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
).filter(lambda document: isinstance(document, dict | list))


@SOME
@given(
    DOCUMENTS, st.sampled_from([None, 1]), st.booleans(), st.one_of(st.text(max_size=5), st.just("7")), st.data()
)
def test_a_json_body_is_changed_in_one_value(
    php: Php, document: Any, indent: int | None, ascii_only: bool, value: str, data: st.DataObject
) -> None:
    body = json.dumps(document, indent=indent, ensure_ascii=ascii_only).encode()
    recording = request(body, "application/json")
    before = php.view(recording).post
    assert leaves(recording) == {path: spelled(found) for path, found in before.items()}
    if not before:
        return
    path = data.draw(st.sampled_from(list(before)))
    after = php.view(with_value(recording, path, value)).post
    assert {other: found for other, found in after.items() if other != path} == {
        other: found for other, found in before.items() if other != path
    }
    if isinstance(before[path], str):
        assert after[path] == value
    else:
        assert spelled(after[path]) in (value, value.strip())
    assert len(php.view(without(recording, path)).post) == len(before) - 1
