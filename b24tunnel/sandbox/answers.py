"""What the portal answers: the envelope around a result, and refusals with their code and status.

Codes and statuses: the "System errors" include and the method pages of the Bitrix24 REST documentation.
"""

import time
from collections.abc import Mapping
from datetime import datetime

ERROR_ARGUMENT = "ERROR_ARGUMENT"
ERROR_CORE = "ERROR_CORE"


class Refusal(Exception):
    """A call that Bitrix24 refuses. ``status`` is the HTTP status, ``extra`` further keys of the answer."""

    def __init__(self, code: str, description: str, status: int = 400, **extra: str) -> None:
        super().__init__(f"{code}: {description}")
        self.code = code
        self.description = description
        self.status = status
        self.extra = extra

    def as_json(self) -> dict[str, str]:
        """The body of the answer: ``error``, ``error_description`` and what else belongs to it."""
        return {"error": self.code, "error_description": self.description, **self.extra}


def missing(argument: str) -> Refusal:
    """The refusal of a call that lacks a required parameter."""
    description = f"Argument '{argument}' is null or empty"
    return Refusal(ERROR_ARGUMENT, description, argument=argument)


def access_denied(description: str) -> Refusal:
    """The refusal of a call that this user or kind of authorization may not make."""
    return Refusal("ACCESS_DENIED", f"Access denied! {description}".rstrip(), 403)


def no_license(feature: str) -> Refusal:
    """The refusal of what the portal's plan does not have."""
    return Refusal("WRONG_LICENSE", f"This feature is not enabled for the current license: {feature}", 403)


def timing(started: float, later: float = 0.0, operating: tuple[float, float] | None = None) -> dict[str, object]:
    """The ``time`` block of an answer to a call that began at ``started`` (unix seconds).

    ``later``: seconds until the answer goes out. ``operating``: the method's working time in the present ten
    minutes, in seconds, and when these are over, in unix seconds.
    """
    finished = time.time() + later
    spent, reset_at = operating or (0, started + 600)
    duration = finished - started
    return {
        "start": started,
        "finish": finished,
        "duration": duration,
        "processing": duration,
        "date_start": _iso(started),
        "date_finish": _iso(finished),
        "operating_reset_at": int(reset_at),
        "operating": spent,
    }


def envelope(result: object, extra: Mapping[str, int], timed: Mapping[str, object]) -> dict[str, object]:
    """The answer to a call that succeeded; ``extra`` holds ``next`` and ``total`` of a list."""
    return {"result": result, **extra, "time": timed}


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")
