"""What outlives a run: portals with their tokens, and the ledger of the bindings that this tool made.

One TinyDB file, ``state.json`` (mode 0600), in the user's configuration directory or where
``B24TUNNEL_HOME`` points. Reading needs no lock, because the file is only ever replaced as a whole; every
change happens in a ``transaction``, which excludes all others on this machine.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import os
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import platformdirs
from tinydb import TinyDB, where
from tinydb.table import Table

from b24tunnel.errors import OutsideFailure, WrongUsage
from b24tunnel.portal import credentials, process
from b24tunnel.portal.lock import FileLock
from b24tunnel.portal.storage import AtomicStorage, StateDamaged
from b24tunnel.this_machine import leads_to_this_machine

_NAME = re.compile(r"\w[\w.-]{0,63}")
_SECRETS = ("client_secret", "access_token", "refresh_token", "application_token")

# What a renewal of the tokens may change; the rest may have been changed by others meanwhile.
_RENEWED = ("access_token", "refresh_token", "server_endpoint", "user_id", "scope")

_Document = TypeVar("_Document", "Portal", "LedgerRow")


@dataclass(frozen=True, repr=False)
class Portal:
    """One Bitrix24 account with an application's credentials on it.

    Endpoints are URLs as Bitrix24 sends them (``https://example.bitrix24.com/rest/`` and
    ``https://oauth.bitrix.info/rest/``); ``scope`` is the comma-separated list; unknown values are ``""``.
    The field names are those of the page "Complete OAuth 2.0 Authorization Protocol" in the documentation.
    ``kind`` is the way in: a local application with the full OAuth protocol, one that tells its installation by
    event, an outgoing webhook. A ``…_from`` says where that secret lies instead of in the state: `credentials`.
    """

    name: str
    client_endpoint: str
    server_endpoint: str = ""
    domain: str = ""
    member_id: str = ""
    client_id: str = ""
    client_secret: str = ""
    access_token: str = ""
    refresh_token: str = ""
    application_token: str = ""
    user_id: str = ""
    scope: str = ""
    kind: Literal["", "oauth", "install", "webhook"] = ""
    client_secret_from: str = ""
    application_token_from: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise WrongUsage(
                f"{self.name!r} cannot be a portal's name; use letters, digits, dots, dashes and "
                "underscores, at most 64"
            )

    @classmethod
    def from_mapping(cls, name: str, values: Mapping[str, Any]) -> Self:
        """A portal from credentials as Bitrix24 or the sandbox hand them out; other keys are ignored.

        Numbers become strings, None counts as absent. Raises ``WrongUsage`` without ``client_endpoint``.
        """
        # Where a secret lies is for this machine's user to say, not for whoever hands out credentials.
        own = {"name", "kind", "client_secret_from", "application_token_from"}
        known = {field.name for field in dataclasses.fields(cls)} - own
        taken: dict[str, Any] = {
            key: str(value) for key, value in values.items() if key in known and value is not None
        }
        if not taken.get("client_endpoint"):
            raise WrongUsage(f"the portal {name} needs a client_endpoint, such as https://HOST/rest/")
        return cls(name=name, **taken)

    def secrets(self) -> tuple[str, ...]:
        """Every secret value of this portal that is set, for those who must keep them out of a text."""
        return tuple(value for key in _SECRETS if (value := getattr(self, key)))

    @property
    def on_this_machine(self) -> bool:
        """Whether its host is this machine itself, as a sandbox's is."""
        return leads_to_this_machine(self.client_endpoint)

    def __repr__(self) -> str:
        # The endpoint is left out too: people paste webhook addresses there, which end in a secret.
        held = ", ".join(key for key in _SECRETS if getattr(self, key)) or "none"
        return f"<Portal {self.name} on {self.domain or 'unknown domain'}, secrets held: {held}>"


@dataclass(frozen=True)
class LedgerRow:
    """One binding that this tool made or was about to make.

    ``owner`` names the run that made it, ``pid`` and ``started`` its process (see ``process.start_mark``),
    ``created_at`` is ISO 8601 in UTC. ``state`` is ``binding`` from before the call to ``event.bind`` until
    its answer is known, then ``bound``, or ``kept`` where it is to stay when the run is over.
    """

    portal: str
    event: str
    handler: str
    owner: str
    pid: int
    started: str
    created_at: str
    state: Literal["binding", "bound", "kept"] = "binding"

    @property
    def key(self) -> tuple[str, str, str]:
        """What the portal tells bindings apart by: portal, event, handler."""
        return self.portal, self.event, self.handler

    @property
    def left_behind(self) -> bool:
        """Whether the process that made it runs no more, so that nobody else will remove it."""
        return self.state != "kept" and not self.in_use

    @property
    def in_use(self) -> bool:
        """Whether the process that made it still runs."""
        return process.is_running(self.pid, self.started)


class UnknownPortal(WrongUsage):
    """No portal of this name is stored."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1)
        if near:
            hint = f"did you mean {near[0]}? Known portals: {', '.join(names)}"
        elif names:
            hint = f"known portals: {', '.join(names)}"
        else:
            hint = (
                "none is known yet; `b24tunnel sandbox` in another terminal starts a simulated one, "
                "and `b24tunnel portal add` stores a real one"
            )
        super().__init__(f"there is no portal {name!r}; {hint}")
        self.name = name


class AlreadyStored(WrongUsage):
    """Another portal has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is a portal {name} already; choose another name, or give --replace to forget what is stored "
            "of that one"
        )


