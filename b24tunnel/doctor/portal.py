"""What the portal says: that it is there, who we are to it, and what it would deliver."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence
from typing import Any

from b24tunnel.bound import CLEAN_UP_COMMAND
from b24tunnel.catalogue import lookup
from b24tunnel.doctor.step import Found, failed, of_error, ok, warning
from b24tunnel.doctor.walk import Walk, milliseconds_since
from b24tunnel.errors import CheckFailed, OutsideFailure, UserError, WrongUsage
from b24tunnel.portal import Portal, PortalError, PortalUnreachable, RestClient
from b24tunnel.portal.bindings import check_address
from b24tunnel.portal.state import LedgerRow
from b24tunnel.redact import shown_url

# An answer with one of these is not from a portal's REST interface.
_NO_INTERFACE = ("NOT_JSON", "REDIRECTED", "ANSWER_TOO_LARGE")
_MOST_NAMED = 5
_TRY_AGAIN = "Try again, and see what is said of it then."


def of_portal(error: UserError) -> Found:
    """What went wrong with a call: a check failed where the portal has refused it, else the world outside did."""
    refused = isinstance(error, PortalError) and error.status < 500 and error.code not in _NO_INTERFACE
    return of_error(error, _TRY_AGAIN, CheckFailed.exit_code if refused else error.exit_code)


async def reachable(walk: Walk) -> Found:
    """The portal's REST interface answers, whatever it answers: no token is sent yet."""
    portal = walk.portal
    if portal is None:
        return failed(
            "No portal is stored.",
            "Store yours with 'b24tunnel portal add', or start a simulated one with 'b24tunnel sandbox'.",
            WrongUsage.exit_code,
        )
    stranger = dataclasses.replace(portal, access_token="", refresh_token="")
    began = time.perf_counter()
    in_vain = failed(
        f"The portal {portal.name} does not answer within {walk.plan.portal_seconds:g} s.",
        "Check the network, and try again.",
        OutsideFailure.exit_code,
    )
    async with walk.waiting(2 * walk.plan.portal_seconds, in_vain):
        try:
            async with RestClient(stranger, walk.state, timeout=walk.plan.portal_seconds) as client:
                await client.call("server.time")
        except PortalUnreachable as error:
            return failed(
                f"The portal {portal.name} cannot be reached at {error.address}: {error.reason}.",
                _to_reach(error.reason, portal),
                OutsideFailure.exit_code,
            )
        except PortalError as error:
            if error.code in _NO_INTERFACE or error.code.startswith("HTTP_"):
                return of_portal(error)
    return ok(f"The portal {portal.name} ({portal.domain}) answers in {milliseconds_since(began):.0f} ms.")


def _to_reach(reason: str, portal: Portal) -> str:
    if "TLS" in reason:
        return (
            "Where a proxy or an on-premises portal has a certificate of its own, have this machine trust it "
            "(SSL_CERT_FILE); else do not go on, for somebody else may be answering."
        )
    if portal.on_this_machine and "refused" in reason:
        return "Start it: 'b24tunnel sandbox' in another terminal."
    return f"Check the network, VPN and proxy, and the portal's address ('b24tunnel portal show {portal.name}')."


async def token(walk: Walk) -> Found:
    """The portal takes the access token, which may have to be renewed for it."""
    assert walk.portal is not None
    if not (walk.portal.access_token or walk.portal.refresh_token):
        return failed(
            f"Nobody has signed in to the portal {walk.portal.name} yet: no tokens are stored for it.",
            f"Sign in with 'b24tunnel portal login {walk.portal.name}'.",
        )
    walk.client = await walk.stack.enter_async_context(
        RestClient(walk.portal, walk.state, timeout=walk.plan.portal_seconds)
    )
    try:
        walk.info = await walk.client.app_info()
        walk.user = await walk.client.profile()
    except UserError as error:
        return of_portal(error)
    whose = f"of the user {walk.user['ID']}" if walk.user.get("ID") else "of a user whom the portal does not name"
    if walk.client.portal.access_token != walk.portal.access_token:
        return ok(f"The access token {whose} had expired and was renewed.")
    return ok(f"The access token {whose} is valid.")


