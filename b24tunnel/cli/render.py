"""How `listen` shows what happens: rich, plain, json or quiet, each a function of one happening."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

import click

from b24tunnel.cli.terminal import counted, json_line, one_line, visible
from b24tunnel.happenings import (
    Attempted,
    Bound,
    Happening,
    Installed,
    Note,
    Pending,
    Ready,
    Recorded,
    Stopped,
    Trouble,
    TunnelProbed,
)
from b24tunnel.recording import Attempt, Recording, time_text
from b24tunnel.redact import MASK, Masker, is_secret_field, shown_url
from b24tunnel.tunnel.supervisor import TunnelState

# Text and whether it goes to standard error.
Lines = list[tuple[str | bytes, bool]]
Show = Callable[[], None]

_SHOWN_FIELDS = 3
_HANDLERS_SHOWN = 3
_LOOKED_THROUGH = 1000
_STYLES = {"ok": "green", "wrong": "red", "note": "cyan", "trouble": "yellow"}
# Reading more than this for its text would hold up the event loop.
_LARGE = 64 * 1024
_LARGEST_DATA = 1024 * 1024


def renderer(output: str | None) -> Callable[[Happening], Show]:
    """The renderer of this name; without one, rich on a terminal and plain elsewhere.

    What it returns prints a happening. The text is made before, in the caller's thread, where that is quick.
    """
    if output is None:
        output = "rich" if sys.stdout.isatty() else "plain"
    several = False  # handlers, so that it has to be said which was tried
    ways: dict[str, Callable[[Happening], Lines]] = {
        "rich": lambda happening: _styled(happening, colours=True, several=several),
        "plain": lambda happening: _styled(happening, colours=False, several=several),
        "json": lambda happening: [(json_line(as_json(happening)), False)],
        "quiet": lambda happening: _styled(happening, colours=False) if _is_urgent(happening) else [],
    }
    lines = ways[output]

    def show(happening: Happening) -> Show:
        nonlocal several
        if isinstance(happening, Ready):
            several = len({happening.forward, *(url for _, url in happening.routes)} - {None}) > 1
        if isinstance(happening, Recorded) and len(happening.recording.body) > _LARGE:
            return lambda: _write(lines(happening))
        return partial(_write, lines(happening))

    return show


def what(recording: Recording) -> str:
    """The event's code on one line, or what a request that is no event is."""
    if recording.code is None:
        return f"{recording.method} (no event)" if recording.type == "other" else recording.type
    code = one_line(recording.code)
    return code if recording.type in ("event", "other") else f"{code} ({recording.type})"


def summary(recording: Recording) -> str:
    """The first few values of the event's data in short, secrets masked."""
    masker = Masker.of(recording)
    leaves: list[str] = []
    waiting: list[tuple[str, Any, bool]] = [("", recording.event.data, False)]
    while waiting and len(leaves) <= _SHOWN_FIELDS:
        path, value, secret = waiting.pop(0)
        if isinstance(value, Mapping | list):
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            waiting[:0] = [
                (f"{path}.{key}" if path else str(key), item, secret or is_secret_field(str(key)))
                for key, item in islice(items, _SHOWN_FIELDS + 1)
            ]
        elif value is not None:
            # Cut before it is looked through, which takes long for a long text.
            cut = masker.cut_text if len(value) > _LOOKED_THROUGH else masker.text
            shown = _short(MASK if secret and value else cut(value[:_LOOKED_THROUGH]))
            leaves.append(f"{_short(path)}={shown}" if path else shown)
    more = " …" if len(leaves) > _SHOWN_FIELDS else ""
    return one_line(" ".join(leaves[:_SHOWN_FIELDS])) + more


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"


def outcome(attempt: Attempt | None) -> str:
    """What a handler made of it, in short."""
    if attempt is None:
        return "not forwarded"
    if attempt.error is not None:
        return f"{attempt.error} ({_milliseconds(attempt.duration_ms)})"
    return f"{attempt.status} in {_milliseconds(attempt.duration_ms)}"


def outcomes(attempts: Sequence[Attempt]) -> str:
    """What each handler made of it at its last attempt; which handler it is, where there are several.

    Of many handlers those that were tried last are named.
    """
    of_handler: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        target = attempt.target.partition("?")[0]
        # The one that was tried last stands last.
        of_handler[target] = [*of_handler.pop(target, ()), attempt]
    if not of_handler:
        return outcome(None)
    several = len(of_handler) > 1
    more = len(of_handler) - _HANDLERS_SHOWN
    shown = dict(list(of_handler.items())[-_HANDLERS_SHOWN:])
    return (f"… {counted(more, 'handler')} before; " if more > 0 else "") + "; ".join(
        (f"{_short_target(target)} " if several else "")
        + outcome(tried[-1])
        + (f" (attempt {len(tried)})" if len(tried) > 1 else "")
        for target, tried in shown.items()
    )


