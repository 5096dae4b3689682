"""`b24tunnel portal`: each way in as a person goes it, from nothing to stored credentials, and what is shown."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from programs import DEADLINE, Program, Programs, free_port, wait_until
from rest_call import rest
from terminal_program import Terminal

from b24tunnel import Journal
from b24tunnel.portal import LedgerRow, Portal, State

SECRETS = {
    "client_secret": "SECRET-client-4f1d",
    "access_token": "SECRET-access-9a2b",
    "refresh_token": "SECRET-refresh-77c3",
    "application_token": "SECRET-application-0e5d",
}

Open = Callable[..., "Person"]


class Person(Terminal):
    """A terminal that leaves nothing behind."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        super().__init__(directory, *arguments)
        self.ended = False

    def exit_code(self) -> int:
        code = super().exit_code()
        self.ended = True
        return code

    def arguments(self) -> str:
        """What everybody on this machine can see of the program."""
        return Path(f"/proc/{self._pid}/cmdline").read_bytes().decode(errors="replace")

    def end(self) -> None:
        if not self.ended:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            os.close(self._terminal)


class SandboxProcess:
    """`b24tunnel sandbox` in a process of its own, set up by hand on its page "Developer resources"."""

    def __init__(self, program: Program) -> None:
        self.credentials = program.next_json()
        self.url = str(self.credentials["client_endpoint"]).removesuffix("/rest/")

    def application(self, handler: str, *, install: str = "", api_only: bool = False) -> None:
        """Save the form of the local application."""
        fields = {"form": "application", "handler": handler, "install": install}
        self.save(fields | ({"api_only": "Y"} if api_only else {}))

    def webhook(self, handler: str) -> str:
        """Add an outgoing webhook; its token."""
        page = self.save({"form": "webhook", "handler": handler, "events": "ONCRMDEALADD"})
        found = re.search(r"application token is (\w+)", page)
        assert found is not None, page
        return found[1]

    def save(self, fields: dict[str, str]) -> str:
        """Fill in a form of that page; the page that comes back."""
        data = urllib.parse.urlencode(fields).encode()
        with urllib.request.urlopen(f"{self.url}/devops/", data, timeout=DEADLINE) as answer:
            return str(answer.read().decode())


@pytest.fixture
def sandbox(programs: Programs) -> SandboxProcess:
    """A portal that this home does not know yet."""
    env = {"B24TUNNEL_HOME": str(programs.directory / "elsewhere")}
    return SandboxProcess(programs.b24tunnel("sandbox", "--delay", "0", "--json", env=env))


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Open]:
    """Opens terminals and types a command there."""
    opened: list[Person] = []

    def type_command(*arguments: str) -> Person:
        opened.append(Person(tmp_path, *arguments))
        return opened[-1]

    yield type_command
    for terminal in opened:
        terminal.end()


def browse(url: str) -> tuple[int, str]:
    """What a browser does with an address: it follows where it is led. The last answer."""
    try:
        with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def address_on(terminal: Person, holding: str) -> str:
    """The address that stands on a line of its own."""

    def found() -> re.Match[str] | None:
        return re.search(rf"^ *(http://\S*{holding}\S*)\r?$", terminal.read(), re.MULTILINE)

    match = wait_until(found, f"an address on the terminal, which shows: {terminal.shown}")
    return str(match[1])


def add_oauth(person: Open, sandbox: SandboxProcess) -> Person:
    """A person who stores the application by answering what is asked."""
    adding = person("portal", "add", "work")
    adding.wait_for("Way in")
    adding.type("oauth\n")
    adding.wait_for("address")
    adding.type(f"{sandbox.url}\n")
    adding.wait_for("client_id")
    adding.type(f"{sandbox.credentials['client_id']}\n")
    adding.wait_for("not shown")
    adding.type_unseen(f"{sandbox.credentials['client_secret']}\n")
    assert adding.exit_code() == 0
    return adding


