"""An aiohttp application that inserts each parsed body into a default TinyDB. Prints its port."""

from __future__ import annotations

import socket
import sys

from aiohttp import web
from tinydb import TinyDB


def main() -> None:
    database = TinyDB(sys.argv[1])

    async def insert(request: web.Request) -> web.Response:
        database.insert(dict(await request.post()))
        return web.Response()

    app = web.Application()
    app.router.add_post("/b24/handler", insert)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        print(f"port {listening.getsockname()[1]}", flush=True)
        web.run_app(app, sock=listening, access_log=None, print=lambda *_: None)


if __name__ == "__main__":
    main()
