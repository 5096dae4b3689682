"""What each handler made of a recording, on one line."""

from __future__ import annotations

from datetime import UTC, datetime

from b24tunnel.cli.render import outcomes
from b24tunnel.recording import Attempt


def attempt(target: str, status: int) -> Attempt:
    return Attempt("1-1", "forward", target, datetime(2026, 11, 25, tzinfo=UTC), 5.0, status)


def test_one_handler_is_not_named_and_its_attempts_are_counted() -> None:
    target = "http://127.0.0.1:8000/handler"
    assert outcomes([]) == "not forwarded"
    assert outcomes([attempt(target, 500), attempt(target, 200)]) == "200 in 5 ms (attempt 2)"


def test_each_of_several_handlers_has_its_last_outcome() -> None:
    one, other = "http://127.0.0.1:8000/handler?key=SECRET", "http://127.0.0.1:8001/copy"
    tried = [attempt(one, 500), attempt(other, 404), attempt(one, 200)]
    assert outcomes(tried) == ":8000/handler 200 in 5 ms (attempt 2); :8001/copy 404 in 5 ms"