def store(**changes: str) -> Portal:
    values = {
        "client_endpoint": "https://example.bitrix24.com/rest/",
        "server_endpoint": "https://oauth.bitrix.info/rest/",
        "domain": "example.bitrix24.com",
        "client_id": "local.5f",
        "user_id": "7",
        "scope": "crm,task",
        **SECRETS,
        **changes,
    }
    portal = Portal(name="work", **values)  # type: ignore[arg-type]
    State.open().save_portal(portal)
    return portal


def test_oauth_from_nothing_to_a_recorded_event(
    person: Open, sandbox: SandboxProcess, programs: Programs, tmp_path: Path
) -> None:
    adding = add_oauth(person, sandbox)
    assert "b24tunnel portal login work" in adding.shown
    login = person("portal", "login", "work", "--no-browser")
    handler = address_on(login, "/oauth")
    sandbox.application(handler)
    login.wait_for("press Enter")
    login.type("\n")
    authorise = address_on(login, "/oauth/authorize/")
    assert str(sandbox.credentials["client_secret"]) not in login.arguments()
    status, page = browse(authorise)
    assert (status, "Signed in" in page) == (200, True)
    assert login.exit_code() == 0
    assert "Signed in to work" in login.shown
    assert "application_token is not known yet" in login.shown
    stored = State.open().portal("work")
    assert rest({"client_endpoint": stored.client_endpoint, "access_token": stored.access_token}, "app.info")
    assert (stored.kind, stored.member_id, stored.user_id) == ("oauth", sandbox.credentials["member_id"], "1")
    assert stored.scope == sandbox.credentials["scope"]
    for secret in (stored.client_secret, stored.access_token, stored.refresh_token):
        assert secret
        assert secret not in adding.shown + login.shown + page
    # What it was for.
    rest_with = {"client_endpoint": stored.client_endpoint, "access_token": stored.access_token}
    sandbox.application(handler, api_only=True)
    listen = programs.b24tunnel("listen", "ONCRMDEALADD", "--portal", "work", "--output", "json")
    listen.next_json("ready")
    rest(rest_with, "crm.deal.add", fields={"TITLE": "First"})
    assert listen.next_json("recorded")["code"] == "ONCRMDEALADD"
    assert listen.stop() == 0


