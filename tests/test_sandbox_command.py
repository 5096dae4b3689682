"""The options of `b24tunnel sandbox`, its page, and `b24tunnel sandbox robot`."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request

import pytest
from programs import Programs, wait_until
from raw_server import RawServer
from rest_call import rest

from b24tunnel import form
from b24tunnel.portal import Portal, State


def test_it_is_the_portal_that_its_options_ask_for(programs: Programs) -> None:
    options = ("--token-life", "120", "--no-admin", "--not-installed", "--basic-offline", "--limits")
    credentials = programs.b24tunnel("sandbox", "--json", *options).next_json()
    assert credentials["expires_in"] == 120
    assert rest(credentials, "profile")["ADMIN"] is False
    assert rest(credentials, "app.info")["INSTALLED"] is False
    assert rest(credentials, "feature.get", code="rest_offline_extended") == {"value": "N"}

    def flood() -> None:
        for _ in range(1000):
            rest(credentials, "profile")

    with pytest.raises(urllib.error.HTTPError) as refused:
        flood()
    with refused.value as answer:
        assert (answer.code, json.load(answer)["error"]) == (503, "QUERY_LIMIT_EXCEEDED")


def test_without_options_nothing_is_in_the_way(programs: Programs) -> None:
    credentials = programs.b24tunnel("sandbox", "--json").next_json()
    assert credentials["expires_in"] == 3600
    assert all(rest(credentials, "profile")["ADMIN"] for _ in range(100))
    assert rest(credentials, "app.info")["INSTALLED"] is True
    assert rest(credentials, "feature.get", code="rest_offline_extended") == {"value": "Y"}


def test_it_prints_the_address_of_a_page_that_is_there(programs: Programs) -> None:
    sandbox = programs.b24tunnel("sandbox")
    found = wait_until(lambda: re.search(r"by hand at (\S+)", "".join(sandbox.lines)), "the page is told")
    with urllib.request.urlopen(found[1], timeout=30) as answer:
        assert b"Developer resources" in answer.read()


def test_a_robot_is_run_from_another_terminal(programs: Programs) -> None:
    sandbox = programs.b24tunnel("sandbox", "--delay", "0")
    wait_until(lambda: "sandbox call" in "".join(sandbox.lines), "the sandbox is up")
    unknown = programs.run("sandbox", "robot", "mine")
    assert unknown.process.returncode == 2
    assert "bizproc.robot.add" in "".join(unknown.errors)
    with RawServer() as handler:
        registered = ("code=mine", "name=Mine", f"handler={handler.url}robot")
        assert programs.run("sandbox", "call", "bizproc.robot.add", *registered).process.returncode == 0
        ran = programs.run("sandbox", "robot", "mine", "comment=Hello there", "list[]=1")
        assert (ran.process.returncode, ran.lines) == (0, ["The robot's request is on its way.\n"])
        wait_until(
            lambda: any(line.startswith("delivered mine to http://") for line in sandbox.lines),
            "the delivery is told",
        )
        [request] = handler.requests
        assert form.parse(request.body)["properties"] == {"comment": "Hello there", "list": ["1"]}
    assert programs.run("sandbox", "robot", "mine", "novalue").process.returncode == 2


def test_a_robot_is_run_on_sandboxes_only(programs: Programs) -> None:
    State.open().save_portal(Portal("mine", client_endpoint="https://example.bitrix24.com/rest/"))
    State.open().save_portal(Portal("gone", client_endpoint="http://127.0.0.1:1/rest/"))
    real = programs.run("sandbox", "robot", "x", "--name", "mine")
    assert (real.process.returncode, "no sandbox" in "".join(real.errors)) == (2, True)
    gone = programs.run("sandbox", "robot", "x", "--name", "gone")
    assert (gone.process.returncode, "still running" in "".join(gone.errors)) == (3, True)
    with RawServer() as other:
        State.open().save_portal(Portal("other", client_endpoint=f"{other.url}rest/"))
        ran = programs.run("sandbox", "robot", "x", "--name", "other")
        assert (ran.process.returncode, "no sandbox" in "".join(ran.errors)) == (2, True)
