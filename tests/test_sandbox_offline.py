"""The sandbox's queue of offline events: who may have it, on which plan, and what a process id keeps."""

import pytest
from sandboxed import rest

from b24tunnel.sandbox import Sandbox, Waiting


@pytest.fixture
async def sandbox():
    async with Sandbox(delay=0) as portal:
        yield portal


async def bound(sandbox, event="ONCRMDEALUPDATE", **params):
    answer = await rest(sandbox, "event.bind", event=event, event_type="offline", **params)
    assert answer.get("result") is True, answer


def change(sandbox, *numbers):
    for number in numbers:
        sandbox.raise_event("ONCRMDEALUPDATE", {"FIELDS": {"ID": number}})


async def take(sandbox, **params):
    """Process id and the IDs of the changed objects."""
    result = (await rest(sandbox, "event.offline.get", **params))["result"]
    return result["process_id"], [event["EVENT_DATA"]["FIELDS"]["ID"] for event in result["events"]]


async def test_what_a_process_reserved_it_gets_again_and_nobody_else_does(sandbox):
    await bound(sandbox)
    change(sandbox, 1, 2, 3)
    process, first = await take(sandbox, clear=0, limit=2)
    assert first == [1, 2]
    other, second = await take(sandbox, clear=0)
    assert second == [3]
    assert other != process
    change(sandbox, 4)
    assert await take(sandbox, clear=0, process_id=process) == (process, [1, 2])
    assert await take(sandbox, clear=0, process_id=other) == (other, [3])
    assert await take(sandbox, clear=0, process_id="0" * 32) == ("0" * 32, [])
    assert await take(sandbox, process_id=process) == (process, [1, 2])
    assert await take(sandbox, process_id=process) == (process, [])
    assert await take(sandbox) == (None, [4])
    assert [(entry.data["FIELDS"]["ID"], entry.process_id) for entry in sandbox.offline] == [(3, other)]


async def test_a_repeat_renews_the_free_entry_and_a_reserved_one_is_another(sandbox):
    await bound(sandbox)
    change(sandbox, 1, 2, 1)
    assert [entry.data["FIELDS"]["ID"] for entry in sandbox.offline] == [2, 1]
    process, _ = await take(sandbox, clear=0)
    change(sandbox, 1, 1)
    assert [(entry.data["FIELDS"]["ID"], bool(entry.process_id)) for entry in sandbox.offline] == [
        (2, True),
        (1, True),
        (1, False),
    ]
    await rest(sandbox, "event.offline.clear", process_id=process)
    assert await take(sandbox) == (None, [1])


async def test_more_than_fifty_can_be_asked_for_and_in_which_order(sandbox):
    await bound(sandbox)
    change(sandbox, *range(120))
    assert (await take(sandbox, clear=0, limit=100, order={"ID": "desc"}))[1] == list(range(119, 19, -1))
    assert (await take(sandbox))[1] == list(range(20))


async def test_the_queue_as_python_sees_it(sandbox):
    await bound(sandbox, auth_connector="sync")
    change(sandbox, 7)
    [entry] = sandbox.offline
    assert entry == Waiting("ONCRMDEALUPDATE", {"FIELDS": {"ID": 7}}, "", "sync", entry.message_id, False)
    assert len(entry.message_id) == 32


async def test_each_connector_has_its_own_entries(sandbox):
    await bound(sandbox)
    await bound(sandbox, auth_connector="sync")
    change(sandbox, 1)
    assert (await rest(sandbox, "event.offline.list"))["total"] == 1
    process, taken = await take(sandbox, clear=0, auth_connector="sync")
    assert taken == [1]
    await rest(sandbox, "event.offline.clear", process_id=process)
    assert len(sandbox.offline) == 2, "the batch is another connector's"
    await rest(sandbox, "event.offline.clear", process_id=process, auth_connector="sync")
    assert await take(sandbox) == (None, [1])


async def test_a_plan_without_the_extended_mode_hands_out_once_only():
    async with Sandbox(delay=0, offline_extended=False) as sandbox:
        feature = await rest(sandbox, "feature.get", code="rest_offline_extended")
        assert feature["result"] == {"value": "N"}
        await bound(sandbox)
        change(sandbox, 1)
        assert await rest(sandbox, "event.offline.get", clear=0) == {
            "error": "WRONG_LICENSE",
            "error_description": (
                "This feature is not enabled for the current license: extended offline events handling"
            ),
        }
        assert sandbox.calls[-1].status == 403
        assert await take(sandbox) == (None, [1])
        assert sandbox.offline == []


async def test_a_plan_without_connectors_refuses_every_call_that_names_one():
    async with Sandbox(delay=0, auth_connectors=False) as sandbox:
        feature = await rest(sandbox, "feature.get", code="rest_auth_connector")
        assert feature["result"] == {"value": "N"}
        for method in ("event.bind", "crm.deal.add"):
            answer = await rest(sandbox, method, event="ONCRMDEALADD", event_type="offline", auth_connector="x")
            assert answer["error"] == "WRONG_LICENSE"
            assert sandbox.calls[-1].status == 403
        batch = await rest(sandbox, "batch", cmd={"add": "crm.deal.add?auth_connector=x"})
        assert batch["result"]["result_error"]["add"]["error"] == "WRONG_LICENSE"
        assert (await rest(sandbox, "event.bind", event="ONCRMDEALADD", event_type="offline"))["result"] is True
        assert (await rest(sandbox, "crm.deal.list"))["total"] == 0


@pytest.mark.parametrize("method", ["get", "list", "clear", "error"])
async def test_administrators_only(method):
    async with Sandbox(admin=False) as sandbox:
        answer = await rest(sandbox, f"event.offline.{method}", process_id="1" * 32, message_id=["2" * 32])
        assert answer == {"error": "ACCESS_DENIED", "error_description": "Access denied!"}
        assert sandbox.calls[-1].status == 403


async def test_nothing_is_queued_before_the_installation_is_finished(sandbox):
    sandbox.installed = False
    await bound(sandbox)
    change(sandbox, 1)
    assert sandbox.offline == []
