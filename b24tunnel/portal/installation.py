"""An application's installation as an event tells it: believed once the portal itself has confirmed it.

Pages "Installation callback", "OnAppUpdate" and "Secure event handlers" of the documentation.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from typing import Any

from b24tunnel.errors import OutsideFailure, UserError
from b24tunnel.portal.addresses import is_portals, trusted_server
from b24tunnel.portal.client import RestClient
from b24tunnel.portal.credentials import resolve
from b24tunnel.portal.oauth import text_of, token_of
from b24tunnel.portal.sign_in import check_application
from b24tunnel.portal.state import Portal, State

_SECONDS = 10.0


class NotConfirmed(OutsideFailure):
    """A delivery claims an installation that is not to be believed; nothing was stored."""


class NotThisPortal(NotConfirmed):
    """It shows by itself that it is not to be believed, without a call."""


async def confirm_application_token(
    portal: Portal, state: State, auth: Mapping[str, Any], *, seconds: float = _SECONDS
) -> Portal:
    """The portal as it is stored with the ``application_token`` of any event, and nothing else of it.

    It is believed as an installation is, by the event's own access token. Where one is stored by now, that holds.
    Raises `NotConfirmed`, and what `State` raises.
    """
    tried = _claimed(portal, auth)
    await _ask(portal, state, tried, seconds)

    def learned(stored: Portal) -> Portal:
        if stored.client_endpoint != tried.client_endpoint:
            raise NotConfirmed(f"the portal {stored.name} was stored anew meanwhile")
        if resolve(stored).application_token:
            return stored
        return dataclasses.replace(stored, application_token=tried.application_token)

    return await asyncio.to_thread(state.change_portal, portal.name, learned)


async def confirm_installation(
    portal: Portal, state: State, auth: Mapping[str, Any], *, seconds: float = _SECONDS
) -> Portal:
    """The portal as it is stored with what an ONAPPINSTALL or ONAPPUPDATE delivery has brought in ``auth``.

    It is believed when ``app.info``, called with its access token at the address that is known for ``portal``,
    answers for the known application. Anybody can send such a delivery, so no address that it names is called, and
    none is stored but an authorisation server that is trusted anyway. Raises `NotConfirmed`, after at most
    ``seconds``, and what `State` raises.
    """
    tried = _claimed(portal, auth)
    info = await _ask(portal, state, tried, seconds)
    code = text_of(info, "CODE")
    if not tried.client_id and code.startswith("local."):
        tried = dataclasses.replace(tried, client_id=code)
    return await asyncio.to_thread(state.change_portal, portal.name, lambda stored: _merged(stored, tried))


async def _ask(portal: Portal, state: State, tried: Portal, seconds: float) -> dict[str, Any]:
    """What ``app.info`` says to the claimed token; raises `NotConfirmed`."""
    try:
        async with asyncio.timeout(seconds), RestClient(portal, state, timeout=seconds) as client:
            info = await client.app_info_once(tried)
        check_application(portal, info)
    except TimeoutError:
        raise NotConfirmed(f"the portal {portal.name} did not confirm it within {seconds:g} s") from None
    except UserError as error:
        raise NotConfirmed(f"the portal {portal.name} did not confirm it: {error}") from error
    return info


def _claimed(portal: Portal, auth: Mapping[str, Any]) -> Portal:
    """The portal as the delivery has it, with the known address; raises `NotThisPortal` for another portal's."""
    values = {key: text_of(auth, key) for key in ("domain", "client_endpoint", "member_id", "server_endpoint")}
    for key in ("domain", "client_endpoint"):
        if values[key] and not is_portals(portal, values[key]):
            raise NotThisPortal(f"it names another portal than {portal.domain or portal.name}")
    if portal.member_id and values["member_id"] and values["member_id"] != portal.member_id:
        raise NotThisPortal(f"it names another account than the portal {portal.name} (member_id)")
    access_token = token_of(auth, "access_token")
    if not access_token:
        raise NotThisPortal("it has no access_token, with which the portal could be asked")
    return dataclasses.replace(
        portal,
        access_token=access_token,
        refresh_token=token_of(auth, "refresh_token"),
        application_token=token_of(auth, "application_token"),
        member_id=portal.member_id or values["member_id"],
        server_endpoint=trusted_server(portal, values["server_endpoint"]) or portal.server_endpoint,
        user_id=text_of(auth, "user_id") or portal.user_id,
        scope=text_of(auth, "scope") or portal.scope,
    )


def _merged(stored: Portal, tried: Portal) -> Portal:
    """What is stored now, which others may have changed, with what the installation has brought."""
    if stored.client_endpoint != tried.client_endpoint or (
        stored.client_id and tried.client_id and stored.client_id != tried.client_id
    ):
        raise NotConfirmed(f"the portal {stored.name} was stored anew meanwhile")
    merged = dataclasses.replace(
        stored,
        access_token=tried.access_token,
        # Without one of its own, the delivery's token is not renewed, and the stored one stays of use.
        refresh_token=tried.refresh_token or stored.refresh_token,
        member_id=tried.member_id,
        client_id=stored.client_id or tried.client_id,
        server_endpoint=tried.server_endpoint,
        user_id=tried.user_id,
        scope=tried.scope,
    )
    if tried.application_token and tried.application_token != resolve(stored).application_token:
        # It holds from now on, and what lies in the environment or a file does no more.
        merged = dataclasses.replace(merged, application_token=tried.application_token, application_token_from="")
    return merged
