"""Files of a journal as an ended process leaves them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from b24tunnel.journal import files
from b24tunnel.recording import Record, SessionStart, to_line

BEGAN = datetime(2026, 1, 5, 9, 30, tzinfo=UTC)


def write_lines(directory: Path, session: int, records: Iterable[Record | bytes], segment: int = 1) -> Path:
    """A file of a session below a directory of recordings; its path. Bytes are lines as they are."""
    files.prepare_directory(directory / "journal")
    path = files.segment_path(directory / "journal", session, segment)
    path.write_bytes(b"".join(record if isinstance(record, bytes) else to_line(record) for record in records))
    return path


def write(
    directory: Path, session: int, *records: Record | bytes, segment: int = 1, forward: str | None = None
) -> Path:
    """`write_lines` with the session's first line before them; ``forward`` is where it forwards to."""
    return write_lines(directory, session, (SessionStart(session, BEGAN, forward), *records), segment)
