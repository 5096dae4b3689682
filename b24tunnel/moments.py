"""A moment as a user writes it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta

from b24tunnel.errors import WrongUsage

_AGE = re.compile(r"([0-9]{1,9})([smhdw])", re.ASCII)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_CLOCK = re.compile(r"([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?", re.ASCII)
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
# Beyond, other time zones' calendars end.
_LATEST_YEAR = 9998
# As `ts` has them; fewer digits are no date of these times, and more are no seconds.
_UNIX_SECONDS = re.compile(r"[0-9]{9,11}", re.ASCII)
_LONGEST = 100


def parse_moment(text: str, now: datetime | None = None) -> datetime:
    """The moment that ``text`` names, aware, in UTC.

    It is ISO 8601 (``2026-11-25T14:00``, ``2026-11-25 14:00:03+03:00``; a date is its beginning), a time of today
    (``14:00``, ``14:00:03``), an age (``30s``, ``10m``, ``2h``, ``3d``, ``1w`` before ``now``) or Unix seconds.
    Without a zone it is local time. An age that leads before 1970 ends there. Raises `WrongUsage`.
    """
    written = text.strip()
    if (age := _AGE.fullmatch(written)) is not None:
        latest = datetime.now(UTC) if now is None else now.astimezone(UTC)
        seconds = int(age[1]) * _UNITS[age[2]]
        return max(_EARLIEST, latest - timedelta(seconds=min(seconds, (latest - _EARLIEST).total_seconds())))
    if _UNIX_SECONDS.fullmatch(written) is not None:
        return datetime.fromtimestamp(int(written), UTC)
    try:
        if (clock := _CLOCK.fullmatch(written)) is not None:
            today = (datetime.now(UTC) if now is None else now).astimezone().date()
            hour, minute, second = (int(part or 0) for part in clock.groups())
            return datetime.combine(today, time(hour, minute, second)).astimezone(UTC)
        if len(written) <= _LONGEST:
            moment = datetime.fromisoformat(written)
            if _EARLIEST.year <= moment.year <= _LATEST_YEAR:
                return max(_EARLIEST, moment.astimezone(UTC))
    except (ValueError, OverflowError, OSError):
        pass
    raise WrongUsage(
        f"{text[:_LONGEST]!r} is no time: give ISO 8601 (2026-11-25T14:00, local time where no zone is given), a "
        "date, a time of today (14:00), an age (10m, 2h, 3d) or Unix seconds."
    )
