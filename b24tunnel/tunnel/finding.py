"""What a probe through a public address found out."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from b24tunnel.redact import shown_url
from b24tunnel.tunnel.lines import clean

Kind = Literal[
    "works",
    "unreachable",  # no connection, or no answer: the name, the port, the certificate, the time
    "bad gateway",  # the tunnel's own server answers that it reaches nobody
    "elsewhere",  # somebody else answers
    "interstitial",  # a web page that wants a person to click
    "redirect",  # to a login, to https, to another host
    "altered body",
    "lost header",
    "altered answer",  # it arrived, and what was answered did not come back as it was sent
]

Headers = Sequence[tuple[str, str]]

_TITLE = re.compile(r"<title[^>]*>(.{0,200}?)</title", re.IGNORECASE | re.DOTALL)
_GATEWAY = (502, 503, 504, 520, 521, 522, 523, 524, 525, 526, 530)
# What people are led to; a part of the path or host of where a redirect leads.
_LOGIN = re.compile(r"log-?in|sign-?in|oauth|auth|sso|account|consent", re.IGNORECASE)


@dataclass(frozen=True)
class Finding:
    """``message`` is one sentence without its full stop; ``latency_ms`` the way there and back, if it worked."""

    kind: Kind
    message: str
    latency_ms: float | None = None

    @property
    def works(self) -> bool:
        """Whether a delivery would arrive whole, and its answer get back."""
        return self.kind == "works"

    @property
    def may_pass(self) -> bool:
        """Whether it is what one sees of a tunnel that is still coming up."""
        return self.kind in ("unreachable", "bad gateway", "elsewhere", "altered answer")


@dataclass(frozen=True)
class Request:
    """What was sent, or what arrived of it."""

    method: str
    headers: Headers
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What came back; ``body`` is the beginning of it."""

    status: int
    headers: Headers
    body: bytes


def _header(message: Request | Answer, name: str) -> str | None:
    """The first value of a header, whatever its spelling."""
    return next((value for known, value in message.headers if known.lower() == name.lower()), None)


def judge(address: str, sent: Request, arrived: Request | None, expected: bytes, answer: Answer | str) -> Finding:
    """Compare what was sent with what arrived, and the answer ``expected`` with the one that came back.

    ``answer`` is a phrase with the reason where none came back.
    """
    host = urlsplit(address).netloc
    if arrived is None:
        return _not_arrived(host, answer)
    if arrived.method != sent.method:
        return Finding("altered body", f"{host} passes a {sent.method} on as a {arrived.method}")
    if arrived.body != sent.body:
        return Finding("altered body", f"{host} passes requests on {_how_altered(sent, arrived)}")
    for name in ("Content-Type", "User-Agent"):
        there = _header(arrived, name)
        if there is None:
            return Finding("lost header", f"{host} passes requests on without their header {name}")
        if there != _header(sent, name):
            return Finding("lost header", f"{host} passes requests on with another {name} ({_short(there)})")
    if isinstance(answer, str):
        return Finding("altered answer", f"requests to {host} arrive, but no answer gets back ({answer})")
    if answer.status != 200 or answer.body != expected:
        what = _page(answer) or "other content"
        return Finding(
            "altered answer", f"requests to {host} arrive, but what gets back is {answer.status} with {what}"
        )
    return Finding("works", f"{host} leads here")


def _not_arrived(host: str, answer: Answer | str) -> Finding:
    if isinstance(answer, str):
        return Finding("unreachable", f"{host} cannot be reached ({answer})")
    if 300 <= answer.status < 400:
        return _redirected(host, answer)
    page = _page(answer)
    code = _header(answer, "Ngrok-Error-Code")
    if code is not None:
        page = _short(code)
    if answer.status in _GATEWAY or code in ("ERR_NGROK_3200", "ERR_NGROK_8012"):
        return Finding(
            "bad gateway",
            f"{host} answers {answer.status}{f' with {page}' if page else ''} and passes nothing on: the tunnel "
            "does not reach this machine",
        )
    if (_header(answer, "Server") or "") == "b24tunnel":
        return Finding("elsewhere", f"{host} leads to another b24tunnel than this one")
    if page is not None and answer.status != 404:
        return Finding(
            "interstitial",
            f"{host} answers {answer.status} with {page} of its own and passes nothing on: that is what Bitrix24 "
            "would get",
        )
    return Finding(
        "elsewhere", f"{host} answers {answer.status}{f' with {page}' if page else ''} and does not lead here"
    )


def _redirected(host: str, answer: Answer) -> Finding:
    to = _header(answer, "Location") or ""
    try:
        parts = urlsplit(to)
        where = parts.netloc or parts.path
        login = " (a login, it seems)" if _LOGIN.search(f"{parts.netloc} {parts.path}") else ""
    except ValueError:
        where, login = "", ""
    leads = f"to {_short(shown_url(where))}{login}" if where else "elsewhere"
    return Finding("redirect", f"{host} redirects requests {leads} instead of passing them on")


def _how_altered(sent: Request, arrived: Request) -> str:
    if not arrived.body:
        return "without their body"
    try:
        json.loads(arrived.body)
        return "with their body rewritten as JSON"
    except (ValueError, RecursionError):
        return f"with another body ({len(arrived.body)} bytes in place of {len(sent.body)})"


def _page(answer: Answer) -> str | None:
    """A web page, by its title, or None if it is none."""
    if "html" not in (_header(answer, "Content-Type") or "").lower():
        return None
    title = _TITLE.search(answer.body.decode("utf-8", "replace"))
    named = _short(title[1]) if title else ""
    return f"the web page '{named}'" if named else "a web page"


def _short(text: str) -> str:
    text = " ".join(clean(text).split())
    return text if len(text) <= 80 else text[:79] + "…"