def test_the_browser_is_opened_with_the_address_that_is_shown(
    person: Open, sandbox: SandboxProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = tmp_path / "browser"
    # It stays open, as some do until their window is closed.
    browser.write_text(
        f"#!{sys.executable}\nimport os, sys, time, urllib.request\nparent = os.getppid()\n"
        "urllib.request.urlopen(sys.argv[1])\nwhile os.getppid() == parent:\n    time.sleep(0.02)\n"
    )
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", str(browser))
    add_oauth(person, sandbox)
    login = person("portal", "login", "work")
    sandbox.application(address_on(login, "/oauth"))
    login.wait_for("press Enter")
    login.type("\n")
    assert login.exit_code() == 0
    assert State.open().portal("work").access_token


def test_returns_of_others_change_nothing_and_the_login_goes_on_waiting(
    person: Open, sandbox: SandboxProcess
) -> None:
    add_oauth(person, sandbox)
    login = person("portal", "login", "work", "--no-browser", "--no-wait")
    handler = address_on(login, "/b24/[^/]+/oauth")
    sandbox.application(handler)
    authorise = address_on(login, "/oauth/authorize/")
    wrong = re.sub(r"state=[^&]+", "state=<script>x</script>", authorise)
    status, page = browse(wrong)
    assert (status, "<script" in page) == (403, False)
    assert browse(f"{handler}?code=stolen&state=")[0] == 403
    assert State.open().portal("work").access_token == ""
    assert browse(authorise)[0] == 200
    assert login.exit_code() == 0


def test_a_wrong_client_secret_ends_the_login_with_one_sentence(person: Open, sandbox: SandboxProcess) -> None:
    store(
        kind="oauth",
        client_endpoint=f"{sandbox.url}/rest/",
        server_endpoint=f"{sandbox.url}/rest/",
        domain=sandbox.url.removeprefix("http://"),
        client_id=str(sandbox.credentials["client_id"]),
        client_secret="SECRET-of-another-application",
    )
    login = person("portal", "login", "work", "--no-browser", "--no-wait")
    sandbox.application(address_on(login, "/b24/[^/]+/oauth"))
    status, page = browse(address_on(login, "/oauth/authorize/"))
    assert (status, "Not signed in" in page) == (502, True)
    assert login.exit_code() == 3
    assert "the client_id or client_secret is wrong" in " ".join(login.shown.split())
    assert "Traceback" not in login.shown
    assert "SECRET" not in login.shown
    assert State.open().portal("work").access_token == SECRETS["access_token"]


def test_nobody_who_comes_back_ends_the_login_after_the_time_that_was_given(
    programs: Programs, sandbox: SandboxProcess
) -> None:
    store(kind="oauth", client_endpoint=f"{sandbox.url}/rest/", domain=sandbox.url.removeprefix("http://"))
    login = programs.run("portal", "login", "work", "--no-browser", "--timeout", "1")
    assert login.process.returncode == 3
    assert "nobody came back from 127.0.0.1" in "".join(login.errors).lower()
    assert "within 1 s" in "".join(login.errors)


def test_ctrl_c_ends_a_login_in_order(person: Open, sandbox: SandboxProcess) -> None:
    add_oauth(person, sandbox)
    login = person("portal", "login", "work", "--no-browser")
    login.wait_for("press Enter")
    login.type("\x03")
    assert login.exit_code() == 130
    assert "Not signed in." in login.shown
    assert "Traceback" not in login.shown


def test_ctrl_c_at_a_question_of_add_is_an_interruption(person: Open) -> None:
    adding = person("portal", "add", "work")
    adding.wait_for("Way in")
    adding.type("\x03")
    assert adding.exit_code() == 130
    assert "Error: Interrupted." in adding.shown
    assert "Aborted" not in adding.shown


def test_listening_to_a_webhook_says_that_it_is_bound_on_the_portal(programs: Programs) -> None:
    store(kind="webhook", client_endpoint="https://example.bitrix24.com/rest/", domain="example.bitrix24.com")
    listen = programs.run("listen", "ONCRMDEALADD", "--portal", "work")
    assert listen.process.returncode == 2
    assert "listen with --no-bind" in "".join(listen.errors)


def test_a_methods_name_is_written_as_it_is(programs: Programs) -> None:
    store(kind="oauth", client_endpoint="http://127.0.0.1:9/rest/", domain="127.0.0.1:9", access_token="x")
    listen = programs.run("listen", "ONCRMDEALADD", "--portal", "work", "--tunnel", "local")
    assert "".join(listen.errors).startswith("Error: app.info on the portal work got no answer")


def test_ctrl_c_at_a_hidden_question_leaves_a_terminal_that_shows_what_is_typed(
    person: Open, sandbox: SandboxProcess
) -> None:
    person("portal", "add", "work", "--kind", "webhook", "--domain", sandbox.url).exit_code()
    login = person("portal", "login", "work")
    login.wait_for("not shown")
    assert not login.echoes()
    login.type("\x03")
    login.wait_for("Not signed in.")
    assert login.echoes()
    assert login.exit_code() == 130


def test_what_is_wrong_with_a_name_is_said_before_anything_is_asked(person: Open) -> None:
    adding = person("portal", "add", "a/b")
    assert adding.exit_code() == 2
    assert "cannot be a portal's name" in adding.shown
    assert "Way in" not in adding.shown


def test_a_terminal_that_is_closed_ends_the_login(person: Open, sandbox: SandboxProcess) -> None:
    person("portal", "add", "work", "--kind", "webhook", "--domain", sandbox.url).exit_code()
    login = person("portal", "login", "work")
    login.wait_for("not shown")
    login.close()
    login.ended = True
    assert State.open().portal("work").application_token == ""


def test_the_address_is_the_one_that_listen_is_set_to(
    programs: Programs, sandbox: SandboxProcess, tmp_path: Path
) -> None:
    port = free_port()
    (tmp_path / "b24tunnel.toml").write_text(f'[listen]\nport = {port}\nrecordings = "deep/er"\n')
    store(kind="webhook", client_endpoint=f"{sandbox.url}/rest/", domain=sandbox.url.removeprefix("http://"))
    login = programs.run("portal", "login", "work")
    assert login.process.returncode == 0, str(login)
    segment = (tmp_path / "deep" / "er" / "journal" / "handler-path").read_text().strip()
    assert f"http://127.0.0.1:{port}/b24/{segment}\n" in "".join(login.lines)


def test_a_port_that_is_taken_is_said_once(programs: Programs, sandbox: SandboxProcess) -> None:
    store(kind="webhook", client_endpoint=f"{sandbox.url}/rest/", domain=sandbox.url.removeprefix("http://"))
    port = sandbox.url.rpartition(":")[2]
    login = programs.run("portal", "login", "work", "--port", port)
    assert login.process.returncode == 3
    assert "".join(login.errors).count("Cannot listen") == 1
    assert "Traceback" not in str(login)


def test_installation_from_nothing_to_stored_tokens(person: Open, sandbox: SandboxProcess, tmp_path: Path) -> None:
    adding = person("portal", "add", "work", "--kind", "install", "--domain", sandbox.url)
    assert adding.exit_code() == 0
    login = person("portal", "login", "work")
    handler = address_on(login, "/b24/")
    sandbox.application(handler, install=handler, api_only=True)
    login.wait_for("client_secret")
    login.type_unseen(f"{sandbox.credentials['client_secret']}\n")
    assert login.exit_code() == 0
    stored = State.open().portal("work")
    assert stored.application_token == sandbox.credentials["application_token"]
    assert stored.client_id == sandbox.credentials["client_id"]
    assert stored.client_secret == sandbox.credentials["client_secret"]
    assert stored.member_id == sandbox.credentials["member_id"]
    assert stored.refresh_token
    assert rest({"client_endpoint": stored.client_endpoint, "access_token": stored.access_token}, "app.info")
    [recording] = Journal.open(tmp_path / "recordings").recordings()
    assert recording.code == "ONAPPINSTALL"
    for secret in stored.secrets():
        assert secret not in adding.shown + login.shown


def test_an_outgoing_webhook_from_nothing_to_a_verified_event(
    person: Open, sandbox: SandboxProcess, programs: Programs
) -> None:
    adding = person("portal", "add", "work", "--kind", "webhook", "--domain", sandbox.url)
    assert adding.exit_code() == 0
    port = str(free_port())
    login = person("portal", "login", "work", "--port", port)
    token = sandbox.webhook(address_on(login, "/b24/"))
    login.wait_for("Application token, which is not shown")
    login.type_unseen(f"{token}\n")
    assert login.exit_code() == 0
    assert token not in login.shown
    assert State.open().portal("work").application_token == token
    assert "listen --no-bind --portal work" in login.shown
    assert "this one ends with the login" in login.shown
    listen = programs.b24tunnel("listen", "--no-bind", "--portal", "work", "--port", port, "--output", "json")
    listen.next_json("ready")
    rest(sandbox.credentials, "crm.deal.add", fields={"TITLE": "First"})
    recorded = listen.next_json("recorded")
    assert (recorded["code"], recorded["verdict"]) == ("ONCRMDEALADD", "verified")
    assert listen.stop() == 0
    shown = programs.run("portal", "list", "--json").next_json()
    assert (shown["kind"], shown["signed_in"]) == ("webhook", True)


def test_a_webhooks_token_can_come_from_a_variable(
    programs: Programs, sandbox: SandboxProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs.run("portal", "add", "work", "--kind", "webhook", "--domain", sandbox.url)
    refused = programs.run("portal", "login", "work")
    assert refused.process.returncode == 2
    assert "--application-token-env" in "".join(refused.errors)
    monkeypatch.setenv("B24_TOKEN", "SECRET-of-the-environment")
    login = programs.run("portal", "login", "work", "--application-token-env", "B24_TOKEN")
    assert login.process.returncode == 0, str(login)
    assert State.open().portal("work").application_token == "SECRET-of-the-environment"
    assert "SECRET" not in State.open().path.read_text() + str(login)


def test_secrets_come_from_the_environment_and_from_files_and_are_not_stored(
    programs: Programs, sandbox: SandboxProcess, tmp_path: Path, home: Path
) -> None:
    secret = str(sandbox.credentials["client_secret"])
    token_file = tmp_path / "token"
    token_file.write_text("SECRET-of-a-file\n")
    token_file.chmod(0o644)
    env = {"B24_SECRET": secret}
    options = ["--kind", "oauth", "--domain", sandbox.url, "--client-id", str(sandbox.credentials["client_id"])]
    options += ["--client-secret-env", "B24_SECRET", "--application-token-file", "token"]
    adding = programs.run("portal", "add", "work", *options, env=env)
    assert adding.process.returncode == 0, str(adding)
    assert "".join(adding.errors) == (
        f"Warning: others on this machine can read {token_file}, which holds a secret: chmod 600 {token_file}\n"
    )
    login = programs.b24tunnel("portal", "login", "work", "--no-browser", env=env)
    lines = "".join(login.lines)
    wait_until(lambda: "/oauth/authorize/" in "".join(login.lines), f"an address: {lines}")
    handler, authorise = re.findall(r"^ +(http\S+)$", "".join(login.lines), re.MULTILINE)
    sandbox.application(handler)
    assert browse(authorise)[0] == 200
    assert login.wait() == 0
    stored = (home / "state.json").read_text()
    assert secret not in stored
    assert "SECRET-of-a-file" not in stored
    assert secret not in str(adding) + str(login)
    shown = programs.run("portal", "show", "work", "--json", env=env).next_json()
    assert shown["secrets"]["client_secret"] == {"from": "environment B24_SECRET", "held": True}
    assert shown["secrets"]["application_token"] == {"from": f"file {token_file}", "held": True}
    gone = programs.run("portal", "show", "work", "--json").next_json()
    assert gone["secrets"]["client_secret"] == {"from": "environment B24_SECRET", "held": False}
    lost = programs.run("listen", "ONCRMDEALADD", "--portal", "work")
    assert lost.process.returncode == 2
    assert "the environment variable B24_SECRET, which is not set" in "".join(lost.errors)


@pytest.mark.parametrize("way", [("list",), ("list", "--json"), ("show", "work"), ("show", "work", "--json")])
def test_what_is_shown_of_a_portal_holds_no_secret(programs: Programs, way: tuple[str, ...]) -> None:
    store(client_endpoint="https://example.bitrix24.com/rest/1/SECRET-webhook/")
    shown = programs.run("portal", *way)
    assert shown.process.returncode == 0
    assert "example.bitrix24.com" in str(shown)
    assert "SECRET" not in str(shown)


def test_show_says_which_secrets_are_held(programs: Programs) -> None:
    store(refresh_token="", kind="oauth")
    shown = programs.run("portal", "show", "work", "--json").next_json()
    assert shown == {
        "name": "work",
        "kind": "oauth",
        "domain": "example.bitrix24.com",
        "client_endpoint": "https://example.bitrix24.com/rest/",
        "server_endpoint": "https://oauth.bitrix.info/rest/",
        "member_id": "",
        "client_id": "local.5f",
        "user_id": "7",
        "scope": "crm,task",
        "signed_in": True,
        "bindings": 0,
        "secrets": {
            "client_secret": {"from": "stored", "held": True},
            "access_token": {"from": "stored", "held": True},
            "refresh_token": {"from": None, "held": False},
            "application_token": {"from": "stored", "held": True},
        },
    }
    lines = programs.run("portal", "show", "work").lines
    assert "refresh_token      not held\n" in lines
    assert "signed_in          yes\n" in lines


def test_looking_at_portals_loads_no_http_client(programs: Programs) -> None:
    store()
    code = """
import sys
from b24tunnel.cli import cli
cli(["portal", "list"], standalone_mode=False)
cli(["portal", "show", "work"], standalone_mode=False)
print("aiohttp" in sys.modules)
"""
    looking = programs.start(sys.executable, "-c", code)
    assert looking.wait() == 0, str(looking)
    assert looking.lines[-1] == "False\n"


def test_list_says_so_when_nothing_is_known(programs: Programs) -> None:
    listed = programs.run("portal", "list")
    assert (listed.lines, listed.process.returncode) == ([], 0)
    assert "b24tunnel portal add" in "".join(listed.errors)


def test_a_portal_with_bindings_is_not_forgotten_unless_forced(programs: Programs) -> None:
    store()
    row = LedgerRow(
        portal="work",
        event="ONCRMDEALADD",
        handler="https://t.example/b24/x",
        owner="run",
        pid=2**22 - 1,
        started="never",
        created_at="2026-11-25T10:00:00Z",
        state="bound",
    )
    State.open().put_row(row)
    refused = programs.run("portal", "remove", "work")
    assert refused.process.returncode == 2
    assert "`b24tunnel bindings clean`" in "".join(refused.errors)
    assert "--force" in "".join(refused.errors)
    replaced = programs.run(
        "portal", "add", "work", "--replace", "--kind", "webhook", "--domain", "other.bitrix24.com"
    )
    assert replaced.process.returncode == 2
    assert State.open().portal("work").domain == "example.bitrix24.com"
    assert programs.run("portal", "remove", "work", "--force").process.returncode == 0
    assert State.open().portals() == []
    assert State.open().ledger() == [row]


def test_a_portal_without_bindings_is_forgotten(programs: Programs) -> None:
    store()
    assert programs.run("portal", "remove", "work").process.returncode == 0
    assert State.open().portals() == []
    again = programs.run("portal", "remove", "work")
    assert again.process.returncode == 2
    assert "no portal 'work'" in "".join(again.errors)


def test_a_name_that_is_taken_is_not_stored_again(programs: Programs) -> None:
    before = store()
    options = ("--kind", "webhook", "--domain", "other.bitrix24.com")
    refused = programs.run("portal", "add", "work", *options)
    assert refused.process.returncode == 2
    assert "--replace" in "".join(refused.errors)
    assert State.open().portal("work") == before
    assert programs.run("portal", "add", "work", "--replace", *options).process.returncode == 0
    assert State.open().portal("work").domain == "other.bitrix24.com"
    assert State.open().portal("work").access_token == ""


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ((), "--kind, --domain"),
        (("--kind", "webhook"), "--domain"),
        (
            ("--kind", "oauth", "--domain", "x.bitrix24.com"),
            "--client-id, --client-secret-file or --client-secret-env",
        ),
    ],
)
def test_without_a_terminal_what_is_missing_is_named(
    programs: Programs, given: tuple[str, ...], missing: str
) -> None:
    refused = programs.run("portal", "add", "work", *given)
    assert refused.process.returncode == 2
    assert f"There is no terminal to ask on: give {missing}." in "".join(refused.errors)
    assert State.open().portals() == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--domain", "http://box.example"), "use https://"),
        (("--domain", "box"), "has no dot"),
        (("--domain", "https://x.bitrix24.com/rest/1/SECRET-webhook/"), "give its host alone"),
        (("--domain", "https://user:SECRET@x.bitrix24.com"), "is no address"),
        (("--domain", "ftp://x.bitrix24.com"), "starts with neither"),
        (("--domain", "x.bitrix24.com", "--server-endpoint", "http://oauth.example"), "use https://"),
        (("--domain", "x.bitrix24.com", "--client-secret-env", "SECRET_given_by_mistake"), "none of the name"),
        (("--domain", "x.bitrix24.com", "--client-secret-file", "missing"), "cannot be read"),
        (("--domain", "x.bitrix24.com", "--client-secret-file", "a", "--client-secret-env", "b"), "exclude"),
    ],
)
def test_what_cannot_be_is_refused_in_words_that_repeat_no_secret(
    programs: Programs, options: tuple[str, ...], sentence: str
) -> None:
    refused = programs.run("portal", "add", "work", "--kind", "webhook", *options)
    assert refused.process.returncode == 2
    assert sentence in "".join(refused.errors)
    assert "SECRET" not in "".join(refused.errors + refused.lines)
    assert "Traceback" not in "".join(refused.errors)
    assert State.open().portals() == []


