"""The tunnel through a server of one's own, against a real sshd."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncssh
import pytest
from programs import free_port, wait_until
from sshd import PROGRAM, Sshd, write_key
from tcp_relay import port_of
from tunnelled import answering, knock, nothing_left
from waiting import until

from b24tunnel.errors import WrongUsage
from b24tunnel.tunnel.provider import Lost, TunnelFailed
from b24tunnel.tunnel.ssh import SshSettings, SshTunnel

pytestmark = pytest.mark.skipif(
    PROGRAM is None and "CI" not in os.environ, reason="OpenSSH's server is not installed"
)


@pytest.fixture(autouse=True)
def user_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without keys, known hosts and agent."""
    home = tmp_path / "user"
    (home / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return home


@pytest.fixture(autouse=True)
async def clean_end(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> AsyncIterator[None]:
    async with nothing_left(caplog, capfd):
        yield


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    (tmp_path / "sshd").mkdir()
    server = Sshd(tmp_path / "sshd")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def settings(sshd: Sshd) -> SshSettings:
    return SshSettings(sshd.host, sshd.port, key=str(sshd.key), known_hosts=str(sshd.known_hosts))


@pytest.fixture
def said() -> list[str]:
    return []


def ignore(sentence: str) -> None:
    """For what is said where that is not the point."""


def port_in(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


async def refused(settings: SshSettings, deadline: float = 30.0) -> TunnelFailed:
    """Why no tunnel comes about; checks that it is one sentence."""
    tunnel = SshTunnel(settings, deadline=deadline)
    with pytest.raises(TunnelFailed) as failed:
        await tunnel.open(9, ignore)
    await tunnel.close()
    text = str(failed.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert "Traceback" not in text
    return failed.value


async def test_bytes_come_from_the_servers_port_to_the_local_one_and_back(
    settings: SshSettings, said: list[str]
) -> None:
    tunnel = SshTunnel(settings)
    async with answering() as port:
        url = await tunnel.open(port, said.append)
        assert url.startswith("http://127.0.0.1:")
        assert await knock(port_in(url), b"ping") == b"gnip"
        large = os.urandom(500_000).hex().encode()
        assert await knock(port_in(url), large) == large[::-1]
        words = [b"%d" % number for number in range(100, 130)]
        assert await asyncio.gather(*(knock(port_in(url), word) for word in words)) == [w[::-1] for w in words]
        await tunnel.close()
    assert len(said) == 1
    assert "GatewayPorts" in said[0]


async def test_close_frees_the_servers_port(settings: SshSettings) -> None:
    tunnel = SshTunnel(settings)
    port = port_in(await tunnel.open(9, ignore))
    await tunnel.close()
    await until(lambda: is_free(port))


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


async def test_a_receiver_that_is_not_there_costs_the_one_connection_only(settings: SshSettings) -> None:
    tunnel = SshTunnel(settings)
    async with answering() as port:
        pass
    url = await tunnel.open(port, ignore)
    assert await knock(port_in(url), b"ping") == b""
    assert await knock(port_in(url), b"ping") == b""
    await tunnel.close()


async def test_the_address_is_the_one_that_the_user_says_leads_there(
    settings: SshSettings, said: list[str]
) -> None:
    wanted = free_port()
    tunnel = SshTunnel(
        dataclasses.replace(settings, listen=f"127.0.0.1:{wanted}", public_url="https://hooks.example.org/")
    )
    async with answering() as port:
        assert await tunnel.open(port, said.append) == "https://hooks.example.org"
        assert await knock(wanted, b"ping") == b"gnip"
        assert said == []
        await tunnel.close()


async def test_a_port_that_the_server_chooses_is_told_to_whoever_has_to_lead_an_address_there(
    settings: SshSettings, said: list[str]
) -> None:
    tunnel = SshTunnel(dataclasses.replace(settings, public_url="https://hooks.example.org"))
    async with answering() as port:
        assert await tunnel.open(port, said.append) == "https://hooks.example.org"
        (sentence,) = said
        allotted = re.search(r"its port (\d+):", sentence)
        assert allotted is not None
        assert await knock(int(allotted[1]), b"ping") == b"gnip"
        await tunnel.close()


@pytest.mark.parametrize("form", ["{port}", "localhost:{port}", "*:{port}", ":{port}", "0.0.0.0:{port}"])
async def test_every_form_of_listen_that_ssh_takes_leads_here(settings: SshSettings, form: str) -> None:
    wanted = free_port()
    tunnel = SshTunnel(dataclasses.replace(settings, listen=form.format(port=wanted)))
    async with answering() as port:
        assert await tunnel.open(port, ignore) == f"http://127.0.0.1:{wanted}"
        assert await knock(wanted, b"ping") == b"gnip"
        await tunnel.close()


@pytest.mark.parametrize(
    "change",
    [
        {"listen": "localhost"},
        {"listen": "localhost:65536"},
        {"listen": "a b:80"},
        {"listen": ""},
        {"host": ""},
        {"host": "-oProxyCommand=id"},
        {"port": 0},
        {"port": 65536},
        {"public_url": "hooks.example.org"},
    ],
)
def test_settings_that_make_no_sense_are_told_without_trying_them(
    settings: SshSettings, change: dict[str, Any]
) -> None:
    with pytest.raises(WrongUsage, match="give"):
        dataclasses.replace(settings, **change)


@pytest.mark.parametrize("host", ["a" * 70 + ".example", "a..example"])
async def test_a_host_that_can_be_none_is_told_as_permanent(settings: SshSettings, host: str) -> None:
    assert (await refused(dataclasses.replace(settings, host=host))).permanent


async def test_an_unknown_host_key_is_refused_with_the_command_that_shows_it(
    sshd: Sshd, settings: SshSettings
) -> None:
    sshd.known_hosts.unlink()
    failed = await refused(dataclasses.replace(settings, known_hosts=None))
    assert failed.permanent
    assert f"'ssh -p {sshd.port} {sshd.user}@127.0.0.1'" in str(failed)
    assert sshd.fingerprint in str(failed)
    assert "WARNING" not in str(failed)
    named = str(await refused(settings))
    assert f"ssh -o UserKnownHostsFile={sshd.known_hosts} -p {sshd.port}" in named


@pytest.mark.parametrize("kind", ["ssh-ed25519", "ecdsa-sha2-nistp256"])
async def test_a_changed_host_key_is_refused_with_a_warning_whatever_its_kind(
    sshd: Sshd, settings: SshSettings, kind: str
) -> None:
    sshd.change_host_key(kind)
    sshd.restart()
    failed = await refused(settings)
    assert failed.permanent
    assert str(failed).startswith("WARNING: the host key of ")
    assert sshd.fingerprint in str(failed)


async def test_a_revoked_host_key_is_refused(sshd: Sshd, settings: SshSettings) -> None:
    sshd.known_hosts.write_text(f"@revoked {sshd.known_hosts.read_text()}")
    failed = await refused(settings)
    assert failed.permanent
    assert "revoked" in str(failed)


async def test_the_users_configuration_cannot_turn_the_check_of_host_keys_off(
    sshd: Sshd, settings: SshSettings, user_home: Path
) -> None:
    (user_home / ".ssh" / "config").write_text("UserKnownHostsFile none\nStrictHostKeyChecking no\n")
    failed = await refused(dataclasses.replace(settings, known_hosts=None))
    assert failed.permanent
    assert "not known" in str(failed)


async def test_lines_of_known_hosts_that_make_no_sense_are_passed_over(sshd: Sshd, settings: SshSettings) -> None:
    good = sshd.known_hosts.read_bytes()
    nonsense = b"lonely\n|1|broken ssh-ed25519 AAAA\n@what x y z\n\xff\xfe\x00 \x00\n!,* x\n"
    sshd.known_hosts.write_bytes(nonsense + good)
    tunnel = SshTunnel(settings)
    assert await tunnel.open(9, ignore)
    await tunnel.close()
    sshd.known_hosts.write_bytes(nonsense)
    assert "not known" in str(await refused(settings))


async def test_a_file_of_known_hosts_that_cannot_be_read_is_named(tmp_path: Path, settings: SshSettings) -> None:
    failed = await refused(dataclasses.replace(settings, known_hosts=str(tmp_path)))
    assert failed.permanent
    assert str(tmp_path) in str(failed)


async def test_keys_known_hosts_port_and_user_are_those_that_ssh_would_find(sshd: Sshd, user_home: Path) -> None:
    ssh = user_home / ".ssh"
    (ssh / "config").write_text(
        f"Host myserver\n  HostName 127.0.0.1\n  Port {sshd.port}\n  User {sshd.user}\n"
        f"  UserKnownHostsFile {ssh}/missing {ssh}/mine\n  ServerAliveInterval 0\n"
    )
    shutil.copy(sshd.known_hosts, ssh / "mine")
    shutil.copy(sshd.key, ssh / "id_ed25519")
    tunnel = SshTunnel(SshSettings("myserver"))
    async with answering() as port:
        url = await tunnel.open(port, ignore)
        assert url.startswith("http://127.0.0.1:")
        assert await knock(port_in(url), b"ping") == b"gnip"
        await tunnel.close()


async def test_the_default_known_hosts_and_key_are_found(sshd: Sshd, user_home: Path) -> None:
    shutil.copy(sshd.known_hosts, user_home / ".ssh" / "known_hosts")
    shutil.copy(sshd.key, user_home / ".ssh" / "id_ed25519")
    tunnel = SshTunnel(SshSettings(sshd.host, sshd.port))
    assert await tunnel.open(9, ignore)
    await tunnel.close()


async def test_the_way_leads_through_a_jump_host_that_the_configuration_names(
    tmp_path: Path, sshd: Sshd, settings: SshSettings, user_home: Path
) -> None:
    (tmp_path / "jump").mkdir()
    jump = Sshd(tmp_path / "jump", "AllowTcpForwarding yes")
    jump.start()
    shutil.copy(sshd.key, user_home / ".ssh" / "id_ed25519")
    shutil.copy(sshd.directory / "authorized_keys", jump.directory / "authorized_keys")
    (user_home / ".ssh" / "config").write_text(
        f"Host final\n  HostName 127.0.0.1\n  Port {sshd.port}\n  ProxyJump {jump.user}@{jump.host}:{jump.port}\n"
    )
    settings = SshSettings("final", known_hosts=str(user_home / "both"))
    try:
        (user_home / "both").write_text(sshd.known_hosts.read_text())
        assert "not known" in str(await refused(settings))
        (user_home / "both").write_text(sshd.known_hosts.read_text() + jump.known_hosts.read_text())
        tunnel = SshTunnel(settings)
        async with answering() as port:
            url = await tunnel.open(port, ignore)
            assert await knock(port_in(url), b"ping") == b"gnip"
            losing = asyncio.create_task(tunnel.lost())
            jump.kill()
            assert isinstance(await losing, Lost)
            await tunnel.close()
    finally:
        jump.kill()


async def test_jump_hosts_that_lead_in_a_circle_are_told(user_home: Path) -> None:
    (user_home / ".ssh" / "config").write_text("Host *\n  ProxyJump elsewhere\n")
    failed = await refused(SshSettings("final"))
    assert failed.permanent
    assert "circle" in str(failed)


PROXY = """
import os, socket, sys, threading
server = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
def send():
    while piece := os.read(0, 65536):
        server.sendall(piece)
    server.shutdown(socket.SHUT_WR)
threading.Thread(target=send, daemon=True).start()
while piece := server.recv(65536):
    os.write(1, piece)
"""


async def test_a_proxy_command_of_the_configuration_is_used(
    sshd: Sshd, settings: SshSettings, user_home: Path
) -> None:
    (user_home / "proxy.py").write_text(PROXY)
    config = user_home / ".ssh" / "config"
    config.write_text(f"ProxyCommand {sys.executable} {user_home}/proxy.py {sshd.port}\n")
    tunnel = SshTunnel(settings)
    async with answering() as port:
        url = await tunnel.open(port, ignore)
        assert await knock(port_in(url), b"ping") == b"gnip"
        await tunnel.close()
        await until(lambda: sshd.connections == 0)
    config.write_text("ProxyCommand /nonexistent/program %h\n")
    assert "No such file" in str(await refused(settings))
    config.write_text("ProxyCommand false\n")
    assert not (await refused(settings)).permanent


@pytest.mark.parametrize(
    "text", ["Port many\n", "Host x\n  ProxyJump\n", "Match nonsense y\n", 'User "unclosed\n']
)
async def test_a_configuration_that_makes_no_sense_is_named(
    settings: SshSettings, user_home: Path, text: str
) -> None:
    (user_home / ".ssh" / "config").write_text(text)
    failed = await refused(dataclasses.replace(settings, port=22, host="x"))
    assert failed.permanent
    assert "~/.ssh/config" in str(failed)


async def test_a_key_that_the_server_does_not_know_is_told_with_the_user(
    sshd: Sshd, settings: SshSettings, tmp_path: Path
) -> None:
    stranger = tmp_path / "stranger"
    write_key(stranger, asyncssh.generate_private_key("ssh-ed25519").export_private_key())
    failed = await refused(dataclasses.replace(settings, key=str(stranger)))
    assert failed.permanent
    assert "does not let this user in" in str(failed)
    assert sshd.user in str(failed)


async def test_without_any_key_nobody_is_let_in(settings: SshSettings) -> None:
    failed = await refused(dataclasses.replace(settings, key=None))
    assert failed.permanent
    assert "does not let this user in" in str(failed)


async def test_an_unknown_user_is_not_let_in(settings: SshSettings) -> None:
    failed = await refused(dataclasses.replace(settings, user="nobody-of-this-name"))
    assert failed.permanent
    assert "nobody-of-this-name" in str(failed)


async def test_a_key_file_that_is_missing_is_named(settings: SshSettings, tmp_path: Path) -> None:
    failed = await refused(dataclasses.replace(settings, key=str(tmp_path / "missing")))
    assert failed.permanent
    assert str(tmp_path / "missing") in str(failed)


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n", b"\xff\x00"])
async def test_a_key_file_that_holds_no_key_is_named(
    settings: SshSettings, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "odd").write_bytes(content)
    failed = await refused(dataclasses.replace(settings, key=str(tmp_path / "odd")))
    assert failed.permanent
    assert str(tmp_path / "odd") in str(failed)


@pytest.fixture
def locked(sshd: Sshd, tmp_path: Path) -> str:
    """The key that the server accepts, behind a passphrase."""
    file = tmp_path / "locked"
    write_key(file, sshd.key.read_bytes())
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", file], check=True, stdout=subprocess.DEVNULL)
    return str(file)


async def test_a_key_with_a_passphrase_and_no_agent_is_told(settings: SshSettings, locked: str) -> None:
    failed = await refused(dataclasses.replace(settings, key=locked))
    assert failed.permanent
    assert "passphrase" in str(failed)
    assert "ssh-add" in str(failed)


async def test_a_key_with_a_passphrase_that_an_agent_does_not_hold_is_told(
    settings: SshSettings, locked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", f"{locked}.agent")
    failed = await refused(dataclasses.replace(settings, key=locked))
    assert failed.permanent
    assert "ssh-add" in str(failed)


@pytest.fixture
def agent(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The socket of an agent that runs and holds nothing."""
    if shutil.which("ssh-agent") is None:
        pytest.skip("ssh-agent is not installed")
    path = tmp_path_factory.mktemp("a") / "s"  # the names of sockets have to be short
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
    wait_until(path.exists, "the agent listens")
    monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
    yield str(path)
    process.kill()
    process.wait()


async def test_a_key_with_a_passphrase_works_from_the_agent(
    sshd: Sshd, settings: SshSettings, locked: str, agent: str
) -> None:
    async with asyncssh.SSHAgentClient(agent) as client:
        await client.add_keys([asyncssh.read_private_key(sshd.key)])
    tunnel = SshTunnel(dataclasses.replace(settings, key=locked))
    assert await tunnel.open(9, ignore)
    await tunnel.close()


async def test_a_port_where_nobody_listens_is_worth_another_try(settings: SshSettings) -> None:
    failed = await refused(dataclasses.replace(settings, port=free_port()))
    assert not failed.permanent
    assert "cannot be reached" in str(failed)


async def test_a_name_that_cannot_be_looked_up_is_worth_another_try(settings: SshSettings) -> None:
    failed = await refused(dataclasses.replace(settings, host="no-such-host.invalid"))
    assert not failed.permanent
    assert "no-such-host.invalid" in str(failed)


async def test_a_server_that_says_nothing_ends_at_the_deadline(settings: SshSettings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        failed = await refused(dataclasses.replace(settings, port=silent.getsockname()[1]), deadline=0.3)
    assert not failed.permanent
    assert "within 0.3 s" in str(failed)


@pytest.mark.parametrize(
    "greeting",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"SSH-1.5-old\r\n",
        b"SSH-2.0-x\r\n\x00\x00",
        b"SSH-2.0-x\r\n\x00\x00\x00\x0c\x0a\x14" + b"\x00" * 10,  # a list of algorithms that is cut off
        b"SSH-2.0-x\r\n\x00\x00\x00\x0c\x0a\x01" + b"\x00" * 10,
        b"SSH-2.0-\xff\xfe\r\n",
        pytest.param(b"\xff" * 70_000, id="a flood"),
    ],
)
async def test_a_server_that_hangs_up_or_speaks_something_else_is_worth_another_try(
    settings: SshSettings, greeting: bytes
) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        failed = await refused(dataclasses.replace(settings, port=port_of(server)))
    assert not failed.permanent


async def test_a_server_without_a_common_cipher_is_told(
    tmp_path: Path, settings: SshSettings, user_home: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = Sshd(tmp_path / "other", "Ciphers aes128-ctr")
    other.start()
    (user_home / ".ssh" / "config").write_text("Ciphers aes256-ctr\n")
    try:
        failed = await refused(dataclasses.replace(settings, port=other.port))
    finally:
        other.kill()
    assert not failed.permanent


async def test_a_port_that_is_taken_on_the_server_is_told_with_what_helps(settings: SshSettings) -> None:
    first = SshTunnel(settings)
    taken = port_in(await first.open(9, ignore))
    failed = await refused(dataclasses.replace(settings, listen=f"localhost:{taken}"))
    assert not failed.permanent
    assert f"the port {taken}:" in str(failed)
    assert "ClientAliveInterval" in str(failed)
    await first.close()
    await until(lambda: is_free(taken))
    again = SshTunnel(dataclasses.replace(settings, listen=f"localhost:{taken}"))
    assert await again.open(9, ignore) == f"http://127.0.0.1:{taken}"
    await again.close()


async def test_a_server_that_allows_no_forwarding_is_told(tmp_path: Path, settings: SshSettings) -> None:
    (tmp_path / "strict").mkdir()
    strict = Sshd(tmp_path / "strict", "AllowTcpForwarding no")
    strict.start()
    try:
        failed = await refused(
            SshSettings(strict.host, strict.port, key=str(strict.key), known_hosts=str(strict.known_hosts))
        )
    finally:
        strict.kill()
    assert "not allowed" in str(failed)


async def test_a_server_that_dies_is_noticed_and_a_later_one_gives_the_address_again(
    sshd: Sshd, settings: SshSettings
) -> None:
    tunnel = SshTunnel(settings)
    await tunnel.open(9, ignore)
    losing = asyncio.create_task(tunnel.lost())
    sshd.kill()
    lost = await losing
    assert lost.url is None
    assert lost.reason.startswith(f"The connection to 127.0.0.1:{sshd.port} ended: ")
    assert await tunnel.lost() == lost
    await tunnel.close()
    with pytest.raises(TunnelFailed):
        await tunnel.open(9, ignore)
    sshd.start()
    async with answering() as port:
        url = await tunnel.open(port, ignore)
        assert await knock(port_in(url), b"ping") == b"gnip"
        await tunnel.close()


async def test_a_server_that_freezes_is_noticed_by_its_silence(sshd: Sshd, settings: SshSettings) -> None:
    tunnel = SshTunnel(settings, keepalive=0.1)
    await tunnel.open(9, ignore)
    sshd.freeze()
    assert (await tunnel.lost()).reason.endswith("the server answers no more.")
    await tunnel.close()


async def test_close_does_not_wait_for_a_frozen_server(sshd: Sshd, settings: SshSettings) -> None:
    tunnel = SshTunnel(settings)
    async with answering() as port:
        url = await tunnel.open(port, ignore)
        _, writer = await asyncio.open_connection("127.0.0.1", port_in(url))
        sshd.freeze()
        async with asyncio.timeout(3.0):
            await tunnel.close()
        writer.close()


async def test_a_connection_that_comes_while_the_tunnel_closes_is_not_left_open_here(
    settings: SshSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    come, go_on = asyncio.Event(), asyncio.Event()
    real = asyncssh.SSHClientConnection.forward_connection

    async def slow(self: asyncssh.SSHClientConnection, host: str, port: int) -> object:
        forwarder = await real(self, host, port)
        come.set()
        await go_on.wait()
        return forwarder

    monkeypatch.setattr(asyncssh.SSHClientConnection, "forward_connection", slow)
    tunnel = SshTunnel(settings)
    async with answering() as port:
        knocking = asyncio.create_task(knock(port_in(await tunnel.open(port, ignore)), b"ping"))
        await come.wait()
        await tunnel.close()
        go_on.set()
        assert await knocking == b""
        # What waits here for more to come would be noticed in the end.


async def test_a_living_server_is_not_taken_for_a_silent_one(settings: SshSettings) -> None:
    tunnel = SshTunnel(settings, keepalive=0.02)
    await tunnel.open(9, ignore)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await tunnel.lost()
    await tunnel.close()


async def test_lost_may_be_given_up_and_awaited_again(sshd: Sshd, settings: SshSettings) -> None:
    tunnel = SshTunnel(settings)
    await tunnel.open(9, ignore)
    losing = asyncio.create_task(tunnel.lost())
    await asyncio.sleep(0)
    losing.cancel()
    await asyncio.gather(losing, return_exceptions=True)
    sshd.kill()
    assert isinstance(await tunnel.lost(), Lost)
    await tunnel.close()


async def test_closing_twice_or_without_opening_is_fine(sshd: Sshd, settings: SshSettings) -> None:
    tunnel = SshTunnel(settings)
    await tunnel.close()
    await tunnel.open(9, ignore)
    await tunnel.close()
    await tunnel.close()
    await until(lambda: sshd.connections == 0)


@pytest.mark.parametrize("turns", [0, 1, 2, 5, 10, 20, 40, 80])
async def test_opening_that_is_cancelled_leaves_nothing(sshd: Sshd, settings: SshSettings, turns: int) -> None:
    tunnel = SshTunnel(settings)
    opening = asyncio.create_task(tunnel.open(9, ignore))
    for _ in range(turns):
        await asyncio.sleep(0.001)  # wherever it is then
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    await tunnel.close()
    await until(lambda: sshd.connections == 0)
