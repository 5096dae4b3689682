"""What a command line of `replay` asks for, and which of it cannot go together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from b24tunnel.errors import WrongUsage

if TYPE_CHECKING:
    from b24tunnel.changing import Change
    from b24tunnel.replaying import Comparison, Pace, Variation


RECORDED_PATH = "recorded"


@dataclass(frozen=True)
class Asked:
    """The options by their names on the command line; those that select are `selecting_options`'s."""

    selectors: tuple[str, ...]
    to: str | None
    recordings: Path
    since: Any
    until: Any
    where: tuple[str, ...]
    portal: str | None
    failed: bool
    not_forwarded: bool
    set_: tuple[str, ...]
    unset: tuple[str, ...]
    header: tuple[str, ...]
    unset_header: tuple[str, ...]
    ts: str | None
    path: str | None
    auth: Literal["auto", "fresh", "recorded", "sandbox"]
    speed: float | None
    max_gap: float | None
    rate: float | None
    like_bitrix24: bool
    concurrency: int | None
    timeout: float
    times: int
    shuffle: bool
    drop: str | None
    seed: int | None
    expect: tuple[str, ...]
    compare: bool
    against: str | None
    compare_header: tuple[str, ...]
    ignore: tuple[str, ...]
    on_error: Literal["continue", "stop"]
    resume: bool
    dry_run: bool
    junit: str | None
    as_json: bool

    @property
    def narrows(self) -> bool:
        """Whether an option says which recordings are meant, so that no selector is needed."""
        return bool(self.since or self.until or self.where or self.portal or self.failed or self.not_forwarded)

    @property
    def on_compare(self) -> bool:
        """Whether answers are held against others."""
        return self.compare or self.against is not None

    @property
    def other_answer(self) -> str:
        """What answers are held against, in words."""
        return "before" if self.compare else "the other handler's"

    @property
    def other_in_full(self) -> str:
        """The same where it is explained."""
        from b24tunnel.redact import shown_url

        return "was recorded" if self.against is None else f"{shown_url(self.against)} answered"

    @property
    def longest_gap(self) -> float:
        """Seconds that a recorded gap is kept at most."""
        from b24tunnel.replaying.pace import MAX_GAP

        return MAX_GAP if self.max_gap is None else self.max_gap

    @property
    def handler(self) -> str:
        """The handler's URL; raises `WrongUsage`."""
        from b24tunnel.forward import check_handler_url

        if self.to is None:
            raise WrongUsage("Say where to send them: --to http://127.0.0.1:8000/handler.")
        return check_handler_url(self.to)

    def check(self) -> None:
        """Raises `WrongUsage` for options that exclude each other, have nothing to do, or cannot be read."""
        from b24tunnel.replaying.expecting import expectations

        paces = [
            name
            for name, given in (
                ("--speed", self.speed is not None),
                ("--rate", self.rate is not None),
                ("--like-bitrix24", self.like_bitrix24),
            )
            if given
        ]
        # Now, and not when all that is to be sent has been looked through.
        for reads in (self.changes, self.pace, self.variation, self.comparison, lambda: expectations(self.expect)):
            reads()
        if not self.selectors and not self.narrows:
            raise WrongUsage(
                "Say which recordings: an id (12-345), last, last:N, a session (12), an event code or glob "
                "('ONCRM*'), a fixture, or an option such as --failed or --since 1h."
            )
        if len(paces) > 1:
            raise WrongUsage(f"{' and '.join(paces)} are each a pace of their own: give one of them.")
        if self.max_gap is not None and self.speed is None:
            raise WrongUsage("--max-gap bounds the recorded gaps, which only --speed keeps: give that too.")
        if self.shuffle and self.speed is not None:
            raise WrongUsage("--shuffle leaves no recorded gaps that --speed could keep: take --rate.")
        _ = self.handler
        if self.seed is not None and not (self.shuffle or self.drop):
            raise WrongUsage("--seed is for --shuffle and --drop: nothing else is left to chance.")
        if self.compare and self.against is not None:
            raise WrongUsage("--compare and --against both say what answers are held against: give one of them.")
        if (self.ignore or self.compare_header) and not self.on_compare:
            raise WrongUsage("--ignore and --compare-header say what to compare: give --compare or --against too.")

    def changes(self) -> list[Change]:
        """The changes in the order in which they are made; raises `WrongUsage`."""
        from b24tunnel.changing import SetHeader, SetPath, SetTs, SetValue, Unset, UnsetHeader

        return [
            *map(Unset, self.unset),
            *map(SetValue.parse, self.set_),
            *([SetTs.parse(self.ts)] if self.ts is not None else ()),
            *map(UnsetHeader, self.unset_header),
            *map(SetHeader.parse, self.header),
            *([SetPath(self.path)] if self.path not in (None, RECORDED_PATH) else ()),
        ]

    def pace(self) -> Pace | None:
        """The pace, None for as fast as the handler answers; raises `WrongUsage`."""
        from b24tunnel.replaying import LikeBitrix24, OriginalPace, Rate

        if self.speed is not None:
            return OriginalPace(self.speed, self.longest_gap)
        if self.rate is not None:
            return Rate(self.rate)
        return LikeBitrix24() if self.like_bitrix24 else None

    def variation(self) -> Variation:
        """How they are repeated, left out and shuffled; raises `WrongUsage`."""
        from b24tunnel.replaying import Variation
        from b24tunnel.replaying.variations import parse_share

        drop = 0.0 if self.drop is None else parse_share(self.drop)
        return Variation(times=self.times, shuffle=self.shuffle, drop=drop, seed=self.seed)

    def comparison(self) -> Comparison | None:
        """What of two answers is compared, None where none are; raises `WrongUsage`."""
        from b24tunnel.replaying import Comparison

        if not self.on_compare:
            return None
        if self.compare_header:
            return Comparison(self.compare_header, self.ignore)
        return Comparison(ignore=self.ignore)

    def with_those(self, typed: dict[str, Any]) -> Asked:
        """The same with some options otherwise."""
        return replace(self, **typed)
