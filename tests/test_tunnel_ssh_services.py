"""Tunnels of public services over SSH: what is read from what they say, and a stand-in that really forwards."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import multiprocessing
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncssh
import pytest
from programs import free_port
from ssh_service_standin import Manners, SshServiceStandin, silent_server
from tunnelled import answering, knock, nothing_left
from waiting import until

from b24tunnel.tunnel.lines import Lines
from b24tunnel.tunnel.provider import Lost, TunnelFailed
from b24tunnel.tunnel.ssh_key import own_key
from b24tunnel.tunnel.ssh_services import SSH_SERVICES, ServiceSettings, SshService, SshServiceTunnel

# What the services print, with invented names; each with the one address in it.
LOCALHOST_RUN_TEXT = (
    b"===============================================================================\r\n"
    b"Welcome to localhost.run!\r\n"
    b"Follow your favourite reverse tunnel at [https://twitter.com/localhost_run].\r\n"
    b"To set up and manage custom domains go to https://admin.localhost.run/\r\n"
    b"More details on custom domains at https://localhost.run/docs/custom-domains\r\n"
    b"** your connection id is 0000-1111, please mention it if you send me a message about an issue. **\r\n"
    b"authenticated as anonymous user\r\n"
    b"1e50invented62.lhr.life tunneled with tls termination, https://1e50invented62.lhr.life\r\n"
    b"create an account and add your key for a longer lasting domain name. see"
    b" https://localhost.run/docs/forever-free/ for more information.\r\n"
)


def event(address: str, **more: object) -> bytes:
    """localhost.run's announcement as JSON."""
    message = f"{address} tunneled with tls termination, https://{address}"
    fields = {"connection_id": "abc", "event": "tcpip-forward", "message": message, "address": address}
    return json.dumps({**fields, "status": "success", "tls_termination": True, **more}).encode() + b"\n"


AUTHN = b'{"connection_id":"abc","event":"authn","message":"authenticated as anonymous user"}\n'
SERVEO = (
    b"Forwarding HTTP traffic from \x1b[32mhttps://2757inventeda78-203-0-113-7.serveousercontent.com\x1b[0m\r\n"
    b"Tip (1): Create an account to reserve names. Pro removes the warning page:"
    b" https://console.serveo.net/settings?n=1&src=tip\r\n"
)
PINGGY = (
    b"You are not authenticated.\r\n"
    b"Your tunnel will expire in 60 minutes. Upgrade to Pinggy Pro to get unrestricted tunnels."
    b" https://dashboard.pinggy.io\r\n\r\n"
    b"http://tbxhk-203-0-113-7.run.pinggy-free.link\r\n"
    b"https://tbxhk-203-0-113-7.run.pinggy-free.link\r\n"
    b"https://vdtwz-203-0-113-7.free.pinggy.net\r\n"
)
SRV_US = b"1: https://qp556invented5b2xyt334ae.srv.us/\r\n"
SRV_US_BANNER = (
    "Usage: ssh srv.us -R 1:localhost:3000 -R 2:192.168.0.1:80\r\n"
    "If you get a Permission denied error, first generate a key with ssh-keygen -t ed25519\r\n"
    "More on https://docs.srv.us/\r\n"
)

