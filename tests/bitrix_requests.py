"""Requests of Bitrix24 that are no events, as fields."""

from __future__ import annotations

AUTH = {"domain": "demo.bitrix24.ru", "member_id": "m" * 32, "application_token": "t" * 32}
PAGE_QUERY = "/app?DOMAIN=demo.bitrix24.ru&PROTOCOL=1&LANG=ru&APP_SID=0123"
PAGE = {
    "AUTH_ID": "a" * 70,
    "AUTH_EXPIRES": "3600",
    "REFRESH_ID": "r" * 70,
    "member_id": "m" * 32,
    "status": "L",
    "PLACEMENT": "DEFAULT",
}
ROBOT = {
    "workflow_id": "664fa13bbbb410.99176768",
    "code": "test_activity",
    "document_id": ["crm", "CCrmDocumentContact", "CONTACT_109286"],
    "document_type": ["crm", "CCrmDocumentContact", "CONTACT"],
    "event_token": "664fa13b|A40364|MS1",
    "properties": {"comment": "x", "amount": "333"},
    "use_subscription": "Y",
    "timeout_duration": "660",
    "ts": "1716494651",
    "auth": {
        **AUTH,
        "access_token": "a",
        "refresh_token": "r",
        "expires": "1716498251",
        "expires_in": "3600",
        "scope": "crm,bizproc",
        "server_endpoint": "https://oauth.bitrix24.tech/rest/",
        "client_endpoint": "https://demo.bitrix24.ru/rest/",
        "status": "L",
        "user_id": "1",
    },
}
