"""The official SDK's own parsers accept all that the sandbox sends."""

from urllib.parse import parse_qsl

import pytest
from b24pysdk.credentials import OAuthEventData, OAuthPlacementData, OAuthWorkflowData
from sandboxed import DEADLINE, Handler, bind, rest

from b24tunnel import catalogue, form
from b24tunnel.sandbox import Sandbox

CODES = [
    code.replace("{entityTypeId}", "128")
    for code, entry in catalogue.events().items()
    if entry.delivered and code not in ("ONAPPUNINSTALL", "ONAPPMETHODCONFIRM")
]


@pytest.fixture
async def sandbox():
    async with Sandbox(delay=0) as portal:
        yield portal


def flat(text):
    return dict(parse_qsl(text, keep_blank_values=True))


def parsed(body):
    return OAuthEventData.from_dict(flat(body.decode()))


@pytest.mark.parametrize("sender", ["user", "nobody", "webhook"])
async def test_every_event(sandbox, sender):
    async with Handler() as handler:
        if sender == "webhook":
            sandbox.add_webhook(handler.url, CODES)
        for code in CODES:
            if sender != "webhook":
                await bind(sandbox, handler.url, code)
            assert sandbox.raise_event(code, user=sender != "nobody") == 1
        await sandbox.idle(DEADLINE)
    assert len(handler.requests) == len(CODES)
    seen = set()
    for _, body in handler.requests:
        event, sent = parsed(body), form.parse(body)
        assert event.is_system is (sender != "user"), event.event
        assert event.event == sent["event"]
        assert event.data == sent.get("data"), event.event
        assert event.auth.member_id == sandbox.credentials.member_id
        assert event.auth.domain == sandbox.credentials.domain
        if sender == "user":
            assert event.auth.scope == sandbox.credentials.scope.split(","), event.event
            assert event.auth.user_id == 1
            assert event.auth.oauth_token.access_token == sent["auth"]["access_token"]
        seen.add(event.event)
    assert seen == {code.upper() for code in CODES}


@pytest.mark.parametrize("code", ["ONAPPUNINSTALL", "ONAPPMETHODCONFIRM"])
async def test_events_that_never_carry_tokens(sandbox, code):
    async with Handler() as handler:
        await bind(sandbox, handler.url, code)
        sandbox.raise_event(code)
        await sandbox.idle(DEADLINE)
    assert parsed(handler.requests[0][1]).is_system


async def test_an_installation(sandbox):
    async with Handler() as handler:
        sandbox.save_application(install=handler.url)
        await sandbox.idle(DEADLINE)
    event = parsed(handler.requests[0][1])
    assert event.event == "ONAPPINSTALL"
    assert event.auth.oauth_token.refresh_token
    assert event.auth.application_token == sandbox.credentials.application_token


@pytest.mark.parametrize("options", [None, {}, {"ID": "7", "list": [1, {"a": "ü"}]}])
async def test_a_page(sandbox, options):
    async with Handler() as handler:
        await sandbox.open_page(handler.url, placement="DEFAULT", options=options)
    [(head, body)] = handler.requests
    query = head.decode().split()[1].partition("?")[2]
    page = OAuthPlacementData.from_dict({**flat(query), **flat(body.decode())})
    assert page.oauth_token.access_token == form.parse(body)["AUTH_ID"]
    assert page.domain == sandbox.credentials.domain
    assert page.member_id == sandbox.credentials.member_id
    assert page.placement == "DEFAULT"
    assert page.placement_options == options


@pytest.mark.parametrize("kind", ["robot", "activity"])
@pytest.mark.parametrize("waits", ["Y", "N"])
@pytest.mark.parametrize("properties", [None, {"comment": "ü", "list": [1, 2]}])
async def test_a_robot_and_an_activity(sandbox, kind, waits, properties):
    async with Handler() as handler:
        params = {"code": "mine", "handler": handler.url, "name": "Mine", "use_subscription": waits}
        await rest(sandbox, f"bizproc.{kind}.add", **params, auth_user_id=5)
        sandbox.run_robot("mine", properties)
        await sandbox.idle(DEADLINE)
    [(_, body)] = handler.requests
    run = OAuthWorkflowData.from_dict(flat(body.decode()))
    assert run.code == "mine"
    assert run.document_id == ["crm", "CCrmDocumentDeal", "DEAL_1"]
    assert run.document_type == ["crm", "CCrmDocumentDeal", "DEAL"]
    assert run.timeout_duration == 660
    assert run.properties == (properties and {"comment": "ü", "list": ["1", "2"]})
    assert run.auth.user_id == 5
    assert run.auth.oauth_token.refresh_token == form.parse(body)["auth"]["refresh_token"]
