"""The pauses with which Bitrix24's queue treats a slow handler, on a clock that the test moves."""

import pytest

from b24tunnel import queue_pacing, sandbox
from b24tunnel.queue_pacing import Pacing, Pause

PACING = Pacing(slow_after=5, first_pause=1, max_pause=6)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pause(clock: Clock) -> Pause:
    return Pause(PACING, clock)


def test_the_sandbox_and_replay_have_one_and_the_same_pacing() -> None:
    assert sandbox.Pacing is queue_pacing.Pacing


def test_a_quick_handler_is_called_without_pauses(pause: Pause, clock: Clock) -> None:
    for _ in range(3):
        assert pause.next_start() == clock.now
        pause.answered(5.0)
        assert pause.seconds == 0
    clock.now += 7
    assert pause.next_start() == 107


def test_each_slow_answer_doubles_the_pause_up_to_its_bound(pause: Pause) -> None:
    lengths = []
    for _ in range(5):
        pause.answered(5.001)
        lengths.append(pause.seconds)
    assert lengths == [1, 2, 4, 6, 6]


def test_each_quick_answer_halves_the_pause_until_there_is_none(pause: Pause, clock: Clock) -> None:
    for _ in range(4):
        pause.answered(9)
    lengths = []
    for _ in range(4):
        pause.answered(0.1)
        lengths.append(pause.seconds)
    assert lengths == [3, 1.5, 0, 0]
    assert pause.next_start() == clock.now


def test_the_next_call_starts_a_pause_after_the_slow_answer(pause: Pause, clock: Clock) -> None:
    pause.answered(9)
    assert pause.next_start() == clock.now + 1


def test_calls_asked_for_at_once_start_a_pause_apart(pause: Pause, clock: Clock) -> None:
    pause.answered(9)
    pause.answered(9)
    first = pause.next_start()
    assert [pause.next_start() - first for _ in range(3)] == [2, 4, 6]
    assert first == clock.now + 2


def test_time_that_went_by_counts_as_a_pause(pause: Pause, clock: Clock) -> None:
    pause.answered(9)
    clock.now += 50
    assert pause.next_start() == clock.now
    assert pause.next_start() == clock.now + 1