SAMPLES = [
    ("localhost.run", LOCALHOST_RUN_TEXT, "https://1e50invented62.lhr.life"),
    ("localhost.run", AUTHN + event("x1.lhr.life"), "https://x1.lhr.life"),
    ("localhost.run", event("https://x1.lhr.life"), "https://x1.lhr.life"),
    ("localhost.run", event("https://x1.lhr.life/"), "https://x1.lhr.life"),
    ("localhost.run", event("my-name.lhr.rocks"), "https://my-name.lhr.rocks"),
    ("localhost.run", event("deep.my-name.lhr.rocks"), "https://deep.my-name.lhr.rocks"),
    ("localhost.run", event("x1.lhr.pro"), "https://x1.lhr.pro"),
    ("localhost.run", event("x1.lhrtunnel.link"), "https://x1.lhrtunnel.link"),
    ("localhost.run", event("x1.localhost.run"), "https://x1.localhost.run"),
    ("serveo", SERVEO, "https://2757inventeda78-203-0-113-7.serveousercontent.com"),
    ("serveo", b"Forwarding HTTP traffic from https://name.serveo.net\r\n", "https://name.serveo.net"),
    ("serveo", b"Forwarding HTTP traffic from https://hooks.example.org\n", "https://hooks.example.org"),
    ("pinggy", PINGGY, "https://tbxhk-203-0-113-7.run.pinggy-free.link"),
    ("pinggy", b"- https://abc.a.free.pinggy.link\n", "https://abc.a.free.pinggy.link"),
    ("pinggy", b"https://abc.a.pinggy.link\n", "https://abc.a.pinggy.link"),
    ("pinggy", b"https://vdtwz-203-0-113-7.free.pinggy.net\n", "https://vdtwz-203-0-113-7.free.pinggy.net"),
    ("srv.us", SRV_US_BANNER.encode() + SRV_US, "https://qp556invented5b2xyt334ae.srv.us"),
    (
        "srv.us",
        b"65000: https://qp556inv.srv.us/, https://jdoe.gh.srv.us/\r\n",
        "https://qp556inv.srv.us",
    ),
]

# Lines with addresses that are none of the tunnel's, from any service.
DECOYS = [
    "https://admin.localhost.run/",
    "admin.localhost.run tunneled with tls termination, https://admin.localhost.run",
    "evil.example/x.lhr.life.example.com tunneled with tls termination",
    "see https://localhost.run/docs/forever-free/ for more information.",
    "localhost.run tunneled with tls termination",
    "Follow your favourite reverse tunnel at [https://twitter.com/localhost_run].",
    "1e50invented62.lhr.life is one of the names that we give",
    '{"event":"tcpip-forward","status":"failure","message":"x.lhr.life tunneled with tls termination"}',
    "see https://x.lhr.life tunneled with tls termination",
    '{"event":"tcpip-forward","address":"x.lhr.life"}',
    '{"event":"authn","status":"success","address":"x.lhr.life"}',
    '{"event":"tcpip-forward","status":"success","address":"admin.localhost.run"}',
    '{"event":"tcpip-forward","status":"success","address":"lhr.life.example.com"}',
    '{"event":"tcpip-forward","status":"success","address":null}',
    '{"event":"tcpip-forward","status":"success"}',
    '{"message":"x.lhr.life tunneled with tls termination"}',
    "{broken x.lhr.example",
    "[1]",
    "{}",
    "Upgrade to Pinggy Pro to get unrestricted tunnels. https://dashboard.pinggy.io",
    "https://dashboard.pinggy.io",
    "https://pinggy.io",
    "https://abc.a.pinggy.link.example.com",
    "http://tbxhk-203-0-113-7.run.pinggy-free.link",
    "have a look at https://tbxhk-203-0-113-7.run.pinggy-free.link",
    "https://run.pinggy-free.link",
    "Pro removes the warning page: https://console.serveo.net/settings?n=1&src=tip",
    "Forwarding HTTP traffic from https://console.serveo.net",
    "Forwarding TCP traffic from serveo.net:5555",
    "To stop Forwarding HTTP traffic from https://x.serveo.net press ctrl-c",
    "https://docs.srv.us/",
    "https://qp556inv.srv.us/",
    "x: https://qp556inv.srv.us/",
    "see 1: https://qp556inv.srv.us/",
    "1: https://srv.us/",
    "1: https://jdoe.gh.srv.us/",
    "1: https://QP.srv.us.example.com/",
    "Usage: ssh srv.us -R 1:localhost:3000",
    "https://www.cloudflare.com/website-terms/",
    'failed to request quick Tunnel: Post "https://api.trycloudflare.com/tunnel": no such host',
    "https://login.tailscale.com/f/funnel?node=abc",
    "https://ngrok.com/docs/errors/err_ngrok_9040",
    "Inspect network activity: https://3tginvnt-8000-inspect.usw3.devtunnels.ms",
    "https://dashboard.tunnelmole.com/share/x",
    "",
    "https://",
    "=" * 79,
]


