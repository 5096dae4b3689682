"""The ngrok agent's program: found, or downloaded by the real pyngrok through a proxy on this machine."""

from __future__ import annotations

import asyncio
import io
import os
import ssl
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from tunnel_program import children, no_users_home

from b24tunnel.tunnel.ngrok_binary import find_binary
from b24tunnel.tunnel.provider import TunnelFailed

HOST = "bin.ngrok.com"
NO_DOWNLOAD = rf"cannot be downloaded \(https://{HOST}/\S+: "
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pyngrok downloads another archive elsewhere")


def ignore(_: str) -> None:
    """Nothing has to be said."""


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where pyngrok keeps the agent; there is none on PATH, and afterwards nothing but the agent is there."""
    no_users_home(monkeypatch, tmp_path / "user")
    path = tmp_path / "kept/ngrok"
    monkeypatch.setenv("PYNGROK_NGROK_PATH", str(path))
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    before = children()
    yield path
    assert children() <= before
    assert list(temporary.iterdir()) == [], "others can foresee the names there"
    assert [entry for entry in path.parent.glob("*") if entry != path] == []


class Proxy:
    """A proxy for https that does with each connection what ``answer`` says, in place of the server behind it."""

    def __init__(self, answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]) -> None:
        self.asked: list[bytes] = []
        self._answer = answer

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            self.asked.append(await reader.readuntil(b"\r\n\r\n"))
            await self._answer(reader, writer)  # type: ignore[misc]
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()


@pytest.fixture
async def proxied(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[[object], object]]:
    """Starts a proxy and names it in the environment."""
    servers = []

    async def start(answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]) -> Proxy:
        proxy = Proxy(answer)
        server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
        servers.append(server)
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        return proxy

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for the download server, with its key, that nobody trusts."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={HOST} -addext subjectAltName=DNS:{HOST}"
    try:
        pem = subprocess.run(
            ["openssl", *command.split(), "-keyout", "-", "-out", "-"], check=True, capture_output=True, timeout=30
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("the openssl command is not installed")
    path.write_bytes(pem.stdout)
    return path


def download_server(certificate: Path, answer: bytes) -> Callable[..., object]:
    """Answers any request so, over TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await writer.start_tls(context)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        await reader.read()

    return serve


def answer_with(body: bytes) -> bytes:
    """An HTTP answer."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def archive() -> bytes:
    """What ngrok.com serves, with a program that says hello."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        program = b"#!/bin/sh\necho hello\n"
        entry = tarfile.TarInfo("ngrok")
        entry.size, entry.mode = len(program), 0o755
        archive.addfile(entry, io.BytesIO(program))
    return packed.getvalue()


