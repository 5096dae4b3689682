"""The ngrok tunnel: a stand-in for the agent, run by the real pyngrok as a real process."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import ClientError, ClientSession
from programs import Programs, wait_until
from pyngrok import ngrok, process
from tunnel_program import (
    LocalServer,
    TunnelProgram,
    arguments_of_all,
    exists,
    no_users_home,
    post,
)
from waiting import until

from b24tunnel.errors import WrongUsage
from b24tunnel.tunnel import ngrok_agent
from b24tunnel.tunnel.ngrok import NgrokSettings, NgrokTunnel, token_known
from b24tunnel.tunnel.ngrok_errors import _SENTENCES, code_in, failure_for
from b24tunnel.tunnel.ngrok_log import AgentLog
from b24tunnel.tunnel.provider import TunnelFailed

Make = Callable[..., NgrokTunnel]
TABLE_OF_CODES = (105, 107, 108, 120, 121, 313, 334, 702, 725, 734, 3004, 3200, 4018, 8012, 8014, 9040)


def ignore(_: str) -> None:
    """Nothing has to be said."""


@pytest.fixture(autouse=True)
def users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user has configured nothing."""
    return no_users_home(monkeypatch, tmp_path / "user")


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TunnelProgram]:
    """The agent's stand-in; after the test nothing is left of any run, in pyngrok neither."""
    program = TunnelProgram(tmp_path / "agent", "ngrok", "ngrok_standin.py", "NGROK_STANDIN_NOTES")
    for name, value in program.environment.items():
        monkeypatch.setenv(name, value)
    yield program
    program.assert_nothing_is_left()
    assert process._current_processes == {}
    assert ngrok._current_tunnels == {}
    assert ngrok_agent._paths_in_use == set()
    assert not ngrok_agent._starting.locked()
    wait_until(
        lambda: not [thread.name for thread in threading.enumerate() if "_monitor_process" in thread.name],
        "the end of pyngrok's threads",
    )
    assert list((tmp_path / "state").glob("*")) == []


@pytest.fixture
async def make(agent: TunnelProgram, tmp_path: Path) -> AsyncIterator[Make]:
    """Makes a tunnel whose agent does what its token says; a test that fails leaves none open."""
    made: list[NgrokTunnel] = []

    def make(mode: str | None = "well", *, domain: str | None = None, **more: Any) -> NgrokTunnel:
        token = None if mode is None else f"token-{mode}-0123456789"
        settings = NgrokSettings(authtoken=token, domain=domain, binary=str(agent.binary))
        made.append(NgrokTunnel(settings, tmp_path / "state", **more))
        return made[-1]

    yield make
    for tunnel in made:
        await tunnel.close()


async def refused(tunnel: NgrokTunnel, port: int = 9) -> TunnelFailed:
    """What `open` raises; without a token in it, nor in what caused it."""
    with pytest.raises(TunnelFailed) as caught:
        await tunnel.open(port, ignore)
    assert "0123456789" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert str(caught.value).endswith(".")
    return caught.value


async def tell(run: dict[str, Any], line: str) -> None:
    """Have the agent print a line; with an empty one it ends."""
    async with ClientSession() as http:
        try:
            await (await http.post(f"http://127.0.0.1:{run['api']}/stand-in", data=line)).read()
        except ClientError:
            assert not line


async def test_a_delivery_to_the_address_arrives_at_the_port(make: Make, agent: TunnelProgram) -> None:
    tunnel = make()
    async with LocalServer() as server:
        url = await tunnel.open(server.port, ignore)
        assert await post(f"{url}/b24/x", b"event=ONCRMDEALADD") == "taken"
        assert server.bodies == [b"event=ONCRMDEALADD"]
        assert agent.run()["endpoint"]["upstream"] == {"url": f"http://127.0.0.1:{server.port}"}
    await tunnel.close()
    await tunnel.close()