def addresses(service: SshService, output: bytes, size: int) -> list[str]:
    """All addresses in what a service prints, when it comes in pieces of this size."""
    lines = Lines()
    found = [line for start in range(0, len(output), size) for line in lines.feed(output[start : start + size])]
    return [address for line in (*found, *lines.finish()) if (address := service.address_in(line))]


@pytest.mark.parametrize(("name", "output", "address"), SAMPLES)
@pytest.mark.parametrize("size", [1, 2, 7, 100_000])
def test_the_address_is_read_from_the_line_that_assigns_it(
    name: str, output: bytes, address: str, size: int
) -> None:
    assert addresses(SSH_SERVICES[name], output, size)[0] == address


@pytest.mark.parametrize("name", SSH_SERVICES)
@pytest.mark.parametrize("line", DECOYS)
def test_no_other_address_is_taken_for_the_tunnels(name: str, line: str) -> None:
    assert SSH_SERVICES[name].address_in(line) is None


@pytest.mark.parametrize(("name", "output", "address"), SAMPLES)
def test_a_service_does_not_take_what_another_one_prints(name: str, output: bytes, address: str) -> None:
    for other in SSH_SERVICES.values():
        if other.name != name:
            assert addresses(other, output, 100_000) == []


@pytest.mark.parametrize(
    ("name", "line", "part"),
    [
        ("pinggy", "Login is not allowed: A tunnel with the same token (xxYYzzZ) is already active.", "+force"),
        ("localhost.run", '{"event":"tcpip-forward","status":"error","message":"no more names"}', "no more names"),
        ("localhost.run", '{"event":"tcpip-forward","status":"error"}', "does not say why"),
    ],
)
def test_what_a_service_says_when_there_is_no_address_is_passed_on(name: str, line: str, part: str) -> None:
    failure = SSH_SERVICES[name].failure_in(line)
    assert failure is not None
    assert part in str(failure)


@pytest.mark.parametrize("name", SSH_SERVICES)
@pytest.mark.parametrize(
    "line", [*DECOYS[1:7], *SRV_US_BANNER.splitlines(), AUTHN.decode(), event("x.lhr.life").decode()]
)
def test_nothing_else_is_taken_for_a_failure(name: str, line: str) -> None:
    assert SSH_SERVICES[name].failure_in(line) is None


def test_the_services_are_known_without_loading_a_library_for_them() -> None:
    code = "import sys, b24tunnel.tunnel.ssh_services; sys.exit('asyncssh' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# From here on with a server.


