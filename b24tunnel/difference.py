"""One place in which two answers, or two recordings, differ."""

from __future__ import annotations

from typing import NamedTuple


class Difference(NamedTuple):
    """``where`` says the place (``status``, ``header Content-Type``, ``body $.result.id``, ``data.FIELDS.ID``).

    ``before`` and ``after`` are what stands there as text; None where nothing does.
    """

    where: str
    before: str | None
    after: str | None
