"""The second step: every handler on this machine, or wherever it is, answers."""

from __future__ import annotations

import asyncio
import time

import aiohttp

from b24tunnel.doctor.step import Found, Wrong, failed, ok, skipped, warning
from b24tunnel.doctor.walk import Walk, milliseconds_since
from b24tunnel.forward import check_handler_url
from b24tunnel.redact import shown_url
from b24tunnel.send_once import send_once
from b24tunnel.unanswered import why_unanswered

_LONGEST_ANSWER = 64 * 1024


async def handlers(walk: Walk) -> Found:
    """Every handler answers HTTP."""
    plan = walk.plan
    named = (plan.forward, *(route.to for route in plan.routes), plan.pass_through)
    urls = list(dict.fromkeys(url for url in named if url))
    if not urls:
        return skipped("No handler is named: events are only recorded.", "Name it with --forward URL.")
    answers = await asyncio.gather(*(_ask(url, plan.handler_seconds) for url in urls))
    hints = [hint for _, hint in answers if hint]
    message = " ".join(told for told, _ in answers)
    return warning(message, " ".join(dict.fromkeys(hints))) if hints else ok(message)


async def _ask(url: str, seconds: float) -> tuple[str, str]:
    """What a handler answers to OPTIONS, which asks for nothing to be done (RFC 9110 §9.3.7), and a hint."""
    address = check_handler_url(url)
    shown = shown_url(url.partition("?")[0])
    began = time.perf_counter()
    try:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(force_close=True),
                timeout=aiohttp.ClientTimeout(total=seconds),
                cookie_jar=aiohttp.DummyCookieJar(),
                middlewares=(send_once,),
            ) as client,
            client.options(address, allow_redirects=False) as answer,
        ):
            status = answer.status
            await answer.content.read(_LONGEST_ANSWER)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        reason = why_unanswered(error, seconds)
        raise Wrong(failed(f"The handler {shown} does not answer: {reason}.", _advice(reason))) from None
    return f"The handler {shown} answers {status} to OPTIONS in {milliseconds_since(began):.0f} ms.", _hint(status)


def _advice(reason: str) -> str:
    if "TLS" in reason:
        return (
            "Give the handler a certificate that this machine trusts (SSL_CERT_FILE names further ones), or "
            "forward to http:// on this machine."
        )
    if "within" in reason:
        return "See what the handler is busy with: it took the connection and did not answer."
    if "no HTTP" in reason:
        return "Give the address of the handler itself with --forward: what listens there does not speak HTTP."
    return "Start the handler, or give its right address with --forward."


def _hint(status: int) -> str:
    if status == 404:
        return "A 404 may only be for OPTIONS; if the handler answers a POST so, too, its path is another one."
    if 300 <= status < 400:
        return "A redirect is not followed when events are forwarded: give the address that it leads to."
    if status in (401, 403):
        return "The handler wants to be signed in to: Bitrix24 cannot, so let deliveries in without."
    if status >= 500:
        return "The handler fails at OPTIONS: look at its own log."
    return ""  # 405 too: it is there, and takes other methods
