"""Requests of the sandbox whose answer matters: application pages, placements, installer, settings wizard."""

import gzip
import json
from urllib.parse import parse_qsl

import pytest
from sandboxed import Handler, rest

from b24tunnel import form
from b24tunnel.errors import OutsideFailure, WrongUsage
from b24tunnel.sandbox import Sandbox, pages


def answer(head, body=b""):
    return b"HTTP/1.1 " + head + b"\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@pytest.fixture
async def sandbox():
    async with Sandbox(delay=0) as portal:
        yield portal


async def test_a_page_is_opened_as_a_browser_does_it(sandbox):
    async with Handler([answer(b"200 OK\r\nX-Mine: 1", b"<h1>Hi</h1>")]) as handler:
        page = await sandbox.open_page(
            handler.url + "#top", placement="CRM_DEAL_DETAIL_TAB", options={"ID": "ü 7"}
        )
    assert (page.status, page.headers["x-mine"], page.body) == (200, "1", b"<h1>Hi</h1>")
    [(head, body)] = handler.requests
    line, _, rest_of_head = head.decode().partition("\r\n")
    method, target, _ = line.split()
    assert method == "POST"
    assert target.startswith("/handler?key=a%2Fb&DOMAIN=")
    query = dict(parse_qsl(target.partition("?")[2]))
    assert {**query, "APP_SID": ""} == {
        "key": "a/b",
        "DOMAIN": sandbox.credentials.domain,
        "PROTOCOL": "0",
        "LANG": "en",
        "APP_SID": "",
    }
    assert len(query["APP_SID"]) == 32
    assert "User-Agent: Mozilla/5.0" in rest_of_head
    assert "Content-Type: application/x-www-form-urlencoded\r\n" in rest_of_head
    sent = form.parse(body)
    assert list(sent) == [
        "AUTH_ID",
        "AUTH_EXPIRES",
        "REFRESH_ID",
        "SERVER_ENDPOINT",
        "APPLICATION_TOKEN",
        "APPLICATION_SCOPE",
        "member_id",
        "status",
        "PLACEMENT",
        "PLACEMENT_OPTIONS",
    ]
    assert sent["PLACEMENT"] == "CRM_DEAL_DETAIL_TAB"
    assert json.loads(sent["PLACEMENT_OPTIONS"]) == {"ID": "ü 7"}
    assert sent["APPLICATION_TOKEN"] == sandbox.credentials.application_token
    assert (await rest(sandbox, "profile", sent["AUTH_ID"]))["result"]["ID"] == "1"


async def test_the_installer_gets_no_options_and_a_query_of_its_own(sandbox):
    async with Handler() as handler:
        await sandbox.open_page(handler.url.partition("?")[0])
    [(head, body)] = handler.requests
    assert head.startswith(b"POST /handler?DOMAIN=")
    assert form.parse(body)["PLACEMENT"] == "DEFAULT"
    assert b"PLACEMENT_OPTIONS" not in body


async def test_a_redirect_is_shown_and_a_body_decompressed(sandbox):
    packed = answer(b"200 OK\r\nContent-Encoding: gzip", gzip.compress(b"page"))
    async with Handler([answer(b"302 Found\r\nLocation: /elsewhere"), packed]) as handler:
        page = await sandbox.open_page(handler.url)
        assert (page.status, page.headers["Location"]) == (302, "/elsewhere")
        assert (await sandbox.open_page(handler.url)).body == b"page"


async def test_the_settings_wizard_is_asked_and_its_json_given_back(sandbox):
    config = json.dumps({"steps": [], "form": {"id": "config"}}).encode()
    async with Handler([answer(b"200 OK\r\nContent-Type: application/json", config)] * 2) as handler:
        page = await sandbox.run_settings_wizard(handler.url)
        assert json.loads(page.body) == json.loads(config)
        await sandbox.run_settings_wizard(handler.url, "OnAppSettingsChange", {"country": "DE", "agreed": True})
    first, second = handler.bodies()
    assert (first["event"], "data" in first) == ("OnAppSettingsInstall", False)
    assert (second["event"], second["data"]) == ("OnAppSettingsChange", {"country": "DE", "agreed": "1"})
    assert list(first["auth"]) == [
        "access_token",
        "expires",
        "expires_in",
        "scope",
        "domain",
        "server_endpoint",
        "status",
        "client_endpoint",
        "member_id",
        "refresh_token",
        "user_id",
        "client_id",
        "application_token",
    ]
    assert handler.requests[0][0].startswith(b"POST /handler?key=a%2Fb HTTP/1.1\r\n")


async def test_an_application_that_does_not_answer_is_told(sandbox, monkeypatch):
    async with Handler([b""]) as handler:
        with pytest.raises(OutsideFailure, match="/handler"):
            await sandbox.open_page(handler.url)
    with pytest.raises(OutsideFailure, match="running") as told:
        await sandbox.open_page(handler.url)
    assert "key" not in str(told.value)
    monkeypatch.setattr(pages, "MAX_BODY", 10)
    async with Handler([answer(b"200 OK", b"x" * 11)]) as handler:
        with pytest.raises(OutsideFailure, match="bigger than 10 bytes"):
            await sandbox.open_page(handler.url)


@pytest.mark.parametrize("url", ["", "/page", "ftp://a.example/", "http://", "http://[::1/"])
async def test_an_address_that_is_none_is_told(sandbox, url):
    with pytest.raises(WrongUsage, match="no address of a page"):
        await sandbox.open_page(url)
