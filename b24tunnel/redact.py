"""Secrets out of what is shown: by the name of a field, and then by value wherever that value turns up."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
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
# Names that are nothing but secrets: masked in any text, not only where the text is a form or JSON.
_TELLING = "access_token|refresh_token|application_token|client_secret|event_token|auth_id|refresh_id|app_sid"
_ANY = "|".join(map(re.escape, sorted(SECRET_FIELDS)))
# "name": "value" of JSON, with whatever JSON value follows that is no object or list.
_IN_JSON = re.compile(
    rf'("(?:{_ANY})"\s{{0,40}}:\s{{0,40}})("(?:[^"\\]++|\\.)*+"|[^\s"{{\[,}}\]]+)', re.IGNORECASE
)
# [name] => value and 'name' => 'value' of PHP, 'name': 'value' of Python, name=value of a form.
# Each repetition has a bound: anybody can send a megabyte of quotes.
_QUOTE = r"""(?:\\{0,8}["']|&quot;|&\#0?39;|\\u0022)"""
_IN_DUMPS = re.compile(
    rf"""((?:(?<![a-z0-9_])|(?<=5B)|(?<=u0022))(?:{_TELLING})  # the name
        (?:{_QUOTE}|\]|%(?:25){{0,4}}5D|</?\w{{1,20}}>|>){{0,8}}\s{{0,40}}  # what may close it
        (?:=>|[:=;]|%(?:25){{0,4}}3D|(?<=>))\s{{0,40}}             # what stands between
        (?:string\(\d{{1,9}}\)\s{{0,9}}|s:\d{{1,9}}:)?\[?{_QUOTE}?(?:<\w{{1,20}}>)?)  # lengths, what opens it
        (?!\[?masked\])[^\s"'&,;<)\]}}\\]+""",
    re.IGNORECASE | re.VERBOSE,
)
# Secrets without a name: in addresses (the REST parameter auth, an incoming webhook's path), and behind a scheme.
_IN_ADDRESSES = re.compile(
    r"([?&](?:auth|code|token)=|/rest/\d+/|\b(?:Bearer|Basic)\s+)(?!\[masked\])[^\s/&\"'<>#\\]{6,}", re.IGNORECASE
)
# Where a part of a multipart body ends, and its beginning: name="…", its other headers, an empty line.
_PART_END = re.compile(r"(\r?\n--)")
_PART_HEAD = re.compile(r'name="([^"\r\n]{0,200})"[^\r\n]{0,500}\r?\n(?:[^\r\n]{1,500}\r?\n){0,20}\r?\n')
_LONGEST_PART_HEAD = 4000

# A shorter value would be found inside words and numbers that are no secrets.
_SHORTEST_BY_VALUE = 6
# In characters, of all values together: looking for more takes seconds to prepare, and anybody can send megabytes
# under a secret's name. Tokens are short, so the longest values are left out first.
_MOST_BY_VALUE = 100_000


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
    """Takes known secrets out of any text: as they are, percent-encoded, or escaped in JSON.

    Looked for are those of 6 characters and more, the shortest first, up to 100,000 characters of them together.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        spellings: set[str] = set()
        characters = 0
        for secret in sorted(secrets, key=len):
            if len(secret) >= _SHORTEST_BY_VALUE:
                characters += len(secret)
                if characters > _MOST_BY_VALUE:
                    break
                spellings.update(_spellings(secret))
        longest_first = sorted(spellings, key=len, reverse=True)
        any_of_them = "|".join(map(re.escape, longest_first))
        self._pattern = re.compile(any_of_them, re.IGNORECASE) if longest_first else None
        self._secrets = longest_first

    @classmethod
    def of(cls, *recordings: Recording) -> Masker:
        """A masker for the secrets that these recordings hold: in query, body (form, JSON, multipart), headers."""
        secrets: set[str] = set()
        for recording in recordings:
            secrets |= secret_values(recording.event.fields) | _secrets_of_no_form(recording.body)
            for name, value in recording.headers:
                if name.lower() in _SECRET_HEADERS:
                    # "Bearer TOKEN" and "name=TOKEN; …" turn up elsewhere without what stands around the token.
                    secrets.update((value, *re.split(r"[\s;,=]+", value)))
        return cls(secrets)

    def text(self, text: str) -> str:
        """``text`` with each known secret replaced, and what stands behind a secret's name in JSON or a dump."""
        if self._pattern:
            text = self._pattern.sub(MASK, text)
        text = _IN_JSON.sub(rf'\1"{MASK}"', text)
        return _IN_ADDRESSES.sub(rf"\1{MASK}", _IN_DUMPS.sub(rf"\1{MASK}", text))

    def body(self, body: bytes) -> str:
        """A body as text: the values of secret fields replaced (form, multipart, JSON), then known secrets."""
        pieces: list[bytes] = []
        end = 0
        try:
            for field in form.fields(body):
                names = field.path or re.split(r"[\[\]]+", field.name)
                if field.value and any(map(is_secret_field, names)):
                    pieces += (body[end : field.value_start], MASK.encode())
                    end = field.value_end
        except form.FormError:  # more parameters than the codec looks through: nobody knows what is in it
            return MASK
        pieces.append(body[end:])
        text = b"".join(pieces).decode("utf-8", "backslashreplace")
        return self.text("".join(map(_masked_part, _PART_END.split(text))) if 'name="' in text else text)

    def cut_text(self, text: str) -> str:
        """Text that was cut off somewhere: also without the beginning of a secret at its end."""
        text = self.text(text)
        for secret in self._secrets:
            for length in range(min(len(secret) - 1, len(text)), _SHORTEST_BY_VALUE - 1, -1):
                if text.endswith(secret[:length]):
                    return text[:-length] + MASK
        return text

    def target(self, target: str) -> str:
        """A request target or an address, without a user's name and the secrets in its query."""
        path, mark, query = re.sub("//[^/?#@]*@", f"//{MASK}@", target).partition("?")
        if mark:
            path += mark + self.body(query.encode("utf-8", "surrogateescape"))
        return _IN_ADDRESSES.sub(rf"\1{MASK}", path)

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


def shown_url(url: str) -> str:
    """An address as it may be shown: without a user's name, and without the secrets in its query."""
    return Masker(()).target(url)


def _secrets_of_no_form(body: bytes) -> set[str]:
    """Every value below a secret field's name, in a body that is JSON or multipart; of any other body none."""
    if body.startswith(b"--"):
        parts = _PART_END.split(body.decode("utf-8", "surrogateescape"))
        return {part[start:] for part in parts if (start := _secret_start(part)) is not None and part[start:]}
    if body.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"["):
        try:
            text = body.decode("utf-8-sig")
            return secret_values(json.loads(text, object_pairs_hook=_every_value, parse_int=str, parse_float=str))
        except (ValueError, RecursionError):  # it only looks like JSON, or nests deeper than anybody reads
            return set()
    return set()


def _every_value(members: list[tuple[str, Any]]) -> dict[str, list[Any]]:
    """An object of JSON with all values of a name that stands in it several times."""
    found: dict[str, list[Any]] = {}
    for name, value in members:
        found.setdefault(name, []).append(value)
    return found


def _masked_part(part: str) -> str:
    """A part of a multipart body, without its value where that is secret."""
    start = _secret_start(part)
    return part if start is None else part[:start] + MASK


def _secret_start(part: str) -> int | None:
    """Where in a part of a multipart body its value begins, where that is secret."""
    head = _PART_HEAD.search(part, 0, _LONGEST_PART_HEAD)
    if head is None or not any(map(is_secret_field, re.split(r"[\[\]]+", head[1]))):
        return None
    return head.end()


def _spellings(secret: str) -> Iterator[str]:
    """How a secret may be written: as it is, percent-encoded, in JSON of Python and of PHP."""
    yield secret
    encodable = secret.encode("utf-8", "surrogateescape")
    for shift in range(3):
        # In base64 a secret reads in one of three ways; what shares a letter with its neighbours is left out.
        encoded = base64.b64encode(b"\0" * shift + encodable).decode()
        inner = encoded[(shift * 8 + 5) // 6 : (shift + len(encodable)) * 8 // 6]
        if len(inner) >= _SHORTEST_BY_VALUE:
            yield inner
            yield inner.replace("+", "-").replace("/", "_")
    for encoded in (quote_plus(encodable), quote(encodable, safe="")):
        yield encoded
        yield re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), encoded)
    for escaped in (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]):
        yield escaped
        yield escaped.replace("/", "\\/")
