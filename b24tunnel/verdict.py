"""Which event a delivery is and whether it proves its origin, read while its sender waits for the answer."""

from __future__ import annotations

import hmac
import re

from b24tunnel.event import Event
from b24tunnel.form import FormError
from b24tunnel.recording import Verdict

# What is looked into while the sender waits is bounded: an event has a few dozen pairs, a short code and a token.
_MOST_PAIRS = 20_000
_MOST_BYTES = 16 * 1024
_LONGEST_CODE = 255

# The pairs that may have a part in `event` or in `auth[application_token]`. Passed over are names of plain
# characters with another root, and other plain keys right below `auth`: whatever PHP makes of them, these two stay
# what they are. Every other spelling is kept and left to the codec.
_WITH_A_PART = re.compile(
    rb"&(?!(?!(?:event|auth)[=\[%])[A-Za-z0-9_]+(?:=|\[|%5[Bb])"
    rb"|auth(?:\[|%5[Bb])(?!application_token)[A-Za-z_]+(?:\]|%5[Dd])=)([^&]*)"
)
_CODE = b"event="
_TOKEN = b"auth%5Bapplication_token%5D="


def judge(target: str, body: bytes, application_token: str | None) -> tuple[str | None, Verdict]:
    """The event's code (None: no event), and the verdict on the delivery ("Secure event handlers").

    ``target`` is the request target with its query. ``application_token`` is the portal's, None where it is not
    known: then nothing can be held against it. A delivery of more pairs than any event has is not looked into, nor
    are codes and tokens of any length: these prove nothing.
    """
    query = target.partition("?")[2]
    unproven: Verdict = "unverified" if application_token is None else "mismatched"
    if body.count(b"&") + query.count("&") > _MOST_PAIRS:
        return None, unproven
    code, token = _code_and_token(query, body)
    if code is not None and len(code) > _LONGEST_CODE:
        code = None
    if application_token is None or token is None:
        return code, unproven
    return code, "verified" if _same(token, application_token) else "mismatched"


def judge_page(target: str, body: bytes, application_token: str | None) -> Verdict:
    """The verdict on a request of a user's browser for a page of the application ("Widgets": what is passed).

    Portals of some years ago pass no APPLICATION_TOKEN, so a page without one is only unverified.
    """
    query = _octets(target.partition("?")[2])
    if application_token is None or body.count(b"&") + query.count(b"&") > _MOST_PAIRS:
        return "unverified"
    try:
        event = Event.from_request(target, body)
    except FormError:
        return "unverified"
    given = (event.fields.get("APPLICATION_TOKEN"), event.application_token)
    tokens = [token for token in given if isinstance(token, str)]
    if not tokens:
        return "unverified"
    return "verified" if all(_same(token, application_token) for token in tokens) else "mismatched"


def is_without_auth(target: str, body: bytes) -> bool:
    """Whether a delivery has no ``auth`` at all, as the action "Webhook" of a workflow, which proves nothing."""
    if body.count(b"&") + target.count("&") > _MOST_PAIRS:
        return False
    try:
        return "auth" not in Event.from_request(target, body).fields
    except FormError:
        return False


def _code_and_token(query: str, body: bytes) -> tuple[str | None, str | None]:
    """What `Event` would say of both, without reading the whole delivery."""
    pairs = _with_a_part(body)
    if not query and (plain := _plain(pairs)) is not None:
        return plain
    body_part = b"&".join(pairs)
    query_part = b"&".join(_with_a_part(_octets(query)))
    if len(body_part) + len(query_part) > _MOST_BYTES:
        return None, None
    try:
        event = Event.from_request("?" + query_part.decode("utf-8", "surrogateescape"), body_part)
    except FormError:  # over the codec's bound: kept like any other bytes
        return None, None
    return event.code, event.application_token


def _with_a_part(form: bytes) -> list[bytes]:
    if b"\0" in form:
        form = form.partition(b"\0")[0]  # where PHP stops reading
    pairs: list[bytes] = _WITH_A_PART.findall(b"&" + form)
    return pairs


def _plain(pairs: list[bytes]) -> tuple[str, str] | None:
    """Code and token of a delivery in the shape in which Bitrix24 sends nearly all of them, None for others."""
    if len(pairs) == 2 and pairs[0].startswith(_CODE) and pairs[1].startswith(_TOKEN):
        code, token = pairs[0][len(_CODE) :], pairs[1][len(_TOKEN) :]
        if code.isalnum() and token.isalnum():  # of bytes: ASCII letters and digits
            return code.decode("ascii"), token.decode("ascii")
    return None


def _same(token: str, known: str) -> bool:
    return hmac.compare_digest(_octets(token), _octets(known))


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
