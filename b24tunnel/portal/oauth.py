"""The authorise page and the token endpoint: what is asked there, and what an answer with tokens means.

Pages "Complete OAuth 2.0 Authorization Protocol" and "Refreshing OAuth 2.0 tokens" of the documentation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from b24tunnel.portal.addresses import trusted_server

if TYPE_CHECKING:
    from b24tunnel.portal.state import Portal

# By what a request to the token endpoint is named in errors.
BY_REFRESH_TOKEN = "oauth/token"
BY_CODE = "oauth/token (code)"

_LONGEST = 4096


def authorise_address(portal: Portal, state: str) -> str:
    """The page on the portal where its user agrees; it leads back to the application's handler path."""
    parts = urlsplit(portal.client_endpoint)
    query = urlencode({"client_id": portal.client_id, "state": state})
    return f"{parts.scheme}://{parts.netloc}/oauth/authorize/?{query}"


def refreshing(portal: Portal) -> dict[str, str]:
    """The parameters that spend the refresh token."""
    return {**_client(portal), "grant_type": "refresh_token", "refresh_token": portal.refresh_token}


def redeeming(portal: Portal, code: str) -> dict[str, str]:
    """The parameters that spend a code, which is good for 30 seconds."""
    return {**_client(portal), "grant_type": "authorization_code", "code": code}


def with_pair(portal: Portal, answer: Mapping[str, Any]) -> Portal | None:
    """The portal with the tokens of the token endpoint's answer, or None where that has no pair of them.

    Its ``domain`` is the authorisation server's, and its ``client_endpoint`` is known already, so neither is taken
    over; its ``server_endpoint`` is, where that is one to be believed.
    """
    access, refresh = token_of(answer, "access_token"), token_of(answer, "refresh_token")
    if not (access and refresh):
        return None
    return dataclasses.replace(
        portal,
        access_token=access,
        refresh_token=refresh,
        server_endpoint=trusted_server(portal, text_of(answer, "server_endpoint")) or portal.server_endpoint,
        member_id=text_of(answer, "member_id") or portal.member_id,
        scope=text_of(answer, "scope") or portal.scope,
        user_id=text_of(answer, "user_id") or portal.user_id,
    )


def token_of(values: Mapping[str, Any], name: str) -> str:
    """A token, or ``""`` where there is none that could be one."""
    value = values.get(name)
    fits = isinstance(value, str) and len(value) <= _LONGEST and value.isascii() and value.isprintable()
    return str(value).strip() if fits else ""


def text_of(values: Mapping[str, Any], name: str) -> str:
    """A text or a number; ``""`` where it is neither, beyond any length, or nothing to show on a terminal."""
    value = values.get(name)
    if not isinstance(value, str | int) or isinstance(value, bool):
        return ""
    text = str(value)
    return text if len(text) <= _LONGEST and text.isprintable() else ""


def _client(portal: Portal) -> dict[str, str]:
    return {"client_id": portal.client_id, "client_secret": portal.client_secret}
