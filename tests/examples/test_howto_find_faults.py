"""How to find out whether a handler takes duplicates, and any order: `replay --times` and `replay --shuffle`."""

from __future__ import annotations

import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from programs import Programs, free_port, wait_until

from b24tunnel import load, replay
from b24tunnel.replaying import Variation

HERE = Path(__file__).parent
FIXTURES = HERE.parent.parent / "recordings"
A_DEAL_IS_MADE_AND_CHANGED = ("oncrmdealadd", "oncrmdealupdate")


@pytest.fixture
def started(programs: Programs) -> Callable[[str], str]:
    """Starts a handler of this directory, as new, and gives its address."""

    def start(name: str) -> str:
        port = free_port()
        program = programs.start(sys.executable, str(HERE / name), str(port))

        def answers() -> bool:
            assert program.process.poll() is None, str(program)
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
            except urllib.error.HTTPError:
                return True
            except OSError:
                return False
            return True

        wait_until(answers, f"{name} answers")
        return f"http://127.0.0.1:{port}/"

    return start


@pytest.mark.parametrize(
    ("handler", "options", "exit_code"),
    [
        ("fails_on_duplicates.py", (), 0),
        ("fails_on_duplicates.py", ("--times", "2"), 1),
        ("depends_on_order.py", (), 0),
        ("depends_on_order.py", ("--shuffle",), 1),
        ("takes_anything.py", ("--times", "2", "--shuffle"), 0),
    ],
)
def test_on_the_command_line(
    programs: Programs, started: Callable[[str], str], handler: str, options: tuple[str, ...], exit_code: int
) -> None:
    fixtures = programs.directory / "recordings"
    fixtures.mkdir()
    for name in A_DEAL_IS_MADE_AND_CHANGED:
        shutil.copy(FIXTURES / f"{name}.json", fixtures)
    program = programs.run("replay", *A_DEAL_IS_MADE_AND_CHANGED, *options, "--to", started(handler))
    assert program.process.returncode == exit_code, str(program)


def test_in_a_test_of_ones_own(started: Callable[[str], str]) -> None:
    deal = [load(name, FIXTURES) for name in A_DEAL_IS_MADE_AND_CHANGED]
    assert replay(deal, to=started("takes_anything.py"), variation=Variation(times=2, shuffle=True)).ok

    twice = replay(deal, to=started("fails_on_duplicates.py"), variation=Variation(times=2))
    assert [(result.recording.code, result.attempt.status) for result in twice.results if not result.ok] == [
        ("ONCRMDEALADD", 500)
    ]

    shuffled = replay(deal, to=started("depends_on_order.py"), variation=Variation(shuffle=True, seed=1))
    assert [result.recording.code for result in shuffled.results if not result.ok] == ["ONCRMDEALUPDATE"]
