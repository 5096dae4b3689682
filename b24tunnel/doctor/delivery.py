"""The test event there and back: bound, asked for, arrived, recorded, forwarded, answered, and unbound again."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import secrets
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar

from b24tunnel.bound import CLEAN_UP_COMMAND
from b24tunnel.doctor.portal import of_portal
from b24tunnel.doctor.step import Found, Step, Wrong, failed, ok, warning
from b24tunnel.doctor.walk import Walk
from b24tunnel.errors import OutsideFailure, UserError
from b24tunnel.happenings import Attempted, Happening, Recorded, Trouble
from b24tunnel.portal import Bindings
from b24tunnel.recording import Attempt, Recording
from b24tunnel.redact import shown_url

EVENT = "ONAPPTEST"
_UNBIND_SECONDS = 5.0
_UNBIND = f"Unbind it with: {CLEAN_UP_COMMAND}"
_T = TypeVar("_T")


async def delivery(walk: Walk) -> Found:
    """ONAPPTEST comes through all of it (pages "event.test" and "ONAPPTEST"); nothing stays bound."""
    bindings = Bindings(walk.client, walk.state, f"doctor-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        await bindings.bind(EVENT, walk.listening.handler_url)
        found = await _there_and_back(walk)
    except Wrong as wrong:
        found = wrong.found
    except UserError as error:
        found = of_portal(error)
    except BaseException:
        if left := await _to_its_end(_unbound(bindings)):  # nobody else would tell it
            walk.tell(Step("delivery", "failed", f"{EVENT} may still be bound: {left}", _UNBIND, 0.0))
        raise
    if left := await _to_its_end(_unbound(bindings)):
        return failed(
            f"{found.message} {EVENT} may still be bound: {left}",
            f"{found.advice} {_UNBIND}".strip(),
            found.exit_code or OutsideFailure.exit_code,
        )
    return found


async def _there_and_back(walk: Walk) -> Found:
    plan, listening = walk.plan, walk.listening
    nonce = secrets.token_hex(16)
    called = datetime.now(UTC)
    await walk.client.event_test({"nonce": nonce})
    in_vain = failed(
        f"The portal took event.test, and {EVENT} has not arrived within {plan.delivery_seconds:g} s.",
        f"Bitrix24's queue servers have to reach {_host(listening.handler_url)}: look for a firewall, an access "
        "list or a login before it. An on-premises portal has to reach its authorisation server, through whose "
        "queue events go.",
        OutsideFailure.exit_code,
    )
    troubles = len(listening.troubles)
    try:
        async with walk.waiting(plan.delivery_seconds, in_vain):
            recording = _recording(await listening.until(lambda told: _is_test(told, nonce) or _is_refusal(told)))
    except Wrong as wrong:
        if meanwhile := listening.troubles[troubles:]:
            message = f"{wrong.found.message} Meanwhile: {' '.join(meanwhile)}"
            raise Wrong(dataclasses.replace(wrong.found, message=message)) from None
        raise
    disk = _ms(recording.received_at, datetime.now(UTC))
    came = f"{EVENT} came {_ms(called, recording.received_at):.0f} ms after event.test was called"
    if recording.verdict == "mismatched":
        return failed(
            f"{came}, with another application_token than the one that is stored.",
            f"Store the one that the application's page on the portal shows for the portal {recording.portal}.",
        )
    wanting = {route.to for route in listening.settings.all_routes if route.wants(EVENT)}
    if not wanting:
        whom = f"; no route takes {EVENT}, so it was not forwarded" if plan.routes else ""
        return _judged(recording, f"{came}, and was on disk {disk:.0f} ms later as {recording.id}{whom}.")
    in_vain = failed(
        f"{came}, was recorded as {recording.id}, and has not been answered by the handler.",
        _look_at(recording, next(iter(wanting))),
    )
    answered = []
    # A little more than the handler itself is given, so that the attempt tells.
    async with walk.waiting(plan.handler_seconds + 5, in_vain):
        for _ in wanting:
            attempt = _attempt(await listening.until(lambda told: _is_attempt(told, recording)))
            disk = min(disk, _ms(recording.received_at, attempt.started_at))
            handler = f"the handler {shown_url(attempt.target.partition('?')[0])}"
            if not attempt.ok:
                what = f"answered {attempt.status}" if attempt.status else f"did not answer ({attempt.error})"
                return failed(
                    f"{came}, was recorded as {recording.id}, and {handler} {what} after "
                    f"{attempt.duration_ms:.0f} ms.",
                    _look_at(recording, attempt.target),
                )
            answered.append(f"{handler} answered {attempt.status} in {attempt.duration_ms:.0f} ms")
    return _judged(
        recording, f"{came}, was on disk {disk:.0f} ms later as {recording.id}, and {', '.join(answered)}."
    )


def _judged(recording: Recording, message: str) -> Found:
    if recording.verdict == "unverified":
        return warning(
            f"{message} Whether it is the portal's own could not be told, for no application_token is stored.",
            "Store the application_token that the application's page on the portal shows.",
        )
    return ok(message)


def _is_test(told: Happening, nonce: str) -> bool:
    """Whether it is the recording of this walk's event: others may be about, of other walks."""
    return isinstance(told, Recorded) and nonce.encode() in told.recording.body


def _is_refusal(told: Happening) -> bool:
    """Whether the receiver could not write it to disk: nothing comes after that."""
    return isinstance(told, Trouble) and told.message.startswith(f"Refused {EVENT} (503)")


def _is_attempt(told: Happening, recording: Recording) -> bool:
    return isinstance(told, Attempted) and told.attempt.recording == recording.id


def _recording(told: Happening) -> Recording:
    if isinstance(told, Trouble):
        raise Wrong(
            failed(
                f"{EVENT} came, and was not recorded.",
                "Make room on the disk, and see to the permissions of the recordings' directory.",
                OutsideFailure.exit_code,
            )
        )
    assert isinstance(told, Recorded)
    return told.recording


def _attempt(told: Happening) -> Attempt:
    assert isinstance(told, Attempted)
    return told.attempt


def _look_at(recording: Recording, handler: str) -> str:
    return (
        f"Look at the handler's own log; 'b24tunnel show {recording.id}' shows what it was sent, and 'b24tunnel "
        f"replay {recording.id} --to {shown_url(handler.partition('?')[0])}' sends it again."
    )


def _host(url: str) -> str:
    return url.partition("/b24/")[0]


def _ms(before: datetime, after: datetime) -> float:
    return max(0.0, (after - before).total_seconds() * 1000)


async def _unbound(bindings: Bindings) -> str:
    """Unbind; why that did not work, or ``""``."""
    try:
        async with asyncio.timeout(_UNBIND_SECONDS):
            left = await bindings.unbind_all()
    except TimeoutError:
        return f"the portal did not answer within {_UNBIND_SECONDS:g} s."
    except UserError as error:
        return f"{error}."
    return f"{left[0].reason}." if left else ""


async def _to_its_end(work: Coroutine[Any, Any, _T]) -> _T:
    """The whole of ``work``, also where this task is cancelled meanwhile; that is obeyed afterwards."""
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return task.result()
