"""The sandbox's limits of requests and of working time, and the age of tokens."""

import aiohttp
import pytest
from sandboxed import rest

from b24tunnel.errors import WrongUsage
from b24tunnel.sandbox import Fault, Limits, Sandbox, limits, tokens
from b24tunnel.sandbox.answers import Refusal

DAY = 24 * 3600


@pytest.fixture
def clock(monkeypatch):
    """The time that ``limits`` sees, in seconds, as a list of one."""
    now = [1000.0]

    class Clock:
        time = monotonic = staticmethod(lambda: now[0])

    monkeypatch.setattr(limits, "time", Clock)
    return now


def taken(bucket, source, times):
    """How many of ``times`` requests pass."""
    refused = 0
    for _ in range(times):
        try:
            bucket.take(source)
        except Refusal:
            refused += 1
    return times - refused


def test_a_bucket_holds_fifty_and_leaks_two_a_second(clock):
    bucket = limits.Intensity(Limits())
    assert taken(bucket, "a", 60) == 50
    clock[0] += 0.4
    assert taken(bucket, "a", 5) == 0
    clock[0] += 0.1
    assert taken(bucket, "a", 5) == 1
    clock[0] += 5
    assert taken(bucket, "a", 20) == 10
    clock[0] += 1000
    assert taken(bucket, "a", 60) == 50


def test_each_source_address_has_its_own_bucket_and_few_are_kept(clock, monkeypatch):
    monkeypatch.setattr(limits, "MAX_KEPT", 2)
    bucket = limits.Intensity(Limits(block=1))
    assert [taken(bucket, source, 2) for source in ("a", "b")] == [1, 1]
    taken(bucket, "c", 1)
    assert taken(bucket, "b", 1) == 0
    assert taken(bucket, "a", 1) == 1, "forgotten, as it was quiet longest"


def test_working_time_is_counted_by_method_and_free_again_after_ten_minutes(clock):
    operating = limits.Operating(Limits(operating=480))
    operating.add(("app", "crm.deal.list"), 480)
    operating.check(("app", "crm.deal.list"))
    assert operating.spent(("app", "crm.deal.list")) == (480, 1600)
    operating.add(("app", "crm.deal.list"), 1)
    with pytest.raises(Refusal, match="OPERATION_TIME_LIMIT"):
        operating.check(("app", "crm.deal.list"))
    operating.check(("app", "crm.deal.get"))
    operating.check(("other", "crm.deal.list"))
    clock[0] += 600
    operating.check(("app", "crm.deal.list"))


async def test_without_limits_nothing_is_refused():
    async with Sandbox(delay=0) as sandbox:
        assert ["result" in await rest(sandbox, "profile") for _ in range(100)] == [True] * 100


async def test_refused_calls_are_not_carried_out_and_tokens_are_renewed_all_the_same():
    async with Sandbox(delay=0, limits=Limits(drain=0.001, block=3)) as sandbox, aiohttp.ClientSession() as http:
        got = [(await rest(sandbox, "crm.deal.add")).get("error") for _ in range(5)]
        assert got == [None, None, None, "QUERY_LIMIT_EXCEEDED", "QUERY_LIMIT_EXCEEDED"]
        assert [call.status for call in sandbox.calls] == [200, 200, 200, 503, 503]
        async with http.post(f"{sandbox.url}/oauth/token/", data=grant(sandbox)) as answer:
            assert answer.status == 200


async def test_slow_answers_use_the_working_time_up_also_within_a_batch():
    async with Sandbox(delay=0, limits=Limits(block=1000, operating=0.05)) as sandbox:
        sandbox.fail("crm.deal.list", Fault.slow(0.06))
        answer = await rest(sandbox, "crm.deal.list")
        assert answer["time"]["operating"] >= 0.06
        assert answer["time"]["operating_reset_at"] > answer["time"]["finish"]
        assert (await rest(sandbox, "crm.deal.list"))["error"] == "OPERATION_TIME_LIMIT"
        batch = await rest(sandbox, "batch", cmd={"list": "crm.deal.list", "add": "crm.deal.add"})
        assert batch["result"]["result_error"]["list"]["error"] == "OPERATION_TIME_LIMIT"
        assert batch["result"]["result"] == {"add": 1}


@pytest.mark.parametrize(
    "values", [{"drain": 0}, {"drain": float("inf")}, {"block": 0}, {"operating": -1}, {"operating": float("nan")}]
)
def test_limits_that_cannot_be_are_told(values):
    with pytest.raises(WrongUsage):
        Limits(**values)


# ---- age


def grant(sandbox, **changed):
    credentials = sandbox.credentials
    right = {
        "grant_type": "refresh_token",
        "client_id": credentials.client_id,
        "client_secret": credentials.client_secret,
        "refresh_token": credentials.refresh_token,
    }
    return {**right, **changed}


async def error_of(http, sandbox, **changed):
    async with http.post(f"{sandbox.url}/oauth/token/", data=grant(sandbox, **changed)) as answer:
        return (await answer.json()).get("error")


async def test_access_tokens_live_for_their_time():
    async with Sandbox(delay=0, token_life=100) as sandbox:
        sandbox.age(90)
        assert "result" in await rest(sandbox, "profile")
        sandbox.age(10)
        assert (await rest(sandbox, "profile"))["error"] == "expired_token"


async def test_refresh_tokens_live_for_180_days_and_a_new_one_as_long_again():
    async with Sandbox(delay=0) as sandbox, aiohttp.ClientSession() as http:
        for _ in range(2):
            sandbox.age(179 * DAY)
            assert await error_of(http, sandbox) is None
        sandbox.age(180 * DAY)
        assert await error_of(http, sandbox) == "invalid_grant"


async def test_codes_live_for_30_seconds():
    async with Sandbox(delay=0) as sandbox, aiohttp.ClientSession() as http:
        young, old = sandbox.authorization_code(), sandbox.authorization_code()
        sandbox.age(20)
        assert await error_of(http, sandbox, grant_type="authorization_code", code=young) is None
        sandbox.age(10)
        assert await error_of(http, sandbox, grant_type="authorization_code", code=old) == "invalid_grant"


def test_tokens_that_travel_age_too_and_are_not_sent_again():
    table = tokens.Tokens(3600)
    app = tokens.App(1, "local.x", "secret", "0" * 32)
    sent = table.travelling(app, 1, 1, with_refresh=True)
    plain = table.travelling(app, 1, 1, with_refresh=False)
    table.age(3600)
    for pair in (sent, plain):
        with pytest.raises(Refusal, match="expired_token"):
            table.check(pair.access.value)
    assert table.travelling(app, 1, 1, with_refresh=False) != plain
    table.age(180 * DAY)
    with pytest.raises(Refusal, match="invalid_grant"):
        table.rotate(sent.refresh, app)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
async def test_no_token_grows_younger(seconds):
    with pytest.raises(WrongUsage, match="older"):
        Sandbox().age(seconds)
