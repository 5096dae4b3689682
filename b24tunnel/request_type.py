"""What Bitrix24 wants with a request: an event, a robot's turn, a page of the application, or nothing at all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from b24tunnel import catalogue
from b24tunnel.event import Event
from b24tunnel.form import FormError
from b24tunnel.recording import Headers, RequestType

# What is looked into while the sender waits is bounded: every field that counts here is short.
_MOST_PAIRS = 20_000
_MOST_BYTES = 16 * 1024

# The pairs that may have a part in the fields that are looked at. Passed over are names of plain characters with
# another root, and plain keys right below `auth` other than the two that every delivery has: whatever PHP makes of
# them, those fields stay what they are. Every other spelling is kept and left to the codec.
_WITH_A_PART = re.compile(
    rb"&(?!(?!(?:event|event_token|workflow_id|document_id|auth|saveform|AUTH_ID|PLACEMENT|member_id|DOMAIN|APP_SID)"
    rb"[=\[%])[A-Za-z0-9_]+(?:=|\[|%5[Bb])"
    rb"|auth(?:\[|%5[Bb])(?!domain|member_id)[A-Za-z_]+(?:\]|%5[Dd])=)([^&]*)"
)
_PLAIN_EVENT = re.compile(rb"event=(?!(?i:onappsettings))ON[A-Z0-9_]{3,250}")
_PLAIN_AUTH = (b"auth%5B", b"auth[")


def _spelt(name: str) -> str:
    """A pattern of a name as PHP reads it: characters plain or encoded, and those that become underscores."""
    octets = "".join(
        r"(?:[_. +\[]|%(?i:5f|2e|20|2b|5b))" if each == "_" else f"(?:{each}|%(?i:{ord(each):02x}))"
        for each in name
    )
    return octets


# One of these is in everything that is not "other".
_TELLING = re.compile(
    r"(?:\A|&)(?:[ +]|%20)*(?:{})(?=[=&\[\0]|%5[Bb]|%00|\Z)".format(
        "|".join(map(_spelt, ("event", "event_token", "workflow_id", "document_id", "saveform", "AUTH_ID")))
    ).encode()
)

# Codes that are events' by their looks alone; some pages of the documentation spell them in mixed case, as
# applications spell the names of their own events.
_CODE = re.compile(r"ON[A-Z0-9_]{3,250}|[A-Z_]{1,60}(?:\.[A-Z_]{1,60}){1,3}\.ON\.[A-Z]{1,60}", re.ASCII)
_LIKE_A_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.]{2,254}", re.ASCII)
_MODULE = re.compile(r"[a-z][a-z0-9_.]{0,63}", re.ASCII)


def request_type(target: str, headers: Headers, body: bytes) -> RequestType:
    """What a request is by its fields, which may stand in its query or in its form body as in ``$_REQUEST``.

    - ``event``: has ``event`` with a code ("Events"), which is documented or, in a body, a code by its looks;
      any other name needs ``auth`` of a portal too.
    - ``robot``: a robot or an activity ("bizproc.robot.add"), or the action "Webhook" of a workflow, which sends
      no more than ``document_id`` with its three parts.
    - ``settings``: the wizard of an application without an interface, which reads the answer: the form is asked
      for (``event`` is OnAppSettings…) or saved (``saveform``) ("Setup Wizard for REST-only Applications").
    - ``placement``, ``page``: a user's browser opens the application, with AUTH_ID and more: at a PLACEMENT, or
      its page, for which PLACEMENT is DEFAULT ("Simplified OAuth 2.0", "Widgets"). The first opening of an
      installer is a page too: its fields are the same, and only its path tells, which the application alone knows.
    - ``other``: everything else, and what is beyond the bounds of what is looked into (`is_hidden`).

    multipart/form-data is not read: Bitrix24 is documented to send forms of the plain kind only, so whatever
    names its parts have, it is ``other``.
    """
    return _judged(target, headers, body) or "other"


def is_hidden(target: str, headers: Headers, body: bytes) -> bool:
    """Whether a request may be Bitrix24's, for it has a field that tells so, but is beyond what is looked into."""
    if _judged(target, headers, body) is not None:
        return False
    query = target.partition("?")[2].encode("utf-8", "surrogateescape")
    return any(_TELLING.search(form) for form in (query, body if may_be_form(headers) else b""))


