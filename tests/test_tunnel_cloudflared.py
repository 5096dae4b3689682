"""The Cloudflare tunnels: a stand-in for cloudflared, run as a real process, and lines as it prints them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cloudflared_standin import BAR, HOST, THANKS
from programs import Programs, free_port, wait_until
from tunnel_program import LocalServer, TunnelProgram, arguments_of_all, exists, no_users_home, post
from waiting import until

from b24tunnel.errors import WrongUsage
from b24tunnel.tunnel.cloudflared import CloudflaredSettings, CloudflaredTunnel
from b24tunnel.tunnel.cloudflared_lines import EDGE, CloudflaredReader, quick_host
from b24tunnel.tunnel.provider import TunnelFailed

Make = Callable[..., CloudflaredTunnel]
TOKEN = "eyJhIjoiYSBzZWNyZXQifQ0123456789"
AT = "2026-08-20T10:00:03Z"


def ignore(_: str) -> None:
    """Nothing has to be said."""


@pytest.fixture(autouse=True)
def users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user has configured nothing."""
    return no_users_home(monkeypatch, tmp_path / "user")


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TunnelProgram]:
    """cloudflared's stand-in; after the test nothing is left of any run."""
    program = TunnelProgram(
        *(tmp_path / "program", "cloudflared", "cloudflared_standin.py", "CLOUDFLARED_STANDIN_NOTES")
    )
    for name, value in program.environment.items():
        monkeypatch.setenv(name, value)
    yield program
    program.assert_nothing_is_left()
    left = [file.name for file in (tmp_path / "state").glob("*")]
    assert left in ([], ["cloudflared.yml"]), "one file, the same for all runs"