async def test_the_token_is_in_a_file_of_the_users_and_in_no_processs_arguments(
    make: Make, agent: TunnelProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = secrets.token_hex(8)  # other tests run at the same time, with tokens of their own
    monkeypatch.setenv("NGROK_AUTHTOKEN", f"token-well-{secret}")
    tunnel = make(None)
    opening = asyncio.create_task(tunnel.open(9, ignore))
    shown = ""
    while not opening.done():
        shown += await asyncio.to_thread(arguments_of_all)
    await opening
    shown += arguments_of_all()
    leaked = secret in shown
    assert agent.binary.name in shown
    assert not leaked
    run = agent.run()
    assert run["rights"] == "0o600"
    assert run["config"] == {"version": "3", "agent": {"authtoken": f"token-well-{secret}"}}
    assert list((tmp_path / "state").iterdir()) == [], "the file is gone once the agent has read it"
    await tunnel.close()


async def test_what_a_killed_start_left_of_the_token_is_removed_by_a_later_one(make: Make, tmp_path: Path) -> None:
    old, fresh = (tmp_path / "state" / f"ngrok-{name}.yml" for name in ("old", "fresh"))
    old.parent.mkdir(exist_ok=True)
    for left in (old, fresh):
        left.write_text("authtoken: secret")
    os.utime(old, (0, 0))
    tunnel = make()
    await tunnel.open(9, ignore)
    assert not old.exists()
    assert fresh.exists(), "another start may be under way"
    fresh.unlink()
    await tunnel.close()


async def test_another_token_in_the_environment_does_not_reach_the_agent(
    make: Make, agent: TunnelProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NGROK_AUTHTOKEN", "token-107-of-the-environment")
    tunnel = make()
    await tunnel.open(9, ignore)
    assert agent.run()["environment"] is None
    assert os.environ["NGROK_AUTHTOKEN"] == "token-107-of-the-environment"
    await tunnel.close()


async def test_the_users_own_configuration_gives_the_token_and_the_way_to_the_service(
    make: Make, agent: TunnelProgram, users_home: Path
) -> None:
    path = users_home / ".config/ngrok/ngrok.yml"
    path.parent.mkdir(parents=True)
    users = {"authtoken": "token-well-0123456789", "proxy_url": "http://proxy.example:3128", "log_format": "json"}
    path.write_text(
        yaml.safe_dump({"version": 3, "agent": users, "endpoints": [{"name": "pyngrok-default", "url": "x"}]})
    )
    tunnel = make(None)
    await tunnel.open(9, ignore)
    config = agent.run()["config"]
    assert config == {
        "version": "3",
        "agent": {"authtoken": "token-well-0123456789", "proxy_url": "http://proxy.example:3128"},
    }
    assert "url" not in agent.run()["endpoint"]
    await tunnel.close()


async def test_without_a_token_nothing_is_started(make: Make, agent: TunnelProgram) -> None:
    failure = await refused(make(None))
    assert failure.permanent
    assert "NGROK_AUTHTOKEN" in str(failure)
    assert agent.runs() == []


@pytest.mark.parametrize(
    ("mode", "words", "permanent", "pause"),
    [
        ("105", "does not take the authtoken for one", True, 0),
        ("107", "knows the authtoken no longer", True, 0),
        ("108", "Too many ngrok agents", False, 60),
        ("4018", "ngrok needs an account", True, 0),
        ("9040", "refuses agents from your country", True, 0),
        ("9999", r"ERR_NGROK_9999, https://ngrok.com/docs/errors/err_ngrok_9999", True, 0),
    ],
)
@pytest.mark.parametrize("how", ["", "ends"])
async def test_an_agent_that_is_refused_ends_the_wait_with_what_helps(
    make: Make, agent: TunnelProgram, how: str, mode: str, words: str, permanent: bool, pause: float
) -> None:
    failure = await refused(make(how + mode, deadline=60))
    assert words in str(failure)
    assert f"ERR_NGROK_{mode}" in str(failure)
    assert (failure.permanent, failure.pause) == (permanent, pause)
    agent.assert_nothing_is_left()


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("silent", "within 1 seconds, and told no error"),
        ("deafsilent", "within 1 seconds, and told no error"),
        ("hangs", "within 1 seconds"),
        ("old", "within 1 seconds"),
        ("lookup", "within 1 seconds"),
        ("stuck", "within 1 seconds"),
    ],
)
async def test_whatever_the_agent_does_there_is_an_end_to_it(
    make: Make, agent: TunnelProgram, mode: str, words: str
) -> None:
    failure = await refused(make(mode, deadline=1))
    assert words in str(failure)
    assert not failure.permanent
    agent.assert_nothing_is_left()


