"""Robots and workflow activities on the sandbox: registered, run, answered."""

from urllib.parse import parse_qsl

import aiohttp
import pytest
from sandboxed import DEADLINE, Handler, rest

from b24tunnel.errors import WrongUsage
from b24tunnel.sandbox import RobotAnswer, Sandbox

ROBOT = {"CODE": "my.robot", "HANDLER": "https://a.example/robot", "NAME": "Mine"}


@pytest.fixture
async def sandbox():
    async with Sandbox(delay=0) as portal:
        yield portal


@pytest.fixture
async def handler():
    async with Handler() as server:
        yield server


async def test_a_run_is_delivered_in_the_form_of_the_captured_request(sandbox, handler):
    robot = {**ROBOT, "HANDLER": handler.url, "USE_SUBSCRIPTION": "Y", "PROPERTIES": {"comment": {"Name": "C"}}}
    assert (await rest(sandbox, "bizproc.robot.add", **robot))["result"] is True
    assert sandbox.run_robot("my.robot", {"comment": "ü", "amount": 333}) == 1
    await sandbox.idle(DEADLINE)
    [(head, body)] = handler.requests
    assert b"User-Agent: Bitrix24 Webhook Engine\r\n" in head
    pairs = parse_qsl(body.decode(), keep_blank_values=True)
    assert [name for name, _ in pairs] == [
        "workflow_id",
        "code",
        "document_id[0]",
        "document_id[1]",
        "document_id[2]",
        "document_type[0]",
        "document_type[1]",
        "document_type[2]",
        "event_token",
        "properties[comment]",
        "properties[amount]",
        "use_subscription",
        "timeout_duration",
        "ts",
        "auth[access_token]",
        "auth[refresh_token]",
        "auth[expires]",
        "auth[expires_in]",
        "auth[server_endpoint]",
        "auth[client_endpoint]",
        "auth[scope]",
        "auth[status]",
        "auth[application_token]",
        "auth[domain]",
        "auth[member_id]",
        "auth[user_id]",
    ]
    sent = dict(pairs)
    assert (sent["code"], sent["use_subscription"], sent["properties[amount]"]) == ("my.robot", "Y", "333")
    assert sent["event_token"].startswith(sent["workflow_id"] + "|A")
    assert sent["event_token"].count("|") == 2
    assert sent["auth[application_token]"] == sandbox.credentials.application_token
    assert (await rest(sandbox, "profile", sent["auth[access_token]"]))["result"]["ID"] == "1"
    params = {
        "grant_type": "refresh_token",
        "client_id": sandbox.credentials.client_id,
        "client_secret": sandbox.credentials.client_secret,
        "refresh_token": sent["auth[refresh_token]"],
    }
    async with aiohttp.ClientSession() as http, http.post(f"{sandbox.url}/oauth/token/", data=params) as answer:
        assert answer.status == 200
    [delivery] = sandbox.deliveries
    assert (delivery.code, delivery.status) == ("my.robot", 200)


async def test_the_answer_of_a_robot_is_kept(sandbox, handler):
    await rest(sandbox, "bizproc.activity.add", **{**ROBOT, "HANDLER": handler.url})
    sandbox.run_robot("my.robot")
    await sandbox.idle(DEADLINE)
    [sent] = handler.bodies()
    assert sent["use_subscription"] == "N"
    assert "properties" not in sent
    token = sent["event_token"]
    answer = {"event_token": token, "return_values": {"sum": "7"}, "log_message": "done"}
    assert (await rest(sandbox, "bizproc.event.send", sent["auth"]["access_token"], **answer))["result"] is True
    assert sandbox.robot_answers == [RobotAnswer("my.robot", token, {"sum": "7"}, "done")]
    wrong = await rest(sandbox, "bizproc.event.send", event_token=token + "x")
    assert (wrong["error"], sandbox.calls[-1].status) == ("ACCESS_DENIED", 403)
    assert len(sandbox.robot_answers) == 1