def _short_target(target: str) -> str:
    """A handler's port and path; its whole address where it has no port."""
    parts = urlsplit(target)
    host = parts.netloc.rpartition("@")[2]
    _, colon, port = host.rpartition(":")
    return f":{port}{parts.path}" if colon and port.isdigit() else f"{host}{parts.path}"


def attempt_json(attempt: Attempt, masker: Masker | None) -> dict[str, Any]:
    """An attempt for output; without a masker nothing is masked."""
    record = attempt.to_json()
    if masker is not None:
        record["target"] = masker.target(attempt.target)
        record["headers"] = masker.headers(attempt.headers)
        record |= _masked_answer(attempt, masker)
        record.pop("body_base64", None)
        if attempt.error is not None:
            record["error"] = masker.text(attempt.error)
    return record


def _masked_answer(attempt: Attempt, masker: Masker) -> dict[str, Any]:
    """A handler's answer without secrets; one that is compressed cannot be looked through."""
    encoded = any(name.lower() == "content-encoding" for name, _ in attempt.headers)
    if encoded or attempt.body.startswith(b"\x1f\x8b"):
        return {"body": f"({len(attempt.body)} bytes, compressed)"}
    text = attempt.body.decode("utf-8", "backslashreplace")
    return {"body": masker.cut_text(text) if attempt.truncated else masker.text(text)}


def recording_json(recording: Recording, masker: Masker | None) -> dict[str, Any]:
    """A recording for output, with the parsed view beside the bytes; without a masker nothing is masked."""
    record = recording.to_json()
    event = recording.event.fields
    if masker is not None:
        request = record["request"]
        request["target"] = masker.target(recording.target)
        request["headers"] = masker.headers(recording.headers)
        if "body" in request:
            request["body"] = masker.body(recording.body)
        else:
            request["body_masked"] = masker.body(recording.body)
            del request["body_base64"]
        event = masker.value(event)
    record["event"] = event
    return record


def as_json(happening: Happening) -> dict[str, Any]:
    """A happening as one JSON object with its ``type``; secrets are masked."""
    if isinstance(happening, Recorded):
        recording = happening.recording
        masker = Masker.of(recording)
        return {
            "type": "recorded",
            "id": recording.id,
            "code": recording.code,
            "received_at": time_text(recording.received_at),
            "method": recording.method,
            "target": masker.target(recording.target),
            "size": len(recording.body),
            # Looking through more would hold up everything else; `show` has it.
            "data": masker.value(recording.event.data) if len(recording.body) <= _LARGEST_DATA else None,
            "verdict": recording.verdict,
            "remote": recording.remote,
            "request_type": recording.type,
            "source": recording.source,
        }
    if isinstance(happening, Attempted):
        attempt = happening.attempt
        return {
            "type": "attempt",
            "recording": attempt.recording,
            "cause": attempt.cause,
            "target": shown_url(attempt.target),
            "started_at": time_text(attempt.started_at),
            "status": attempt.status,
            "duration_ms": round(attempt.duration_ms, 3),
            "error": attempt.error,
        }
    if isinstance(happening, Pending):
        return {"type": "pending", "recordings": happening.recordings, "resumed": happening.resumed}
    if isinstance(happening, TunnelProbed):
        return {"type": "tunnel", **_tunnel_json(happening.state)}
    if isinstance(happening, Stopped):
        tunnel = None if happening.tunnel is None else _tunnel_json(happening.tunnel)
        return {"type": "stopped", **vars(happening), "tunnel": tunnel}
    if isinstance(happening, Ready):
        return {
            "type": "ready",
            **vars(happening),
            "forward": happening.forward and shown_url(happening.forward),
            "routes": [{"events": events, "to": shown_url(url)} for events, url in happening.routes],
            "pass_through": happening.pass_through and shown_url(happening.pass_through),
        }
    return {"type": type(happening).__name__.lower(), **vars(happening)}


def _tunnel_json(state: TunnelState) -> dict[str, Any]:
    return {
        "provider": state.provider,
        "url": state.url,
        "state": "up" if state.up else "down",
        "since": time_text(state.since),
        "seen_at": None if state.seen_at is None else time_text(state.seen_at),
        "losses": state.losses,
        "latency_ms": None if state.latency_ms is None else round(state.latency_ms, 1),
        "reason": state.reason,
    }


def _styled(happening: Happening, *, colours: bool, several: bool = False) -> Lines:
    return [
        (click.style(visible(line), fg=_STYLES.get(style)) if colours else visible(line), style == "trouble")
        for style, line in _lines(happening, several=several)
    ]


def _is_urgent(happening: Happening) -> bool:
    return isinstance(happening, Trouble | Pending)


def _write(lines: Lines) -> None:
    for text, is_error in lines:
        click.echo(text, err=is_error, color=True)
    if lines:
        sys.stdout.flush()


