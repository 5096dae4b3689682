"""What a person sets up on the sandbox: the local application, its installation, outgoing webhooks."""

import asyncio

import pytest
from sandboxed import DEADLINE, Handler, bind, rest

from b24tunnel.errors import WrongUsage
from b24tunnel.sandbox import Sandbox


@pytest.fixture
async def sandbox():
    async with Sandbox(delay=0, installed=False) as portal:
        yield portal


@pytest.fixture
async def handler():
    async with Handler() as server:
        yield server


async def test_saving_an_application_without_interface_installs_it_and_tells_its_handler(sandbox, handler):
    sandbox.save_application(handler="http://127.0.0.1:9/back", install=handler.url)
    await sandbox.idle(DEADLINE)
    [event] = handler.bodies()
    assert event["event"] == "ONAPPINSTALL"
    assert event["data"] == {"VERSION": "1", "ACTIVE": "Y", "INSTALLED": "Y", "LANGUAGE_ID": "en"}
    assert event["auth"]["application_token"] == sandbox.credentials.application_token
    assert event["auth"]["refresh_token"]
    assert (await rest(sandbox, "app.info", event["auth"]["access_token"]))["result"]["INSTALLED"] is True
    assert sandbox.redirect_uri == "http://127.0.0.1:9/back"
    assert (await rest(sandbox, "event.get"))["result"] == [
        {"event": "ONAPPINSTALL", "handler": handler.url, "auth_type": "0", "offline": 0}
    ]


async def test_saving_again_replaces_the_installation_address_and_tells_it_again(sandbox, handler):
    sandbox.save_application(install=handler.url)
    sandbox.save_application(install=handler.url)
    other = handler.url + "&second=1"
    sandbox.save_application(install=other)
    await sandbox.idle(DEADLINE)
    assert len(handler.requests) == 3
    assert [row.handler for row in sandbox.bindings] == [other]
    sandbox.save_application()
    assert sandbox.bindings == []
    assert sandbox.installed


async def test_a_handler_that_the_application_bound_itself_stays(sandbox, handler):
    await bind(sandbox, handler.url, "ONAPPINSTALL")
    sandbox.save_application(install=handler.url)
    sandbox.save_application()
    await sandbox.idle(DEADLINE)
    assert len(handler.requests) == 1
    assert [row.handler for row in sandbox.bindings] == [handler.url]


async def test_an_application_with_an_interface_is_installed_when_it_says_so(sandbox, handler):
    sandbox.installed = True
    sandbox.save_application(handler=handler.url, install=handler.url, api_only=False)
    assert not sandbox.installed
    assert sandbox.bindings == []
    await bind(sandbox, handler.url, "ONAPPINSTALL")
    assert sandbox.raise_event("ONAPPINSTALL") == 0
    sandbox.finish_installation()
    sandbox.finish_installation()
    await sandbox.idle(DEADLINE)
    assert sandbox.installed
    assert [event["event"] for event in handler.bodies()] == ["ONAPPINSTALL"]


@pytest.mark.parametrize("field", ["handler", "install"])
@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("http://localhost:8000/", "Wrong handler URL"),
        ("ftp://a.example/", "Unsupported handler protocol"),
        ("https://a.example/" + "x" * 255, "longer than 255"),
    ],
)
async def test_an_address_that_bitrix24_refuses_changes_nothing(sandbox, handler, field, address, says):
    sandbox.save_application(handler=handler.url, install=handler.url)
    before = sandbox.bindings
    with pytest.raises(WrongUsage, match=says):
        sandbox.save_application(**{field: address})
    assert (sandbox.redirect_uri, sandbox.bindings) == (handler.url, before)


async def test_a_refused_row_leaves_the_one_of_the_last_save(sandbox):
    long = "https://a.example/" + "x" * 180
    sandbox.save_application(install="https://b.example/")
    await bind(sandbox, long + "1", "ONAPPINSTALL")
    before = sandbox.bindings
    with pytest.raises(WrongUsage, match="180"):
        sandbox.save_application(install=long + "2")
    assert sandbox.bindings == before
    sandbox.save_application()
    assert [row.handler for row in sandbox.bindings] == [long + "1"]


async def test_an_outgoing_webhook_is_its_own_and_carries_no_tokens(sandbox, handler):
    token = sandbox.add_webhook(handler.url, ["oncrmdealadd", "ONCRMDEALUPDATE", "ONCRMDEALADD"])
    assert len(bytes.fromhex(token)) == 16
    assert token != sandbox.credentials.application_token
    assert (await rest(sandbox, "event.get"))["result"] == []
    await rest(sandbox, "crm.deal.add")
    await rest(sandbox, "crm.deal.update", id=1)
    await rest(sandbox, "event.unbind", event="ONCRMDEALADD")
    await rest(sandbox, "crm.deal.add")
    await sandbox.idle(DEADLINE)
    assert sorted((event["event"], event["data"]["FIELDS"]["ID"]) for event in handler.bodies()) == [
        ("ONCRMDEALADD", "1"),
        ("ONCRMDEALADD", "2"),
        ("ONCRMDEALUPDATE", "1"),
    ]
    for event in handler.bodies():
        assert event["auth"] == {
            "domain": sandbox.credentials.domain,
            "client_endpoint": sandbox.credentials.client_endpoint,
            "server_endpoint": sandbox.credentials.server_endpoint,
            "member_id": sandbox.credentials.member_id,
            "application_token": token,
        }


async def test_each_webhook_has_its_own_token_even_at_one_address(sandbox, handler):
    tokens = {sandbox.add_webhook(handler.url, ["ONCRMDEALADD"]) for _ in range(2)}
    await rest(sandbox, "crm.deal.add")
    await sandbox.idle(DEADLINE)
    assert {event["auth"]["application_token"] for event in handler.bodies()} == tokens
    assert len(tokens) == 2


async def test_a_webhook_with_a_bad_event_or_address_is_not_added(sandbox):
    for events, says in (
        (["ONCRMDEELADD"], "ONCRMDEALADD"),
        ([], "at least one"),
        (["ONIMV2MESSAGEADD"], "polled"),
    ):
        with pytest.raises(WrongUsage, match=says):
            sandbox.add_webhook("https://a.example/", events)
    with pytest.raises(WrongUsage, match="Wrong handler URL"):
        sandbox.add_webhook("http://localhost/", ["ONCRMDEALADD"])
    with pytest.raises(WrongUsage, match="255"):
        sandbox.add_webhook("https://a.example/" + "x" * 255, ["ONCRMDEALADD"])
    assert sandbox.bindings == []


async def test_a_stranger_is_delivered_to_whether_we_are_installed_or_not(sandbox, handler):
    sandbox.bind_foreign("ONCRMDEALADD", handler.url)
    await bind(sandbox, handler.url)
    assert sandbox.raise_event("ONCRMDEALADD") == 1
    await sandbox.idle(DEADLINE)
    [event] = handler.bodies()
    assert event["auth"]["application_token"] != sandbox.credentials.application_token


async def test_a_sandbox_that_does_not_run_refuses_to_install():
    sandbox = Sandbox()
    with pytest.raises(WrongUsage, match="start it"):
        sandbox.save_application()
    with pytest.raises(WrongUsage, match="start it"):
        sandbox.finish_installation()
    await asyncio.sleep(0)