async def installation(walk: Walk) -> Found:
    """The application is installed to the end, and paid for (pages "app.info", "Completing the installation")."""
    info = walk.info
    if _says(info.get("INSTALLED"), no=True):
        return failed(
            "The application's installation is not finished (app.info INSTALLED is false): Bitrix24 accepts every "
            "call and delivers nothing until it is.",
            "With a page of its own: open the application in the portal once, and have its installer page call "
            "BX24.installFinish(). Without (API only): open its form under Developer resources and save it again.",
        )
    if _says(info.get("PAYMENT_EXPIRED")):
        return failed(
            "The application's subscription or trial period has ended (app.info PAYMENT_EXPIRED): Bitrix24 sends "
            "it nothing.",
            "Renew it on the portal.",
        )
    if "INSTALLED" not in info:
        return warning(
            "The portal does not say whether the installation is finished (app.info has no INSTALLED).",
            "If nothing arrives, finish it: BX24.installFinish() on the installer page.",
        )
    return ok(f"The installation is finished (status {info.get('STATUS', 'unknown')}).")


def _says(value: Any, *, no: bool = False) -> bool:
    """Whether a flag of the REST interface, in whichever of its spellings, says yes (or ``no``)."""
    return str(value).upper() in (("N", "FALSE", "0") if no else ("Y", "TRUE", "1"))


async def scopes(walk: Walk) -> Found:
    """The application's scopes cover the events: the portal looks events up among those only ("event.bind")."""
    try:
        answer = await walk.client.call("scope")
        known = {code.upper() for code in await walk.client.events()}
    except UserError as error:
        return of_portal(error)
    held = {str(scope).lower() for scope in answer} if isinstance(answer, list) else set()
    lacking: dict[str, list[str]] = {}
    unknown = []
    for code in walk.events:
        entry = lookup(code)
        scope = entry.scope if entry is not None else ""
        if code in known or (entry is not None and entry.pattern and scope in held):
            continue  # the portal's word; members of a family are not listed one by one
        if scope == "basic" or scope in held:
            unknown.append(code)
        else:
            lacking.setdefault(scope, []).append(code)
    if lacking:
        each = "; ".join(f"{scope} for {', '.join(codes)}" for scope, codes in sorted(lacking.items()))
        return failed(
            f"The application lacks the scope {each}.",
            "Add it in the application's settings on the portal, and save; then store fresh tokens.",
        )
    if unknown:
        return failed(
            f"The portal does not know {', '.join(unknown)} (events).",
            "Leave it out, or bring the portal up to date: on premises events may come later than in the cloud.",
        )
    if not walk.events:
        return ok(f"No events are named; the application has the scopes {_several(sorted(held))}.")
    return ok(f"The scopes cover {_several(walk.events)}.")


async def administrator(walk: Walk) -> Found:
    """Whether the token's user is an administrator, and what follows."""
    if _says(walk.user.get("ADMIN")):
        return ok("The token's user is an administrator.")
    user = "The token's user is no administrator"
    if walk.plan.catch_up:
        return failed(
            f"{user}, and Bitrix24 lets nobody else bind offline events, which --catch-up takes.",
            "Sign in as an administrator, or do without --catch-up.",
        )
    return warning(
        f"{user}: what this one binds fires for this user's own rights, other people's bindings are not listed, "
        "and offline events (--catch-up) are refused.",
        "Sign in as an administrator for these.",
    )


async def bindings(walk: Walk) -> Found:
    """Who else is bound, and whether the portal would take our own address."""
    assert walk.portal is not None
    try:
        check_address(walk.listening.handler_url)
    except WrongUsage as error:
        return of_error(error, _TRY_AGAIN)
    try:
        listed = await walk.client.event_get()
    except UserError as error:
        return of_portal(error)
    rows = {(row.event, row.handler): row for row in walk.state.ledger(walk.portal.name)}
    online = [found for found in listed if not found.offline]
    foreign = [
        f"{found.event.upper()} also goes to {shown_url(found.handler.partition('?')[0])}"
        for found in online
        if (found.event.upper(), found.handler) not in rows
        and (not walk.events or found.event.upper() in walk.events)
    ]
    orphans = [row for row in rows.values() if row.left_behind]
    if not (foreign or orphans):
        return ok(f"{_counted(len(online), 'handler')} bound, none in the way{_running(rows.values())}.")
    told, advice = [], []
    if foreign:
        told.append(f"{_several(foreign)}: handlers that this tool did not bind, which fire too.")
        advice.append("If they are no longer needed, unbind them with the application that bound them.")
    if orphans:
        told.append(f"{_counted(len(orphans), 'binding')} left behind by runs that crashed.")
        advice.append(f"Remove what was left with: {CLEAN_UP_COMMAND}")
    return warning(" ".join(told), " ".join(advice))


def _running(rows: Iterable[LedgerRow]) -> str:
    running = {row.pid for row in rows if row.in_use}
    return f"; b24tunnel runs already as process {', '.join(map(str, sorted(running)))}" if running else ""


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _several(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MOST_NAMED]) or "none"
    return shown if len(names) <= _MOST_NAMED else f"{shown} and {len(names) - _MOST_NAMED} more"