@pytest.mark.parametrize(
    ("domain", "client_endpoint", "server_endpoint"),
    [
        ("example.bitrix24.com", "https://example.bitrix24.com/rest/", "https://oauth.bitrix.info/rest/"),
        ("Example.Bitrix24.ru", "https://example.bitrix24.ru/rest/", "https://oauth.bitrix24.tech/rest/"),
        ("https://example.bitrix24.kz/", "https://example.bitrix24.kz/rest/", "https://oauth.bitrix24.tech/rest/"),
        ("example.bitrix24.com.tr", "https://example.bitrix24.com.tr/rest/", "https://oauth.bitrix.info/rest/"),
        ("https://box.example:8443/", "https://box.example:8443/rest/", "https://oauth.bitrix.info/rest/"),
        ("https://box.firma.ru", "https://box.firma.ru/rest/", "https://oauth.bitrix.info/rest/"),
        ("http://127.0.0.1:81/rest/", "http://127.0.0.1:81/rest/", "http://127.0.0.1:81/rest/"),
        ("localhost:81", "http://localhost:81/rest/", "http://localhost:81/rest/"),
    ],
)
def test_endpoints_follow_from_the_domain(
    programs: Programs, domain: str, client_endpoint: str, server_endpoint: str
) -> None:
    added = programs.run("portal", "add", "work", "--kind", "webhook", "--domain", domain)
    assert added.process.returncode == 0, str(added)
    stored = State.open().portal("work")
    assert (stored.client_endpoint, stored.server_endpoint) == (client_endpoint, server_endpoint)


