"""A program that behaves as the ngrok agent does for pyngrok: its log lines, its local API, real forwarding.

Takes ``start --none --log stdout --config FILE`` and ``--version``. The authtoken in FILE names what goes wrong
(``token-MODE-…``; see `Agent`), else NGROK_STANDIN does. Notes of each run go into the directory
NGROK_STANDIN_NOTES as PID.json. ``POST /stand-in`` to its API has it print the body; an empty body ends it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web
from tcp_relay import port_of, relay_to

REFUSALS = {
    "105": "The authtoken you specified does not look like a proper ngrok authtoken. Your authtoken: {token}",
    "107": "The authtoken you specified is properly formed, but it is invalid. Your authtoken: {token}",
    "108": "Your account is limited to 3 simultaneous ngrok agent sessions.",
    "4018": "Usage of ngrok requires a verified account and authtoken.",
    "9040": "We do not allow agents to connect to ngrok from your IP address (203.0.113.5).",
    "9999": "Something new, told with {token}.",
}
TROUBLES = {
    "lookup": "failed to dial ngrok server: lookup connect.invalid: no such host",
    "x509": "failed to dial ngrok server: tls: x509: certificate signed by unknown authority",
}


def say(level: str, message: str, **fields: Any) -> None:
    """Print one line as the agent does."""
    more = " ".join(
        f'{name}="{value}"' if " " in str(value) else f"{name}={value}" for name, value in fields.items()
    )
    print(f't=2026-08-10T07:20:40+0000 lvl={level} msg="{message}" {more}', flush=True)


class Agent:
    """One run. ``mode``: a key of `REFUSALS` or `TROUBLES`, or a word that is looked for below."""

    def __init__(self, token: str, notes: dict[str, Any]) -> None:
        self.token = token
        self.mode = token.split("-")[1] if token.startswith("token-") else os.environ.get("NGROK_STANDIN", "well")
        self.notes = notes
        self.relays: list[asyncio.Server] = []

    async def run(self) -> None:
        """Until a signal ends it."""
        if self.mode == "silent":
            await asyncio.sleep(3600)
        if self.mode in ("deaf", "deafsilent"):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if self.mode == "deafsilent":
            self.note()
            await asyncio.sleep(3600)
        if self.mode == "children":
            self.notes["child"] = (await asyncio.create_subprocess_exec("sleep", "3600")).pid
        if self.mode == "crashes":
            say("crit", "command failed", err="reading configuration: no such key")
            await asyncio.sleep(3600)
        if self.mode.startswith("ends"):
            # More than one line at once, the reason last, and gone before anybody has read the first.
            sys.stdout.write("t=1 lvl=info msg=hello\n" * 5)
            say("eror", "session closing", obj="tunnels.session", err=self.refusal(self.mode[4:]))
            sys.exit(1)
        await self.serve_api()
        if self.mode in REFUSALS:
            await self.repeat(self.refusal(self.mode))
        if self.mode in TROUBLES:
            await self.repeat(TROUBLES[self.mode])
        if self.mode == "bytes":
            sys.stdout.buffer.write(
                b't=1 lvl=info msg="open config file" path=/home/\xd0\x98\x98\xff\xfe/ngrok.yml\n'
            )
        say("info", "client session established", obj="tunnels.session")
        say("info", "tunnel session started", obj="tunnels.session")
        self.note()
        while self.mode == "floods":
            if self.relays:  # once there is a tunnel: on a busy machine there would never be one
                say("info", "join connections", obj="join", id=time.monotonic())
            await asyncio.sleep(0 if self.relays else 0.01)
        await asyncio.sleep(3600)

    def refusal(self, code: str) -> str:
        """The text of one of ngrok's errors."""
        return f"authentication failed: {REFUSALS[code].format(token=self.token)} ERR_NGROK_{code}"

    async def repeat(self, error: str) -> None:
        """What the agent does with a session that it cannot have: the same again and again."""
        while True:
            say("eror", "failed to reconnect session", obj="tunnels.session", err=error)
            await asyncio.sleep(0.05)

    async def serve_api(self) -> None:
        """The API at a free port, which the log tells."""
        application = web.Application()
        for what in ("endpoints", "tunnels"):
            application.router.add_get(f"/api/{what}", self.list)
            application.router.add_post(f"/api/{what}", self.create)
        application.router.add_delete("/api/{what}/{name}", self.delete)
        application.router.add_post("/stand-in", self.obey)
        runner = web.AppRunner(application, handle_signals=False)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.notes["api"] = port = port_of(site._server)  # type: ignore[arg-type]
        self.note()
        say("info", "starting web service", obj="web", addr=f"127.0.0.1:{port}", allow_hosts="[]")

    async def list(self, request: web.Request) -> web.Response:
        """What there is; nothing, before the first."""
        if self.mode == "hangs":
            await asyncio.sleep(3600)
        if self.mode == "old":
            raise web.HTTPNotFound
        return web.json_response({"endpoints": [], "tunnels": [], "uri": request.path})

    async def create(self, request: web.Request) -> web.Response:
        """Forward to the upstream, and say where from."""
        self.notes["endpoint"] = wanted = await request.json()
        self.note()
        if self.mode == "stuck":
            await asyncio.sleep(3600)
        if self.mode == "quits":
            os._exit(3)
        if self.mode in ("334", "8012", "refused"):
            error = "failed to start tunnel: The endpoint 'https://x.example' is already online."
            code = f" ERR_NGROK_{self.mode}" if self.mode != "refused" else f" told with {self.token}"
            body = {"error_code": 103, "status_code": 502, "msg": "failed", "details": {"err": error + code}}
            return web.json_response(body, status=502)
        host, _, port = wanted["upstream"]["url"].removeprefix("http://").partition(":")
        assert host == "127.0.0.1"
        self.relays.append(await relay_to(int(port)))
        url = wanted.get("url", f"http://127.0.0.1:{port_of(self.relays[-1])}")
        if self.mode == "other":
            url = "https://another.example"
        say("info", "started tunnel", obj="tunnels", name=wanted["name"], addr=wanted["upstream"]["url"], url=url)
        answer = {"name": wanted["name"], "url": url, "upstream": wanted["upstream"]}
        if self.mode == "nameless":
            del answer["url"]
        return web.json_response(answer, status=201)

    async def delete(self, request: web.Request) -> web.Response:
        """Forward no longer."""
        for relay in self.relays:
            relay.close()
        return web.Response(status=204)

    async def obey(self, request: web.Request) -> web.Response:
        """Print what the test wants, or end."""
        if not (line := await request.text()):
            say("crit", "stopping", err="killed for a reason")
            os._exit(7)
        print(line, flush=True)
        return web.Response()

    def note(self) -> None:
        """Leave what a test wants to know."""
        directory = Path(os.environ["NGROK_STANDIN_NOTES"])
        new = directory / f"{os.getpid()}.new"
        new.write_text(json.dumps({**self.notes, "mode": self.mode, "pid": os.getpid()}))
        new.rename(directory / f"{os.getpid()}.json")


def main() -> None:
    """Do what the arguments say."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        print("ngrok version 3.30.0")
        return
    assert arguments[:4] == ["start", "--none", "--log", "stdout"], arguments
    token, notes = os.environ.get("NGROK_AUTHTOKEN", ""), {"environment": os.environ.get("NGROK_AUTHTOKEN")}
    if "--config" in arguments:
        path = Path(arguments[arguments.index("--config") + 1])
        notes["config"] = config = yaml.safe_load(path.read_text())
        notes["rights"] = oct(path.stat().st_mode & 0o777)
        token = config["agent"]["authtoken"]
    agent = Agent(token, {**notes, "arguments": arguments})
    agent.note()
    asyncio.run(agent.run())


if __name__ == "__main__":
    main()
