"""A deal changes on the sandbox, and handlers that this project did not write see byte for byte what was sent."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from programs import Programs, free_port, wait_until
from raw_cases import RAW_CASES, RawCase
from raw_server import deliver
from rest_call import rest

from b24tunnel import Journal, Recording, form, replay
from b24tunnel.changing import leaves
from b24tunnel.replaying import SetValue

HANDLERS = Path(__file__).with_name("handlers")


class Handler:
    """A handler program: its ``url``, and the lines that it has written about what it got."""

    def __init__(self, url: str, file: Path) -> None:
        self.url = url
        self._file = file

    def seen(self, count: int) -> list[dict[str, Any]]:
        """What it got, once that is ``count`` deliveries."""

        def lines() -> list[str]:
            text = self._file.read_text("utf-8") if self._file.exists() else ""
            return [line for line in text.split("\n")[:-1] if line]

        wait_until(lambda: len(lines()) >= count, f"{count} deliveries noted by {self.url}")
        return [json.loads(line) for line in lines()]


def python_handler(programs: Programs, script: str) -> Handler:
    file = programs.directory / "seen.jsonl"
    program = programs.start(sys.executable, str(HANDLERS / script), str(file))
    return Handler(program.next_json()["url"], file)


def php_handler(programs: Programs) -> Handler:
    file = programs.directory / "seen.jsonl"
    address = f"127.0.0.1:{free_port()}"
    program = programs.start("php", "-S", address, str(HANDLERS / "handler.php"), env={"SEEN_FILE": str(file)})

    def answers() -> bool:
        assert program.process.poll() is None, str(program)
        try:
            with urllib.request.urlopen(f"http://{address}/", timeout=5) as answer:
                return answer.read() == b"ready"
        except OSError:
            return False

    wait_until(answers, "php -S answers")
    return Handler(f"http://{address}/handler.php", file)


STARTS: dict[str, Callable[[Programs], Handler]] = {
    "fastapi": lambda programs: python_handler(programs, "fastapi_handler.py"),
    "flask": lambda programs: python_handler(programs, "flask_handler.py"),
    "php": php_handler,
}


@pytest.fixture(params=["fastapi", "flask", pytest.param("php", marks=pytest.mark.php)])
def handler(request: pytest.FixtureRequest, programs: Programs) -> Handler:
    return STARTS[request.param](programs)


def in_hex(value: Any) -> Any:
    """A parsed body with its values as the PHP handler writes them."""
    if isinstance(value, dict):
        return {key: in_hex(item) for key, item in value.items()}
    if isinstance(value, list):
        return [in_hex(item) for item in value]
    return value.encode("utf-8", "surrogateescape").hex()


def test_a_handler_sees_the_changed_deal_byte_for_byte_and_again_at_a_replay(
    programs: Programs, handler: Handler
) -> None:
    sandbox = programs.b24tunnel("sandbox", "--port", "0", "--delay", "0", "--json")
    credentials = sandbox.next_json()
    listen = programs.b24tunnel(
        *("listen", "ONCRMDEALUPDATE", "--portal", "sandbox", "--forward", handler.url, "--output", "json")
    )
    ready = listen.next_json("ready")
    assert ready["events"] == ["ONCRMDEALUPDATE"]

    deal = rest(credentials, "crm.deal.add", fields={"TITLE": "Сделка & Co"})
    assert rest(credentials, "crm.deal.update", id=deal, fields={"TITLE": "Сделка № 2"}) is True

    recorded = listen.next_json("recorded")
    assert (recorded["code"], recorded["verdict"]) == ("ONCRMDEALUPDATE", "verified")
    attempt = listen.next_json("attempt")
    assert (attempt["recording"], attempt["status"], attempt["error"]) == (recorded["id"], 200, None)
    assert listen.stop() == 0

    recording = Journal.open(programs.directory / "recordings").get(recorded["id"])
    assert recording is not None
    event = recording.event
    assert event.data["FIELDS"]["ID"] == str(deal)
    assert event.ts is not None
    [view] = handler.seen(1)
    assert bytes.fromhex(view["body"]) == recording.body
    assert (view["event"], view["deal"]) == (event.code, event.data["FIELDS"]["ID"])
    if "post" in view:
        assert view["post"] == in_hex(form.parse(recording.body))
        assert view["recording"] == recording.id
    else:
        assert view["ts"] == event.ts.timestamp()
        assert str(view["handler_id"]) == event.handler_id
        assert view["member_id"] == credentials["member_id"]

    replay = programs.run("replay", recording.id, "--to", handler.url, "--json")
    assert replay.process.returncode == 0, str(replay)
    again = handler.seen(2)
    assert again[1] == view


def test_the_sandbox_can_be_asked_by_the_command_too(programs: Programs) -> None:
    handler = python_handler(programs, "flask_handler.py")
    programs.b24tunnel("sandbox", "--port", "0", "--delay", "0", "--json").next_json()
    listen = programs.b24tunnel(
        *("listen", "ONCRMDEALUPDATE", "--portal", "sandbox", "--forward", handler.url, "--output", "json")
    )
    listen.next_json("ready")
    added = programs.run("sandbox", "call", "crm.deal.add", "fields[TITLE]=First")
    deal = str(json.loads(added.lines[0]))
    changed = programs.run("sandbox", "call", "crm.deal.update", f"id={deal}", "fields[TITLE]=Other")
    assert json.loads(changed.lines[0]) is True, str(changed)
    [view] = handler.seen(1)
    assert (view["event"], view["deal"]) == ("ONCRMDEALUPDATE", deal)
    assert listen.stop() == 0


@pytest.mark.php
def test_php_finds_every_real_delivery_in_its_post_as_this_package_parses_it(programs: Programs) -> None:
    handler = php_handler(programs)
    listen = programs.b24tunnel(
        *("listen", "--no-bind", "--tunnel", "local", "--forward", handler.url, "--concurrency", "1"),
        *("--output", "json"),
    )
    address = listen.next_json("ready")["handler_url"]
    for case in RAW_CASES:
        assert deliver(address, case.body).status == 200
    views = handler.seen(len(RAW_CASES))
    assert listen.stop() == 0
    for case, view in zip(RAW_CASES, views, strict=True):
        assert bytes.fromhex(view["body"]) == case.body, case.name
        assert view["post"] == in_hex(form.parse(case.body)), case.name
        assert view["post"] == in_hex(case.expect), case.name


def changed(parsed: Any, keys: tuple[str, ...], value: str) -> Any:
    """A parsed body with one value in place of another."""
    if not keys:
        return value
    first, *rest = keys
    if isinstance(parsed, list):
        place = int(first)
        return [*parsed[:place], changed(parsed[place], tuple(rest), value), *parsed[place + 1 :]]
    return {**parsed, first: changed(parsed[first], tuple(rest), value)}


@pytest.mark.php
def test_php_finds_one_value_changed_in_a_replay_of_every_real_delivery_and_no_other(programs: Programs) -> None:
    handler = php_handler(programs)
    headers = (("Content-Type", "application/x-www-form-urlencoded"),)
    sent: list[tuple[RawCase, tuple[str, ...]]] = []
    for number, case in enumerate(RAW_CASES, 1):
        one = Recording(f"1-{number}", datetime.now(UTC), "POST", "/b24/x", headers, case.body, code=case.event)
        for path in leaves(one):
            assert replay([one], handler.url, changes=[SetValue(form.join_path(path), "Другое & 7")]).ok
            sent.append((case, path))
    for (case, path), view in zip(sent, handler.seen(len(sent)), strict=True):
        assert view["post"] == in_hex(changed(case.expect, path, "Другое & 7")), (case.name, path)
        body, fields = bytes.fromhex(view["body"]), form.fields(case.body)
        field = [one for one in fields if one.path == path][-1]
        new = (b"=" if field.is_bare else b"") + b"%D0%94%D1%80%D1%83%D0%B3%D0%BE%D0%B5+%26+7"
        assert body == case.body[: field.value_start] + new + case.body[field.value_end :], (case.name, path)