class StillBound(WrongUsage):
    """A portal cannot be forgotten, because this tool has bindings on it."""

    def __init__(self, name: str, rows: Iterable[LedgerRow], otherwise: str = "") -> None:
        rows = list(rows)
        count = "1 binding" if len(rows) == 1 else f"{len(rows)} bindings"
        if any(row.in_use for row in rows):
            what = "end the `b24tunnel listen` that runs with it (Ctrl-C), which unbinds them"
        elif any(row.state == "kept" for row in rows):
            what = "unbind them with `b24tunnel bindings clean --kept`"
        else:
            what = "unbind them with `b24tunnel bindings clean`"
        super().__init__(
            f"the portal {name} still has {count} of this tool; {what}, or leave them there with --force"
        )


class Transaction:
    """The state while this process alone may change it; made by ``State.transaction``.

    ``db`` is the TinyDB database itself, for other small documents.
    """

    def __init__(self, storage: AtomicStorage) -> None:
        self._path = storage.path
        self.db = TinyDB(storage=lambda: storage)

    def portals(self) -> list[Portal]:
        """The stored portals, sorted by name."""
        return _portals(self._path, self.db.table("portals"))

    def portal(self, name: str) -> Portal:
        """The portal ``name`` as it is stored; raises ``WrongUsage``, as ``State.portal`` does."""
        return _pick(self.portals(), name)

    def save_portal(self, portal: Portal) -> None:
        """Store ``portal``, in place of the one with its name; its secrets that lie elsewhere stay there."""
        document = dataclasses.asdict(credentials.without_referred(portal))
        self.db.table("portals").upsert(document, where("name") == portal.name)

    def check_unbound(self, name: str, otherwise: str = "") -> None:
        """Raise ``StillBound``, ``otherwise`` ending its sentence, while the ledger has rows of this portal."""
        if rows := self.ledger(name):
            raise StillBound(name, rows, otherwise)

    def remove_portal(self, name: str, only_if: Callable[[Portal], bool] | None = None) -> bool:
        """See ``State.remove_portal``."""
        portal = next((portal for portal in self.portals() if portal.name == name), None)
        if portal is None or (only_if is not None and not only_if(portal)):
            return False
        self.db.table("portals").remove(where("name") == name)
        return True

    def ledger(self, portal: str | None = None, owner: str | None = None) -> list[LedgerRow]:
        """See ``State.ledger``."""
        return _ledger(self._path, self.db.table("ledger"), portal, owner)

    def put_row(self, row: LedgerRow) -> None:
        """Store a ledger row, in place of the one with the same portal, event and handler."""
        self.db.table("ledger").upsert(dataclasses.asdict(row), _row_is(row))

    def drop_row(self, row: LedgerRow) -> bool:
        """Remove the ledger row with this portal, event and handler; whether there was one."""
        return bool(self.db.table("ledger").remove(_row_is(row)))