def _lines(happening: Happening, *, several: bool = False) -> list[tuple[str, str]]:
    """The lines that a person reads, each with the name of its style; ``several``: there are several handlers."""
    match happening:
        case Ready():
            lines = [("ok", f"Session {happening.session} listens at {happening.handler_url}")]
            if happening.events and happening.portal:
                lines.append(("", f"  bound    {', '.join(happening.events)} on {happening.portal}"))
            elif happening.tunnel != "local":
                lines += [
                    ("", "  bound    nothing: in the portal's developer resources add an outgoing webhook,"),
                    ("", "           paste the address above as its handler, and choose the events"),
                ]
            else:
                lines.append(("", "  bound    nothing: send deliveries to this address"))
            if happening.tunnel == "url":
                lines.append(("", f"  expects  that address to lead to 127.0.0.1:{happening.port}"))
            lines.append(("", f"  records  {happening.recordings} (journal, never committed)"))
            if happening.forward or not happening.routes:
                forward = shown_url(happening.forward) if happening.forward else "nowhere: give --forward URL"
                lines.append(("", f"  forwards {forward}"))
            for events, url in happening.routes:
                lines.append(("", f"  forwards {', '.join(events)} to {shown_url(url)}"))
            if happening.pass_through:
                lines.append(("", f"  passes   every other path to {shown_url(happening.pass_through)}"))
            return lines
        case TunnelProbed(state, asked):
            return [_tunnel_line(state)] if asked else []
        case Bound(handler_url, events, portal):
            return [
                ("ok", f"The address is {handler_url} now."),
                ("", f"  bound    {', '.join(events)} on {portal}, in place of the former address"),
            ]
        case Installed(portal, code):
            return [("ok", f"{code} is confirmed by the portal: the tokens of {portal} are stored.")]
        case Recorded(recording):
            warning = "  (not from the portal: refused)" if recording.verdict == "mismatched" else ""
            moment = recording.received_at.astimezone().strftime("%H:%M:%S")
            return [("", f"{moment} {recording.id:>8}  {what(recording)}  {summary(recording)}{warning}")]
        case Attempted(attempt):
            moment = attempt.started_at.astimezone().strftime("%H:%M:%S")
            where = ""
            if attempt.cause == "replay":
                where = f"replayed to {shown_url(attempt.target)}: "
            elif several:
                where = f"{shown_url(attempt.target.partition('?')[0])}: "
            line = f"{moment} {attempt.recording:>8}  → {where}{outcome(attempt)}"
            return [("ok" if attempt.ok else "wrong", line)]
        case Pending(recordings, resumed):
            left = f"{counted(len(recordings), 'recording')} of earlier sessions never reached your handler"
            if resumed:
                return [("note", f"{left}: handing over now.")]
            return [
                ("trouble", f"{left}, from {recordings[0]} on: --resume hands them over, --no-resume leaves them.")
            ]
        case Note(message):
            return [("note", message)]
        case Trouble(message):
            return [("trouble", message)]
        case Stopped():
            sums = [
                f"{happening.recorded} recorded",
                f"{happening.answered} answered 2xx",
                f"{happening.failed} failed",
                f"{happening.pending} still to be forwarded",
            ]
            if happening.refused:
                sums.append(f"{happening.refused} LOST (could not be recorded)")
            if happening.tunnel is not None and happening.tunnel.losses:
                sums.append(f"tunnel lost {counted(happening.tunnel.losses, 'time')}")
            if happening.rejected:
                sums.append(f"{counted(happening.rejected, 'other request')} rejected")
            return [("ok", f"Session {happening.session} ended: {', '.join(sums)}.")]


def _tunnel_line(state: TunnelState) -> tuple[str, str]:
    """The public address in one line: for how long it is up or down, how fast, how often lost."""
    since = state.since.astimezone().strftime("%d %b %H:%M:%S")
    parts = [f"{state.provider}, {'up' if state.up else 'DOWN'} since {since}"]
    if state.up and state.seen_at is None:
        parts.append("taken for granted, not probed")
    if state.latency_ms is not None and state.seen_at is not None:
        seen = state.seen_at.astimezone().strftime("%H:%M:%S")
        parts.append(f"{_milliseconds(state.latency_ms)} there and back at {seen}")
    if state.losses:
        parts.append(f"lost {counted(state.losses, 'time')}")
    if state.reason:
        parts.append(state.reason)
    return "" if state.up else "wrong", f"  tunnel   {', '.join(parts)}"


def pretty(value: Any) -> str:
    """A parsed body for people."""
    return json.dumps(value, ensure_ascii=False, indent=2)


def _milliseconds(duration: float) -> str:
    return f"{duration / 1000:.1f} s" if duration >= 10_000 else f"{duration:.0f} ms"
