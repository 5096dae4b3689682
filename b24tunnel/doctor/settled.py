"""The first step: settings, state and the directory of recordings can be used, and what they say."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from b24tunnel.catalogue.bindable import bindable_codes
from b24tunnel.doctor.step import Found, Plan, Wrong, failed, ok, warning
from b24tunnel.doctor.walk import Walk
from b24tunnel.errors import OutsideFailure, WrongUsage
from b24tunnel.forward import check_handler_url
from b24tunnel.journal.files import journal_directory, prepare_directory
from b24tunnel.portal import Portal, State
from b24tunnel.settings import ProjectSettings, read_settings
from b24tunnel.tunnel.choosing import Wish, choose

_MEBIBYTE = 1024 * 1024
# One delivery may have 32 MiB.
_LEAST_ROOM = 64 * _MEBIBYTE
_SCARCE_ROOM = 512 * _MEBIBYTE


async def settings(walk: Walk) -> Found:
    """Everything that the walk needs to know is there."""
    walk.state = state = State.open(walk.plan.home)
    found = read_settings(walk.plan.directory, state.home)
    walk.plan = plan = _with_settled(walk.plan, found)
    walk.events = bindable_codes(plan.events)
    if plan.forward is not None:
        check_handler_url(plan.forward)
    await asyncio.to_thread(state.ensure_writable)
    portals = state.portals()
    rows = state.ledger()
    walk.portal = _portal(plan.portal, portals, state)
    walk.recordings = plan.recordings or Path("recordings")
    here = walk.portal is not None and walk.portal.on_this_machine
    wish = Wish(plan.tunnel, plan.public_url, plan.domain, here=here, recordings=walk.recordings)
    walk.tunnels = choose(wish, found, state.home)
    files = ", ".join(str(source) for source in found.sources) or "no file"
    of_portal = f"the portal {walk.portal.name}" if walk.portal else "no portal"
    room = await asyncio.to_thread(_room, walk.recordings)
    known = f"Settings from {files}; {of_portal}; bindings on the ledger: {len(rows)}."
    return dataclasses.replace(room, message=f"{known} {room.message}") if room.state == "ok" else room


def _with_settled(plan: Plan, settings: ProjectSettings) -> Plan:
    """The plan with what the files settle for `listen` where it leaves something open."""
    settled = plan.of_listen(settings)
    # A tunnel or an address that is named now is not the one that the files' domain and address belong to.
    way = plan.public_url is None and plan.tunnel in (None, settings.tunnel)
    return dataclasses.replace(
        plan,
        recordings=plan.recordings or (Path(settled["recordings"]) if "recordings" in settled else None),
        events=plan.events or tuple(settled.get("events", ())),
        portal=plan.portal or settled.get("portal"),
        forward=plan.forward or settled.get("forward"),
        routes=plan.routes or settings.routes,
        domain=plan.domain or (settled.get("domain") if way else None),
        public_url=plan.public_url or (settled.get("public_url") if way else None),
        port=settled.get("port", 0) if plan.port is None else plan.port,
        probe=plan.probe and not settled.get("no_probe", False),
        pass_through=plan.pass_through or settled.get("pass_through"),
        catch_up=plan.catch_up or bool(settled.get("catch_up", False)),
    )


def _portal(name: str | None, known: Sequence[Portal], state: State) -> Portal | None:
    if name is None and len(known) > 1:
        names = ", ".join(portal.name for portal in known)
        raise Wrong(
            failed(
                f"{len(known)} portals are stored ({names}), and none is named.",
                "Say which one with --portal NAME.",
                WrongUsage.exit_code,
            )
        )
    if name is None and not known:
        return None
    return state.portal(name or known[0].name)


def _room(recordings: Path) -> Found:
    """Whether recordings can be written: a file where the journal lies is, synced too, and the disk has room."""
    directory = journal_directory(recordings)
    try:
        prepare_directory(directory)
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(bytes(64 * 1024))
            file.flush()
            os.fsync(file.fileno())
        free = shutil.disk_usage(directory).free
    except OSError as error:
        return failed(
            f"Recordings cannot be written to {recordings} ({error.strerror}).",
            "Make room there, see to its permissions, or name another directory with --recordings.",
            OutsideFailure.exit_code,
        )
    room = f"{free // _MEBIBYTE:,} MiB are free"
    more_room = "Make room there (b24tunnel prune removes old recordings), or go elsewhere with --recordings."
    if free < _LEAST_ROOM:
        return failed(f"The disk of {recordings} is full: {room}.", more_room, OutsideFailure.exit_code)
    if free < _SCARCE_ROOM:
        return warning(f"The disk of {recordings} is almost full: {room}.", more_room)
    return ok(f"{recordings} can be written, {room}.")
