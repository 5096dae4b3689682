"""`TokenFilling`: which of a run's recordings get a portal's own tokens, and the recordings with these."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, get_args

from b24tunnel import changing
from b24tunnel.errors import OutsideFailure, UserError, WrongUsage
from b24tunnel.fresh_tokens.carried import Carried, Held, carried, may_carry_tokens
from b24tunnel.fresh_tokens.stored import StoredTokens, portal_domain
from b24tunnel.recording import Recording

if TYPE_CHECKING:
    from b24tunnel.portal import Portal, State

Auth = Literal["auto", "fresh", "recorded", "sandbox"]
"""Whose tokens a replayed recording carries; see `TokenFilling`."""

SANDBOX = "sandbox"
"""The name by which a running sandbox is known."""

# A token that ends this soon ends before the handler has used it.
_MARGIN_SECONDS = 60
_START_ONE = "start one with `b24tunnel sandbox` in another terminal"
_OR_RECORDED = "or send the recorded ones with --auth recorded"


class TokenFilling:
    """Fills a portal's own tokens into recordings before they are replayed; an asynchronous context manager.

    ``recorded``: nothing is changed, nothing is read. ``fresh``: the tokens of the stored portal that a recording
    is from. ``auto``: those for recordings whose tokens have expired, where the portal is known and answers;
    ``on_note`` is told so, or why not, once a portal. ``sandbox``: those of the sandbox that runs,
    whatever portal a recording is from.

    Filled in are access token, its expiry, ``application_token``, endpoints, ``domain`` and ``member_id``: in
    ``auth``, in the like arrays of bots, and in what a page of the application is opened with. So a fresh token
    never stands beside an address that somebody else wrote. A value that a recording lacks stays absent; one
    without an access token (of a robot, an agent, an outgoing webhook) gets none, and ``application_token`` and
    addresses in ``fresh`` and ``sandbox`` only. With the verdict ``mismatched`` it gets nothing at all.

    ``user_id`` stays, as it says who caused the event, although the token is the stored user's; a robot's
    ``event_token`` cannot be had again. The portal's refresh token goes where one was recorded in ``fresh`` and
    ``sandbox`` only, since a handler that spends it signs this tool out.

    Raises `WrongUsage` for another ``auth``. ``now`` gives the time, aware.
    """

    def __init__(
        self,
        auth: Auth,
        *,
        state: State | None = None,
        on_note: Callable[[str], None] = lambda sentence: None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        if auth not in get_args(Auth):
            raise WrongUsage(f"--auth {auth} is unknown; give {', '.join(get_args(Auth)[:-1])} or {SANDBOX}.")
        self._auth = auth
        self._state = state
        self._on_note = on_note
        self._now = now
        self._portals: list[Portal] = []
        self._tokens: dict[str, StoredTokens] = {}
        self._told: set[str] = set()

    async def __aenter__(self) -> Self:
        """Reads which portals are known. Raises `UserError`: in ``sandbox`` also where none answers."""
        if self._auth == "auto":
            try:
                await self._read()
            except UserError as error:
                self._on_note(f"The tokens of recordings are sent as recorded: {_open(error)}.")
        elif self._auth == "fresh":
            await self._read()
        elif self._auth == "sandbox":
            await self._read()
            await self._find_sandbox()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._portals, self._tokens = [], {}

    async def filled(self, recording: Recording) -> Recording:
        """``recording`` with the tokens that it is to carry; the same object where nothing is to be changed.

        Recordings may be asked for at the same time: they share one look at their portal. Raises `WrongUsage` or
        `OutsideFailure` in ``fresh`` and ``sandbox`` where it carries tokens and there are none for it.
        """
        if self._auth == "recorded" or recording.verdict == "mismatched":
            return recording
        if self._auth == "auto":
            return await self._filled_if_expired(recording)
        found = carried(recording)
        if not found.places:
            return recording
        name = SANDBOX if self._auth == "sandbox" else self._portal_of(recording, found)
        if name is None:
            return recording
        tokens = self._tokens_of(name)
        try:
            values = await (tokens.without_tokens() if found.ends is None else tokens.fresh())
        except UserError as error:
            raise _failed(f"{recording.id} gets no fresh tokens", error) from error
        return _with_values(recording, found, values)

    async def _filled_if_expired(self, recording: Recording) -> Recording:
        if not self._portals or not may_carry_tokens(recording):
            return recording
        try:
            found = carried(recording)
        except WrongUsage:  # nothing of Bitrix24's is that large
            return recording
        if found.ends is None or found.ends > self._now().timestamp() + _MARGIN_SECONDS:
            return recording
        known = self._known(recording, found)
        if len(known) != 1:
            return recording
        tokens = self._tokens_of(known[0])
        if tokens.failure is not None:
            return recording
        try:
            values = await tokens.fresh()
        except UserError as error:
            self._tell_once(
                f"The tokens of portal {tokens.name}'s recordings have expired, and they are sent as recorded: "
                f"{_open(error)}.",
            )
            return recording
        self._tell_once(
            f"The tokens of portal {tokens.name}'s recordings have expired: fresh ones from the stored portal are "
            "filled in; --auth recorded sends the recorded ones.",
        )
        return _with_values(recording, found, {held: values[held] for held in values if held != "refresh_token"})

    def _portal_of(self, recording: Recording, found: Carried) -> str | None:
        """The name of its stored portal; None where that does not matter, as it carries no token.

        Raises `WrongUsage` where it does.
        """
        known = self._known(recording, found)
        if len(known) == 1:
            return known[0]
        if found.ends is None:
            return None
        if known:
            raise WrongUsage(
                f"{recording.id} may be from any of the portals {', '.join(known)}; remove the others with "
                f"`b24tunnel portal remove NAME`, {_OR_RECORDED}."
            )
        name = recording.portal or "NAME"
        raise WrongUsage(
            f"{recording.id} carries tokens of a portal that is not stored; store it with `b24tunnel portal add "
            f"{name}` and `b24tunnel portal login {name}`, {_OR_RECORDED}."
        )

    def _known(self, recording: Recording, found: Carried) -> list[str]:
        """The stored portals that it may be from: by its name, else by ``member_id``, else by ``domain``."""
        members = found.values("member_id")
        # A name may have been given to another account since; each sandbox is one of its own.
        possible = [
            portal
            for portal in self._portals
            if portal.member_id in members
            or not (members and portal.member_id)
            or (portal.name == recording.portal and portal.on_this_machine)
        ]
        for alike in (
            [portal.name for portal in possible if portal.name == recording.portal],
            [portal.name for portal in possible if portal.member_id in members],
            [portal.name for portal in possible if portal_domain(portal) in found.values("domain")],
        ):
            if alike:
                return alike
        return []

    def _tokens_of(self, name: str) -> StoredTokens:
        tokens = self._tokens.get(name)
        if tokens is None:
            assert self._state is not None
            tokens = self._tokens[name] = StoredTokens(name, self._state, self._now)
        return tokens

    def _tell_once(self, sentence: str) -> None:
        if sentence not in self._told:
            self._told.add(sentence)
            self._on_note(sentence)

    async def _read(self) -> None:
        if self._state is None:
            from b24tunnel.portal import State

            self._state = await asyncio.to_thread(State.open)
        self._portals = await asyncio.to_thread(self._state.portals)

    async def _find_sandbox(self) -> None:
        known = [portal for portal in self._portals if portal.name == SANDBOX]
        if not known:
            raise WrongUsage(f"No sandbox runs; {_START_ONE}.")
        if not known[0].on_this_machine:
            raise WrongUsage(
                f"The portal {SANDBOX} is a real one, and --auth sandbox is for the simulated one; remove it with "
                f"`b24tunnel portal remove {SANDBOX}`, and {_START_ONE}."
            )
        from b24tunnel.portal import PortalUnreachable

        try:
            await self._tokens_of(SANDBOX).fresh()
        except PortalUnreachable as error:
            raise OutsideFailure(f"The sandbox at {known[0].domain} does not answer; {_START_ONE}.") from error
        except UserError as error:
            raise OutsideFailure(f"The sandbox cannot be used: {_open(error)}, or {_START_ONE}.") from error


def _with_values(recording: Recording, found: Carried, values: Mapping[Held, str]) -> Recording:
    for path, (held, there) in found.places.items():
        value = values.get(held)
        # An empty value is none: Bitrix24 sends null so.
        if value is not None and there and value != there:
            recording = changing.with_value(recording, path, value)
    return recording


def _failed(what: str, error: UserError) -> UserError:
    kind = WrongUsage if error.exit_code == WrongUsage.exit_code else OutsideFailure
    return kind(f"{what}: {_open(error)}, {_OR_RECORDED}.")


def _open(error: UserError) -> str:
    """Its sentence without the full stop, so that more can follow."""
    return str(error).rstrip(".")
