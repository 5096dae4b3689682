"""Changes to single values of a recording."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from b24tunnel.changing.leaves import with_value, without
from b24tunnel.errors import WrongUsage
from b24tunnel.form import split_path
from b24tunnel.moments import parse_moment
from b24tunnel.recording import Recording
from b24tunnel.redact import Masker

# Seconds after 1970 up to the year 9999: what `Event.ts` reads.
_LATEST_TS = 253_402_300_799
_SECONDS = re.compile(r"[0-9]{1,15}", re.ASCII)
_SHOWN = 80


@dataclass(frozen=True)
class SetValue:
    """One leaf of the body or the query set to another value; ``path`` is as for `form.split_path`."""

    path: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """The change that ``data.FIELDS.ID=5`` asks for; only the first ``=`` divides. Raises `WrongUsage`."""
        path, equals, value = text.partition("=")
        if not equals or not path:
            raise WrongUsage(
                f"{_shown(text)} sets nothing: give a path and a value, as in data.FIELDS.ID=5, or "
                "data.FIELDS.ID= for an empty one."
            )
        return cls(path, value)

    def __call__(self, recording: Recording) -> Recording:
        """As `with_value`."""
        return with_value(recording, split_path(self.path), self.value)


@dataclass(frozen=True)
class Unset:
    """One leaf, or a whole array, out of the body and the query; ``path`` is as for `form.split_path`."""

    path: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """The change that ``data.FIELDS.ID`` asks for. Raises `WrongUsage` for no path at all."""
        if not text:
            raise WrongUsage("An empty path unsets nothing: give one, as in data.FIELDS.ID.")
        return cls(text)

    def __call__(self, recording: Recording) -> Recording:
        """As `without`."""
        return without(recording, split_path(self.path))


@dataclass(frozen=True)
class SetTs:
    """``ts`` set to a moment in whole seconds; None is the moment of each call."""

    moment: datetime | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """The change that ``now``, seconds after 1970 or a time as for `parse_moment` asks for."""
        written = text.strip()
        if written.lower() == "now":
            return cls(None)
        if _SECONDS.fullmatch(written):
            seconds = int(written)
            if seconds > _LATEST_TS:
                raise WrongUsage(f"{written} is beyond the year 9999: give ts in seconds after 1970.")
            return cls(datetime.fromtimestamp(seconds, UTC))
        try:
            return cls(parse_moment(written))
        except WrongUsage as error:
            raise WrongUsage(f"{str(error).removesuffix('.')}; or now, or seconds after 1970.") from None

    def __call__(self, recording: Recording) -> Recording:
        """As `with_value` for ``ts``; a recording without one is an error."""
        moment = datetime.now(UTC) if self.moment is None else self.moment
        return with_value(recording, ("ts",), str(int(moment.timestamp())))


def _shown(text: str) -> str:
    """What a user wrote, without what may be a secret, to be found again by its beginning."""
    return repr(Masker(()).text(text[:_SHOWN]))