class State:
    """Portals and ledger on disk; see ``State.open``.

    All methods are synchronous and may wait for the lock; from a coroutine call the changing ones with
    ``asyncio.to_thread``. Each raises ``StateDamaged`` or ``StateUnusable`` (exit code 3) when the file is
    not what it should be, and ``LockTimeout`` when another process does not let go of it.
    """

    def __init__(self, home: Path, lock_timeout: float = 15.0) -> None:
        self.home = home
        self.path = home / "state.json"
        self._lock_timeout = lock_timeout

    @classmethod
    def open(cls, home: Path | None = None) -> Self:
        """The state in ``home``, else in ``B24TUNNEL_HOME``, else in the user's configuration directory.

        A missing directory is made, with mode 0700; the mode of one that exists is its owner's affair.
        """
        if home is None:
            configured = os.environ.get("B24TUNNEL_HOME")
            home = Path(configured) if configured else Path(platformdirs.user_config_dir("b24tunnel"))
        home = home.expanduser().absolute()
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise OutsideFailure(
                f"the directory {home} for b24tunnel's state cannot be made ({error.strerror}); "
                "set B24TUNNEL_HOME to a directory that you may write to"
            ) from error
        return cls(home)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Read, change and write the state with all other processes and threads kept out.

        What was changed is on the disk when the block ends; if the block raises, nothing is written.
        Transactions do not nest: a second one inside waits for the first and ends in ``LockTimeout``.
        """
        lock = FileLock(self.home / "state.lock")
        lock.acquire(self._lock_timeout)
        try:
            storage = AtomicStorage(self.path)
            yield Transaction(storage)
            storage.commit()
        finally:
            lock.release()

    @asynccontextmanager
    async def exclusive(self, purpose: str, portal: str, timeout: float = 90.0) -> AsyncIterator[None]:
        """Let one task on this machine at a time do ``purpose`` with ``portal``; does not block the loop.

        For what takes a network call, during which the state itself must stay free for others.
        Raises ``LockTimeout`` after ``timeout`` seconds.
        """
        # Names are compared as they are, and some file systems fold case or limit characters.
        digest = hashlib.sha256(portal.encode()).hexdigest()[:16]
        lock = FileLock(self.home / f"{purpose}-{digest}.lock")
        await lock.acquire_async(timeout)
        try:
            yield
        finally:
            lock.release()

    def ensure_writable(self) -> None:
        """Write the state as it is; raises ``StateUnusable`` where a later write would have failed."""
        lock = FileLock(self.home / "state.lock")
        lock.acquire(self._lock_timeout)
        try:
            AtomicStorage(self.path).commit(always=True)
        finally:
            lock.release()

    def portals(self) -> list[Portal]:
        """The portals as they are stored, sorted by name: without the secrets that lie elsewhere."""
        return self._reading().portals()

    def portal(self, name: str) -> Portal:
        """The portal ``name``, for use: with the secrets that lie in the environment or in files.

        Raises ``WrongUsage`` that suggests a near name and lists the known ones, or that says which secret is
        not where it should be.
        """
        return credentials.resolve(self.stored(name))

    def stored(self, name: str) -> Portal:
        """The portal ``name`` as it is stored, for a look; raises ``WrongUsage`` as ``portal`` does."""
        return self._reading().portal(name)

    def add_portal(self, portal: Portal, *, replace: bool = False) -> None:
        """Store a new portal; raises ``WrongUsage`` where one has its name, unless that is to be replaced.

        One with bindings is not replaced (``StillBound``): they could be removed no more.
        """
        with self.transaction() as transaction:
            if replace:
                transaction.check_unbound(portal.name)
            elif any(known.name == portal.name for known in transaction.portals()):
                raise AlreadyStored(portal.name)
            transaction.save_portal(portal)

    def forget_portal(self, name: str, *, force: bool = False) -> None:
        """Remove the portal ``name``; raises ``UnknownPortal``, and ``StillBound`` unless ``force``."""
        with self.transaction() as transaction:
            transaction.portal(name)
            if not force:
                transaction.check_unbound(name, ", or leave them there with --force")
            transaction.remove_portal(name)

    def change_portal(self, name: str, change: Callable[[Portal], Portal]) -> Portal:
        """Store what ``change`` makes of the portal ``name`` as it is stored now; answers that one, for use.

        Raises ``WrongUsage`` if it is stored no longer, and what ``change`` raises; then nothing is changed.
        """
        with self.transaction() as transaction:
            changed = change(transaction.portal(name))
            transaction.save_portal(changed)
        return credentials.resolve(changed)

    def save_portal(self, portal: Portal) -> None:
        """Store ``portal``, in place of the one with its name."""
        with self.transaction() as transaction:
            transaction.save_portal(portal)

    def remove_portal(self, name: str, only_if: Callable[[Portal], bool] | None = None) -> bool:
        """Remove the portal ``name`` if it is there and ``only_if`` (given the stored one) agrees.

        Says whether it was removed. With ``only_if`` a run that stored a portal removes its own entry and
        not one that somebody saved under the same name since. The ledger is kept: what is bound stays bound.
        """
        with self.transaction() as transaction:
            return transaction.remove_portal(name, only_if)

    def save_rotated(self, portal: Portal, *, spent: str) -> Portal:
        """Store the new tokens of ``portal`` if the stored refresh token is still the ``spent`` one.

        Answers the portal as it is stored afterwards: another one where somebody logged in meanwhile.
        Raises ``WrongUsage`` if the portal is stored no longer.
        """
        with self.transaction() as transaction:
            stored = transaction.portal(portal.name)
            if stored.refresh_token != spent:
                return stored
            renewed = dataclasses.replace(stored, **{field: getattr(portal, field) for field in _RENEWED})
            transaction.save_portal(renewed)
            return renewed

    def ledger(self, portal: str | None = None, owner: str | None = None) -> list[LedgerRow]:
        """The ledger's rows, oldest first: all of them, or those of one portal and/or one owner."""
        return self._reading().ledger(portal, owner)

    def put_row(self, row: LedgerRow) -> LedgerRow | None:
        """Store a ledger row; answers the one with its portal, event and handler that it replaces."""
        with self.transaction() as transaction:
            before = next((old for old in transaction.ledger() if old.key == row.key), None)
            transaction.put_row(row)
            return before

    def drop_row(self, row: LedgerRow) -> bool:
        """Remove the ledger row with this portal, event and handler; whether there was one."""
        with self.transaction() as transaction:
            return transaction.drop_row(row)

    def _reading(self) -> Transaction:
        return Transaction(AtomicStorage(self.path))