def program(path: Path, text: str = "#!/bin/sh\n") -> Path:
    """Something that can be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


async def test_the_program_is_the_one_named_else_that_on_the_path_else_the_one_kept_by_pyngrok(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(kept)
    assert await find_binary(None, ignore) == str(kept)
    on_path = program(tmp_path / "bin/ngrok")
    monkeypatch.setenv("PATH", f"{tmp_path / 'empty'}{os.pathsep}{tmp_path / 'bin'}")
    assert await find_binary(None, ignore) == str(on_path)
    named = program(tmp_path / "other/my-agent")
    assert await find_binary(str(named), ignore) == str(named)
    assert await find_binary("ngrok", ignore) == str(on_path)


async def test_the_script_that_pyngrok_installs_as_ngrok_is_not_the_agent(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(kept)
    program(tmp_path / "venv/ngrok", "#!/usr/bin/python3\nfrom pyngrok.ngrok import main\nmain()\n")
    on_path = program(tmp_path / "bin/ngrok")
    monkeypatch.setenv("PATH", f"{tmp_path / 'venv'}")
    assert await find_binary(None, ignore) == str(kept)
    monkeypatch.setenv("PATH", f"{tmp_path / 'venv'}{os.pathsep}{tmp_path / 'bin'}")
    assert await find_binary(None, ignore) == str(on_path)


@pytest.mark.parametrize("name", ["no-such-agent", "~/no-such-agent", "/"])
async def test_a_named_program_that_is_not_there_is_not_replaced(name: str) -> None:
    with pytest.raises(TunnelFailed, match="There is no program") as caught:
        await find_binary(name, ignore)
    assert caught.value.permanent


async def test_without_a_program_it_is_downloaded_after_it_was_said(
    kept: Path,
    proxied: Callable[..., object],
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    proxy = await proxied(download_server(certificate, answer_with(archive())))  # type: ignore[misc]
    said: list[str] = []
    assert await find_binary(None, said.append) == str(kept)
    assert said == ["Downloading the ngrok agent from ngrok.com, since there is none on this machine."]
    assert subprocess.run([kept], capture_output=True, check=True).stdout == b"hello\n"  # noqa: ASYNC221
    assert proxy.asked[0].startswith(b"CONNECT bin.ngrok.com:443 ")
    assert capfd.readouterr() == ("", "")
    assert await find_binary(None, said.append) == str(kept)
    assert len(said) == 1


async def test_a_certificate_that_is_not_trusted_is_told_as_such(
    kept: Path, proxied: Callable[..., object], certificate: Path
) -> None:
    await proxied(download_server(certificate, answer_with(archive())))  # type: ignore[misc]
    with pytest.raises(TunnelFailed, match="certificate of ngrok's download server is not trusted") as caught:
        await find_binary(None, ignore)
    assert caught.value.permanent
    assert "SSL_CERT_FILE" in str(caught.value)
    assert not list(kept.parent.glob("ngrok"))


@pytest.mark.parametrize(
    ("answer", "words", "permanent"),
    [
        (b"HTTP/1.1 451 Unavailable\r\nContent-Length: 0\r\n\r\n", "from your country", True),
        (answer_with(b"no archive"), NO_DOWNLOAD, False),
        (answer_with(archive()[:-40]), NO_DOWNLOAD, False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", NO_DOWNLOAD, False),
        (b"no HTTP\r\n\r\n", NO_DOWNLOAD, False),
    ],
    ids=["451", "no archive", "half an archive", "nothing", "no HTTP"],  # an archive has the time in it
)
async def test_a_server_that_gives_no_program_leaves_none(
    kept: Path,
    proxied: Callable[..., object],
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: bytes,
    words: str,
    permanent: bool,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    await proxied(download_server(certificate, answer))  # type: ignore[misc]
    with pytest.raises(TunnelFailed, match=words) as caught:
        await find_binary(None, ignore)
    assert caught.value.permanent == permanent
    assert not list(kept.parent.glob("ngrok"))


async def test_a_proxy_that_refuses_is_told_as_such(kept: Path, proxied: Callable[..., object]) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    await proxied(refuse)  # type: ignore[misc]
    with pytest.raises(TunnelFailed, match="The proxy does not let the ngrok agent be downloaded"):
        await find_binary(None, ignore)


async def test_a_network_that_is_not_there_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    with pytest.raises(TunnelFailed, match=r"cannot be downloaded .*: check the network") as caught:
        await find_binary(None, ignore)
    assert not caught.value.permanent


async def test_a_server_that_never_comes_to_an_end_does_not_hold_the_download(
    kept: Path, proxied: Callable[..., object], certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"HTTP/1.1 200 still\r\nX: y\r\n")
            await writer.drain()
            await asyncio.sleep(0.1)

    await proxied(drip)  # type: ignore[misc]
    with pytest.raises(TunnelFailed, match="was not done within 1 seconds"):
        await find_binary(None, ignore, 1)
    assert not list(kept.parent.glob("ngrok"))


async def test_a_cancelled_download_leaves_nothing(kept: Path, proxied: Callable[..., object]) -> None:
    asked = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()

    await proxied(hold)  # type: ignore[misc]
    finding = asyncio.create_task(find_binary(None, ignore))
    async with asyncio.timeout(30):
        await asked.wait()
    finding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await finding


async def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PYNGROK_NGROK_PATH", str(tmp_path / "file/ngrok"))
    with pytest.raises(TunnelFailed, match="cannot be put into"):
        await find_binary(None, ignore)
