"""The unguessable part of the handler's address, the same from session to session."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from pathlib import Path

from b24tunnel.errors import OutsideFailure
from b24tunnel.journal.files import journal_directory, prepare_directory

_SEGMENT = re.compile(r"[A-Za-z0-9_-]{16,64}")


def handler_segment(recordings: Path) -> str:
    """The segment that is kept beside the journal below ``recordings``, made at the first call.

    So an address that was pasted into a portal by hand stays right across restarts. Raises `OutsideFailure`.
    """
    file = journal_directory(recordings) / "handler-path"
    try:
        prepare_directory(file.parent)
        if not file.exists():
            _make(file)
        elif file.stat().st_size == 0:  # a crash of the machine left it so
            file.unlink()
            _make(file)
        segment = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise OutsideFailure(
            f"Cannot keep the handler's path in {file} ({error}): check its permissions."
        ) from error
    if not _SEGMENT.fullmatch(segment):
        raise OutsideFailure(f"{file} does not hold a handler's path: remove it, and a new one is made.")
    return segment


def _make(file: Path) -> None:
    """Put a fresh segment there whole, unless another start has done so meanwhile: then that one's holds."""
    draft = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as out:
            out.write(secrets.token_urlsafe(18) + "\n")
        with contextlib.suppress(FileExistsError):
            os.link(draft, file)
    finally:
        draft.unlink()