def test_several_portals_at_once_are_all_stored(programs: Programs) -> None:
    adding = [
        programs.b24tunnel("portal", "add", f"p{n}", "--kind", "webhook", "--domain", f"p{n}.bitrix24.com")
        for n in range(6)
    ]
    assert [program.wait() for program in adding] == [0] * 6
    assert [portal.name for portal in State.open().portals()] == [f"p{n}" for n in range(6)]
    lines = programs.run("portal", "list", "--json").lines
    assert [json.loads(line)["domain"] for line in lines] == [f"p{n}.bitrix24.com" for n in range(6)]


def test_a_bad_address_is_asked_for_again(person: Open) -> None:
    adding = person("portal", "add", "work", "--kind", "webhook")
    adding.wait_for("address")
    adding.type("box\n")
    adding.wait_for("has no dot")
    adding.type("example.bitrix24.com\n")
    assert adding.exit_code() == 0
    assert State.open().portal("work").domain == "example.bitrix24.com"


def test_a_sandbox_that_runs_is_not_forgotten_unless_forced(programs: Programs, sandbox: SandboxProcess) -> None:
    store(client_endpoint=f"{sandbox.url}/rest/", domain=sandbox.url.removeprefix("http://"))
    refused = programs.run("portal", "remove", "work")
    assert refused.process.returncode == 2
    assert "is running on this machine" in "".join(refused.errors)
    assert State.open().portals()
    assert programs.run("portal", "remove", "work", "--force").process.returncode == 0
    assert State.open().portals() == []


def test_a_portal_called_sandbox_is_warned_of(programs: Programs) -> None:
    added = programs.run("portal", "add", "sandbox", "--kind", "webhook", "--domain", "example.bitrix24.com")
    assert added.process.returncode == 0
    assert "--name" in "".join(added.errors)


def test_the_doctor_names_what_it_did_not_look_at_of_a_webhook(
    programs: Programs, sandbox: SandboxProcess
) -> None:
    store(kind="webhook", client_endpoint=f"{sandbox.url}/rest/", domain=sandbox.url.removeprefix("http://"))
    shown = programs.run("doctor", "--portal", "work", "--tunnel", "local", "--json").lines
    result = json.loads(shown[-1])
    assert result["ok"]
    assert result["skipped"][-2:] == ["bindings", "delivery"]
    told = programs.run("doctor", "--portal", "work", "--tunnel", "local").lines[-1]
    assert f"{len(result['skipped'])} steps were not looked at: " in told
