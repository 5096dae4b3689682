"""The delivery that all rows send: what Bitrix24 posts for a changed deal, with made-up tokens."""

from __future__ import annotations

from urllib.parse import urlencode

CODE = "ONCRMDEALUPDATE"
USER_AGENT = "Bitrix24 Webhook Engine"
CONTENT_TYPE = "application/x-www-form-urlencoded"


def body(code: str = CODE, deal: str = "7531", ts: str = "1795572570") -> bytes:
    """The form that is posted, with every key of ``auth`` that Bitrix24's page "Event Handler" names."""
    auth = {
        "access_token": "a3c1f09e007d2b4e0058c6d1000000014041f1d2c3b4a5968778695a4b3c2d1e0f",
        "expires": "1795576170",
        "expires_in": "3600",
        "scope": "crm,task,user,placement",
        "domain": "example.bitrix24.com",
        "server_endpoint": "https://oauth.bitrix.info/rest/",
        "status": "L",
        "client_endpoint": "https://example.bitrix24.com/rest/",
        "member_id": "0123456789abcdef0123456789abcdef",
        "user_id": "14",
        "refresh_token": "b4d2e1af118e3c5f1169d7e2111111125152e2e3d4c5b6a7899a8796b5a4d3c2e1",
        "application_token": "00112233445566778899aabbccddeeff",
    }
    fields = {"event": code, "event_handler_id": "42", "data[FIELDS][ID]": deal, "ts": ts}
    return urlencode(fields | {f"auth[{key}]": value for key, value in auth.items()}).encode()


def headers(content: bytes, host: str = "hooks.example.org") -> tuple[tuple[str, str], ...]:
    """The headers of a delivery with this body."""
    return (
        ("Host", host),
        ("User-Agent", USER_AGENT),
        ("Content-Type", CONTENT_TYPE),
        ("Content-Length", str(len(content))),
        ("Accept-Encoding", "gzip"),
    )


def request(host: str, path: str, content: bytes) -> bytes:
    """The whole delivery as it goes over a connection that is kept."""
    head = (f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers(content, host)))
    return "\r\n".join(head).encode() + b"\r\n\r\n" + content
