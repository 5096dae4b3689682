"""A handler that keeps what the sandbox posts, and calls to the sandbox."""

import asyncio
import contextlib
import time

import aiohttp

from b24tunnel import form

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
DEADLINE = 10


class Handler:
    """A raw socket that keeps each request's bytes. ``answers``: the next answers, then 200 for ever."""

    def __init__(self, answers=(), hold=None):
        self.answers = list(answers)
        self.hold = hold
        self.requests: list[tuple[bytes, bytes]] = []
        self.times: list[float] = []
        self.open = 0
        self.most_open = 0
        self._arrived = asyncio.Condition()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/handler?key=a%2Fb"
        return self

    async def __aexit__(self, *_):
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader, writer):
        self.times.append(time.monotonic())
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(length)
            async with self._arrived:
                self.requests.append((head, body))
                self._arrived.notify_all()
            if self.hold is not None:
                await self.hold.wait()
            answer = self.answers.pop(0) if self.answers else OK
            if callable(answer):
                answer = await answer()
            with contextlib.suppress(ConnectionError):
                writer.write(answer)
                await writer.drain()
        finally:
            self.open -= 1
            writer.close()

    async def wait_for(self, count):
        async with asyncio.timeout(DEADLINE), self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) >= count)

    def bodies(self):
        return [form.parse(body) for _, body in self.requests]


async def rest(sandbox, method, token=None, **params):
    token = sandbox.credentials.access_token if token is None else token
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{sandbox.url}/rest/{method}", json={**params, "auth": token}) as answer,
    ):
        return await answer.json()


async def bind(sandbox, url, event="ONCRMDEALADD", **params):
    answer = await rest(sandbox, "event.bind", event=event, handler=url, **params)
    assert answer.get("result") is True, answer
