"""An entry of the offline queue as the delivery that it would have been, marked as made from the queue."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import urlsplit

from b24tunnel import form
from b24tunnel.portal.offline import OfflineEntry
from b24tunnel.portal.state import Portal
from b24tunnel.recording import Recording

MARK = "X-B24tunnel-Offline"
"""The header of such a recording: ``<process_id> <ID> <MESSAGE_ID>``, with ``-`` where there is no process."""

# An access token lives for an hour ("Complete OAuth 2.0 Authorization Protocol"). When this one was made is not
# known, so this is the latest that it can expire; handlers and the official SDKs want to be told a time.
_TOKEN_SECONDS = 3600
# The offline binding's row has an id too, but no method tells it.
_NO_HANDLER_ID = "0"


def queue_delivery(
    entry: OfflineEntry, portal: Portal, *, recording_id: str, target: str, process_id: str, status: str
) -> Recording:
    """The recording of ``entry`` with the tokens of ``portal``, but for its refresh token.

    ``target`` is the handler's path, ``status`` what ``app.info`` says of the application (``L`` for a local one).
    A handler that spent the refresh token would sign this tool out, so it never gets it.
    """
    now = datetime.now(UTC)
    body = form.encode(
        {
            "event": entry.code,
            "event_handler_id": _NO_HANDLER_ID,
            "data": entry.data,
            "ts": str(entry.changed_at),
            "auth": _auth(entry, portal, status, int(now.timestamp())),
        }
    )
    return Recording(
        id=recording_id,
        received_at=now,
        method="POST",
        target=target,
        headers=(
            ("User-Agent", "Bitrix24 Webhook Engine"),
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("Content-Length", str(len(body))),
            ("Accept-Encoding", "gzip"),
            ("Connection", "close"),
            (MARK, f"{process_id or '-'} {entry.number} {entry.message_id}"),
        ),
        body=body,
        code=entry.code,
        source="offline",
        verdict="verified",
        portal=portal.name,
    )


def marked_entry(recording: Recording) -> tuple[str, str] | None:
    """ID and MESSAGE_ID of the entry that a recording was made from; None for any other recording."""
    for name, value in recording.headers:
        if name == MARK:
            parts = value.split(" ")
            return (parts[1], parts[2]) if len(parts) == 3 else None
    return None


def _auth(entry: OfflineEntry, portal: Portal, status: str, now: int) -> dict[str, str]:
    values = {
        "access_token": portal.access_token,
        "expires": str(now + _TOKEN_SECONDS),
        "expires_in": str(_TOKEN_SECONDS),
        "scope": portal.scope,
        "domain": portal.domain or urlsplit(portal.client_endpoint).netloc,
        "server_endpoint": portal.server_endpoint,
        "status": status,
        "client_endpoint": portal.client_endpoint,
        "member_id": portal.member_id,
        "user_id": entry.user_id or portal.user_id,
        "application_token": portal.application_token,
    }
    return {key: value for key, value in values.items() if value}
