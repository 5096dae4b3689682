"""The authorization server: ``/oauth/token/`` and ``/oauth/authorize/``.

Pages "OAuth 2.0", "Automatic renewal of authorization" and "Error codes" of the Bitrix24 documentation. The HTTP
statuses of refusals are those of RFC 6749: 401 for a wrong client, 400 for the rest.
"""

import secrets
from typing import Any
from urllib.parse import urlencode, urlsplit

from .answers import Refusal
from .calls import scalar
from .store import Portal
from .tokens import App, Pair


def token(portal: Portal, params: dict[str, Any]) -> dict[str, Any]:
    """The answer of the token endpoint to both grants. Raises ``Refusal``."""
    grant = scalar(params.get("grant_type"))
    app = _client(portal, params)
    match grant:
        case "refresh_token":
            pair = portal.tokens.rotate(_need(params, "refresh_token"), app)
        case "authorization_code":
            pair = portal.tokens.redeem(_need(params, "code"), app)
        case _:
            raise Refusal("invalid_request", "grant_type must be authorization_code or refresh_token")
    if app is portal.own:
        portal.pair = pair
    return _shown(portal, pair)


def authorize(portal: Portal, params: dict[str, Any]) -> str:
    """The address that the browser is sent to with a code. Raises ``Refusal`` where a portal shows a page.

    The user's consent is taken for granted. The return address is the application's, not the caller's.
    """
    app = portal.app(scalar(params.get("client_id")))
    if app is not portal.own:
        raise Refusal("invalid_client", "No application has this client_id", 401)
    if not portal.redirect_uri:
        raise Refusal("invalid_request", "The application has no return address: set Sandbox.redirect_uri")
    query = urlencode(
        {
            "code": portal.tokens.code(portal.own, portal.user_id),
            "state": scalar(params.get("state")),
            "domain": portal.domain,
            "member_id": portal.member_id,
            "scope": portal.scope,
            "server_domain": portal.domain,
        },
        errors="surrogateescape",
    )
    joint = "&" if urlsplit(portal.redirect_uri).query else "?"
    return f"{portal.redirect_uri}{joint}{query}"


def _client(portal: Portal, params: dict[str, Any]) -> App:
    app = portal.app(_need(params, "client_id"))
    secret = _need(params, "client_secret")
    if app is None or not secrets.compare_digest(_bytes(secret), _bytes(app.client_secret)):
        raise Refusal("invalid_client", "The client_id or the client_secret is wrong", 401)
    return app


def _need(params: dict[str, Any], name: str) -> str:
    value = scalar(params.get(name))
    if not value:
        raise Refusal("invalid_request", f"{name} is missing")
    return value


def _shown(portal: Portal, pair: Pair) -> dict[str, Any]:
    return {
        "access_token": pair.access.value,
        "expires": pair.access.expires,
        "expires_in": portal.tokens.life,
        "scope": portal.scope,
        "domain": portal.domain,
        "server_endpoint": f"{portal.origin}/rest/",
        "status": "L",
        "client_endpoint": f"{portal.origin}/rest/",
        "member_id": portal.member_id,
        "user_id": pair.access.user_id,
        "refresh_token": pair.refresh,
    }


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