async def test_robots_and_activities_are_listed_apart_and_share_their_codes(sandbox):
    assert (await rest(sandbox, "bizproc.robot.add", **ROBOT))["result"] is True
    for kind in ("robot", "activity"):
        again = await rest(sandbox, f"bizproc.{kind}.add", **ROBOT)
        assert again["error"] == "ERROR_ACTIVITY_ALREADY_INSTALLED"
    assert (await rest(sandbox, "bizproc.activity.add", **{**ROBOT, "CODE": "other"}))["result"] is True
    assert (await rest(sandbox, "bizproc.robot.list"))["result"] == ["my.robot"]
    assert (await rest(sandbox, "bizproc.activity.list"))["result"] == ["other"]
    gone = await rest(sandbox, "bizproc.activity.delete", code="my.robot")
    assert gone["error"] == "ERROR_ACTIVITY_NOT_FOUND"
    assert (await rest(sandbox, "bizproc.robot.delete", code="my.robot"))["result"] is True
    assert (await rest(sandbox, "bizproc.robot.list"))["result"] == []
    with pytest.raises(WrongUsage, match=r"bizproc\.robot\.add"):
        sandbox.run_robot("my.robot")


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"CODE": ""}, "ERROR_ACTIVITY_VALIDATION_FAILURE", "Empty activity code!"),
        ({"CODE": "a b"}, "ERROR_ACTIVITY_VALIDATION_FAILURE", "Wrong activity code!"),
        ({"NAME": ""}, "ERROR_ACTIVITY_VALIDATION_FAILURE", "Empty activity NAME!"),
        ({"HANDLER": "http://localhost/"}, "ERROR_WRONG_HANDLER_URL", "Wrong handler URL"),
        ({"HANDLER": "ftp://a.example/"}, "ERROR_UNSUPPORTED_PROTOCOL", "protocol"),
        ({"HANDLER": "https://b.example/"}, "ERROR_HANDLER_URL_MATCH", "doesn't match"),
        ({"PROPERTIES": "x"}, "ERROR_ACTIVITY_VALIDATION_FAILURE", "Wrong properties array!"),
        ({"PROPERTIES": {"1": {"NAME": "x"}}}, "ERROR_ACTIVITY_VALIDATION_FAILURE", "Wrong property key (1)!"),
        ({"RETURN_PROPERTIES": {"a": {}}}, "ERROR_ACTIVITY_VALIDATION_FAILURE", "Empty property NAME (a)!"),
    ],
)
async def test_a_robot_that_cannot_be_is_refused(sandbox, change, code, says):
    sandbox.save_application(handler="https://a.example/", install="https://a.example/install")
    answer = await rest(sandbox, "bizproc.robot.add", **{**ROBOT, **change})
    assert (answer["error"], sandbox.calls[-1].status) == (code, 400)
    assert says in answer["error_description"]
    assert (await rest(sandbox, "bizproc.robot.list"))["result"] == []


@pytest.mark.parametrize("method", ["robot.add", "robot.list", "robot.delete", "activity.add"])
async def test_administrators_and_applications_only(method):
    async with Sandbox(admin=False) as sandbox:
        answer = await rest(sandbox, f"bizproc.{method}", **ROBOT)
        assert (answer["error"], sandbox.calls[-1].status) == ("ACCESS_DENIED", 403)
    async with (
        Sandbox() as sandbox,
        aiohttp.ClientSession() as http,
        http.post(f"{sandbox.webhook_url}bizproc.{method}", json=ROBOT) as answer,
    ):
        assert "Application context required" in (await answer.json())["error_description"]
        assert answer.status == 403


async def test_the_scope_is_needed():
    async with Sandbox(scopes=("crm",)) as sandbox:
        assert (await rest(sandbox, "bizproc.robot.list"))["error"] == "insufficient_scope"


async def test_nothing_runs_before_the_installation_is_finished_or_with_data_without_bound(sandbox):
    await rest(sandbox, "bizproc.robot.add", **ROBOT)
    with pytest.raises(WrongUsage, match="bigger"):
        sandbox.run_robot("my.robot", {"k": "x" * 5_000_000})
    sandbox.installed = False
    assert sandbox.run_robot("my.robot") == 0
    assert sandbox.deliveries == []
