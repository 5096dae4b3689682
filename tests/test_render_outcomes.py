"""What each handler made of a recording, on one line."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from journal_files import write
from programs import Programs

from b24tunnel.cli.render import outcomes
from b24tunnel.recording import Attempt, Recording


def attempt(target: str, status: int) -> Attempt:
    return Attempt("1-1", "forward", target, datetime(2026, 11, 25, tzinfo=UTC), 5.0, status)


def test_one_handler_is_not_named_and_its_attempts_are_counted() -> None:
    target = "http://127.0.0.1:8000/handler"
    assert outcomes([]) == "not forwarded"
    assert outcomes([attempt(target, 500), attempt(target, 200)]) == "200 in 5 ms (attempt 2)"


def test_each_of_several_handlers_has_its_last_outcome() -> None:
    one, other = "http://127.0.0.1:8000/handler?key=SECRET", "http://127.0.0.1:8001/copy"
    tried = [attempt(one, 500), attempt(other, 404), attempt(one, 200)]
    assert outcomes(tried) == ":8001/copy 404 in 5 ms; :8000/handler 200 in 5 ms (attempt 2)"


def test_a_users_name_in_an_address_is_not_shown() -> None:
    tried = [attempt("http://user:secret@127.0.0.1:8000/x", 200), attempt("http://user:secret@host/", 200)]
    assert outcomes(tried) == ":8000/x 200 in 5 ms; host/ 200 in 5 ms"


def test_of_many_handlers_the_last_ones_are_named() -> None:
    tried = [attempt(f"http://127.0.0.1:{8000 + number}/", 200) for number in range(12)]
    assert outcomes(tried).startswith("… 9 handlers before; :8009/ 200 in 5 ms; :8010/")


@pytest.mark.parametrize("columns", [64, 80, 120])
def test_a_narrow_terminal_cuts_no_id(programs: Programs, columns: int) -> None:
    body = b"event=ONCRMDEALADD&data[FIELDS][TITLE]=" + b"x" * 100
    moment = datetime(2026, 11, 25, tzinfo=UTC)
    one = Recording("1-1", moment, "POST", "/b24/x", (), body, code="ONCRMDEALADD")
    tried = [attempt(f"http://127.0.0.1:{8000 + number}/a/rather/long/path", 200) for number in range(12)]
    write(programs.directory / "recordings", 1, one, *tried)
    env = {"FORCE_COLOR": "1", "TERM": "dumb", "COLUMNS": str(columns)}
    line = programs.run("list", env=env).lines[1]
    assert line.split()[:1] == ["1-1"]
    assert "ONCRMDEALADD" in line
    assert "…" in line