def _pick(portals: list[Portal], name: str) -> Portal:
    for portal in portals:
        if portal.name == name:
            return portal
    raise UnknownPortal(name, (portal.name for portal in portals))


def _portals(path: Path, table: Table) -> list[Portal]:
    return sorted((_build(path, Portal, document) for document in table.all()), key=lambda found: found.name)


def _ledger(path: Path, table: Table, portal: str | None, owner: str | None) -> list[LedgerRow]:
    rows = [_build(path, LedgerRow, document) for document in table.all()]
    return [
        row for row in rows if (portal is None or row.portal == portal) and (owner is None or row.owner == owner)
    ]


def _build(path: Path, kind: type[_Document], document: Mapping[str, Any]) -> _Document:
    """A document as a dataclass; unknown keys are left to the versions that know them."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        if field.name in document:
            value = document[field.name]
            if not isinstance(value, int if field.name == "pid" else str):
                raise StateDamaged(path, f"{field.name} of a {kind.__name__} has the wrong type")
            values[field.name] = value
    try:
        return kind(**values)
    except (TypeError, WrongUsage) as error:
        raise StateDamaged(path, f"a {kind.__name__} lacks what it needs") from error


def _row_is(row: LedgerRow) -> Any:
    return (where("portal") == row.portal) & (where("event") == row.event) & (where("handler") == row.handler)
