"""Each way in, from nothing to the first event: what a person types, pastes and clicks, and what comes of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

import pytest
from b24pysdk.credentials import OAuthEventData
from programs import Program, Programs, free_port, wait_until
from raw_server import RawServer
from rest_call import rest
from test_cli_portal import Person, SandboxProcess, address_on, browse

from b24tunnel import Journal
from b24tunnel.portal import State
from b24tunnel.recording import Recording

SECRETS = ("access_token", "refresh_token", "client_secret", "application_token")


@dataclass
class Stage:
    """A portal of which this home knows nothing, a person at a terminal, and the person's handler.

    ``elsewhere``: the environment of those to whom the portal is known. ``bound_by_hand``: the events that a form
    of the portal has bound. ``more_secrets``: those that its pages have shown besides its credentials.
    """

    programs: Programs
    sandbox: SandboxProcess
    handler: RawServer
    elsewhere: dict[str, str]
    terminals: list[Person] = field(default_factory=list)
    run: list[Program] = field(default_factory=list)
    bound_by_hand: list[str] = field(default_factory=list)
    more_secrets: set[str] = field(default_factory=set)

    def type(self, *arguments: str) -> Person:
        """Open a terminal and type a command there."""
        self.terminals.append(Person(self.programs.directory, *arguments))
        return self.terminals[-1]

    def change_a_deal(self) -> None:
        """What somebody else does in the portal."""
        call = self.programs.run("sandbox", "call", "crm.deal.add", "fields[TITLE]=First", env=self.elsewhere)
        assert call.process.returncode == 0, str(call)
        self.run.append(call)

    def recordings(self) -> list[Recording]:
        """What is on disk."""
        return list(Journal.open(self.programs.directory / "recordings").recordings())

    def bound(self) -> list[dict[str, str]]:
        """What the application has bound, as the portal says."""
        found: list[dict[str, str]] = rest(self.sandbox.credentials, "event.get")
        return found

    def shown(self) -> str:
        """All that the person has seen, once every command has ended."""
        assert all(terminal.ended for terminal in self.terminals)
        return "".join(terminal.shown for terminal in self.terminals) + "".join(map(str, self.run))


@pytest.fixture
def stage(programs: Programs) -> Iterator[Stage]:
    elsewhere = {"B24TUNNEL_HOME": str(programs.directory / "elsewhere")}
    sandbox = SandboxProcess(programs.b24tunnel("sandbox", "--delay", "0", "--json", env=elsewhere))
    assert State.open().portals() == []
    with RawServer() as handler:
        stage = Stage(programs, sandbox, handler, elsewhere)
        try:
            yield stage
        finally:
            for terminal in stage.terminals:
                terminal.end()


def add(stage: Stage, way: str) -> None:
    """`portal add`, answering what it asks; a local application with OAuth is asked for what its page shows."""
    adding = stage.type("portal", "add", "work")
    adding.wait_for("Way in")
    adding.type(f"{way}\n")
    adding.wait_for("address")
    adding.type(f"{stage.sandbox.url}\n")
    if way == "oauth":
        adding.wait_for("client_id")
        adding.type(f"{stage.sandbox.credentials['client_id']}\n")
        adding.wait_for("not shown")
        adding.type_unseen(f"{stage.sandbox.credentials['client_secret']}\n")
    assert adding.exit_code() == 0, adding.shown
    assert "b24tunnel portal login work" in adding.shown


def sign_in_with_oauth(stage: Stage, login: Person) -> None:
    """The address is pasted at the portal, and the browser is sent where the terminal says."""
    stage.sandbox.application(address_on(login, "/oauth"))
    login.wait_for("press Enter")
    login.type("\n")
    status, page = browse(address_on(login, "/oauth/authorize/"))
    assert (status, "Signed in" in page) == (200, True)
    assert not [secret for secret in secrets(stage) if secret in page]


def install(stage: Stage, login: Person) -> None:
    """The address is pasted as the handler's and the installation's, which the portal then tells."""
    handler = address_on(login, "/b24/")
    stage.sandbox.application(handler, install=handler, api_only=True)
    login.wait_for("client_secret")
    login.type_unseen(f"{stage.sandbox.credentials['client_secret']}\n")


def secrets(stage: Stage) -> set[str]:
    """Those that the portal has given out, to whomever."""
    stored = {secret for portal in State.open().portals() for secret in portal.secrets()}
    return {str(stage.sandbox.credentials[name]) for name in SECRETS} | stored | stage.more_secrets


def received(stage: Stage, listen: Person) -> Recording:
    """The one event of a deal, once it is recorded, handed over with the same bytes, and told."""

    def found() -> list[Recording]:
        return [recording for recording in stage.recordings() if recording.code == "ONCRMDEALADD"]

    recording: Recording
    [recording] = wait_until(found, "the event is recorded")
    assert (recording.source, recording.verdict, recording.portal) == ("tunnel", "verified", "work")
    listen.wait_for(f"{recording.id}  → 200")
    bodies = sorted(each.body for each in stage.recordings() if each.id.startswith("2-"))
    wait_until(lambda: sorted(stage.handler.bodies()) == bodies, "the handler has what this session recorded")
    return recording


def check_sdk_accepts(stage: Stage, recording: Recording) -> None:
    """The official SDK reads what the handler got, the tokens of the user who made the change included."""
    [forwarded] = [body for body in stage.handler.bodies() if body == recording.body]
    event = OAuthEventData.from_dict(dict(parse_qsl(forwarded.decode(), keep_blank_values=True)))
    assert (event.event, event.data, event.is_system) == ("ONCRMDEALADD", {"FIELDS": {"ID": "1"}}, False)
    assert event.auth.application_token == stage.sandbox.credentials["application_token"]
    assert event.auth.member_id == stage.sandbox.credentials["member_id"]
    token = {**stage.sandbox.credentials, "access_token": event.auth.oauth_token.access_token}
    assert rest(token, "crm.deal.get", id=1)["TITLE"] == "First"


def end(stage: Stage, listen: Person) -> None:
    """Ctrl-C: nothing is left bound, and nobody was shown a secret."""
    listen.type("\x03")
    assert listen.exit_code() == 0, listen.shown
    assert f"{len(stage.handler.requests)} recorded" in listen.shown
    assert [row["event"] for row in stage.bound() if "/b24/" in row["handler"]] == stage.bound_by_hand
    assert State.open().ledger() == []
    shown = stage.shown()
    assert "Signed in" in shown or "is stored" in shown
    assert [secret for secret in secrets(stage) if secret in shown] == []


def test_a_local_application_with_the_full_oauth_protocol(stage: Stage) -> None:
    add(stage, "oauth")
    login = stage.type("portal", "login", "work", "--no-browser")
    sign_in_with_oauth(stage, login)
    assert login.exit_code() == 0, login.shown
    assert "listen ONCRMDEALADD" in login.shown
    # The application has an interface, which finishes the installation: only that tells the application_token.
    events = ("ONAPPINSTALL", "ONCRMDEALADD")
    listen = stage.type("listen", *events, "--portal", "work", "--forward", stage.handler.url)
    listen.wait_for("listens at")
    assert "installation is not finished" in " ".join(listen.shown.split())
    assert sorted(row["event"] for row in stage.bound()) == sorted(events)
    stage.sandbox.save({"form": "installation"})
    token = stage.sandbox.credentials["application_token"]
    wait_until(lambda: State.open().portal("work").application_token == token, "the installation is confirmed")
    assert [(each.code, each.verdict) for each in stage.recordings()] == [("ONAPPINSTALL", "unverified")]
    stage.change_a_deal()
    recording = received(stage, listen)
    check_sdk_accepts(stage, recording)
    end(stage, listen)


def test_a_local_application_that_only_uses_the_api(stage: Stage) -> None:
    add(stage, "install")
    login = stage.type("portal", "login", "work")
    install(stage, login)
    assert login.exit_code() == 0, login.shown
    assert "listen ONCRMDEALADD" in login.shown
    listen = stage.type("listen", "ONCRMDEALADD", "--portal", "work", "--forward", stage.handler.url)
    listen.wait_for("listens at")
    assert sorted(row["event"] for row in stage.bound()) == ["ONAPPINSTALL", "ONCRMDEALADD"]
    stage.change_a_deal()
    recording = received(stage, listen)
    check_sdk_accepts(stage, recording)
    stage.bound_by_hand = ["ONAPPINSTALL"]  # the installation address of the form
    end(stage, listen)


def test_an_outgoing_webhook(stage: Stage) -> None:
    add(stage, "webhook")
    port = str(free_port())
    login = stage.type("portal", "login", "work", "--port", port)
    pasted = address_on(login, "/b24/")
    token = stage.sandbox.webhook(pasted)
    stage.more_secrets.add(token)
    login.wait_for("Application token, which is not shown")
    login.type_unseen(f"{token}\n")
    assert login.exit_code() == 0, login.shown
    assert "listen --no-bind --portal work" in login.shown
    listen = stage.type("listen", "--no-bind", "--portal", "work", "--port", port, "--forward", stage.handler.url)
    listen.wait_for("listens at")
    assert pasted in listen.shown
    stage.change_a_deal()
    recording = received(stage, listen)
    assert recording.event.application_token == token
    assert stage.bound() == []
    end(stage, listen)