@pytest.fixture(autouse=True)
def user_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user whose ssh would do everything wrong, which is to have no part in this."""
    home = tmp_path / "user"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "config").write_text("Host *\n  ProxyCommand false\n  Port 1\n  UserKnownHostsFile none\n")
    (home / ".ssh" / "id_ed25519").write_text("no key")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SSH_AUTH_SOCK", str(home / "agent"))
    return home


@pytest.fixture
async def clean_end(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> AsyncIterator[None]:
    async with nothing_left(caplog, capfd):
        yield


Serve = Callable[[Manners], "contextlib.AbstractAsyncContextManager[SshServiceStandin]"]


@pytest.fixture
def serve(clean_end: None) -> Serve:
    @contextlib.asynccontextmanager
    async def serving(manners: Manners) -> AsyncIterator[SshServiceStandin]:
        standin = SshServiceStandin(manners)
        await standin.start()
        try:
            yield standin
        finally:
            await standin.stop()

    return serving


@pytest.fixture
def said() -> list[str]:
    return []


def tunnel_to(
    name: str,
    server: SshServiceStandin | int,
    home: Path,
    *,
    token: str | None = None,
    domain: str | None = None,
    slot: int = 1,
    deadline: float = 30.0,
    keepalive: float = 15.0,
) -> SshServiceTunnel:
    """A tunnel of the service whose part the server plays."""
    port = server if isinstance(server, int) else server.port
    real = SSH_SERVICES[name]
    service = dataclasses.replace(
        real, host="127.0.0.1", port=port, token_host=real.token_host and SshServiceStandin.host
    )
    settings = ServiceSettings(token=token, domain=domain)
    return SshServiceTunnel(service, settings, home, slot=slot, deadline=deadline, keepalive=keepalive)


async def refused(tunnel: SshServiceTunnel, said: list[str]) -> TunnelFailed:
    """Why no tunnel comes about; checks that it is one sentence and that nothing is open."""
    with pytest.raises(TunnelFailed) as failed:
        await tunnel.open(9, said.append)
    await tunnel.close()
    text = str(failed.value)
    assert "\n" not in text
    assert text.endswith(".")
    return failed.value


@pytest.mark.parametrize(
    ("name", "manners", "address", "user", "asked_for", "command"),
    [
        (
            "srv.us",
            Manners(says=SRV_US, greeting=SRV_US_BANNER, wants_key=True, session_first=True),
            "https://qp556invented5b2xyt334ae.srv.us",
            "nomatch",
            ("localhost", 7),
            None,
        ),
        (
            "localhost.run",
            Manners(says=AUTHN + event("x1.lhr.life"), grumbles=LOCALHOST_RUN_TEXT.splitlines(True)[2]),
            "https://x1.lhr.life",
            "nokey",
            ("localhost", 80),
            "--output json",
        ),
        (
            "localhost.run",
            Manners(grumbles=LOCALHOST_RUN_TEXT),
            "https://1e50invented62.lhr.life",
            "nokey",
            ("localhost", 80),
            "--output json",
        ),
        (
            "serveo",
            Manners(says=SERVEO, wants_key=True),
            "https://2757inventeda78-203-0-113-7.serveousercontent.com",
            "b24tunnel",
            ("localhost", 80),
            None,
        ),
        (
            "pinggy",
            Manners(says=PINGGY),
            "https://tbxhk-203-0-113-7.run.pinggy-free.link",
            "b24tunnel",
            ("localhost", 0),
            None,
        ),
    ],
)
async def test_each_service_gives_an_address_whose_bytes_come_here(
    serve: Serve,
    home: Path,
    said: list[str],
    name: str,
    manners: Manners,
    address: str,
    user: str,
    asked_for: tuple[str, int],
    command: str | None,
) -> None:
    async with serve(manners) as standin, answering() as port:
        tunnel = tunnel_to(name, standin, home, slot=7)
        assert tunnel.name == name
        assert await tunnel.open(port, said.append) == address
        client = standin.client
        assert (client.user, client.asked_for, client.command, client.terminal) == (
            user,
            asked_for,
            command,
            False,
        )
        assert (client.key is not None) == manners.wants_key
        assert await knock(client.public_port, b"ping") == b"gnip"
        large = b"0123456789abcdef" * 40_000
        assert await knock(client.public_port, large) == large[::-1]
        await tunnel.close()


async def test_an_address_in_the_greeting_before_the_login_is_read(
    serve: Serve, home: Path, said: list[str]
) -> None:
    async with serve(Manners(greeting=SERVEO.decode(), wants_key=True)) as standin:
        tunnel = tunnel_to("serveo", standin, home)
        assert (await tunnel.open(9, said.append)).endswith(".serveousercontent.com")
        await tunnel.close()


async def test_a_new_service_is_told_once_with_its_fingerprint_and_kept(
    serve: Serve, home: Path, said: list[str]
) -> None:
    async with serve(Manners(says=SERVEO)) as standin:
        tunnel = tunnel_to("serveo", standin, home)
        for _ in range(3):
            await tunnel.open(9, said.append)
            await tunnel.close()
        assert len(said) == 1
        assert standin.fingerprint in said[0]
        file = home / "known_hosts"
        assert file.read_text().startswith(f"[127.0.0.1]:{standin.port} ssh-ed25519 ")
        assert len(file.read_text().splitlines()) == 1
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", ["ssh-ed25519", "ecdsa-sha2-nistp256"])
async def test_a_service_whose_host_key_has_changed_is_refused_with_the_line_to_remove(
    serve: Serve, home: Path, said: list[str], kind: str
) -> None:
    file = home / "known_hosts"
    file.write_text("# mine\nelsewhere ssh-ed25519 AAAA")
    async with serve(Manners(says=SERVEO)) as standin:
        tunnel = tunnel_to("serveo", standin, home)
        await tunnel.open(9, said.append)
        await tunnel.close()
        await standin.stop()
        standin.change_host_key(kind)
        await standin.start()
        failed = await refused(tunnel, said)
        assert failed.permanent
        assert str(failed).startswith("WARNING")
        assert f"remove line 3 from {file}" in str(failed)
        assert standin.fingerprint in str(failed)
        assert standin.client.user == ""
        file.write_text("".join(file.read_text().splitlines(True)[:2]))
        assert await tunnel.open(9, said.append)
        await tunnel.close()
        assert standin.fingerprint in said[-1]


async def test_a_host_key_that_cannot_be_kept_is_not_trusted(serve: Serve, home: Path, said: list[str]) -> None:
    (home / "known_hosts").symlink_to(home / "missing" / "known_hosts")
    async with serve(Manners(says=SERVEO)) as standin:
        failed = await refused(tunnel_to("serveo", standin, home), said)
        assert failed.permanent
        assert "cannot be kept" in str(failed)


async def test_known_hosts_that_cannot_be_read_are_named(serve: Serve, home: Path, said: list[str]) -> None:
    (home / "known_hosts").mkdir()
    async with serve(Manners(says=SERVEO)) as standin:
        failed = await refused(tunnel_to("serveo", standin, home), said)
        assert failed.permanent
        assert str(home / "known_hosts") in str(failed)


async def test_the_key_stays_the_same_and_only_its_owner_may_read_it(
    serve: Serve, home: Path, said: list[str]
) -> None:
    async with serve(Manners(says=SRV_US, wants_key=True, session_first=True)) as standin:
        for _ in range(2):
            tunnel = tunnel_to("srv.us", standin, home)
            await tunnel.open(9, said.append)
            await tunnel.close()
        assert standin.clients[0].key == standin.clients[1].key is not None
    assert stat.S_IMODE((home / "tunnel_key").stat().st_mode) == 0o600
    assert key_files(home) == ["tunnel_key"]


@pytest.mark.parametrize("content", [b"", b"no key", b"\xff"])
async def test_a_damaged_key_is_named_and_not_replaced(home: Path, said: list[str], content: bytes) -> None:
    (home / "tunnel_key").write_bytes(content)
    failed = await refused(tunnel_to("srv.us", free_port(), home), said)
    assert failed.permanent
    assert str(home / "tunnel_key") in str(failed)
    assert (home / "tunnel_key").read_bytes() == content


def _fingerprint(home: Path, barrier: multiprocessing.Barrier, results: multiprocessing.Queue[str]) -> None:  # type: ignore[valid-type]
    barrier.wait()
    results.put(own_key(home).get_fingerprint())


def test_processes_that_make_the_key_at_once_end_up_with_one(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(4), context.Queue()
    processes = [
        context.Process(target=_fingerprint, args=(tmp_path / "home", barrier, results)) for _ in range(4)
    ]
    for process in processes:
        process.start()
    found = {results.get(timeout=30) for _ in processes}
    for process in processes:
        process.join()
    assert len(found) == 1
    assert key_files(tmp_path / "home") == ["tunnel_key"]


def key_files(home: Path) -> list[str]:
    """The key, and what may have been left of making it."""
    return [path.name for path in home.iterdir() if "key" in path.name]


async def test_another_address_in_the_same_session_is_told_as_the_new_one(
    serve: Serve, home: Path, said: list[str]
) -> None:
    async with serve(Manners(says=AUTHN + event("x1.lhr.life"))) as standin, answering() as port:
        tunnel = tunnel_to("localhost.run", standin, home)
        assert await tunnel.open(port, said.append) == "https://x1.lhr.life"
        losing = asyncio.create_task(tunnel.lost())
        standin.say(event("x1.lhr.life"))  # the same once more is none
        standin.say(event("x2.lhr.life"))
        lost = await losing
        assert lost == Lost("localhost.run has changed the address.", "https://x2.lhr.life")
        assert await knock(standin.client.public_port, b"ping") == b"gnip"
        losing = asyncio.create_task(tunnel.lost())
        await asyncio.sleep(0)
        losing.cancel()  # changes nothing
        await asyncio.gather(losing, return_exceptions=True)
        standin.say(event("x3.lhr.life"))
        assert (await tunnel.lost()).url == "https://x3.lhr.life"
        standin.break_off()
        assert (await tunnel.lost()).url is None
        await tunnel.close()


async def test_other_names_of_the_same_tunnel_are_no_new_address(
    serve: Serve, home: Path, said: list[str]
) -> None:
    async with serve(Manners(says=PINGGY)) as standin:
        tunnel = tunnel_to("pinggy", standin, home)
        await tunnel.open(9, said.append)
        losing = asyncio.create_task(tunnel.lost())
        standin.say(PINGGY)
        standin.say(b"https://other.free.pinggy.net\n")
        standin.end_session()
        assert (await losing).url is None
        await tunnel.close()


@pytest.mark.parametrize("name", ["pinggy", "localhost.run"])
async def test_a_session_that_ends_is_the_end_of_the_address(
    serve: Serve, home: Path, said: list[str], name: str
) -> None:
    async with serve(Manners(says=PINGGY + event("x1.lhr.life"))) as standin:
        tunnel = tunnel_to(name, standin, home)
        await tunnel.open(9, said.append)
        losing = asyncio.create_task(tunnel.lost())
        standin.end_session(3)
        lost = await losing
        assert lost.url is None
        assert "ended the session with status 3" in lost.reason
        standin.break_off()
        assert await tunnel.lost() == lost
        await tunnel.close()
        assert await tunnel.open(9, said.append)
        await tunnel.close()


async def test_the_end_of_what_a_service_says_is_not_the_end_of_the_address(
    serve: Serve, home: Path, said: list[str]
) -> None:
    async with serve(Manners(says=SERVEO)) as standin, answering() as port:
        tunnel = tunnel_to("serveo", standin, home)
        await tunnel.open(port, said.append)
        losing = asyncio.create_task(tunnel.lost())
        standin.end_output()
        for _ in range(5):
            assert await knock(standin.client.public_port, b"ping") == b"gnip"
        assert not losing.done()
        assert not standin.client.says_no_more  # which a service might take for our end
        standin.end_session(0)
        await losing
        await tunnel.close()


async def test_a_connection_that_breaks_off_is_the_end_of_the_address(
    serve: Serve, home: Path, said: list[str]
) -> None:
    async with serve(Manners(says=SERVEO)) as standin:
        tunnel = tunnel_to("serveo", standin, home)
        await tunnel.open(9, said.append)
        standin.break_off()
        assert await tunnel.lost() == Lost("serveo gives the address no more: the connection broke off.")
        await tunnel.close()


async def test_srv_us_without_a_forwarding_ends_the_session_and_that_is_told(
    serve: Serve, home: Path, said: list[str]
) -> None:
    manners = Manners(wants_key=True, session_first=True, grants=False, patience=0.1)
    async with serve(manners) as standin:
        failed = await refused(tunnel_to("srv.us", standin, home), said)
        assert not failed.permanent
        assert "does not grant the forwarding" in str(failed)


async def test_silence_ends_at_the_deadline_with_the_last_that_was_said(
    serve: Serve, home: Path, said: list[str]
) -> None:
    async with serve(Manners(says=b"We are very busy.\r\n=====\r\n")) as standin:
        failed = await refused(tunnel_to("serveo", standin, home, deadline=0.5), said)
        assert not failed.permanent
        assert str(failed) == "serveo gave no address within 0.5 s; the last it said was: We are very busy."


async def test_a_server_that_takes_the_connection_and_says_nothing_ends_at_the_deadline(
    clean_end: None, home: Path, said: list[str]
) -> None:
    server, port = await silent_server()
    async with server:
        failed = await refused(tunnel_to("pinggy", port, home, deadline=0.3), said)
        assert str(failed) == "pinggy gave no address within 0.3 s."


async def test_a_service_that_cannot_be_reached_is_worth_another_try(
    clean_end: None, home: Path, said: list[str]
) -> None:
    failed = await refused(tunnel_to("pinggy", free_port(), home), said)
    assert not failed.permanent
    assert "pinggy (127.0.0.1:" in str(failed)


async def test_a_service_that_lets_nobody_in_is_told(serve: Serve, home: Path, said: list[str]) -> None:
    async with serve(Manners(refuses=True)) as standin:
        for name in SSH_SERVICES:
            failed = await refused(tunnel_to(name, standin, home), said)
            assert failed.permanent
            assert "does not let this user in" in str(failed)


async def test_a_token_is_the_user_and_stays_out_of_what_is_said(
    serve: Serve, home: Path, said: list[str]
) -> None:
    busy = b"Login is not allowed: A tunnel with the same token (s3cr3t) is already active.\r\n"
    async with serve(Manners(says=busy)) as standin:
        failed = await refused(tunnel_to("pinggy", standin, home, token="s3cr3t"), said)
        assert standin.client.user == "s3cr3t"
        assert "already active" in str(failed)
        assert not failed.permanent
        standin.manners.refuses = True
        refusal = await refused(tunnel_to("pinggy", standin, home, token="s3cr3t"), said)
        assert "s3cr3t" not in f"{failed}{refusal}{said}"


async def test_a_refused_forwarding_fails_with_what_the_service_says_about_it(
    serve: Serve, home: Path, said: list[str]
) -> None:
    busy = b"Login is not allowed: A tunnel with the same token is already active.\r\n"
    manners = Manners(grants=False, session_first=True, patience=30.0, last_words=busy)
    async with serve(manners) as standin:
        failed = await refused(tunnel_to("pinggy", standin, home, token="t0ken"), said)
        assert "'+force'" in str(failed)


async def test_a_token_that_is_not_recognised_is_told_though_there_is_an_address(
    serve: Serve, home: Path, said: list[str]
) -> None:
    async with serve(Manners(says=PINGGY)) as standin:
        tunnel = tunnel_to("pinggy", standin, home, token="wrong")
        await tunnel.open(9, said.append)
        assert any("does not know the token" in sentence for sentence in said)
        await tunnel.close()


async def test_that_a_tunnel_without_an_account_ends_is_told_once(
    serve: Serve, home: Path, said: list[str]
) -> None:
    async with serve(Manners(says=PINGGY)) as standin:
        tunnel = tunnel_to("pinggy", standin, home)
        await tunnel.open(9, said.append)
        standin.say(PINGGY)
        standin.end_session()
        await tunnel.lost()
        await tunnel.close()
        assert len([sentence for sentence in said if "60 minutes" in sentence]) == 1
        assert not any("token" in sentence for sentence in said)


async def test_a_wanted_name_is_asked_for_and_one_that_is_not_given_is_told(
    serve: Serve, home: Path, said: list[str]
) -> None:
    async with serve(Manners(says=b"Forwarding HTTP traffic from https://mine.serveo.net\r\n")) as standin:
        tunnel = tunnel_to("serveo", standin, home, domain="mine")
        async with answering() as port:
            assert await tunnel.open(port, said.append) == "https://mine.serveo.net"
            assert standin.client.asked_for == ("mine", 80)
            assert await knock(standin.client.public_port, b"ping") == b"gnip"
            await tunnel.close()
        assert len(said) == 1
        tunnel = tunnel_to("serveo", standin, home, domain="min")
        await tunnel.open(9, said.append)
        await tunnel.close()
        assert "did not give the name 'min'" in said[-1]


async def test_a_name_that_is_refused_is_told_with_what_the_service_said(
    serve: Serve, home: Path, said: list[str]
) -> None:
    manners = Manners(grants=False, session_first=True, patience=30.0, last_words=b"Sorry, taken.\r\n")
    async with serve(manners) as standin:
        failed = await refused(tunnel_to("serveo", standin, home, domain="mine"), said)
        assert "'mine'" in str(failed)
        assert "Sorry, taken" in str(failed)


@pytest.mark.parametrize(
    ("name", "settings", "slot"),
    [
        ("srv.us", ServiceSettings(token="t"), 1),
        ("srv.us", ServiceSettings(domain="d"), 1),
        ("localhost.run", ServiceSettings(domain="d"), 1),
        ("serveo", ServiceSettings(token="t"), 1),
        ("srv.us", ServiceSettings(), 0),
        ("srv.us", ServiceSettings(), 65536),
    ],
)
async def test_what_a_service_does_not_have_is_told_without_asking_it(
    home: Path, said: list[str], name: str, settings: ServiceSettings, slot: int
) -> None:
    failed = await refused(SshServiceTunnel(SSH_SERVICES[name], settings, home, slot=slot), said)
    assert failed.permanent


async def test_what_a_service_prints_without_end_is_read_and_forgotten(
    serve: Serve, home: Path, said: list[str]
) -> None:
    flood = b"\x1b[31mhttps://x.example " * 200_000
    async with serve(Manners(says=b"", grumbles=flood + b"\n" + SERVEO)) as standin:
        tunnel = tunnel_to("serveo", standin, home)
        assert (await tunnel.open(9, said.append)).endswith(".serveousercontent.com")
        await tunnel.close()


async def test_a_service_that_is_silent_but_alive_is_kept_and_a_dead_one_noticed(
    serve: Serve, home: Path, said: list[str]
) -> None:
    async with serve(Manners(says=SERVEO)) as standin:
        tunnel = tunnel_to("serveo", standin, home, keepalive=0.05)
        await tunnel.open(9, said.append)
        losing = asyncio.create_task(tunnel.lost())
        await asyncio.wait([losing], timeout=0.4)
        assert not losing.done()
        standin.freeze()
        assert (await losing).reason.endswith("the server answers no more.")
        await tunnel.close()


async def test_closing_twice_or_without_opening_is_fine(serve: Serve, home: Path, said: list[str]) -> None:
    async with serve(Manners(says=SERVEO)) as standin:
        tunnel = tunnel_to("serveo", standin, home)
        await tunnel.close()
        await tunnel.open(9, said.append)
        await tunnel.close()
        await tunnel.close()
        connection = standin.client.connection
        assert connection is not None
        await until(connection.is_closed)


@pytest.mark.parametrize("turns", [0, 1, 3, 10, 20, 30, 40, 60, 100])
async def test_opening_that_is_cancelled_leaves_nothing(
    serve: Serve, home: Path, said: list[str], turns: int
) -> None:
    async with serve(Manners(wants_key=True)) as standin:  # never gives an address
        tunnel = tunnel_to("serveo", standin, home)
        opening = asyncio.create_task(tunnel.open(9, said.append))
        for _ in range(turns):
            await asyncio.sleep(0.001)  # wherever it is then
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        await tunnel.close()
        await until(
            lambda: all(client.connection is None or client.connection.is_closed() for client in standin.clients)
        )


async def test_nothing_of_the_users_own_ssh_is_shown_to_a_service(
    serve: Serve,
    home: Path,
    said: list[str],
    user_home: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[object] = []
    agent = tmp_path_factory.mktemp("a") / "s"  # the names of sockets have to be short
    monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
    key = asyncssh.generate_private_key("ssh-ed25519")
    (user_home / ".ssh" / "id_ed25519").write_bytes(key.export_private_key())

    def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(reader)
        writer.close()

    async with serve(Manners(says=SERVEO, wants_key=True)) as standin, await asyncio.start_unix_server(ask, agent):
        tunnel = tunnel_to("serveo", standin, home)
        await tunnel.open(9, said.append)
        await tunnel.close()
        assert asked == []
        assert standin.client.key == own_key(home).get_fingerprint() != key.get_fingerprint()
    assert not (user_home / ".ssh" / "known_hosts").exists()