@pytest.mark.parametrize(
    ("mode", "words", "permanent"),
    [
        ("334", "in use by another agent already", False),
        ("refused", "told with [masked]", True),
        ("8012", "refuses the tunnel", True),
        ("nameless", "tells no address", True),
        ("quits", "ended with exit code 3", False),
        ("crashes", "has given up (reading configuration: no such key)", False),
    ],
)
async def test_an_agent_that_gives_no_address_is_ended_and_the_reason_told(
    make: Make, agent: TunnelProgram, mode: str, words: str, permanent: bool
) -> None:
    failure = await refused(make(mode, deadline=60))
    assert words in str(failure)
    assert failure.permanent == permanent
    agent.assert_nothing_is_left()


async def test_a_fixed_domain_is_asked_for_and_no_other_taken(make: Make, agent: TunnelProgram) -> None:
    tunnel = make(domain="Hooks.Example.app/")
    assert await tunnel.open(9, ignore) == "https://hooks.example.app"
    assert agent.run()["endpoint"]["url"] == "https://hooks.example.app"
    await tunnel.close()
    failure = await refused(make("other", domain="https://hooks.example.app"))
    assert "https://another.example instead of the domain hooks.example.app" in str(failure)
    assert failure.permanent


@pytest.mark.parametrize("domain", ["", "name", "http://hooks.example", "hooks.example/path", "a b.example"])
def test_what_is_no_domain_is_refused_at_once(make: Make, domain: str) -> None:
    with pytest.raises(WrongUsage, match="is no ngrok domain"):
        make(domain=domain)


async def test_a_tunnel_opens_again_after_it_was_closed_or_has_failed(make: Make, agent: TunnelProgram) -> None:
    async with LocalServer() as server:
        for mode in ("well", "105", "silent", "well"):
            tunnel = make(mode, deadline=0.5 if mode == "silent" else 60)
            if mode == "well":
                for _ in range(2):
                    url = await tunnel.open(server.port, ignore)
                    assert await post(url, b"") == "taken"
                    await tunnel.close()
            else:
                for _ in range(2):
                    await refused(tunnel)


async def test_a_cancelled_open_leaves_no_agent(make: Make, agent: TunnelProgram) -> None:
    tunnel = make("deafsilent", deadline=60)
    opening = asyncio.create_task(tunnel.open(9, ignore))
    await until(agent.runs)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    agent.assert_nothing_is_left()
    await tunnel.close()


async def test_an_open_that_is_cancelled_before_there_is_an_agent_leaves_none(
    make: Make, agent: TunnelProgram
) -> None:
    for rounds in range(8):
        tunnel = make(deadline=60)
        opening = asyncio.create_task(tunnel.open(9, ignore))
        for _ in range(rounds * 3):
            await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await tunnel.close()


@pytest.mark.parametrize("mode", ["deaf", "floods", "children", "bytes"])
async def test_an_agent_of_any_kind_is_gone_after_close(make: Make, agent: TunnelProgram, mode: str) -> None:
    tunnel = make(mode, deadline=60)
    await tunnel.open(9, ignore)
    lost = asyncio.create_task(tunnel.lost())
    async with asyncio.timeout(20):
        await tunnel.close()
    agent.assert_nothing_is_left()
    lost.cancel()
    await asyncio.gather(lost, return_exceptions=True)


async def test_a_code_that_comes_later_loses_the_address(make: Make, agent: TunnelProgram) -> None:
    tunnel = make()
    await tunnel.open(9, ignore)
    lost = asyncio.create_task(tunnel.lost())
    run = agent.run()
    await tell(run, 't=1 lvl=eror msg="failed to reconnect session" err="dial tcp: i/o timeout"')
    await tell(run, 't=1 lvl=warn msg="failed to serve" err="no local service ERR_NGROK_8012"')
    assert not lost.done()
    await tell(run, 't=1 lvl=eror msg="failed to reconnect session" err="authentication failed: ERR_NGROK_107"')
    gone = await lost
    assert gone.url is None
    assert "knows the authtoken no longer" in gone.reason
    await tunnel.close()


