"""Where the ngrok authtoken comes from, and the configuration file that hands it to the agent."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_VARIABLE = "NGROK_AUTHTOKEN"
# How the agent reaches its service; what else the user has configured is for tunnels of his own.
_NETWORK = (
    *("connect_url", "connect_cas", "connect_timeout", "crl_noverify", "dns_resolver_ips"),
    *("heartbeat_interval", "heartbeat_tolerance", "proxy_url"),
)


def find_token(given: str | None) -> str | None:
    """The authtoken: as given, else of NGROK_AUTHTOKEN, else of the user's own ngrok configuration."""
    for candidate in (given, os.environ.get(_VARIABLE)):
        if candidate and candidate.strip():
            return candidate.strip()
    found = _users_agent().get("authtoken")
    return found.strip() if isinstance(found, str) and found.strip() else None


def write_config(home: Path, token: str) -> Path:
    """A new file below ``home`` that only the user can read, for an agent of version 3; raises `OSError`.

    It holds the token and how the user's own configuration has the agent reach its service.
    """
    import yaml  # type: ignore[import-untyped,unused-ignore]

    users = _users_agent()
    agent = {name: users[name] for name in _NETWORK if name in users} | {"authtoken": token}
    home.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(home)
    # Created with mode 0600 under a name of its own; nobody is told the name before it is complete.
    descriptor, path = tempfile.mkstemp(prefix="ngrok-", suffix=".yml", dir=home)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        yaml.safe_dump({"version": "3", "agent": agent}, file)
    return Path(path)


def _remove_leftovers(home: Path) -> None:
    """A start that was killed leaves its file; no start takes an hour."""
    for left in home.glob("ngrok-*.yml"):
        with contextlib.suppress(OSError):
            if left.stat().st_mtime < time.time() - 3600:
                left.unlink()


@contextlib.contextmanager
def no_other_token_inherited(token: str) -> Iterator[None]:
    """Keeps NGROK_AUTHTOKEN from a child that is started meanwhile, if it holds another token than this."""
    other = os.environ.get(_VARIABLE)
    if other is None or other == token:
        yield
        return
    del os.environ[_VARIABLE]
    try:
        yield
    finally:
        os.environ[_VARIABLE] = other


def _users_agent() -> dict[str, Any]:
    """The section ``agent`` of the first configuration file with an authtoken; of version 2, the token only."""
    for path in _default_files():
        try:
            text = path.read_text("utf-8", "replace")
        except OSError:
            continue
        if "authtoken" not in text:
            continue
        import yaml  # takes a while, and most users have no such file

        try:
            config = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError):
            continue
        if isinstance(config, dict):
            agent = config.get("agent")
            if isinstance(agent, dict) and agent.get("authtoken"):
                return agent
            if config.get("authtoken"):
                return {"authtoken": config["authtoken"]}
    return {}


def _default_files() -> list[Path]:
    """Where agents of version 3 keep their configuration, on any system."""
    directories = []
    if base := os.environ.get("XDG_CONFIG_HOME"):
        directories.append(Path(base, "ngrok"))
    with contextlib.suppress(RuntimeError):  # nobody's home
        home = Path.home()
        directories += [home / ".config/ngrok", home / "Library/Application Support/ngrok"]
    if local := os.environ.get("LOCALAPPDATA"):
        directories.append(Path(local, "ngrok"))
    return [directory / "ngrok.yml" for directory in directories]
