"""The ngrok agent's program: the user's own, or the one that pyngrok downloads; also a program of its own.

The download runs as a child process: a thread that waits for a server which sends byte by byte could not be
ended, and would keep this process from ending.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from pathlib import Path

from b24tunnel.tunnel.child import Child
from b24tunnel.tunnel.provider import Say, TunnelFailed

_DOWNLOAD_SECONDS = 180.0
_PATH_OF_PYNGROK = "PYNGROK_NGROK_PATH"
# The agent has tens of megabytes; what is smaller and speaks of pyngrok is its Python script called ngrok,
# which would download the agent unasked.
_SMALL = 1_000_000
_BY_HAND = "download the agent from https://ngrok.com/download and name its path as the ngrok binary"


async def find_binary(given: str | None, say: Say, seconds: float = _DOWNLOAD_SECONDS) -> str:
    """The path of the agent's program: as given, on PATH, or where pyngrok keeps it, downloaded if need be.

    The download ends after ``seconds``. Raises `TunnelFailed` when there is no program.
    """
    found = await asyncio.to_thread(_installed, given)
    if found is not None:
        return found
    kept = await asyncio.to_thread(_kept_by_pyngrok)
    if not kept.exists():
        say("Downloading the ngrok agent from ngrok.com, since there is none on this machine.")
        await _download(kept, seconds)
    return str(kept)


def _installed(given: str | None) -> str | None:
    if given is not None:
        found = shutil.which(Path(given).expanduser())
        if found is None:
            raise TunnelFailed(
                f"There is no program {given!r} to run as the ngrok agent: correct its path, or leave it out.",
                permanent=True,
            )
        return str(Path(found).absolute())
    for directory in os.environ.get("PATH", "").split(os.pathsep):
        found = shutil.which("ngrok", path=directory) if directory else None
        if found is not None and not _is_script_of_pyngrok(Path(found)):
            return str(Path(found).absolute())
    return None


def _is_script_of_pyngrok(path: Path) -> bool:
    try:
        return path.stat().st_size < _SMALL and b"pyngrok" in path.read_bytes()
    except OSError:
        return False


def _kept_by_pyngrok() -> Path:
    from pyngrok import conf

    return Path(os.environ.get(_PATH_OF_PYNGROK) or conf.DEFAULT_NGROK_PATH).absolute()


async def _download(target: Path, seconds: float) -> None:
    """Into a directory of its own beside the target first: half a program must not look like one."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # pyngrok unpacks from the temporary directory, under a name that anybody can know.
        directory = Path(tempfile.mkdtemp(prefix="ngrok-download-", dir=target.parent))
    except OSError as error:
        raise TunnelFailed(
            f"The ngrok agent cannot be put into {target.parent} ({error.strerror}): {_BY_HAND}.", permanent=True
        ) from error
    try:
        temporary = {"TMPDIR": str(directory), "TEMP": str(directory), "TMP": str(directory)}
        arguments = [sys.executable, "-m", "b24tunnel.tunnel.ngrok_binary", str(directory / target.name)]
        child = await Child.start(arguments, lambda line: None, {**os.environ, **temporary})
        try:
            async with asyncio.timeout(seconds):
                code = await child.wait()
        except TimeoutError:
            raise TunnelFailed(
                f"The download of the ngrok agent was not done within {seconds:g} seconds: try again, or "
                f"{_BY_HAND}."
            ) from None
        finally:
            await child.end()
        if code != 0 or not (directory / target.name).exists():
            raise _failure(child.last_lines[-1] if child.last_lines else f"exit code {code}")
        (directory / target.name).replace(target)
    finally:
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


def _failure(reason: str) -> TunnelFailed:
    reason = reason.removeprefix("An error occurred while downloading ngrok from ")
    if "CERTIFICATE" in reason.upper():
        return TunnelFailed(
            f"The certificate of ngrok's download server is not trusted ({reason}): behind a proxy that opens "
            f"TLS, name its certificate in SSL_CERT_FILE, or {_BY_HAND}.",
            permanent=True,
        )
    if "Tunnel connection failed" in reason or "Proxy" in reason:
        return TunnelFailed(
            f"The proxy does not let the ngrok agent be downloaded ({reason}): correct HTTPS_PROXY, or "
            f"{_BY_HAND}.",
            permanent=True,
        )
    if "HTTP Error 4" in reason or "not a supported" in reason:
        return TunnelFailed(
            f"The ngrok agent is not to be had for this machine or from your country ({reason}): take another "
            f"tunnel, or {_BY_HAND}.",
            permanent=True,
        )
    return TunnelFailed(f"The ngrok agent cannot be downloaded ({reason}): check the network, or {_BY_HAND}.")


def _install(target: str) -> int:
    from pyngrok import installer
    from pyngrok.exception import PyngrokError

    installer._print_progress_enabled = False
    try:
        installer.install_ngrok(target)
    except (PyngrokError, OSError) as error:
        print(" ".join(str(error).split()))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_install(sys.argv[1]))