def _judged(target: str, headers: Headers, body: bytes) -> RequestType | None:
    """The type; None where the fields are beyond the bounds."""
    query = target.partition("?")[2]
    if not body or not may_be_form(headers):
        body = b""
    if not query:
        if not body:
            return "other"
        pairs = _with_a_part(body)
        if _plain_event(pairs):
            return "event"
    else:
        pairs = _with_a_part(body)
    octets = query.encode("utf-8", "surrogateescape")
    if max(body.count(b"&"), octets.count(b"&")) > _MOST_PAIRS:
        return None
    asked = _with_a_part(octets)
    size = sum(map(len, pairs)) + sum(map(len, asked)) + len(pairs) + len(asked)
    if size > _MOST_BYTES:
        return None
    if not (pairs or asked):
        return "other"
    try:
        under = b"&".join(asked).decode("utf-8", "surrogateescape")
        return _of_fields(Event.from_request("?" + under, b"&".join(pairs)).fields, by_looks=bool(pairs))
    except FormError:  # over the codec's bound
        return None


def says_form(headers: Headers) -> bool:
    """Whether these headers say that the body is a form."""
    return may_be_form(headers) and any(name.lower() == "content-type" for name, _ in headers)


def is_of_settings_wizard(code: str) -> bool:
    """Whether an event's code is one of those of the wizard, which reads the answer."""
    return code[:13].lower() == "onappsettings"


def may_be_form(headers: Headers) -> bool:
    """Whether a body with these headers is read as a form: it says so, or does not say what it is."""
    said: str | None = None
    for name, value in headers:
        lowered = name.lower()
        if lowered == "content-encoding" and value.strip().lower() not in ("", "identity"):
            return False
        if lowered == "content-type":
            said = value
    return said is None or said.partition(";")[0].strip().lower() == "application/x-www-form-urlencoded"


def _with_a_part(form: bytes) -> list[bytes]:
    if not form or form.count(b"&") > _MOST_PAIRS:
        return []
    if b"\0" in form:
        form = form.partition(b"\0")[0]  # where PHP stops reading
    pairs: list[bytes] = _WITH_A_PART.findall(b"&" + form)
    return pairs


def _plain_event(pairs: list[bytes]) -> bool:
    """Whether these are those of an event in the shape in which Bitrix24 sends nearly all."""
    return (
        bool(pairs)
        and _PLAIN_EVENT.fullmatch(pairs[0]) is not None
        and all(pair.startswith(_PLAIN_AUTH) for pair in pairs[1:])
    )


def _of_fields(fields: Mapping[str, Any], *, by_looks: bool) -> RequestType:
    event = fields.get("event")
    if isinstance(event, str) and event:
        if is_of_settings_wizard(event):
            return "settings"
        if by_looks and _CODE.fullmatch(event):
            return "event"
        if _LIKE_A_CODE.fullmatch(event) and (_from_a_portal(fields) or catalogue.lookup(event) is not None):
            return "event"
    elif _is_robot(fields):
        return "robot"
    elif "saveform" in fields and _from_a_portal(fields):
        return "settings"
    if _is_text(fields, "AUTH_ID") and any(_is_text(fields, name) for name in ("member_id", "DOMAIN", "APP_SID")):
        placement = fields.get("PLACEMENT")
        return "placement" if isinstance(placement, str) and placement not in ("", "DEFAULT") else "page"
    return "other"


def _is_robot(fields: Mapping[str, Any]) -> bool:
    document = fields.get("document_id")
    if _is_text(fields, "event_token"):
        return _is_text(fields, "workflow_id") or document is not None
    return (
        isinstance(document, list)
        and len(document) == 3
        and all(isinstance(part, str) and part for part in document)
        and _MODULE.fullmatch(document[0]) is not None
    )


def _from_a_portal(fields: Mapping[str, Any]) -> bool:
    """``auth`` names a portal, as it does in all that the queue sends."""
    auth = fields.get("auth")
    return isinstance(auth, dict) and (_is_text(auth, "member_id") or _is_text(auth, "domain"))


def _is_text(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name)
    return isinstance(value, str) and bool(value)
