"""A portal's REST interface: one call, its answer, and fresh tokens when the portal asks for them."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
from yarl import URL

from b24tunnel import form
from b24tunnel.errors import UserError, WrongUsage
from b24tunnel.portal import oauth
from b24tunnel.portal.errors import PortalError, PortalUnreachable
from b24tunnel.portal.offline import PAGE, OfflineBatch, OfflinePage
from b24tunnel.portal.state import Portal, State
from b24tunnel.send_once import send_once
from b24tunnel.unanswered import why_unanswered

_log = logging.getLogger(__name__)

MAX_ANSWER = 16 * 1024 * 1024
"""The largest answer that is read, in bytes after decompression."""

# The portal's bucket lets two calls a second through (five on Enterprise) and holds fifty: page "Limits".
RETRY_DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds to wait before each repetition of a call that was answered with QUERY_LIMIT_EXCEEDED."""

_METHOD = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")

# What a refused or never finished connection looks like; everything else may have come after the request.
_NOT_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL)


@dataclass(frozen=True)
class Binding:
    """One row of ``event.get``: what is registered on the portal for this application.

    ``handler`` is ``""`` and ``connector_id`` may be set where ``offline``. ``auth_type`` is the id of the
    user on whose behalf the event comes, ``"0"`` for the one who caused it. (Page "event.get".)
    """

    event: str
    handler: str
    auth_type: str = "0"
    offline: bool = False
    connector_id: str = ""


