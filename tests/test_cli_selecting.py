"""Options that narrow a list, and where commands look for recordings when they are not told."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest
from journal_files import write
from programs import Program, Programs, wait_until

from b24tunnel.cli.selecting_options import NAMES, narrowing_of, selecting_options
from b24tunnel.cli.settled import settled_recordings
from b24tunnel.conditions import Condition
from b24tunnel.errors import WrongUsage
from b24tunnel.narrowing import Narrowing
from b24tunnel.recording import Attempt, Recording
from b24tunnel.settings import PROJECT_FILE
from b24tunnel.through import Through

NOW = datetime.now(UTC)
HANDLER = "http://127.0.0.1:8000/"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("B24TUNNEL_LISTEN_"):
            monkeypatch.delenv(name)


def recording(
    id: str, ago: float = 0.0, body: bytes = b"", code: str = "ONX", portal: str | None = None
) -> Recording:
    moment = datetime.now(UTC) - timedelta(minutes=ago)
    return Recording(id, moment, "POST", "/b24/x", (("User-Agent", "B"),), body, code=code, portal=portal)


def attempt(id: str, status: int | None) -> Attempt:
    error = None if status is not None else "cannot connect: refused"
    return Attempt(id, "forward", HANDLER, NOW, 1.0, status, error=error)


def fill(directory: Path) -> None:
    write(
        directory,
        1,
        recording("1-1", ago=90, body=b"data[FIELDS][ID]=7405"),
        recording("1-2", ago=50, body=b"data[FIELDS][ID]=10", portal="mine"),
        recording("1-3", ago=5, body=b"data[FIELDS][ID]=9"),
        attempt("1-1", 200),
        attempt("1-2", 500),
        attempt("1-3", None),
    )


def ids(program: Program) -> list[str]:
    assert program.process.returncode == 0, program
    return [json.loads(line)["id"] for line in program.lines]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), ["1-1", "1-2", "1-3"]),
        (("--since", "1h"), ["1-2", "1-3"]),
        (("--until", "10m"), ["1-1", "1-2"]),
        (("--since", "1h", "--until", "10m"), ["1-2"]),
        (("--where", "data.FIELDS.ID>=10"), ["1-1", "1-2"]),
        (("--where", "data.FIELDS.ID>=10", "--where", "headers.user-agent=B", "--where", "!portal"), ["1-1"]),
        (("--portal", "mine"), ["1-2"]),
        (("--failed",), ["1-2", "1-3"]),
        (("--not-forwarded",), ["1-3"]),
        (("--failed", "-n", "1"), ["1-3"]),
        (("ONX", "--failed", "--where", "data.FIELDS.ID=10"), ["1-2"]),
        (("last", "--portal", "mine"), []),
    ],
)
def test_list_is_narrowed(
    programs: Programs, tmp_path: Path, options: tuple[str, ...], expected: list[str]
) -> None:
    fill(tmp_path / "recordings")
    assert ids(programs.run("list", "--json", *options)) == expected


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--since", "soon"), "Error: 'soon' is no time: give ISO 8601"),
        (("recordings/nowhere.json",), "Error: There is no fixture 'recordings/nowhere.json'"),
        (("--where", "dat.X=1"), "Error: No recording has 'dat' for a condition's path to begin"),
        (("--where", "data~["), "Error: '[' is no regular expression"),
        (("--since", "1h", "--until", "2h"), "Error: Nothing comes since "),
        (("--check", "--where", "data"), "Error: --check looks at the whole journal"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_in_one_sentence(programs: Programs, options: tuple[str, ...], said: str) -> None:
    program = programs.run("list", *options)
    assert (program.process.returncode, program.lines, len(program.errors)) == (2, [], 1)
    assert program.errors[0].startswith(said)


def test_nothing_that_matches_is_told(programs: Programs, tmp_path: Path) -> None:
    fill(tmp_path / "recordings")
    program = programs.run("list", "--since", "1m")
    assert (program.process.returncode, program.lines) == (0, [])
    assert program.errors == [f"No recordings that match in {tmp_path / 'recordings' / 'journal'}.\n"]


def test_the_options_make_a_narrowing() -> None:
    @click.command()
    @selecting_options
    def command(**values: object) -> None:
        assert sorted(values) == sorted(NAMES)
        assert narrowing_of(**values) == Narrowing()  # type: ignore[arg-type]

    command.main([], standalone_mode=False)
    assert all(parameter.help for parameter in command.params if isinstance(parameter, click.Option))
    through = Through(NOW, 7, {7: 3})
    made = narrowing_of(
        where=("code=X", "data"),
        failed=True,
        to=HANDLER,
        through=through,
        attempts_before=NOW,
        attempts_without=[8],
    )
    conditions = (Condition(("code",), "=", "X"), Condition(("data",)))
    assert made == Narrowing(
        where=conditions,
        failed=True,
        to=HANDLER,
        through=through,
        attempts_before=NOW,
        attempts_without={8},
    )


def test_what_is_relative_to_now_is_relative_to_a_moment_that_is_given() -> None:
    began = datetime(2026, 3, 4, 15, 30).astimezone()
    made = narrowing_of(since="1h", until="15:00", where=("received_at>=20m", "ts<=14:20"), now=began)
    assert made.since == began - timedelta(hours=1)
    assert made.until == began - timedelta(minutes=30)
    by_age, by_clock = made.where
    ago = {minutes: began - timedelta(minutes=minutes) for minutes in (10, 20, 21, 70, 71)}
    assert [by_age({"received_at": ago[minutes]}) for minutes in (10, 20, 21)] == [True, True, False]
    assert [by_clock({"ts": ago[minutes]}) for minutes in (10, 70, 71)] == [False, True, True]


class TestWhereRecordingsAre:
    """As `[listen] recordings` says, for each command that reads them."""

    @pytest.fixture(autouse=True)
    def _project(self, tmp_path: Path) -> None:
        (tmp_path / PROJECT_FILE).write_text('[listen]\nrecordings = "var/b24"\n')
        fill(tmp_path / "var" / "b24")

    def test_the_file_says_it_below_the_project_too(self, programs: Programs, tmp_path: Path) -> None:
        assert ids(programs.run("list", "--json")) == ["1-1", "1-2", "1-3"]
        (tmp_path / "deep" / "down").mkdir(parents=True)
        below = Programs(tmp_path / "deep" / "down")
        assert ids(below.run("list", "--json", "last")) == ["1-3"]
        below.end_all()

    def test_each_command_looks_there(self, programs: Programs) -> None:
        assert ids(programs.run("show", "--json", "1-2")) == ["1-2"]
        pruned = programs.run("prune", "--json", "--keep", "0", "--dry-run")
        assert json.loads(pruned.lines[0])["recordings"] == 3
        following = programs.b24tunnel("follow", "--json")

        def followed() -> bool:
            # There is nobody at this port: a replay that finds the recording fails.
            assert programs.run("replay", "1-2", "--to", "http://127.0.0.1:1/").process.returncode == 1
            return bool(following.lines)

        wait_until(followed, "an attempt that is followed")
        assert following.next_json()["recording"] == "1-2"

    def test_the_variable_goes_before_the_file_and_the_option_before_both(
        self, programs: Programs, tmp_path: Path
    ) -> None:
        write(tmp_path / "other", 1, recording("1-9"))
        variable = {"B24TUNNEL_LISTEN_RECORDINGS": "other"}
        assert ids(programs.run("list", "--json", env=variable)) == ["1-9"]
        assert ids(programs.run("list", "--json", "--recordings", "var/b24", "last", env=variable)) == ["1-3"]

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ("[listen\n", "b24tunnel.toml"),
            ("[listen]\nrecordings = 7\n", "recordings is a text"),
            ("[listen]\nrecordings = 'a-file'\n", "is a file"),
            ("[listen]\ncolour = 'red'\n", "colour"),
        ],
    )
    def test_wrong_settings_are_told_in_one_sentence(
        self, programs: Programs, tmp_path: Path, settings: str, said: str
    ) -> None:
        (tmp_path / "a-file").touch()
        (tmp_path / PROJECT_FILE).write_text(settings)
        program = programs.run("list")
        assert (program.process.returncode, program.lines) == (2, [])
        assert len(program.errors) == 1
        assert program.errors[0].startswith("Error: ")
        assert said in program.errors[0]
        assert ids(programs.run("list", "--json", "--recordings", "var/b24")) == ["1-1", "1-2", "1-3"]

    @pytest.mark.parametrize("command", ["list", "show", "follow", "replay", "prune", "listen"])
    def test_help_needs_no_settings(self, programs: Programs, tmp_path: Path, command: str) -> None:
        (tmp_path / PROJECT_FILE).write_text("[listen\n")
        program = programs.run(command, "--help")
        assert program.process.returncode == 0, program
        assert "[default: recordings]" in " ".join("".join(program.lines).split())

    def test_a_wrong_setting_of_listen_is_wrong_usage_in_the_library(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("B24TUNNEL_LISTEN_CONCURRENCY", "none")
        with pytest.raises(WrongUsage, match="B24TUNNEL_LISTEN_CONCURRENCY"):
            settled_recordings()

    def test_help_imports_nothing_heavy(self, programs: Programs) -> None:
        code = (
            "import sys; from b24tunnel.cli import cli\n"
            "try: cli(['list', '--help'])\n"
            "except SystemExit: pass\n"
            "print(sorted({'aiohttp', 'tinydb', 'b24tunnel.journal', 'b24tunnel.settings'} & set(sys.modules)))"
        )
        program = programs.start(sys.executable, "-c", code)
        assert program.wait() == 0, program
        assert program.lines[-1] == "[]\n"
