"""REST calls: which method, who calls, what comes back.

The order of the checks is the portal's: the method first, then the token, then the scope.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from . import methods_app, methods_batch, methods_bizproc, methods_crm, methods_events, methods_offline
from .answers import Refusal, envelope, no_license, timing
from .calls import Call, Listing, LoggedCall, Method, scalar
from .faults import Fault, Faults
from .limits import Intensity, Limits, Operating
from .logs import BoundedLog
from .params import take_token
from .store import Portal
from .tokens import Token

MAX_LOGGED_PARAMS = 16 * 1024
MAX_LOG_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Address:
    """What a path under ``/rest/`` names; ``user_id`` and ``secret`` are those of an incoming webhook."""

    method: str
    user_id: str = ""
    secret: str = ""

    @property
    def webhook(self) -> bool:
        """Whether the caller is an incoming webhook and not an application."""
        return bool(self.secret)


def address(path: str) -> Address:
    """Reads ``/rest/<method>[.json]`` or ``/rest/<user>/<secret>/<method>[.json]``."""
    parts = [unquote(part) for part in path.strip("/").split("/")[1:]]
    name = parts[-1].lower().removesuffix(".json") if parts else ""
    if len(parts) == 3:
        return Address(name, parts[0], parts[1])
    return Address(name if len(parts) == 1 else "")


def find(name: str) -> Method | None:
    """The method of a name, whatever its case."""
    return _METHODS.get(name.lower())


class Rest:
    """Answers REST calls to one portal and remembers the last ones."""

    def __init__(self, portal: Portal, log_length: int, limits: Limits | None = None) -> None:
        self.portal = portal
        self.faults = Faults()
        self._intensity = Intensity(limits)
        self._operating = Operating(limits)
        self._log: BoundedLog[LoggedCall] = BoundedLog(log_length, MAX_LOG_BYTES)

    def calls(self) -> list[LoggedCall]:
        """The last calls, oldest first."""
        return self._log.entries()

    def answer(
        self,
        where: Address,
        read: Callable[[], dict[str, Any]],
        authorization: str,
        source: str,
        fault: Fault | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """HTTP status and body of the answer.

        ``read``: gives the parameters, or raises ``Refusal``. ``source``: the caller's IP address. ``fault``:
        one that lets the call be carried out, slow or without an answer.
        """
        started = time.time()
        later = 0.0 if fault is None else fault.seconds
        params: dict[str, Any] = {}
        refused: Refusal | None = None
        body: dict[str, Any]
        try:
            self._intensity.take(source)
            params = read()
            token_value = take_token(params, authorization)
            method = self._method(where.method)
            token = self._caller(where, method, token_value)
            self._check_connector(params)
            result, extra = self._run(where.method, params, token)
            key = self._key(where.method, token)
            self._operating.add(key, later)
            body = envelope(result, extra, timing(started, later, self._operating.spent(key)))
        except Refusal as refusal:
            refused = refusal
            body = dict(refusal.as_json())
        status = 200 if refused is None else refused.status
        self.remember(where.method, params, status, None if refused is None else refused.code, fault)
        return status, body

    def meet(
        self, where: Address, read: Callable[[], dict[str, Any]], authorization: str, fault: Fault
    ) -> tuple[int, dict[str, Any]]:
        """Remembers a call that is not carried out; gives what the fault answers, if it answers in JSON."""
        try:
            params = read()
            take_token(params, authorization)
        except Refusal:
            params = {}
        self.remember(where.method, params, fault.status, fault.code or None, fault)
        return fault.status, Refusal(fault.code, fault.description).as_json()

    def _method(self, name: str) -> Method:
        method = find(name)
        if method is None:
            raise Refusal("ERROR_METHOD_NOT_FOUND", "Method not found!", 404)
        return method

    def _caller(self, where: Address, method: Method, token_value: str) -> Token | None:
        if where.webhook:
            if (where.user_id, where.secret) != (str(self.portal.user_id), self.portal.webhook_secret):
                raise Refusal("INVALID_CREDENTIALS", "Invalid request credentials", 403)
            if method.application_only:
                description = "Current authorization type is denied for this method"
                raise Refusal("WRONG_AUTH_TYPE", description, 403)
            return None
        return self.portal.tokens.check(token_value)

    def _run(self, name: str, params: Mapping[str, Any], token: Token | None) -> tuple[object, Mapping[str, int]]:
        method = self._method(name)
        key = self._key(name, token)
        self._operating.check(key)
        if not self.portal.has_scope(method.scope):
            bearer = "webhook token" if token is None else "access token"
            description = f"The request requires higher privileges than provided by the {bearer}"
            raise Refusal("insufficient_scope", description, 403)
        call = Call(self.portal, params, token)
        if name == methods_batch.NAME:
            return methods_batch.run(call, self._part), {}
        started = time.monotonic()
        try:
            result = method.run(call)
        finally:
            self._operating.add(key, time.monotonic() - started)
        if isinstance(result, Listing):
            return result.rows, result.extra()
        return result, {}

    def _key(self, name: str, token: Token | None) -> tuple[str, str]:
        return (self.portal.own if token is None else token.app).client_id, name

    def _check_connector(self, params: Mapping[str, Any]) -> None:
        # The portal checks this together with the token, whatever the method.
        if scalar(params.get("auth_connector")) and not self.portal.auth_connectors:
            raise no_license("auth_connector")

    def _part(self, name: str, params: Mapping[str, Any], token: Token | None) -> tuple[object, Mapping[str, int]]:
        """One command of a batch."""
        method = self._method(name)
        if token is None and method.application_only:
            raise Refusal("WRONG_AUTH_TYPE", "Current authorization type is denied for this method", 403)
        self._check_connector(params)
        return self._run(name, params, token)

    def remember(
        self, method: str, params: Mapping[str, Any], status: int, error: str | None, fault: Fault | None = None
    ) -> None:
        """Adds an entry to the log of calls."""
        size = len(json.dumps(params))
        left_out = size > MAX_LOGGED_PARAMS
        kept = {} if left_out else params
        kind = None if fault is None else fault.kind
        entry = LoggedCall(datetime.now(UTC), method[:200], kept, status, error, left_out, kind)
        self._log.append(entry, 256 + (0 if left_out else size))


_METHODS: dict[str, Method] = {
    **methods_app.METHODS,
    **methods_events.METHODS,
    **methods_offline.METHODS,
    **methods_crm.METHODS,
    **methods_bizproc.METHODS,
    "method.get": Method(methods_app.method_get(find)),
    methods_batch.NAME: Method(methods_batch.never),
}