class RestClient:
    """Calls REST methods of ``portal`` as its application; an async context manager.

    Calls may run at the same time. ``timeout`` is for one request, in seconds. Without ``session`` the
    client makes one of its own and closes it. On ``expired_token``, and on nothing else, the tokens are
    renewed once and the call is repeated once. The new tokens are in ``state`` before they are used, and
    of all clients on this machine only one spends a refresh token. The portal must be stored in ``state``.

    Every call raises ``PortalError`` for an answer that is an error, ``PortalUnreachable`` when the network
    fails, and ``WrongUsage`` for a call that cannot be made.
    """

    def __init__(
        self,
        portal: Portal,
        state: State,
        session: aiohttp.ClientSession | None = None,
        timeout: float = 30.0,
        *,
        retry_delays: Sequence[float] = RETRY_DELAYS,
        max_answer: int = MAX_ANSWER,
    ) -> None:
        self._portal = portal
        self._state = state
        self._session = session
        self._owns_session = session is None
        # A connection that is not made in half the time is known to have carried nothing; later it is not.
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=timeout / 2)
        # Longer than a refresh elsewhere can take, so that its result is waited for and not spent again.
        self._lock_timeout = 2 * timeout + 30
        self._retry_delays = tuple(retry_delays)
        self._max_answer = max_answer
        self._renewal: asyncio.Task[Portal] | None = None

    @property
    def portal(self) -> Portal:
        """The portal with the tokens that the next call uses."""
        return self._portal

    async def __aenter__(self) -> Self:
        self._open_session()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Let a renewal that is under way finish (its refresh token is spent), then close the own session."""
        renewal = self._renewal
        if renewal is not None and not renewal.done():
            await asyncio.wait({renewal})
        if self._owns_session and self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def call(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """The ``result`` of one call, as JSON has it."""
        return (await self.call_full(method, params))["result"]

    async def call_full(self, method: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The whole answer of one call: ``result``, ``time`` and, for lists, ``total`` and ``next``."""
        if not _METHOD.fullmatch(method):
            raise WrongUsage(f"{method!r} is no REST method; one looks like event.bind")
        params = params or {}
        for name in params:
            if str(name).lower() in ("auth", "access_token"):
                raise WrongUsage(f"the parameter {name} of {method} is the client's own; leave it out")
        portal = self._portal
        try:
            return await self._call_patiently(portal, method, params)
        except PortalError as error:
            if error.code != "expired_token":
                raise
        portal = await self._renewed(portal)
        return await self._call_patiently(portal, method, params)

    async def event_bind(self, event: str, handler: str) -> None:
        """Bind ``handler`` (a public URL) to ``event``, online; the page is "event.bind"."""
        result = await self._call_about(event, "event.bind", {"handler": handler})
        if result is not True:
            raise self._unexpected("event.bind", outcome_unknown=True)

    async def event_unbind(self, event: str, handler: str) -> int:
        """Unbind exactly this handler from this event; how many bindings that removed ("event.unbind").

        Raises ``WrongUsage`` for an empty event or handler, because Bitrix24 would then remove every
        handler of the event, or of the application.
        """
        if not event.strip() or not handler.strip():
            raise WrongUsage("event.unbind needs an event and a handler; without one it removes other people's")
        return self._count(await self._call_about(event, "event.unbind", {"handler": handler}))

    async def event_bind_offline(self, event: str, connector: str = "") -> None:
        """Have the portal collect ``event`` in its offline queue; needs an administrator ("event.bind").

        ``connector`` names the queue (``auth_connector``), ``""`` the common one.
        """
        result = await self._call_about(event, "event.bind", _offline({"event_type": "offline"}, connector))
        if result is not True:
            raise self._unexpected("event.bind", outcome_unknown=True)

    async def event_unbind_offline(self, event: str, connector: str = "") -> int:
        """No longer collect ``event`` in exactly this offline queue; how many bindings that removed.

        Raises ``WrongUsage`` for an empty event. What is in the queue stays there.
        """
        if not event.strip():
            raise WrongUsage("event.unbind needs an event; without one it removes other people's bindings")
        return self._count(
            await self._call_about(event, "event.unbind", _offline({"event_type": "offline"}, connector))
        )

    async def event_get(self) -> list[Binding]:
        """What is bound for this application (for a user who is no administrator: by this user)."""
        rows = await self.call("event.get")
        if not isinstance(rows, list) or not all(isinstance(row, dict) and row.get("event") for row in rows):
            raise self._unexpected("event.get")
        return [
            Binding(
                event=str(row["event"]),
                handler=str(row.get("handler") or ""),
                auth_type=str(row.get("auth_type") or "0"),
                offline=str(row.get("offline") or "0") not in ("0", "False"),
                connector_id=str(row.get("connector_id") or ""),
            )
            for row in rows
        ]

    async def offline_get(
        self,
        *,
        clear: bool,
        process_id: str = "",
        limit: int = PAGE,
        conditions: Mapping[str, Any] | None = None,
        connector: str = "",
    ) -> OfflineBatch:
        """The oldest entries of the offline queue, at most ``limit`` ("event.offline.get").

        ``clear`` removes them. Without it (which needs ``rest_offline_extended``) they are reserved under a mark
        that the portal chooses; with ``process_id`` nothing new is reserved, and what is still reserved under that
        mark comes again. ``conditions`` are the filter: ID, TIMESTAMP_X, EVENT_NAME, MESSAGE_ID.
        """
        params: dict[str, Any] = {"clear": int(clear), "limit": limit}
        if process_id:
            params["process_id"] = process_id
        if conditions:
            params["filter"] = dict(conditions)
        result = await self.call("event.offline.get", _offline(params, connector))
        events = result.get("events") if isinstance(result, dict) else None
        mark = result.get("process_id") if isinstance(result, dict) else None
        if not isinstance(events, list) or (events and not clear and not (isinstance(mark, str) and mark)):
            raise self._unexpected("event.offline.get", outcome_unknown=True)
        return OfflineBatch(mark if isinstance(mark, str) else "", events)

    async def offline_list(self, *, start: int = 0, connector: str = "") -> OfflinePage:
        """A page of the offline queue as it stands, reserved entries too, by ID; it changes nothing.

        Needs no extended mode ("event.offline.list").
        """
        answer = await self.call_full("event.offline.list", _offline({"start": start}, connector))
        rows, following = answer["result"], answer.get("next")
        if not isinstance(rows, list):
            raise self._unexpected("event.offline.list")
        return OfflinePage(rows, following if isinstance(following, int) and following > start else None)

    async def offline_clear(self, process_id: str, message_ids: Sequence[str], connector: str = "") -> None:
        """Remove exactly these entries, reserved under ``process_id``, from the queue ("event.offline.clear").

        Raises ``WrongUsage`` without a mark or ids, which would remove everything that is reserved, and for an id
        that does not have 32 characters.
        """
        if not process_id or not message_ids or any(len(message_id) != 32 for message_id in message_ids):
            raise WrongUsage("event.offline.clear needs a process_id and MESSAGE_IDs of 32 characters each")
        params = {"process_id": process_id, "message_id": list(message_ids)}
        if await self.call("event.offline.clear", _offline(params, connector)) is not True:
            raise self._unexpected("event.offline.clear", outcome_unknown=True)

    async def feature_get(self, code: str) -> bool:
        """Whether the portal's plan has a feature, ``rest_offline_extended`` for one ("feature.get")."""
        result = await self.call("feature.get", {"CODE": code})
        value = result.get("value") if isinstance(result, dict) else None
        if value not in ("Y", "N"):
            raise self._unexpected("feature.get")
        return bool(value == "Y")

    async def events(self) -> list[str]:
        """The codes of the events that the application's scopes allow, upper case (page "events")."""
        codes = await self.call("events")
        if not isinstance(codes, list):
            raise self._unexpected("events")
        return [str(code) for code in codes]

    async def event_test(self, params: Mapping[str, Any] | None = None) -> None:
        """Have the portal send ONAPPTEST with ``data[QUERY]`` = ``params`` (page "event.test")."""
        await self.call("event.test", params)

    async def app_info(self) -> dict[str, Any]:
        """The application as the portal knows it; ``INSTALLED`` and ``STATUS`` among others ("app.info")."""
        return await self._call_for_dict("app.info")

    async def profile(self) -> dict[str, Any]:
        """The user of the token: ``ID``, ``ADMIN``, ``NAME`` and others; empty if inactive ("profile")."""
        return await self._call_for_dict("profile")

    async def _call_about(self, event: str, method: str, params: Mapping[str, Any]) -> Any:
        try:
            return await self.call(method, {"event": event, **params})
        except (PortalError, PortalUnreachable) as error:
            if error.method == method:
                error.name_subject(event)
            raise

    async def _call_for_dict(self, method: str) -> dict[str, Any]:
        result = await self.call(method)
        if result == []:
            # PHP has one empty array for both.
            return {}
        if not isinstance(result, dict):
            raise self._unexpected(method)
        return result

    def _count(self, result: Any) -> int:
        """How many bindings an ``event.unbind`` with this result removed."""
        try:
            return int(result["count"])
        except (TypeError, KeyError, ValueError) as error:
            raise self._unexpected("event.unbind", outcome_unknown=True) from error

    def _unexpected(self, method: str, *, outcome_unknown: bool = False) -> PortalError:
        return PortalError(
            portal=self._portal.name,
            method=method,
            code="UNEXPECTED_ANSWER",
            status=200,
            outcome_unknown=outcome_unknown,
        )

    async def _call_patiently(self, portal: Portal, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        url = _method_url(portal, method)
        try:
            body = form.encode({**params, "auth": portal.access_token})
        except (form.FormError, TypeError) as error:
            raise WrongUsage(f"the parameters of {method} cannot be sent: {error}") from None
        for delay in (*self._retry_delays, None):
            try:
                answer = await self._ask(portal, method, url, body)
                if "result" not in answer:
                    raise self._unexpected(method, outcome_unknown=True)
                return answer
            except PortalError as error:
                if delay is None or error.code != "QUERY_LIMIT_EXCEEDED" or error.status != 503:
                    raise
            # Uneven, so that callers which were refused together do not come back together.
            await asyncio.sleep(delay * random.uniform(0.8, 1.2))
        raise AssertionError("the last round returns or raises")

    async def _renewed(self, expired: Portal) -> Portal:
        """The portal with tokens other than the expired ones, stored and ready for use."""
        if self._portal.access_token != expired.access_token:
            return self._portal
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(self._renew(expired))
            self._renewal.add_done_callback(_report_failure)
        # Shielded: a caller who is cancelled must not lose the answer to a refresh token that is spent.
        return await asyncio.shield(self._renewal)

    async def _renew(self, expired: Portal) -> Portal:
        async with self._state.exclusive("refresh", expired.name, self._lock_timeout):
            stored = await asyncio.to_thread(self._state.portal, expired.name)
            if stored.access_token == expired.access_token:
                # A full disk should be noticed before the refresh token is spent, not after.
                await asyncio.to_thread(self._state.ensure_writable)
                fresh = await self._refresh(stored)
                stored = await asyncio.to_thread(self._state.save_rotated, fresh, spent=stored.refresh_token)
        self._portal = stored
        return stored

    async def _refresh(self, portal: Portal) -> Portal:
        """Spend the refresh token (page "Refreshing OAuth 2.0 tokens"); the portal with the new pair."""
        if not (portal.refresh_token and portal.client_id and portal.client_secret and portal.server_endpoint):
            raise PortalError(portal=portal.name, method=oauth.BY_REFRESH_TOKEN, code="NO_REFRESH")
        return await self._pair(portal, oauth.BY_REFRESH_TOKEN, oauth.refreshing(portal))

    async def redeem(self, code: str, server_endpoint: str) -> Portal:
        """The portal with the tokens that a sign-in's code is good for; nothing is stored."""
        # In the place of the refresh token, the code is kept out of errors as that is.
        portal = dataclasses.replace(self._portal, server_endpoint=server_endpoint, refresh_token=code)
        return await self._pair(portal, oauth.BY_CODE, oauth.redeeming(portal, code))

    async def app_info_once(self, portal: Portal) -> dict[str, Any]:
        """``app.info`` as it answers the access token of ``portal``, which is being tried and is never renewed."""
        info = (await self._call_patiently(portal, "app.info", {}))["result"]
        if not isinstance(info, dict):
            raise self._unexpected("app.info")
        return info

    async def _pair(self, portal: Portal, called: str, params: Mapping[str, str]) -> Portal:
        """The portal with the tokens that the token endpoint gives for ``params``."""
        url = _endpoint(portal, portal.server_endpoint, "server_endpoint").origin() / "oauth" / "token" / ""
        # By GET, the one way that is documented and that the official SDKs go; no error of ours holds the address.
        renewed = oauth.with_pair(portal, await self._ask(portal, called, url.with_query(params)))
        if renewed is None:
            raise PortalError(
                portal=portal.name, method=called, code="UNEXPECTED_ANSWER", status=200, outcome_unknown=True
            )
        return renewed

    async def _ask(self, portal: Portal, method: str, url: URL, body: bytes | None = None) -> dict[str, Any]:
        """One request, a POST where there is a body; the answer's JSON object, which holds no error."""
        session = self._open_session()
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        try:
            async with session.request(
                "GET" if body is None else "POST",
                url,
                data=body,
                headers=headers,
                # The token is in the request, and a redirect would carry it to wherever the answer says.
                allow_redirects=False,
                middlewares=(send_once,),
                timeout=self._timeout,
            ) as response:
                payload = await self._read(response)
                status = response.status
        # No "from": an aiohttp error may hold the request, and a log that prints causes would print it.
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise PortalUnreachable(
                portal=portal.name,
                method=method,
                address=f"[{url.host}]:{url.port}" if ":" in (url.host or "") else f"{url.host}:{url.port}",
                reason=why_unanswered(error, self._timeout.total),
                secrets=portal.secrets(),
                outcome_unknown=not isinstance(error, _NOT_SENT),
            ) from None
        return _answer(portal, method, status, payload)

    async def _read(self, response: aiohttp.ClientResponse) -> bytes | None:
        """The answer's body, or None if it is larger than ``max_answer``."""
        payload = bytearray()
        async for chunk in response.content.iter_any():
            payload += chunk
            if len(payload) > self._max_answer:
                # The rest is not worth reading, and a connection with unread bytes cannot be used again.
                response.close()
                return None
        return bytes(payload)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # Proxies from the environment count, except for a portal (the sandbox) on this machine.
                trust_env=not self._portal.on_this_machine,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


def _answer(portal: Portal, method: str, status: int, payload: bytes | None) -> dict[str, Any]:
    """The JSON object of an answer that is no error, else a ``PortalError``."""
    # A 5xx may come from a proxy in front of a portal that went on working.
    unknown = not 400 <= status < 500

    def failure(code: str, description: str = "", *, outcome_unknown: bool) -> PortalError:
        return PortalError(
            portal=portal.name,
            method=method,
            code=code,
            description=description,
            status=status,
            secrets=portal.secrets(),
            outcome_unknown=outcome_unknown,
        )

    if payload is None:
        raise failure("ANSWER_TOO_LARGE", outcome_unknown=unknown)
    if 300 <= status < 400:
        raise failure("REDIRECTED", outcome_unknown=unknown)
    try:
        answer = json.loads(payload)
    except (ValueError, RecursionError):
        code = f"HTTP_{status}" if status >= 500 else "NOT_JSON"
        raise failure(code, outcome_unknown=unknown) from None
    if not isinstance(answer, dict):
        raise failure("NOT_JSON", outcome_unknown=unknown)
    error = answer.get("error")
    if error or ("error" in answer and "result" not in answer):
        code = str(error)
        refused_unread = code in ("QUERY_LIMIT_EXCEEDED", "OVERLOAD_LIMIT")
        described = str(answer.get("error_description") or "")
        raise failure(code, described, outcome_unknown=status >= 500 and not refused_unread)
    if status >= 400:
        raise failure(f"HTTP_{status}", outcome_unknown=unknown)
    return answer


def _offline(params: Mapping[str, Any], connector: str) -> dict[str, Any]:
    return {**params, "auth_connector": connector} if connector else dict(params)


def _endpoint(portal: Portal, endpoint: str, called: str) -> URL:
    try:
        url = URL(endpoint)
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise WrongUsage(
            f"the portal {portal.name} has a {called} that is no http or https address; store the right one"
        )
    return url


def _method_url(portal: Portal, method: str) -> URL:
    base = _endpoint(portal, portal.client_endpoint, "client_endpoint")
    return base.with_path(base.path.rstrip("/") + "/" + method)


def _report_failure(renewal: asyncio.Task[Portal]) -> None:
    # Those who wait get the exception as well; this is for when all of them were cancelled.
    if renewal.cancelled():
        return
    error = renewal.exception()
    if isinstance(error, UserError):
        _log.info("the tokens were not renewed: %s", error)
