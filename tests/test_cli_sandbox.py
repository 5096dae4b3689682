"""`b24tunnel sandbox` and `bindings`: the simulated portal as a program, and what a crash leaves on it."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
from programs import Programs, wait_until
from rest_call import rest

from b24tunnel.portal import Portal, State


def test_it_prints_one_line_with_all_that_an_application_needs_and_is_a_portal_while_it_runs(
    programs: Programs, home: Path
) -> None:
    sandbox = programs.b24tunnel("sandbox", "--port", "0", "--json")
    credentials = sandbox.next_json()
    for key in (
        *("client_endpoint", "access_token", "refresh_token", "client_id", "client_secret"),
        *("application_token", "domain", "member_id"),
    ):
        assert credentials[key], key
    wait_until(lambda: [p.name for p in State.open(home).portals()] == ["sandbox"], "the portal is registered")
    assert rest(credentials, "app.info")["INSTALLED"] is True
    assert sandbox.stop() == 0
    assert State.open(home).portals() == []
    assert len(sandbox.lines) == 1
    assert sandbox.errors == []


def test_sigterm_ends_it_in_order_too(programs: Programs, home: Path) -> None:
    sandbox = programs.b24tunnel("sandbox", "--json")
    sandbox.next_json()
    sandbox.send_signal(signal.SIGTERM)
    assert sandbox.wait() == 0
    assert State.open(home).portals() == []


def test_a_second_one_does_not_take_the_name_of_one_that_runs(programs: Programs, home: Path) -> None:
    first = programs.b24tunnel("sandbox", "--json").next_json()
    second = programs.run("sandbox", "--json")
    assert second.process.returncode == 2
    assert "--name" in second.errors[-1]
    assert State.open(home).portal("sandbox").client_id == first["client_id"]
    other = programs.b24tunnel("sandbox", "--json", "--name", "other").next_json()
    assert State.open(home).portal("other").client_id == other["client_id"]


def test_it_takes_over_the_name_of_one_that_was_killed(programs: Programs, home: Path) -> None:
    killed = programs.b24tunnel("sandbox", "--json")
    killed.next_json()
    killed.kill()
    credentials = programs.b24tunnel("sandbox", "--json").next_json()
    assert State.open(home).portal("sandbox").client_id == credentials["client_id"]


def test_it_never_takes_the_name_of_a_real_portal(programs: Programs, home: Path) -> None:
    real = Portal("mine", client_endpoint="https://example.bitrix24.com/rest/", refresh_token="precious")
    State.open(home).save_portal(real)
    sandbox = programs.run("sandbox", "--name", "mine")
    assert sandbox.process.returncode == 2
    assert State.open(home).portal("mine") == real


def test_it_prints_a_line_for_each_delivery_and_what_came_of_it(programs: Programs) -> None:
    sandbox = programs.b24tunnel("sandbox", "--delay", "0")
    wait_until(lambda: "sandbox call" in "".join(sandbox.lines), "the sandbox is up")
    listen = programs.b24tunnel("listen", "ONCRMDEALADD", "--output", "json")
    listen.next_json("ready")
    programs.run("sandbox", "call", "crm.deal.add", "fields[TITLE]=First")
    wait_until(
        lambda: any(re.search(r"delivered ONCRMDEALADD to http://\S+: 200", line) for line in sandbox.lines),
        "the delivery is told",
    )


def test_call_changes_a_deal_and_prints_the_result(programs: Programs) -> None:
    sandbox = programs.b24tunnel("sandbox")
    wait_until(lambda: "Ctrl-C" in "".join(sandbox.lines), "the sandbox is up")
    added = programs.run("sandbox", "call", "crm.deal.add", "fields[TITLE]=Сделка = 1 & 2")
    assert json.loads(added.lines[0]) == 1
    shown = programs.run("sandbox", "call", "crm.deal.get", "id=1")
    assert json.loads(shown.lines[0])["TITLE"] == "Сделка = 1 & 2"


def test_call_keeps_a_parameter_that_is_given_several_times(programs: Programs) -> None:
    programs.b24tunnel("sandbox", "--json").next_json()
    programs.run("sandbox", "call", "crm.deal.add", "fields[TITLE]=First", "fields[OPPORTUNITY]=5")
    listed = programs.run("sandbox", "call", "crm.deal.list", "select[]=TITLE", "select[]=OPPORTUNITY")
    [deal] = json.loads(listed.lines[0])
    assert deal["TITLE"] == "First"
    assert "OPPORTUNITY" in deal


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (("crm.deal.get", "id=99"), 3, "Not found"),
        (("no.such.method",), 3, "ERROR_METHOD_NOT_FOUND"),
        (("crm.deal.get", "id"), 2, "NAME=VALUE"),
        (("crm.deal.get", "--name", "sandbax"), 2, "sandbox"),
    ],
)
def test_a_call_that_cannot_be_is_one_sentence(
    programs: Programs, arguments: tuple[str, ...], exit_code: int, says: str
) -> None:
    programs.b24tunnel("sandbox", "--json").next_json()
    called = programs.run("sandbox", "call", *arguments)
    assert called.process.returncode == exit_code
    assert says in "".join(called.errors)
    assert "Traceback" not in str(called)


def test_clean_unbinds_what_a_killed_run_left_and_nothing_else(programs: Programs, home: Path) -> None:
    credentials = programs.b24tunnel("sandbox", "--json").next_json()
    rest(credentials, "event.bind", event="ONCRMDEALADD", handler="https://production.example.org/hook")
    killed = programs.b24tunnel("listen", "ONCRMDEALADD", "--output", "json", "--recordings", "first")
    killed.next_json("ready")
    living = programs.b24tunnel("listen", "ONCRMDEALADD", "--output", "json", "--recordings", "second")
    handler = living.next_json("ready")["handler_url"]
    killed.kill()
    states = [json.loads(line)["state"] for line in programs.run("bindings", "--json").lines]
    assert sorted(states) == ["bound", "left behind"]
    cleaned = programs.run("bindings", "clean")
    assert cleaned.process.returncode == 0, str(cleaned)
    assert cleaned.lines == ["Unbound 1 binding.\n"]
    left = {row["handler"] for row in rest(credentials, "event.get")}
    assert left == {"https://production.example.org/hook", handler}
    assert [json.loads(line)["handler"] for line in programs.run("bindings", "--json").lines] == [handler]


def test_the_next_listen_removes_what_a_killed_one_left_and_names_foreign_handlers(programs: Programs) -> None:
    credentials = programs.b24tunnel("sandbox", "--json").next_json()
    rest(credentials, "event.bind", event="ONCRMDEALADD", handler="https://p.example.org/hook?key=1")
    killed = programs.b24tunnel("listen", "ONCRMDEALADD", "--output", "json")
    killed.next_json("ready")
    killed.kill()
    living = programs.b24tunnel("listen", "ONCRMDEALADD", "--output", "json")
    handler = living.next_json("ready")["handler_url"]
    told = "".join(living.lines)
    assert "Unbound what a crashed run had left" in told
    assert "https://p.example.org/hook" in told
    assert "key=1" not in told, "other people keep keys in their addresses"
    assert {row["handler"] for row in rest(credentials, "event.get")} == {
        "https://p.example.org/hook?key=1",
        handler,
    }


def test_with_a_sandbox_its_bindings_are_gone_too(programs: Programs, home: Path) -> None:
    sandbox = programs.b24tunnel("sandbox", "--json")
    sandbox.next_json()
    killed = programs.b24tunnel("listen", "ONCRMDEALADD", "--output", "json")
    killed.next_json("ready")
    killed.kill()
    sandbox.stop()
    assert programs.run("bindings", "clean").lines == ["Nothing was left behind.\n"]
    assert State.open(home).ledger() == []


def test_what_is_bound_on_a_portal_that_does_not_answer_is_told_and_kept(programs: Programs, home: Path) -> None:
    sandbox = programs.b24tunnel("sandbox", "--json")
    sandbox.next_json()
    killed = programs.b24tunnel("listen", "ONCRMDEALADD", "--output", "json")
    killed.next_json("ready")
    killed.kill()
    sandbox.kill()
    cleaned = programs.run("bindings", "clean")
    assert cleaned.process.returncode == 3
    assert "still there" in "".join(cleaned.errors)
    assert len(State.open(home).ledger()) == 1
