"""A program that behaves as cloudflared does: lines on standard error, a status server, real forwarding.

CLOUDFLARED_STANDIN names what goes wrong (see `Cloudflared`). A named tunnel is forwarded from the port
CLOUDFLARED_STANDIN_PORT; a quick one has an invented address that leads nowhere. Notes of each run go into the
directory CLOUDFLARED_STANDIN_NOTES as PID.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from aiohttp import web
from tcp_relay import port_of

HOST = "four-invented-word-here.trycloudflare.com"
THANKS = (
    "Thank you for trying Cloudflare Tunnel. Doing so, without a Cloudflare account, is a quick way "
    "(https://www.cloudflare.com/website-terms/) to try it: https://developers.cloudflare.com/cloudflare-one/"
)
BAR = "+--------------------------------------------------------------------------------------------+"


class Cloudflared:
    """One run. ``mode``: a word that is looked for below; ``json`` and ``well`` are without fault."""

    def __init__(self, options: argparse.Namespace, named: bool) -> None:
        self.options = options
        self.named = named
        self.mode = os.environ.get("CLOUDFLARED_STANDIN", "well")
        self.ready = False

    def say(self, level: str, message: str, **fields: str) -> None:
        """Print one line as the program does."""
        if self.mode == "json":
            long = {"INF": "info", "ERR": "error", "WRN": "warn"}[level]
            line = json.dumps({"level": long, **fields, "message": message, "time": "2026-08-20T10:00:03Z"})
        else:
            line = " ".join(
                ["2026-08-20T10:00:03Z", level, message, *(f'{name}="{value}"' for name, value in fields.items())]
            )
        print(line, file=sys.stderr, flush=True)

    async def run(self) -> None:
        """Until a signal ends it."""
        if self.mode == "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if self.named and os.environ.get("TUNNEL_TOKEN") == "not-valid":
            print("Provided Tunnel token is not valid.", file=sys.stderr)
            print("See 'cloudflared tunnel run --help'.", file=sys.stderr)
            sys.exit(255)
        if not self.named:
            self.quick()
        status = web.Application()
        status.router.add_get("/ready", self.answer_ready)
        status.router.add_get("/quicktunnel", self.answer_quick)
        runner = web.AppRunner(status, handle_signals=False)
        await runner.setup()
        host, _, port = self.options.metrics.rpartition(":")
        site = web.TCPSite(runner, host, int(port))
        await site.start()
        self.say("INF", f"Starting metrics server on 127.0.0.1:{port_of(site._server)}/metrics")  # type: ignore[arg-type]
        self.say("ERR", "Cannot determine default origin certificate path. No file cert.pem")
        if self.mode == "silent":
            await asyncio.sleep(3600)
        while self.mode == "blocked":
            self.say(
                "ERR",
                "Failed to dial a quic connection",
                error="failed to dial to edge with quic: timeout: no recent network activity",
                connIndex="0",
            )
            self.say("INF", "Retrying connection in up to 2s", connIndex="0", event="0")
            await asyncio.sleep(0.05)
        if self.named:
            await self.forward(int(self.options.url.rpartition(":")[2]))
        self.ready = True
        if self.mode != "wordless":
            self.say("INF", "Registered tunnel connection", connIndex="0", location="ams01", protocol="quic")
        if self.mode == "ends":
            self.say("ERR", "Serve tunnel error", error="told with " + os.environ.get("TUNNEL_TOKEN", "no token"))
            sys.exit(1)
        await asyncio.sleep(3600)

    def quick(self) -> None:
        """Ask for a quick tunnel."""
        self.say("INF", THANKS)
        self.say("INF", "Requesting new quick Tunnel on trycloudflare.com...")
        if self.mode == "limited":
            self.say(
                "ERR",
                "Error unmarshaling QuickTunnel response: error code: 1015",
                error="invalid character 'e' looking for beginning of value",
                status_code="429 Too Many Requests",
            )
            print("failed to unmarshal quick Tunnel: invalid character 'e' looking for …", file=sys.stderr)
            sys.exit(1)
        if self.mode == "offline":
            print(
                'failed to request quick Tunnel: Post "https://api.trycloudflare.com/tunnel": dial tcp: lookup '
                "api.trycloudflare.com: no such host",
                file=sys.stderr,
            )
            sys.exit(1)
        if self.mode != "wordless":
            for row in (
                BAR,
                f"|  {'Your quick Tunnel has been created!':<88}  |",
                f"|  https://{HOST:<80}  |",
                BAR,
            ):
                self.say("INF", row)

    async def forward(self, port: int) -> None:
        """From the public port to this one, byte for byte."""

        async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while piece := await reader.read(65536):
                writer.write(piece)
                await writer.drain()
            writer.close()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, back = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(pump(reader, back), pump(there, writer))

        public = int(os.environ["CLOUDFLARED_STANDIN_PORT"])
        self.server = await asyncio.start_server(accept, "127.0.0.1", public)

    async def answer_ready(self, request: web.Request) -> web.Response:
        """Whether there is a connection."""
        status = 200 if self.ready else 503
        return web.json_response({"status": status, "readyConnections": int(self.ready)}, status=status)

    async def answer_quick(self, request: web.Request) -> web.Response:
        """The quick tunnel's host."""
        return web.json_response({"hostname": "" if self.named else HOST})

    def note(self) -> None:
        """Leave what a test wants to know."""
        directory = Path(os.environ["CLOUDFLARED_STANDIN_NOTES"])
        facts = {
            "pid": os.getpid(),
            "arguments": sys.argv[1:],
            "config": Path(self.options.config).read_text() if self.options.config else None,
            "environment": {name: value for name, value in os.environ.items() if name.startswith("TUNNEL_")},
        }
        new = directory / f"{os.getpid()}.new"
        new.write_text(json.dumps(facts))
        new.rename(directory / f"{os.getpid()}.json")


def main() -> None:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("tunnel", choices=["tunnel"])
    parser.add_argument("--no-autoupdate", action="store_true", required=True)
    parser.add_argument("--config")
    parser.add_argument("--metrics", default="localhost:20241")
    parser.add_argument("--loglevel")
    parser.add_argument("--protocol")
    parser.add_argument("--url")
    named = "run" in sys.argv
    program = Cloudflared(parser.parse_args([word for word in sys.argv[1:] if word != "run"]), named)
    program.note()
    asyncio.run(program.run())


if __name__ == "__main__":
    main()
