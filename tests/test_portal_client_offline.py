"""The REST client's calls about the offline queue: what is asked, what is read, what is refused beforehand."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from b24tunnel import form
from b24tunnel.errors import WrongUsage
from b24tunnel.portal import Portal, PortalError, RestClient, State
from b24tunnel.portal.offline import OfflineBatch, OfflinePage

MESSAGE = "0123456789abcdef0123456789abcdef"


class Answering:
    """A portal that gives ``answers`` in turn and keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        params = form.parse(await request.read())
        assert isinstance(params, dict)
        assert params.pop("auth") == "token"
        self.asked.append((request.path.rpartition("/")[2], params))
        return web.json_response(self.answers.pop(0))


@pytest.fixture
def portal() -> Answering:
    return Answering()


@pytest.fixture
async def client(portal: Answering, tmp_path: Path) -> AsyncIterator[RestClient]:
    runner = web.ServerRunner(web.Server(portal.handle), shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    stored = Portal("work", f"http://127.0.0.1:{runner.addresses[0][1]}/rest/", access_token="token")
    async with RestClient(stored, State.open(tmp_path / "home"), timeout=10) as opened:
        yield opened
    await runner.cleanup()


async def test_each_call_asks_for_what_is_documented(client: RestClient, portal: Answering) -> None:
    entries = [{"ID": "1"}, "whatever"]
    portal.answers = [
        {"result": True},
        {"result": {"count": 1}},
        {"result": {"process_id": "P", "events": entries}},
        {"result": {"process_id": None, "events": entries}},
        {"result": {"process_id": "P", "events": []}},
        {"result": entries, "next": 50, "total": 70},
        {"result": entries, "total": 70},
        {"result": True},
        {"result": {"value": "Y"}},
        {"result": {"value": "N"}},
    ]
    await client.event_bind_offline("ONCRMDEALADD", "mine")
    assert await client.event_unbind_offline("ONCRMDEALADD") == 1
    assert await client.offline_get(clear=False, connector="mine") == OfflineBatch("P", entries)
    both = {"=ID": ["1", "2"]}
    assert await client.offline_get(clear=True, limit=2, conditions=both) == OfflineBatch("", entries)
    assert await client.offline_get(clear=False, process_id="P") == OfflineBatch("P", [])
    assert await client.offline_list(connector="mine") == OfflinePage(entries, 50)
    assert await client.offline_list(start=50) == OfflinePage(entries, None)
    await client.offline_clear("P", [MESSAGE], "mine")
    assert await client.feature_get("rest_offline_extended") is True
    assert await client.feature_get("rest_auth_connector") is False
    assert portal.asked == [
        ("event.bind", {"event": "ONCRMDEALADD", "event_type": "offline", "auth_connector": "mine"}),
        ("event.unbind", {"event": "ONCRMDEALADD", "event_type": "offline"}),
        ("event.offline.get", {"clear": "0", "limit": "50", "auth_connector": "mine"}),
        ("event.offline.get", {"clear": "1", "limit": "2", "filter": both}),
        ("event.offline.get", {"clear": "0", "limit": "50", "process_id": "P"}),
        ("event.offline.list", {"start": "0", "auth_connector": "mine"}),
        ("event.offline.list", {"start": "50"}),
        ("event.offline.clear", {"process_id": "P", "message_id": [MESSAGE], "auth_connector": "mine"}),
        ("feature.get", {"CODE": "rest_offline_extended"}),
        ("feature.get", {"CODE": "rest_auth_connector"}),
    ]


@pytest.mark.parametrize(
    ("process_id", "ids"), [("", [MESSAGE]), ("P", []), ("P", [MESSAGE, MESSAGE[:-1]]), ("P", [MESSAGE + "0"])]
)
async def test_a_removal_that_could_take_more_than_it_names_is_refused_before_the_call(
    client: RestClient, portal: Answering, process_id: str, ids: list[str]
) -> None:
    with pytest.raises(WrongUsage):
        await client.offline_clear(process_id, ids)
    assert portal.asked == []


async def test_unbinding_offline_without_an_event_is_refused_before_the_call(
    client: RestClient, portal: Answering
) -> None:
    with pytest.raises(WrongUsage):
        await client.event_unbind_offline(" ", "mine")
    assert portal.asked == []


@pytest.mark.parametrize(
    "result",
    [
        None,
        [],
        "x",
        {"events": [{}]},
        {"process_id": "", "events": [{}]},
        {"process_id": 5, "events": [{}]},
        {"process_id": "P", "events": {}},
        {"process_id": "P"},
    ],
)
async def test_a_batch_that_could_not_be_removed_later_is_no_answer(
    client: RestClient, portal: Answering, result: Any
) -> None:
    portal.answers = [{"result": result}]
    with pytest.raises(PortalError) as caught:
        await client.offline_get(clear=False)
    assert caught.value.code == "UNEXPECTED_ANSWER"


async def test_answers_of_another_shape_are_errors(client: RestClient, portal: Answering) -> None:
    for call in (
        client.event_bind_offline("A"),
        client.event_unbind_offline("A"),
        client.offline_list(),
        client.offline_clear("P", [MESSAGE]),
        client.feature_get("rest_offline_extended"),
    ):
        portal.answers = [{"result": {"value": "perhaps"}}]
        with pytest.raises(PortalError) as caught:
            await call
        assert caught.value.code == "UNEXPECTED_ANSWER"


@pytest.mark.parametrize("following", [0, 50, -1, "100", None])
async def test_a_page_that_leads_back_is_the_last(client: RestClient, portal: Answering, following: Any) -> None:
    portal.answers = [{"result": [], "next": following}]
    assert (await client.offline_list(start=50)).next is None
