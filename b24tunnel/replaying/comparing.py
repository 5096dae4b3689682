"""An answer held against an earlier one, or against another handler's."""

from __future__ import annotations

from collections.abc import Sequence

from b24tunnel.body_differences import add_body_differences
from b24tunnel.difference import Difference, Found
from b24tunnel.errors import WrongUsage
from b24tunnel.ignoring import Ignored
from b24tunnel.recording import Attempt
from b24tunnel.replaying.answered import answered, header_values


class Comparison:
    """What of two answers is compared: status, chosen headers, body."""

    def __init__(self, headers: Sequence[str] = ("Content-Type",), ignore: Sequence[str] = ()) -> None:
        """``headers``: names, without regard to case. ``ignore``: JSONPaths. Raises `WrongUsage`."""
        self.headers = tuple({name.strip().lower(): name.strip() for name in headers}.values())
        if "" in self.headers:
            raise WrongUsage("An empty name of a header to compare: give one, such as Content-Type.")
        self.ignored = Ignored(ignore)

    def differences(self, before: Attempt | None, after: Attempt) -> tuple[Difference, ...]:
        """Each place in which the answers differ: the status first, then headers, then the body.

        Where there was no answer, its error stands in place of the status, and nothing else is compared. JSON is
        compared by what it says; any other body line by line, or as bytes. At most `difference.MOST` are listed.
        """
        if before is None:
            return (Difference("answer", "(nothing was recorded to compare with)", _outcome(after)),)
        found = Found()
        if _outcome(before) != _outcome(after):
            found.add("status", _outcome(before), _outcome(after))
        if before.status is None or after.status is None:
            return found.differences()
        for name in self.headers:
            old, new = header_values(before, name), header_values(after, name)
            if old != new:
                found.add(f"header {name}", _joined(old), _joined(new))
        add_body_differences(found, answered(before).body, answered(after).body, self.ignored)
        return found.differences()

    def not_compared(self, before: Attempt | None, after: Attempt) -> str | None:
        """What of the bodies could not be compared, as a sentence without a full stop; None: all was."""
        if before is None or before.status is None or after.status is None:
            return None
        looked_at = answered(before), answered(after)
        for why_not in (one.why_not for one in looked_at):
            if why_not is not None:
                return f"a body was compared as bytes only: {why_not}"
        kept = [len(one.body.data) for one in looked_at if one.body.cut]
        return f"of the bodies only the first {min(kept):,} bytes were kept and compared" if kept else None


def _outcome(attempt: Attempt) -> str:
    return f"no answer: {attempt.error}" if attempt.status is None else str(attempt.status)


def _joined(values: list[str]) -> str | None:
    return ", ".join(values) if values else None
