"""What a handler's answer is expected to be."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from b24tunnel.errors import WrongUsage
from b24tunnel.recording import Attempt
from b24tunnel.replaying.answered import answered, header_values

FORMS = (
    "a status (204, 2xx, 200-299 or 200,204,3xx), body~REGEX, body!~REGEX, body=TEXT, "
    "'header NAME~REGEX' or 'header NAME=TEXT'"
)
"""The forms of an expectation, for messages and help."""

DEFAULT = "2xx"
"""What is expected of the status where nobody says otherwise."""
_STATUS = re.compile(r"([1-5]\d\d)(?:\s*-\s*([1-5]\d\d))?|([1-5])xx", re.IGNORECASE | re.ASCII)
_OF_TEXT = re.compile(r"(?:body|header\s+([\w-]{1,200}))(!~|~|=)(.*)", re.ASCII | re.DOTALL | re.IGNORECASE)
_SHOWN = 80


@dataclass(frozen=True)
class Expectation:
    """One thing that is wanted of an answer. Two with the same text are equal."""

    text: str
    is_status: bool = field(compare=False)
    _of_answer: Callable[[Attempt], str | None] = field(compare=False, repr=False)

    @classmethod
    def parse(cls, text: str) -> Expectation:
        """The expectation that `FORMS` describe; raises `WrongUsage` for any other text."""
        if of_text := _OF_TEXT.fullmatch(text):
            name, test, wanted = of_text.groups()
            pattern = None if test == "=" else _pattern(text, wanted)
            if name is None:
                return cls(text, False, lambda attempt: _body_problem(attempt, test, wanted, pattern))
            return cls(text, False, lambda attempt: _header_problem(attempt, name, test, wanted, pattern))
        ranges = [_range(text, part.strip()) for part in text.split(",")]
        shown = re.sub(r"\s+", "", text).lower()

        def status_problem(attempt: Attempt) -> str | None:
            if any(attempt.status in one for one in ranges):
                return None
            return f"answered {attempt.status}, expected {shown}"

        return cls(text, True, status_problem)

    def problem(self, attempt: Attempt) -> str | None:
        """What is wrong with the answer, as a sentence without a full stop; None: nothing is.

        It repeats nothing of the answer but its status, so it has no secrets in it.
        """
        if attempt.status is None:
            return f"no answer: {attempt.error}"
        return self._of_answer(attempt)


def expectations(texts: Iterable[str]) -> tuple[Expectation, ...]:
    """What the texts say; where none is about the status, 2xx is expected too. Raises `WrongUsage`."""
    expected = tuple(map(Expectation.parse, texts))
    if any(one.is_status for one in expected):
        return expected
    return (Expectation.parse(DEFAULT), *expected)


def problems(expected: Iterable[Expectation], attempt: Attempt) -> tuple[str, ...]:
    """Everything that is wrong with the answer, each sentence once."""
    found = (one.problem(attempt) for one in expected)
    return tuple(dict.fromkeys(problem for problem in found if problem is not None))


def _range(text: str, part: str) -> range:
    match = _STATUS.fullmatch(part)
    if match is None:
        raise WrongUsage(f"{_shown(repr(text))} is no expectation of an answer: give {FORMS}.")
    first, last, hundred = match.groups()
    if hundred:
        return range(int(hundred) * 100, int(hundred) * 100 + 100)
    if last and int(last) < int(first):
        raise WrongUsage(f"The expected status {first}-{last} is no range: write the lower one first.")
    return range(int(first), int(last or first) + 1)


def _pattern(text: str, regex: str) -> re.Pattern[str]:
    try:
        return re.compile(regex)
    except (re.error, OverflowError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise WrongUsage(
            f"In the expectation {_shown(repr(text))} the regular expression is wrong ({reason}): mend it."
        ) from error


def _body_problem(attempt: Attempt, test: str, wanted: str, pattern: re.Pattern[str] | None) -> str | None:
    body, why_not = answered(attempt)
    if why_not is not None:
        return f"the body cannot be looked at: {why_not}"
    text = body.searchable
    so_far = f" in its first {len(body.data):,} bytes, and the rest was cut off" if body.cut else ""
    if pattern is None:
        if not body.cut and text == wanted:
            return None
        if body.cut and wanted.startswith(text) and wanted != text:
            return (
                f"whether the body is {_shown(repr(wanted))} is not known: only {len(body.data):,} bytes were kept"
            )
        return f"the body is not {_shown(repr(wanted))}"
    matches = pattern.search(text) is not None
    if test == "~":
        return None if matches else f"the body does not match /{_shown(wanted)}/{so_far}"
    if matches:
        return f"the body matches /{_shown(wanted)}/"
    if body.cut:  # and what was cut off may match
        return f"whether the body matches /{_shown(wanted)}/ is not known: it does not{so_far}"
    return None


def _header_problem(
    attempt: Attempt, name: str, test: str, wanted: str, pattern: re.Pattern[str] | None
) -> str | None:
    values = header_values(attempt, name)
    if pattern is None:
        met = wanted.strip() in values
        problem = f"the header {name} is not {_shown(repr(wanted))}"
    else:
        matches = any(map(pattern.search, values))
        met = matches == (test == "~")
        problem = f"the header {name} {'matches' if matches else 'does not match'} /{_shown(wanted)}/"
    if met:
        return None
    return problem if values else f"the answer has no header {name}"


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