async def test_an_agent_that_ends_loses_the_address(make: Make, agent: TunnelProgram) -> None:
    tunnel = make()
    await tunnel.open(9, ignore)
    waiting = asyncio.create_task(tunnel.lost())
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    lost = asyncio.create_task(tunnel.lost())
    await tell(agent.run(), "")
    assert "given up (killed for a reason)" in (await lost).reason
    await tunnel.close()


async def test_a_killed_agent_loses_the_address(make: Make, agent: TunnelProgram) -> None:
    tunnel = make()
    await tunnel.open(9, ignore)
    os.kill(agent.run()["pid"], signal.SIGKILL)
    assert (await tunnel.lost()).reason.startswith("The ngrok agent has ended with exit code -9")
    await tunnel.close()


async def test_two_tunnels_with_the_same_program_do_not_disturb_each_other(
    make: Make, agent: TunnelProgram
) -> None:
    first, second = make(), make()
    async with LocalServer() as one, LocalServer() as other:
        first_url, second_url = await asyncio.gather(first.open(one.port, ignore), second.open(other.port, ignore))
        lost = asyncio.create_task(second.lost())
        await post(first_url, b"first")
        await first.close()
        await post(second_url, b"second")
        assert not lost.done()
        assert (one.bodies, other.bodies) == ([b"first"], [b"second"])
        again = await first.open(one.port, ignore)
        await post(again, b"third")
        lost.cancel()
        await asyncio.gather(lost, return_exceptions=True)
        await asyncio.gather(first.close(), second.close())


async def test_a_silent_agent_does_not_keep_another_tunnel_from_opening(make: Make, agent: TunnelProgram) -> None:
    well = make(deadline=60)
    _, url = await asyncio.gather(refused(make("silent", deadline=0.5)), well.open(9, ignore))
    assert url.startswith("http://127.0.0.1:")
    await well.close()


@pytest.mark.parametrize("mode", ["well", "deaf", "deafsilent"])
def test_kill_9_of_the_process_that_runs_the_tunnel_leaves_no_agent(
    agent: TunnelProgram, programs: Programs, tmp_path: Path, mode: str
) -> None:
    script = tmp_path / "runs_tunnel.py"
    script.write_text(
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from b24tunnel.tunnel.ngrok import NgrokSettings, NgrokTunnel\n"
        "async def main():\n"
        "    settings = NgrokSettings(authtoken=sys.argv[1], binary=sys.argv[2])\n"
        "    print(await NgrokTunnel(settings, Path(sys.argv[3])).open(9, print), flush=True)\n"
        "    await asyncio.sleep(3600)\n"
        "asyncio.run(main())\n"
    )
    program = programs.start(
        *(sys.executable, str(script), f"token-{mode}-0123456789", str(agent.binary), str(tmp_path / "there"))
    )
    run = wait_until(agent.runs, "a run of the agent")[0]
    if mode != "deafsilent":
        wait_until(lambda: program.lines, "the address")
    else:
        wait_until(lambda: f"warden.py {run['pid']} " in arguments_of_all(), "the warden")
    program.send_signal(signal.SIGKILL)
    wait_until(lambda: not exists(run["pid"]), "the end of the agent")