@pytest.fixture
def make(program: TunnelProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes a tunnel whose program does what the mode says."""

    def make(mode: str = "well", *, deadline: float = 60.0, **settings: Any) -> CloudflaredTunnel:
        monkeypatch.setenv("CLOUDFLARED_STANDIN", mode)
        return CloudflaredTunnel(
            CloudflaredSettings(binary=str(program.binary), **settings), tmp_path / "state", deadline=deadline
        )

    return make


async def refused(tunnel: CloudflaredTunnel) -> TunnelFailed:
    """What `open` raises; without a token in it."""
    with pytest.raises(TunnelFailed) as caught:
        await tunnel.open(9, ignore)
    assert TOKEN not in str(caught.value)
    assert str(caught.value).endswith(".")
    return caught.value


@pytest.mark.parametrize("mode", ["well", "json", "wordless", "deaf"])
async def test_a_quick_tunnel_has_the_address_that_cloudflare_gave(
    make: Make, program: TunnelProgram, mode: str
) -> None:
    tunnel = make(mode)
    for _ in range(2):
        assert await tunnel.open(8123, ignore) == f"https://{HOST}"
        assert program.runs()[-1]["arguments"][-2:] == ["--url", "http://127.0.0.1:8123"]
        await tunnel.close()
        program.assert_nothing_is_left()
    await tunnel.close()


async def test_the_users_own_configuration_and_variables_do_not_reach_a_quick_tunnel(
    make: Make, program: TunnelProgram, users_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (users_home / ".cloudflared").mkdir()
    (users_home / ".cloudflared/config.yml").write_text("ingress:\n- service: http_status:404\n")
    for name in ("TUNNEL_TOKEN", "TUNNEL_HOSTNAME", "TUNNEL_LOGLEVEL", "TUNNEL_EDGE_IP_VERSION"):
        monkeypatch.setenv(name, "6")
    tunnel = make(protocol="http2")
    await tunnel.open(9, ignore)
    run = program.run()
    assert run["config"].strip() == "{}"
    assert run["environment"] == {"TUNNEL_EDGE_IP_VERSION": "6"}
    assert run["arguments"][-4:] == ["--protocol", "http2", "--url", "http://127.0.0.1:9"]
    await tunnel.close()


@pytest.mark.parametrize("where", ["settings", "environment"])
async def test_a_named_tunnel_leads_its_hostname_to_the_port(
    make: Make, program: TunnelProgram, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    public = free_port()
    monkeypatch.setenv("CLOUDFLARED_STANDIN_PORT", str(public))
    monkeypatch.setenv("TUNNEL_TOKEN", TOKEN if where == "environment" else "another")
    token = TOKEN if where == "settings" else None
    tunnel = make(hostname=f"http://127.0.0.1:{public}/", token=token)
    said: list[str] = []
    async with LocalServer() as server:
        assert await tunnel.open(server.port, said.append) == f"http://127.0.0.1:{public}"
        assert await post(f"http://127.0.0.1:{public}/b24/x", b"event=ONCRMDEALADD") == "taken"
        assert server.bodies == [b"event=ONCRMDEALADD"]
        assert f"http://127.0.0.1:{server.port}" in said[0]
    run = program.run()
    assert run["environment"] == {"TUNNEL_TOKEN": TOKEN}
    assert "run" in run["arguments"]
    assert TOKEN not in arguments_of_all()
    await tunnel.close()


async def test_a_hostname_becomes_an_https_address(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDFLARED_STANDIN_PORT", str(free_port()))
    tunnel = make("wordless", hostname="hooks.example.org", token=TOKEN)
    assert await tunnel.open(9, ignore) == "https://hooks.example.org"
    await tunnel.close()


async def test_a_named_tunnel_without_or_with_a_wrong_token_is_for_the_user_to_put_right(
    make: Make, program: TunnelProgram
) -> None:
    failure = await refused(make(hostname="hooks.example.org"))
    assert failure.permanent
    assert "TUNNEL_TOKEN" in str(failure)
    assert program.runs() == []
    failure = await refused(make(hostname="hooks.example.org", token="not-valid"))
    assert failure.permanent
    assert "token is not valid" in str(failure)


def test_settings_that_do_not_fit_together_are_refused_at_once(make: Make) -> None:
    with pytest.raises(WrongUsage, match="public hostname"):
        make(token=TOKEN)
    with pytest.raises(WrongUsage, match="no public address"):
        make(hostname="hooks.example.org/?a", token=TOKEN)


@pytest.mark.parametrize(
    ("mode", "words", "pause", "deadline"),
    [
        ("limited", "rate limit", 300, 60),
        ("offline", "cannot reach api.trycloudflare.com", 0, 60),
        ("silent", "gave no tunnel within 1 seconds", 0, 1),
    ],
)
async def test_a_quick_tunnel_that_does_not_come_about_ends_with_what_helps(
    make: Make, program: TunnelProgram, mode: str, words: str, pause: float, deadline: float
) -> None:
    failure = await refused(make(mode, deadline=deadline))
    assert words in str(failure)
    assert (failure.permanent, failure.pause) == (False, pause)
    program.assert_nothing_is_left()


async def test_an_edge_that_is_not_reached_is_told_at_the_deadline(make: Make, program: TunnelProgram) -> None:
    for deadline in (1.0, 4.0, 16.0, 64.0):  # for the program to have said something
        failure = await refused(make("blocked", deadline=deadline))
        program.assert_nothing_is_left()
        if str(failure) == EDGE:
            break
    assert str(failure) == EDGE
    assert not failure.permanent


async def test_a_program_that_is_not_there_is_for_the_user_to_install(tmp_path: Path) -> None:
    failure = await refused(
        CloudflaredTunnel(CloudflaredSettings(binary=str(tmp_path / "none")), tmp_path / "state")
    )
    assert failure.permanent
    assert "install it" in str(failure)
    assert [file.name for file in (tmp_path / "state").iterdir()] == ["cloudflared.yml"]


async def test_a_program_that_ends_loses_the_address_without_telling_the_token(
    make: Make, program: TunnelProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUDFLARED_STANDIN_PORT", str(free_port()))
    tunnel = make("ends", hostname="hooks.example.org", token=TOKEN)
    await tunnel.open(9, ignore)
    lost = await tunnel.lost()
    assert "ended with exit code 1" in lost.reason
    assert "[masked]" in lost.reason
    assert TOKEN not in lost.reason
    await tunnel.close()


async def test_a_killed_program_loses_the_address(make: Make, program: TunnelProgram) -> None:
    tunnel = make()
    await tunnel.open(9, ignore)
    waiting = asyncio.create_task(tunnel.lost())
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    os.kill(program.run()["pid"], signal.SIGKILL)
    assert "exit code -9" in (await tunnel.lost()).reason
    await tunnel.close()


async def test_a_cancelled_open_leaves_nothing_after_close(make: Make, program: TunnelProgram) -> None:
    tunnel = make("silent")
    opening = asyncio.create_task(tunnel.open(9, ignore))
    await until(program.runs)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await tunnel.close()
    program.assert_nothing_is_left()


async def test_a_tunnel_that_is_not_open_is_not_lost(make: Make) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await make().lost()


@pytest.mark.parametrize("mode", ["well", "deaf"])
def test_kill_9_of_the_process_that_runs_the_tunnel_leaves_no_program(
    program: TunnelProgram, programs: Programs, tmp_path: Path, mode: str
) -> None:
    script = tmp_path / "runs_tunnel.py"
    script.write_text(
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from b24tunnel.tunnel.cloudflared import CloudflaredSettings, CloudflaredTunnel\n"
        "async def main():\n"
        "    tunnel = CloudflaredTunnel(CloudflaredSettings(binary=sys.argv[1]), Path(sys.argv[2]))\n"
        "    print(await tunnel.open(9, print), flush=True)\n"
        "    await asyncio.sleep(3600)\n"
        "asyncio.run(main())\n"
    )
    runner = programs.start(
        *(sys.executable, str(script), str(program.binary), str(tmp_path / "there")),
        env={"CLOUDFLARED_STANDIN": mode},
    )
    wait_until(lambda: runner.lines, "the address")
    runner.send_signal(signal.SIGKILL)
    wait_until(lambda: not exists(program.run()["pid"]), "the end of the program")


def test_the_lines_of_a_quick_tunnel_are_read() -> None:
    reader = CloudflaredReader()
    for line in (
        f"{AT} INF {THANKS}",
        f"{AT} INF Requesting new quick Tunnel on trycloudflare.com...",
        f"{AT} INF {BAR}",
        f"{AT} INF |  Your quick Tunnel has been created! Visit it at (it may take some time to be reachable):  |",
    ):
        reader.feed(line)
        assert reader.url is None
    reader.feed(f"{AT} INF |  https://{HOST}                                         |")
    assert reader.url == f"https://{HOST}"
    assert not reader.registered
    reader.feed(f"{AT} INF Starting metrics server on 127.0.0.1:20241/metrics")
    assert reader.metrics == "127.0.0.1:20241"
    reader.feed(f"{AT} INF Registered tunnel connection connIndex=0 connection=x event=0 ip=198.41.192.7")
    assert reader.registered
    assert reader.failure is None
    assert not reader.edge_trouble


def test_json_lines_are_read_as_well() -> None:
    reader = CloudflaredReader()
    reader.feed(f'{{"level":"info","message":"|  https://{HOST}   |","time":"{AT}"}}')
    reader.feed('{"level":"info","connIndex":0,"message":"Registered tunnel connection"}')
    assert reader.url == f"https://{HOST}"
    assert reader.registered
    reader.feed(
        '{"level":"error","error":"invalid character","status_code":"429 Too Many Requests",'
        '"message":"Error unmarshaling QuickTunnel response: error code: 1015"}'
    )
    assert reader.failure is not None
    assert reader.failure.pause == 300


@pytest.mark.parametrize(
    "line",
    [
        f"{AT} INF {THANKS}",
        f"{AT} ERR Configuration file /state/cloudflared-x.yml was empty",
        f"{AT} ERR Cannot determine default origin certificate path. No file cert.pem in [~/.cloudflared]",
        f"{AT} INF Cannot determine default configuration path. No file [config.yml config.yaml]",
        f'{AT} ERR  error="Unable to reach the origin service. The service may be down or it may not be responding '  # noqa: E501
        'to traffic from cloudflared: dial tcp 127.0.0.1:8000: connect: connection refused" connIndex=0',
        f"{AT} INF |  CONNECTIVITY PRE-CHECKS  |",
        f"{AT} INF |  https://api.trycloudflare.com  |",
        f"{AT} INF |  https://{HOST}.example.org  |",
        f"{AT} INF |  https://www.cloudflare.com/website-terms/  |",
        f"{AT} ERR Request failed dest=https://{HOST}/x type=http",
        f"{AT} INF Retrying connection in up to 1m4s connIndex=0 event=0 ip=198.41.200.63",
        f"{AT} INF origin answered 429 Too Many Requests",
        '{"level":"info","message":5',
        "{}",
        "",
    ],
)
def test_lines_that_are_neither_an_address_nor_a_failure_change_nothing(line: str) -> None:
    reader = CloudflaredReader()
    reader.feed(line)
    assert vars(reader) == vars(CloudflaredReader())


@pytest.mark.parametrize(
    ("line", "words", "permanent", "pause"),
    [
        (
            f"{AT} ERR Error unmarshaling QuickTunnel response: error code: 1015 error=\"invalid character 'e' looking "  # noqa: E501
            'for beginning of value" status_code="429 Too Many Requests"',
            "rate limit",
            False,
            300,
        ),
        (
            f"{AT} ERR Error unmarshaling QuickTunnel response: error code: 1101 error=\"invalid character 'e'\" "
            'status_code="500 Internal Server Error"',
            "fault on its side",
            False,
            60,
        ),
        ("failed to unmarshal quick Tunnel: invalid character 'e' looking for", "fault on its side", False, 60),
        (
            'failed to request quick Tunnel: Post "https://api.trycloudflare.com/tunnel": dial tcp: lookup '
            "api.trycloudflare.com on 192.0.2.53:53: no such host",
            "cannot reach api.trycloudflare.com",
            False,
            0,
        ),
        ("Provided Tunnel token is not valid.", "token is not valid", True, 0),
        ("use `cloudflared tunnel run` to start tunnel X", "TUNNEL_ variables", True, 0),
    ],
)
def test_a_failure_is_told_in_words_that_help(line: str, words: str, permanent: bool, pause: float) -> None:
    reader = CloudflaredReader()
    reader.feed(line)
    reader.feed("failed to unmarshal quick Tunnel: the last word does not count")
    assert reader.url is None
    assert reader.failure is not None
    assert words in str(reader.failure)
    assert "JSON" not in str(reader.failure)
    assert "invalid character" not in str(reader.failure)
    assert (reader.failure.permanent, reader.failure.pause) == (permanent, pause)


@pytest.mark.parametrize(
    "line",
    [
        f'{AT} ERR Failed to dial a quic connection error="failed to dial to edge with quic: timeout: no recent '
        'network activity" connIndex=0 event=0 ip=198.41.200.63',
        f'{AT} ERR Unable to establish connection with Cloudflare edge error="TLS handshake with edge error: read '
        'tcp 192.0.2.4:46684->198.41.192.47:7844: i/o timeout" connIndex=0',
        f"{AT} WRN If this log occurs persistently, and cloudflared is unable to connect to Cloudflare Network with "  # noqa: E501
        "`quic` protocol, then most likely your machine/network is getting its egress UDP to port 7844 blocked",
    ],
)
def test_attempts_to_connect_that_fail_are_trouble_and_no_failure_yet(line: str) -> None:
    reader = CloudflaredReader()
    reader.feed(line)
    assert reader.edge_trouble
    assert reader.failure is None
    assert "7844" in EDGE
    assert "Russia" in EDGE
    assert 'protocol = "http2"' in EDGE


@pytest.mark.parametrize("name", ["", None, "api.trycloudflare.com", "x.example.org", f"{HOST}/", f"a.{HOST}"])
def test_the_status_server_gives_no_other_address_than_a_quick_tunnels(name: object) -> None:
    assert quick_host(HOST) == f"https://{HOST}"
    assert quick_host(name) is None


async def test_a_close_that_was_cancelled_is_made_up_for_by_the_next(
    make: Callable[..., CloudflaredTunnel], program: TunnelProgram
) -> None:
    tunnel = make("deaf")
    await tunnel.open(9, ignore)
    closing = asyncio.ensure_future(tunnel.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    assert exists(program.run()["pid"])
    await tunnel.close()
    assert not exists(program.run()["pid"])
