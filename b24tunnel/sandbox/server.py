"""The HTTP side of the sandbox: sockets, paths, bodies."""

import contextlib
import json
from typing import Any

from aiohttp import web

from b24tunnel.errors import OutsideFailure

from . import oauth
from .answers import Refusal
from .params import MAX_BODY_BYTES, read
from .rest import Rest, address
from .store import Portal


class Server:
    """Listens for REST and OAuth requests to one portal."""

    def __init__(self, portal: Portal, rest: Rest) -> None:
        self._portal = portal
        self._rest = rest
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int) -> int:
        """Begins to listen; gives the port. Raises ``OutsideFailure`` when the port cannot be had."""
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
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
        return int(runner.addresses[0][1])

    async def stop(self) -> None:
        """Stops listening and ends open connections."""
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
            authorization = request.headers.get("Authorization", "")
            return _json(*self._rest.answer(address(path), params, authorization))
        with contextlib.suppress(KeyError):
            return self._oauth(path.rstrip("/"), params)
        description = "The sandbox serves /rest/, /oauth/token/ and /oauth/authorize/"
        return _json(404, {"error": "NOT_FOUND", "error_description": description})

    def _oauth(self, path: str, params: Any) -> web.Response:
        try:
            if path == "/oauth/token":
                return _json(200, oauth.token(self._portal, params()))
            if path == "/oauth/authorize":
                location = oauth.authorize(self._portal, params())
                return web.Response(status=302, headers={"Location": location})
        except Refusal as refusal:
            return _json(refusal.status, refusal.as_json())
        raise KeyError(path)


def _json(status: int, body: Any) -> web.Response:
    text = json.dumps(body, separators=(",", ":"))
    return web.Response(status=status, body=text.encode(), content_type="application/json", charset="utf-8")
