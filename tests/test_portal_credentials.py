"""Secrets that lie elsewhere, and the addresses that they may be sent to."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

from b24tunnel.errors import WrongUsage
from b24tunnel.portal import Portal, RestClient, State
from b24tunnel.portal.addresses import is_portals, trusted_server, usual_server
from b24tunnel.portal.credentials import SecretMissing, checked, origin, refer_to_file, too_open
from b24tunnel.sandbox import Sandbox


def a_portal(**changes: str) -> Portal:
    values = {"name": "work", "client_endpoint": "https://example.bitrix24.com/rest/"} | changes
    return Portal(**values)  # type: ignore[arg-type]


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State.open(tmp_path / "home")


def test_a_secret_of_the_environment_is_read_at_each_use(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    state.save_portal(a_portal(client_secret_from="env:B24_SECRET"))
    for value in ("SECRET-1", "SECRET-2\n"):
        monkeypatch.setenv("B24_SECRET", value)
        assert state.portal("work").client_secret == value.strip()
    assert state.stored("work").client_secret == ""
    assert [portal.client_secret for portal in state.portals()] == [""]


@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_variable_that_is_not_set_is_one_sentence(
    state: State, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    state.save_portal(a_portal(application_token_from="env:B24_TOKEN"))
    monkeypatch.delenv("B24_TOKEN", raising=False)
    if value is not None:
        monkeypatch.setenv("B24_TOKEN", value)
    with pytest.raises(SecretMissing) as caught:
        state.portal("work")
    assert str(caught.value) == (
        "the application_token of the portal work comes from the environment variable B24_TOKEN, which is not "
        "set; set it"
    )
    assert caught.value.exit_code == 2
    assert state.stored("work").application_token_from == "env:B24_TOKEN"


def test_a_secret_of_a_file_is_read_at_each_use(state: State, tmp_path: Path) -> None:
    file = tmp_path / "se cret:x"
    file.write_bytes(b"\xef\xbb\xbfSECRET-1\r\n")
    state.save_portal(a_portal(client_secret_from=refer_to_file(file)))
    assert state.portal("work").client_secret == "SECRET-1"
    file.write_text("SECRET-2")
    assert state.portal("work").client_secret == "SECRET-2"
    file.unlink()
    with pytest.raises(SecretMissing, match=r"comes from the file .*se cret:x, which cannot be read"):
        state.portal("work")


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"SECRET one\nSECRET two", b"SECRET\xff", b"SECRET" * 10_000, b"SECRET\x1b[2J"]
)
def test_a_file_that_holds_no_secret_is_refused_without_its_content(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(WrongUsage) as caught:
        refer_to_file(file)
    assert "SECRET" not in f"{caught.value} {caught.value.__cause__} {caught.value.args}"
    assert str(file) in str(caught.value)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(SecretMissing, match="no file"):
        refer_to_file(pipe)


def test_a_relative_file_is_found_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").write_text("SECRET")
    assert refer_to_file(Path("here")) == f"file:{tmp_path}/here"


def test_what_is_saved_holds_no_secret_that_lies_elsewhere(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("B24_SECRET", "SECRET-elsewhere")
    state.save_portal(a_portal(client_secret_from="env:B24_SECRET", application_token="SECRET-here"))
    used = state.portal("work")
    assert used.secrets() == ("SECRET-elsewhere", "SECRET-here")
    state.save_portal(dataclasses.replace(used, access_token="a", refresh_token="r"))
    assert state.save_rotated(dataclasses.replace(used, access_token="b", refresh_token="s"), spent="r")
    state.change_portal("work", lambda stored: dataclasses.replace(stored, user_id="7"))
    text = state.path.read_text()
    assert "SECRET-elsewhere" not in text
    assert "SECRET-here" in text
    assert (state.portal("work").access_token, state.portal("work").user_id) == ("b", "7")


async def test_tokens_are_renewed_with_a_secret_that_lies_elsewhere(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Sandbox(delay=0) as sandbox:
        known = sandbox.credentials
        monkeypatch.setenv("B24_SECRET", known.client_secret)
        before = Portal.from_mapping("work", known.as_dict())
        state.save_portal(dataclasses.replace(before, client_secret_from="env:B24_SECRET"))
        for _ in range(2):
            sandbox.expire_access_token()
            async with RestClient(state.portal("work"), state) as client:
                assert (await client.app_info())["CODE"] == known.client_id
        assert state.portal("work").refresh_token == sandbox.credentials.refresh_token != known.refresh_token
    assert known.client_secret not in state.path.read_text()


def test_a_renewal_keeps_what_was_changed_meanwhile(state: State) -> None:
    before = a_portal(refresh_token="r", application_token="SECRET-old")
    state.save_portal(before)
    state.save_portal(dataclasses.replace(before, application_token="SECRET-new"))
    renewed = state.save_rotated(dataclasses.replace(before, access_token="b", refresh_token="s"), spent="r")
    assert (renewed.application_token, renewed.refresh_token) == ("SECRET-new", "s")
    assert state.portal("work") == renewed


def test_a_document_of_an_earlier_version_is_read(state: State) -> None:
    old = {"name": "work", "client_endpoint": "https://example.bitrix24.com/rest/", "client_secret": "SECRET"}
    state.path.write_text(json.dumps({"version": 1, "tables": {"portals": {"1": old}}}))
    assert state.portal("work") == a_portal(client_secret="SECRET")


def test_whoever_hands_out_credentials_cannot_name_files() -> None:
    handed = {
        "client_endpoint": "https://x.example/rest/",
        "client_secret_from": "file:/etc/passwd",
        "kind": "oauth",
    }
    portal = Portal.from_mapping("work", handed)
    assert (portal.client_secret_from, portal.kind) == ("", "")


def test_where_a_secret_is_from() -> None:
    portal = a_portal(client_secret_from="env:NAME", application_token_from="file:/a b", access_token="SECRET")
    names = ("client_secret", "application_token", "access_token", "refresh_token")
    assert [origin(portal, name) for name in names] == ["environment NAME", "file /a b", "stored", ""]


@pytest.mark.skipif(os.name != "posix", reason="POSIX modes")
def test_files_that_others_can_read_are_warned_of(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("SECRET")
    portal = a_portal(client_secret_from=f"file:{file}", application_token_from=f"file:{file}")
    file.chmod(0o600)
    assert too_open(portal) == []
    for mode in (0o640, 0o604):
        file.chmod(mode)
        assert len(too_open(portal)) == 1
    file.unlink()
    assert too_open(portal) == []


@pytest.mark.parametrize("given", ["", " ", "two words", "x" * 1025, "a\x00b", "a\u202eb"])
def test_what_is_no_secret_is_not_taken(given: str) -> None:
    with pytest.raises(WrongUsage):
        checked(given, "the client_secret")


@pytest.mark.parametrize("region", ["ru", "by", "kz", "uz", "am", "az", "ge", "kg"])
def test_the_usual_server_of_a_cloud_portal_is_its_regions(region: str) -> None:
    assert usual_server(f"https://x.bitrix24.{region}/rest/") == "https://oauth.bitrix24.tech/rest/"


@pytest.mark.parametrize(
    "host", ["x.bitrix24.com", "x.bitrix24.eu", "x.bitrix24.com.tr", "box.firma.ru", "bitrix24.ru"]
)
def test_the_usual_server_elsewhere_is_the_worlds(host: str) -> None:
    assert usual_server(f"https://{host}/rest/") == "https://oauth.bitrix.info/rest/"


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("oauth.bitrix.info", "https://oauth.bitrix.info/rest/"),
        ("OAUTH.bitrix24.tech", "https://oauth.bitrix24.tech/rest/"),
        ("oauth.bitrix.info:443", "https://oauth.bitrix.info/rest/"),
        ("https://oauth.bitrix.info/rest/", "https://oauth.bitrix.info/rest/"),
        ("auth.box.example:8443", "https://auth.box.example:8443/rest/"),
        ("https://auth.box.example:8443", "https://auth.box.example:8443/rest/"),
        ("auth.box.example", None),
        ("http://oauth.bitrix.info/rest/", None),
        ("http://oauth.bitrix.info:443/rest/", None),
        ("oauth.bitrix.info:80", None),
        ("evil.example", None),
        ("oauth.bitrix.info.evil.example", None),
        ("oauth.bitrix.info@evil.example", None),
        ("evil.example#oauth.bitrix.info", None),
        ("evil.example/oauth.bitrix.info", None),
        ("oauth.bitrix.info:evil", None),
        ("box.example", None),
        ("127.0.0.1", None),
        ("", None),
        ("//oauth.bitrix.info", None),
    ],
)
def test_only_a_known_authorisation_server_is_trusted(named: str, found: str | None) -> None:
    box = a_portal(
        client_endpoint="https://box.example/rest/", server_endpoint="https://auth.box.example:8443/rest/"
    )
    assert trusted_server(box, named) == found


def test_a_portal_on_this_machine_may_be_its_own_authorisation_server() -> None:
    here = a_portal(client_endpoint="http://127.0.0.1:81/rest/")
    assert trusted_server(here, "127.0.0.1:81") == "http://127.0.0.1:81/rest/"
    assert trusted_server(here, "127.0.0.1:82") is None


@pytest.mark.parametrize(
    ("named", "is_it"),
    [
        ("example.bitrix24.com", True),
        ("EXAMPLE.bitrix24.com", True),
        ("example.bitrix24.com:443", True),
        ("https://example.bitrix24.com/rest/", True),
        ("http://example.bitrix24.com/rest/", False),
        ("example.bitrix24.com:444", False),
        ("evil@example.bitrix24.com", False),
        ("example.bitrix24.com.evil.example", False),
        ("https://[", False),
        ("127.0.0.1", False),
    ],
)
def test_whether_an_address_is_the_portals(named: str, is_it: bool) -> None:
    assert is_portals(a_portal(), named) is is_it
