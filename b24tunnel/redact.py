"""Secrets out of what is shown: by the name of a field, and then by value wherever that value turns up."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

from b24tunnel import form
from b24tunnel.recording import Recording

MASK = "[masked]"

# Fields that hold secrets in deliveries: event auth and bots ("Event handling: auth"), robots (event_token),
# application pages (AUTH_ID, REFRESH_ID, APPLICATION_TOKEN, APP_SID), confirmations (data[TOKEN]). Lower case.
SECRET_FIELDS = frozenset(
    {
        *("access_token", "refresh_token", "application_token", "event_token", "auth_token", "token"),
        *("auth_id", "refresh_id", "app_sid", "sessid", "client_secret", "secret", "password", "signature"),
        *("api_key", "api-key", "apikey", "key", "authtoken"),
    }
)
_SECRET_HEADERS = frozenset(
    {"authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "x-auth-token"}
)
# A shorter value would be found inside words and numbers that are no secrets.
_SHORTEST_BY_VALUE = 6


def is_secret_field(name: str) -> bool:
    """Whether a field, by the last part of its name, holds a secret."""
    return name.lower() in SECRET_FIELDS


def secret_values(fields: Any) -> set[str]:
    """Every value below a secret field's name, in a parsed body."""
    found: set[str] = set()
    waiting: list[tuple[Any, bool]] = [(fields, False)]
    while waiting:
        value, secret = waiting.pop()
        if isinstance(value, Mapping):
            waiting.extend((item, secret or is_secret_field(str(name))) for name, item in value.items())
        elif isinstance(value, list):
            waiting.extend((item, secret) for item in value)
        elif secret and isinstance(value, str) and value:
            found.add(value)
    return found


class Masker:
    """Takes known secrets out of any text: as they are, percent-encoded, or escaped in JSON."""

    def __init__(self, secrets: Iterable[str]) -> None:
        spellings: set[str] = set()
        for secret in secrets:
            if len(secret) >= _SHORTEST_BY_VALUE:
                encodable = secret.encode("utf-8", "surrogateescape")
                spellings.update((secret, quote_plus(encodable), quote(encodable, safe="")))
                spellings.update((json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]))
        longest_first = sorted(spellings, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    @classmethod
    def of(cls, recording: Recording) -> Masker:
        """A masker for the secrets that this recording holds: in its query, its body and its headers."""
        secrets = secret_values(recording.event.fields)
        secrets.update(value for name, value in recording.headers if name.lower() in _SECRET_HEADERS)
        return cls(secrets)

    def text(self, text: str) -> str:
        """``text`` with each known secret replaced."""
        return self._pattern.sub(MASK, text) if self._pattern else text

    def body(self, body: bytes) -> str:
        """A form-encoded body as text: the values of secret fields replaced, then every known secret."""
        pieces: list[bytes] = []
        end = 0
        for field in form.fields(body):
            names = field.path or re.split(r"[\[\]]+", field.name)
            if field.value and any(map(is_secret_field, names)):
                pieces += (body[end : field.value_start], MASK.encode())
                end = field.value_end
        pieces.append(body[end:])
        return self.text(b"".join(pieces).decode("utf-8", "backslashreplace"))

    def target(self, target: str) -> str:
        """A request target with the secrets in its query replaced."""
        path, mark, query = target.partition("?")
        return path + mark + self.body(query.encode("utf-8", "surrogateescape")) if mark else path

    def headers(self, headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Headers with those that are secret by name replaced, and every known secret in the others."""
        return [(name, MASK if name.lower() in _SECRET_HEADERS else self.text(value)) for name, value in headers]

    def value(self, value: Any, name: str = "") -> Any:
        """A parsed body, or a part of it, with secrets replaced; the structure stays."""
        if isinstance(value, Mapping):
            return {
                key: self.value(item, name if is_secret_field(name) else str(key)) for key, item in value.items()
            }
        if isinstance(value, list):
            return [self.value(item, name) for item in value]
        if isinstance(value, str):
            return MASK if value and is_secret_field(name) else self.text(value)
        return value
