"""A portal's secrets that lie elsewhere: in the environment or a file. The state holds only where.

A reference is ``env:NAME`` or ``file:/absolute/path``; what it leads to is read each time that it is used.
"""

from __future__ import annotations

import dataclasses
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from b24tunnel.errors import WrongUsage

if TYPE_CHECKING:
    from b24tunnel.portal.state import Portal

REFERABLE = ("client_secret", "application_token")
"""The secrets that can lie elsewhere; the others are Bitrix24's to change."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_LONGEST = 1024
_LARGEST_FILE = 16 * 1024


class SecretMissing(WrongUsage):
    """A secret is not where the portal's entry says that it is."""


def resolve(portal: Portal) -> Portal:
    """The portal with every secret that lies elsewhere; raises `SecretMissing` where one is not there."""
    found: dict[str, Any] = {
        field: read_reference(reference, f"the {field} of the portal {portal.name}")
        for field in REFERABLE
        if (reference := getattr(portal, f"{field}_from"))
    }
    return dataclasses.replace(portal, **found) if found else portal


def without_referred(portal: Portal) -> Portal:
    """The portal as it is stored: without the secrets that lie elsewhere."""
    gone: dict[str, Any] = dict.fromkeys((field for field in REFERABLE if getattr(portal, f"{field}_from")), "")
    return dataclasses.replace(portal, **gone) if gone else portal


def read_reference(reference: str, called: str) -> str:
    """The secret that ``reference`` leads to; raises `SecretMissing`, with ``called`` for what it is."""
    kind, _, place = reference.partition(":")
    if kind == "env":
        value = os.environ.get(place, "")
        if not value.strip():
            raise SecretMissing(f"{called} comes from the environment variable {place}, which is not set; set it")
        return checked(value, f"{called} (the environment variable {place})")
    if kind == "file":
        return _read_file(Path(place), called)
    raise SecretMissing(f"{called} comes from somewhere that this b24tunnel does not know; upgrade b24tunnel")


def refer_to_variable(name: str, option: str) -> str:
    """The reference to an environment variable, which has to be set; raises `WrongUsage`.

    The name is not repeated: who mistakes the option for the secret itself must not see it in a log.
    """
    if not _VARIABLE.fullmatch(name) or not os.environ.get(name, "").strip():
        raise WrongUsage(
            f"{option} is to name an environment variable that is set, and there is none of the name given; "
            "set it first, and give its name, not the secret"
        )
    checked(os.environ[name], f"the environment variable {name}")
    return f"env:{name}"


def refer_to_file(path: Path) -> str:
    """The reference to a file, which has to hold a secret now; raises `WrongUsage`."""
    path = path.expanduser().absolute()
    _read_file(path, "the secret")
    return f"file:{path}"


def read_stream(stream: TextIO, called: str) -> str:
    """A secret from a pipe, to its end; raises `WrongUsage`."""
    return checked(stream.read(_LARGEST_FILE), called)


def checked(secret: str, called: str) -> str:
    """A secret without the white space around it; raises `WrongUsage` for what cannot be one, not repeating it."""
    secret = secret.strip()
    if not secret:
        raise WrongUsage(f"{called} is empty; copy it from the portal again")
    if len(secret) > _LONGEST or not secret.isprintable() or any(map(str.isspace, secret)):
        raise WrongUsage(
            f"{called} is no secret of Bitrix24's: it has more than one line or word, or more than {_LONGEST} "
            "characters; copy it from the portal again"
        )
    return secret


def origin(portal: Portal, field: str) -> str:
    """Where a secret of ``portal`` is: ``stored``, ``environment NAME``, ``file PATH``, ``""`` for nowhere."""
    reference: str = getattr(portal, f"{field}_from", "")
    if reference:
        kind, _, place = reference.partition(":")
        return f"{'environment' if kind == 'env' else kind} {place}"
    return "stored" if getattr(portal, field) else ""


def too_open(portal: Portal) -> list[str]:
    """A sentence for each file of this portal's secrets that others on this machine can read."""
    sentences = []
    for field in REFERABLE:
        kind, _, place = str(getattr(portal, f"{field}_from")).partition(":")
        if kind == "file" and os.name == "posix":
            path = Path(place)
            if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
                sentences.append(f"others on this machine can read {path}, which holds a secret: chmod 600 {path}")
    return list(dict.fromkeys(sentences))


def _read_file(path: Path, called: str) -> str:
    try:
        if path.exists() and not path.is_file():
            # A pipe would hold secrets once, and keep whoever reads it a second time waiting.
            raise SecretMissing(f"{called} comes from {path}, which is no file; name a file, or pipe it in with -")
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise SecretMissing(
            f"{called} comes from the file {path}, which cannot be read ({error.strerror}); put it there again"
        ) from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        # No "from": the error carries the file's content.
        raise SecretMissing(f"the file {path} holds no text; put {called} there again") from None
    return checked(text, f"{called} (the file {path})")
