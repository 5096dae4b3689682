"""The sandbox's page "Developer resources", as a browser and as another site meet it."""

import re

import aiohttp
import pytest
from sandboxed import DEADLINE, Handler, rest

from b24tunnel.sandbox import Sandbox


@pytest.fixture
async def http():
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def sandbox():
    async with Sandbox(delay=0) as portal:
        yield portal


async def page(http, sandbox, form=None, **headers):
    method = "GET" if form is None else "POST"
    async with http.request(method, sandbox.devops_url, data=form, headers=headers) as answer:
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Cache-Control"] == "no-store"
        assert "script" not in answer.headers["Content-Security-Policy"]
        return answer.status, await answer.text()


async def test_it_shows_what_has_to_be_copied(http, sandbox):
    status, text = await page(http, sandbox)
    assert status == 200
    credentials = sandbox.credentials
    for shown in (credentials.client_id, credentials.client_secret, credentials.domain, credentials.member_id):
        assert shown in text
    assert credentials.access_token not in text
    assert credentials.refresh_token not in text


async def test_the_application_is_saved_and_installed(http, sandbox):
    async with Handler() as handler:
        form = {"form": "application", "handler": "http://127.0.0.1:9/b", "install": handler.url, "api_only": "Y"}
        status, text = await page(http, sandbox, form, Origin=sandbox.url, **{"Sec-Fetch-Site": "same-origin"})
        assert (status, "ONAPPINSTALL is on its way" in text) == (200, True)
        await sandbox.idle(DEADLINE)
        assert [event["event"] for event in handler.bodies()] == ["ONAPPINSTALL"]
    assert sandbox.redirect_uri == "http://127.0.0.1:9/b"
    status, text = await page(http, sandbox, {"form": "application", "handler": "http://127.0.0.1:9/b"})
    assert (status, sandbox.installed) == (200, False)
    assert "BX24.installFinish" in text
    assert 'value="http://127.0.0.1:9/b"' in text


async def test_a_webhook_is_added_and_its_token_shown(http, sandbox):
    async with Handler() as handler:
        form = {"form": "webhook", "handler": handler.url, "events": "oncrmdealadd, ONCRMDEALUPDATE"}
        status, text = await page(http, sandbox, form)
        assert status == 200
        token = re.search(r"application token is ([0-9a-f]{32})", text)[1]
        sandbox.raise_event("ONCRMDEALADD")
        await sandbox.idle(DEADLINE)
        [event] = handler.bodies()
        assert event["auth"]["application_token"] == token
    assert token in (await page(http, sandbox))[1]


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({"form": "application", "handler": "http://localhost/"}, "Wrong handler URL"),
        ({"form": "application", "install": "ftp://a.b/"}, "Unsupported handler protocol"),
        ({"form": "webhook", "handler": "https://a.b/"}, "at least one event"),
        ({"form": "webhook", "handler": "https://a.b/", "events": "ONCRMDEELADD"}, "ONCRMDEALADD"),
        ({"form": "<script>"}, "&lt;script&gt;"),
        ({"form": "webhook", "handler": "https://a.b/", "events": "<img>"}, "&lt;img&gt;"),
    ],
)
async def test_a_refusal_is_told_in_words(http, sandbox, form, says):
    status, text = await page(http, sandbox, form)
    assert status == 400
    assert says in text
    assert "<script>" not in text
    assert "<img>" not in text.lower()
    assert sandbox.bindings == []


async def test_addresses_are_shown_escaped(http, sandbox):
    evil = 'https://a.b/"><script>alert(1)</script>'
    await page(http, sandbox, {"form": "application", "handler": evil, "install": evil, "api_only": "Y"})
    await page(http, sandbox, {"form": "webhook", "handler": evil, "events": "ONCRMDEALADD"})
    _, text = await page(http, sandbox)
    assert "<script>" not in text
    assert text.count("&lt;script&gt;") == 3
    assert text.count("&quot;&gt;") == 3


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "", "127.0.0.1:{port}.evil.example"]
)
async def test_another_host_sees_nothing(http, sandbox, host):
    host = host.format(port=sandbox.url.rpartition(":")[2])
    status, text = await page(http, sandbox, Host=host)
    assert status == 403
    assert sandbox.credentials.client_secret not in text


async def test_localhost_is_the_same_machine(http, sandbox):
    port = sandbox.url.rpartition(":")[2]
    assert (await page(http, sandbox, Host=f"localhost:{port}"))[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
async def test_another_site_may_not_fill_in_the_forms(http, sandbox, headers):
    form = {"form": "application", "handler": "https://evil.example/"}
    status, text = await page(http, sandbox, form, **headers)
    assert status == 403
    assert sandbox.credentials.client_secret not in text
    assert (sandbox.redirect_uri, sandbox.installed) == ("", True)


async def test_the_installation_is_finished_by_hand(http, sandbox):
    sandbox.installed = False
    assert "BX24.installFinish" in (await page(http, sandbox))[1]
    status, text = await page(http, sandbox, {"form": "installation"})
    assert (status, sandbox.installed) == (200, True)
    assert "BX24.installFinish" not in text
    assert "finished before" in (await page(http, sandbox, {"form": "installation"}))[1]


async def test_a_robot_is_run_by_hand(http, sandbox):
    assert "Robots" not in (await page(http, sandbox))[1]
    async with Handler() as handler:
        await rest(sandbox, "bizproc.robot.add", code="mine", handler=handler.url, name="Mine")
        assert "Run mine" in (await page(http, sandbox))[1]
        form = {"form": "robot", "code": "mine", "properties[a]": "1"}
        assert "on its way" in (await page(http, sandbox, form))[1]
        await sandbox.idle(DEADLINE)
        [run] = handler.bodies()
        assert run["properties"] == {"a": "1"}
    sandbox.installed = False
    assert "before the installation" in (await page(http, sandbox, form))[1]
    assert (await page(http, sandbox, {"form": "robot", "code": "other"}))[0] == 400


async def test_a_program_gets_json(http, sandbox):
    headers = {"Accept": "application/json"}
    for form, status, answer in (
        ({"form": "installation"}, 200, {"done": "The installation was finished before."}),
        ({"form": "application", "handler": "http://localhost"}, 400, {"refused": "Wrong handler URL"}),
    ):
        async with http.post(sandbox.devops_url, data=form, headers=headers) as got:
            assert (got.status, await got.json()) == (status, answer)