async def test_what_the_agent_says_reaches_neither_the_terminal_nor_the_programs_own_log(
    make: Make, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[logging.LogRecord] = []
    own = logging.Handler()
    own.emit = logged.append  # type: ignore[method-assign]
    for handlers in ([], [own]):
        monkeypatch.setattr(logging.getLogger(), "handlers", handlers)
        await refused(make("105", deadline=60))
        await refused(make("ends107", deadline=60))
    assert capfd.readouterr() == ("", "")
    assert [record.name for record in logged if record.name.startswith("pyngrok")] == []


async def test_a_proxy_in_the_environment_is_not_asked_for_the_agents_own_api(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "intranet.example")
    tunnel = make()
    await tunnel.open(9, ignore)
    assert os.environ["no_proxy"] == "intranet.example,127.0.0.1"
    await tunnel.close()


async def test_a_tunnel_that_is_not_open_is_not_lost(make: Make) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await make().lost()


@pytest.mark.parametrize(
    ("where", "text", "known"),
    [
        (".config/ngrok/ngrok.yml", 'version: "3"\nagent:\n  authtoken: abc\n', True),
        (".config/ngrok/ngrok.yml", 'version: "2"\nauthtoken: abc\n', True),
        ("Library/Application Support/ngrok/ngrok.yml", "agent: {authtoken: abc}", True),
        (".config/ngrok/ngrok.yml", 'version: "3"\nagent:\n  authtoken: ""\n', False),
        (".config/ngrok/ngrok.yml", "version: 3\n# authtoken: abc\n", False),
        (".config/ngrok/ngrok.yml", "authtoken: {", False),
        (".config/ngrok/ngrok.yml", "- authtoken", False),
        (".config/ngrok/ngrok.yml", "authtoken: 5", False),
        (".config/ngrok/ngrok.yml", "authtoken: !!python/object/apply:os.getcwd []", False),
        (".config/ngrok/other.yml", "authtoken: abc", False),
    ],
)
def test_a_token_is_known_from_the_users_configuration(
    users_home: Path, where: str, text: str, known: bool
) -> None:
    (users_home / where).parent.mkdir(parents=True)
    (users_home / where).write_text(text)
    assert token_known(NgrokSettings()) == known


def test_a_token_is_known_from_the_settings_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not token_known(NgrokSettings())
    assert not token_known(NgrokSettings(authtoken="  "))
    assert token_known(NgrokSettings(authtoken="abc"))
    monkeypatch.setenv("NGROK_AUTHTOKEN", "abc")
    assert token_known(NgrokSettings())


@pytest.mark.parametrize("code", [*TABLE_OF_CODES, 12345])
def test_every_code_has_a_sentence_with_a_way_out(code: int) -> None:
    assert set(TABLE_OF_CODES) <= set(_SENTENCES)
    sentence = str(failure_for(code))
    assert sentence.endswith(f" (ERR_NGROK_{code}, https://ngrok.com/docs/errors/err_ngrok_{code}).")
    assert ": " in sentence


def test_the_agents_lines_are_read() -> None:
    log = AgentLog("the-secret-token")
    assert not log.feed('t=1 lvl=info msg="starting web service" obj=web addr=127.0.0.1:4040 allow_hosts=[]')
    assert not log.feed('t=1 lvl=info msg="tunnel session started" obj=tunnels.session\n')
    assert log.session
    assert not log.feed('t=1 lvl=eror msg="failed to reconnect session" err="dial tcp: \\"x\\" the-secret-token."')
    assert log.trouble == 'dial tcp: \\"x\\" [masked]'
    assert not log.feed('t=1 lvl=eror msg="no err here"')
    assert log.trouble == "no err here"
    assert not log.feed('t=1 lvl=info msg=join id=ERR_NGROK_ name="http (80)"')
    assert not log.feed('t=1 lvl=warn msg="failed to open private leg" err="ERR_NGROK_8012"')
    assert log.feed("ERROR:  ERR_NGROK_9040")
    assert not log.feed("ERROR:  https://ngrok.com/docs/errors/err_ngrok_105 ERR_NGROK_105")
    assert code_in(str(log.failure(1))) == 9040


@pytest.mark.parametrize(
    ("line", "words", "permanent"),
    [
        ('lvl=eror msg=x err="tls: x509: certificate signed by unknown authority"', "connect_cas: host", True),
        ('lvl=eror msg=x err="lookup connect.ngrok-agent.com: no such host"', "check the network", False),
        ("ERROR:  something without a code", "something without a code", False),
        ('lvl=crit msg="command failed" err="no such key"', "has given up (no such key)", False),
        ('lvl=info msg="tunnel session started"', "ngrok update", False),
        ("", "told no error", False),
    ],
)
def test_without_a_code_the_last_error_is_told(line: str, words: str, permanent: bool) -> None:
    log = AgentLog("the-secret-token")
    log.feed(line)
    failure = log.failure(20)
    assert words in str(failure)
    assert failure.permanent == permanent
