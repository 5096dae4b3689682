"""The HTTP side of the sandbox: sockets, paths, bodies."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

from aiohttp import web

from b24tunnel.errors import OutsideFailure

from . import devops, oauth
from .answers import Refusal
from .calls import scalar
from .faults import TOKEN, Fault
from .params import MAX_BODY_BYTES, read
from .rest import Address, Rest, address
from .store import Portal

Params = Callable[[], dict[str, Any]]
SHUTDOWN_SECONDS = 1.0


class Server:
    """Listens for REST and OAuth requests to one portal."""

    def __init__(self, portal: Portal, rest: Rest) -> None:
        self._portal = portal
        self._rest = rest
        self._runner: web.AppRunner | None = None
        self._stopping = asyncio.Event()

    async def start(self, host: str, port: int) -> int:
        """Begins to listen; gives the port. Raises ``OutsideFailure`` when the port cannot be had."""
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self._answer)
        # With cancellation an answer that never comes ends when its client has gone.
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS, handler_cancellation=True)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            await runner.cleanup()
            raise OutsideFailure(
                f"The sandbox cannot listen on {host}:{port}: {error.strerror or error}. Choose another port; "
                "0 takes a free one."
            ) from error
        self._runner = runner
        self._stopping.clear()
        return int(runner.addresses[0][1])

    async def stop(self) -> None:
        """Stops listening and ends open connections."""
        self._stopping.set()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.method not in ("GET", "POST"):
            return _json(405, {"error": "INVALID_REQUEST", "error_description": "Use GET or POST"})
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            description = f"The body is bigger than {MAX_BODY_BYTES} bytes"
            return _json(413, {"error": "INVALID_REQUEST", "error_description": description})
        target = request.raw_path
        path = target.partition("?")[0]

        def params() -> dict[str, Any]:
            return read(target, request.content_type, body)

        if path.startswith("/rest/"):
            return await self._rest_call(request, address(path), params)
        match path.rstrip("/"):
            case "/oauth/token":
                return await self._token(request, params)
            case "/oauth/authorize":
                return self._authorize(params)
            case devops.PATH:
                page = devops.answer(self._portal, request.method, request.headers, params)
                return web.Response(
                    status=page.status, text=page.text, content_type=page.content_type, headers=devops.HEADERS
                )
        description = "The sandbox serves /rest/, /oauth/token/, /oauth/authorize/ and /devops/"
        return _json(404, {"error": "NOT_FOUND", "error_description": description})

    async def _rest_call(self, request: web.Request, where: Address, params: Params) -> web.StreamResponse:
        authorization = request.headers.get("Authorization", "")
        fault = self._rest.faults.take(where.method)
        if fault is None or fault.carries_out:
            status, body = self._rest.answer(where, params, authorization, request.remote or "", fault)
        else:
            status, body = self._rest.meet(where, params, authorization, fault)
        return await self._send(request, status, body, fault)

    async def _token(self, request: web.Request, params: Params) -> web.StreamResponse:
        fault = self._rest.faults.take(TOKEN)
        grant = ""
        status, error = 200, None
        body: dict[str, Any] = {}
        try:
            given = params()
            grant = scalar(given.get("grant_type"))
            if fault is None or fault.carries_out:
                body = oauth.token(self._portal, given)
            else:
                raise Refusal(fault.code, fault.description, fault.status)
        except Refusal as refusal:
            status, error, body = refusal.status, refusal.code or None, dict(refusal.as_json())
        self._rest.remember(TOKEN, {"grant_type": grant[:100]}, status, error, fault)
        return await self._send(request, status, body, fault)

    def _authorize(self, params: Params) -> web.StreamResponse:
        try:
            location = oauth.authorize(self._portal, params())
        except Refusal as refusal:
            return _json(refusal.status, refusal.as_json())
        return web.Response(status=302, headers={"Location": location})

    async def _send(
        self, request: web.Request, status: int, body: dict[str, Any], fault: Fault | None
    ) -> web.StreamResponse:
        """The answer, or what a fault makes of it."""
        if fault is None or fault.kind == "error":
            return _json(status, body)
        if fault.kind == "http":
            headers = {"Content-Type": fault.content_type}
            return web.Response(status=fault.status, body=fault.body, headers=headers)
        if fault.kind == "slow":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(fault.seconds):
                    await self._stopping.wait()
            return _json(status, body)
        if fault.kind == "hang":
            await self._stopping.wait()
        if request.transport is not None:
            request.transport.close()
        return web.Response()


def _json(status: int, body: Any) -> web.Response:
    text = json.dumps(body, separators=(",", ":"))
    return web.Response(status=status, body=text.encode(), content_type="application/json", charset="utf-8")
