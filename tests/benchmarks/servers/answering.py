"""An aiohttp application with an empty handler, or with one that sleeps before it answers. Prints its port."""

from __future__ import annotations

import argparse
import asyncio
import socket

from aiohttp import web


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sleep", type=float, default=0.0, help="seconds")
    parser.add_argument("--uvloop", action="store_true")
    options = parser.parse_args()

    async def empty(request: web.Request) -> web.Response:
        return web.Response()

    async def sleeping(request: web.Request) -> web.Response:
        await asyncio.sleep(options.sleep)
        return web.Response()

    loop: asyncio.AbstractEventLoop | None = None
    if options.uvloop:
        import uvloop

        loop = uvloop.new_event_loop()
    app = web.Application()
    app.router.add_post("/b24/handler", sleeping if options.sleep else empty)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        print(f"port {listening.getsockname()[1]}", flush=True)
        web.run_app(app, sock=listening, access_log=None, print=lambda *_: None, loop=loop)


if __name__ == "__main__":
    main()
