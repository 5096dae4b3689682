"""Requests whose answer matters: the application's pages in the portal's frames, and the settings wizard.

A page is opened by the user's browser, which posts a form; pages "Simplified OAuth" and "Widgets". The wizard is
asked by the portal; page "Settings wizard of REST-only applications".
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from b24tunnel import form
from b24tunnel.errors import OutsideFailure, WrongUsage

from . import wire
from .store import Portal

TIMEOUT = 30
MAX_BODY = 16 * 1024 * 1024
BROWSER = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36"


@dataclass(frozen=True, slots=True)
class Page:
    """What the application answered. A redirect is shown, not followed; the body is decompressed."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes


async def open_page(portal: Portal, url: str, placement: str, options: Mapping[str, Any] | None) -> Page:
    """Posts the form with which the portal opens a page of the application in a frame."""
    secure = portal.origin.startswith("https://")
    query = {"DOMAIN": portal.domain, "PROTOCOL": int(secure), "LANG": "en", "APP_SID": secrets.token_hex(16)}
    address, _, fragment = url.partition("#")
    joint = "&" if "?" in address else "?"
    address = f"{address}{joint}{urlencode(query)}" + (f"#{fragment}" if fragment else "")
    pair = portal.tokens.issue_pair(portal.own, portal.user_id)
    fields: dict[str, Any] = {
        "AUTH_ID": pair.access.value,
        "AUTH_EXPIRES": str(portal.tokens.life),
        "REFRESH_ID": pair.refresh,
        "SERVER_ENDPOINT": f"{portal.origin}/rest/",
        "APPLICATION_TOKEN": portal.own.application_token,
        "APPLICATION_SCOPE": portal.scope,
        "member_id": portal.member_id,
        "status": "L",
        "PLACEMENT": placement,
    }
    if options is not None:
        fields["PLACEMENT_OPTIONS"] = json.dumps(options)
    headers = {
        "User-Agent": BROWSER,
        "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        "Accept-Language": "en",
        "Origin": portal.origin,
        "Referer": f"{portal.origin}/",
        "Sec-Fetch-Dest": "iframe",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Site": "cross-site",
    }
    return await _post(address, fields, headers)


async def run_settings_wizard(portal: Portal, url: str, code: str, data: Mapping[str, Any]) -> Page:
    """Posts what the portal asks the settings wizard of an application. The User-Agent is a guess."""
    pair = portal.tokens.issue_pair(portal.own, portal.user_id)
    system = wire.auth_of_nobody(portal.own, portal.origin, portal.domain, portal.member_id)
    user = wire.auth_of_user(pair, True, portal.tokens.life, portal.scope, system)
    order = (
        *("access_token", "expires", "expires_in", "scope", "domain", "server_endpoint", "status"),
        *("client_endpoint", "member_id", "refresh_token", "user_id"),
    )
    auth = {name: user[name] for name in order}
    auth |= {"client_id": portal.own.client_id, "application_token": portal.own.application_token}
    fields = {"event": code, "data": wire.as_wire(data), "auth": auth}
    return await _post(url, fields, {"User-Agent": "Bitrix24 Webhook Engine"})


async def _post(url: str, fields: Mapping[str, Any], headers: Mapping[str, str]) -> Page:
    try:
        address = URL(url, encoded=url.isascii())
    except ValueError:
        address = URL()
    if address.scheme not in ("http", "https") or not address.host:
        raise WrongUsage(f"{url.partition('?')[0]} is no address of a page: give one with http:// or https://.")
    sent = {**headers, "Content-Type": "application/x-www-form-urlencoded"}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    named = f"{address.scheme}://{address.authority}{address.path}"
    try:
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout) as session,
            session.post(address, data=form.encode(dict(fields)), headers=sent, allow_redirects=False) as answer,
        ):
            body = bytearray()
            async for chunk in answer.content.iter_any():
                body += chunk
                if len(body) > MAX_BODY:
                    raise OutsideFailure(
                        f"The answer of {named} is bigger than {MAX_BODY} bytes: make it smaller."
                    )
            return Page(answer.status, answer.headers, bytes(body))
    except TimeoutError as error:
        raise OutsideFailure(f"{named} gave no complete answer within {TIMEOUT} s: see what keeps it.") from error
    except (aiohttp.ClientError, OSError) as error:
        raise OutsideFailure(f"{named} cannot be opened ({error}): is the application running there?") from error
