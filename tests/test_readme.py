"""The README is true: its commands are the ones that CI runs, it names every option, and its Python runs."""

from __future__ import annotations

import ast
import importlib
import re
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pytest
from journal_files import write
from programs import Programs, free_port, wait_until
from raw_server import RawServer, answer_with

from b24tunnel.cli import cli
from b24tunnel.recording import Attempt, Recording
from b24tunnel.settings import PROJECT_FILE, read_settings
from b24tunnel.tunnel.choosing import Wish, choose
from b24tunnel.tunnel.facts import FACTS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def _commands(group: click.Group, prefix: str = "") -> list[tuple[str, click.Command]]:
    context = click.Context(group)
    found: list[tuple[str, click.Command]] = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found.append((prefix + name, command))
        if isinstance(command, click.Group):
            found += _commands(command, f"{prefix}{name} ")
    return found


def test_ci_runs_exactly_the_test_command_of_the_readme() -> None:
    command = next(block.strip() for block in _blocks("sh") if "pytest" in block)
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_the_first_command_sets_up_everything_and_runs_the_demo() -> None:
    assert _blocks("sh")[0].strip().endswith("pip install . && .venv/bin/b24tunnel demo")


@pytest.mark.parametrize(
    ("name", "command"), _commands(cli), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_command_and_option_is_in_the_table_of_commands(name: str, command: click.Command) -> None:
    row = next((line for line in README.splitlines() if re.match(rf"\| `{name}[ `]", line)), None)
    assert row is not None, f"{name} is not in the README's table"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            for spelling in (o for o in parameter.opts + parameter.secondary_opts if o.startswith("--")):
                assert f"`{spelling}`" in row or f"`{spelling} " in row, f"{name} {spelling} is not in the README"


@pytest.mark.parametrize(
    ("name", "command"), _commands(cli), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_commands_help_has_an_example(name: str, command: click.Command) -> None:
    help_text = command.get_help(click.Context(command, info_name=name))
    assert f"b24tunnel {name}" in help_text.partition("Example:")[2]


def test_the_table_of_tunnels_says_what_the_program_says() -> None:
    rows = [line for line in README.splitlines() if re.match(r"\| `[\w.]+` \| .* \| .* \| .* \| .* \|$", line)]
    assert rows == [
        f"| `{name}` | {facts.needs} | {facts.stays} | {facts.russia} | {facts.tested} |"
        for name, facts in FACTS.items()
    ]


def test_the_settings_of_the_readme_are_understood(tmp_path: Path, home: Path) -> None:
    [settings] = _blocks("toml")
    (tmp_path / PROJECT_FILE).write_text(settings)
    found = read_settings(tmp_path, home)
    assert [candidate.tunnel.name for candidate in choose(Wish(), found, home)] == ["ssh"]
    for name in found.tunnels:
        assert choose(Wish(name), found, home)[0].tunnel.name == name


def test_replay_is_the_function_also_when_its_module_was_imported_before() -> None:
    importlib.import_module("b24tunnel.replaying")
    from b24tunnel import replay

    assert callable(replay)


def test_the_python_of_the_readme_runs_and_gives_what_its_comments_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    code = next(block for block in _blocks("python") if "replay(" in block)
    with RawServer() as handler:
        code = code.replace("http://127.0.0.1:8000/handler", handler.url)
        names: dict[str, object] = {}
        exec(compile(code, "README.md", "exec"), names)
        assert names["report"].ok  # type: ignore[attr-defined]
    claims = re.findall(r"^(form\.\w+\(.*?\)) {2,}# (.*)$", code, re.MULTILINE)
    assert len(claims) == 3
    for expression, claimed in claims:
        literal = claimed.partition(": no other")[0]
        assert eval(expression, names) == ast.literal_eval(literal)


def test_the_python_that_replays_with_everything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = b"event=ONCRMDEALADD&data[FIELDS][ID]=7"
    moment = datetime(2026, 1, 5, 9, 30, 1, tzinfo=UTC)
    one = Recording("1-1", moment, "POST", "/b24/x", (), body, code="ONCRMDEALADD")
    refused = Attempt("1-1", "forward", "http://127.0.0.1:1/", moment, 1.0, error="cannot connect: refused")
    write(tmp_path / "recordings", 1, one, refused)
    monkeypatch.chdir(tmp_path)
    code = next(block for block in _blocks("python") if "Selection(" in block)
    with RawServer(answer_with(body=b"it is ok")) as handler:
        names: dict[str, Any] = {}
        exec(compile(code.replace("http://127.0.0.1:8000/handler", handler.url), "README.md", "exec"), names)
        assert names["report"].ok
        assert handler.bodies() == [body.replace(b"=7", b"=5")] * 2
    assert len(names["journal"].attempts("1-1")) == 3


@pytest.mark.php
def test_the_readmes_php_handler_takes_a_replay(programs: Programs) -> None:
    make, serve = next(block for block in _blocks("sh") if "php -S" in block).splitlines()
    programs.start("sh", "-c", make).wait()
    port = free_port()
    handler = programs.start("sh", "-c", "exec " + serve.replace("8000", str(port)))
    _assert_takes_a_replay(programs, port)
    wait_until(
        lambda: 'ONCRMDEALADD {"FIELDS":{"ID":"1"}}' in "".join(handler.errors), "the handler logs the event"
    )


def test_the_readmes_python_handler_takes_a_replay(programs: Programs) -> None:
    port = free_port()
    code = next(block for block in _blocks("python") if "run_app" in block).replace("8000", str(port))
    handler = programs.start(sys.executable, "-c", code)
    _assert_takes_a_replay(programs, port)
    wait_until(lambda: "ONCRMDEALADD {'FIELDS': {'ID': '1'}}\n" in handler.lines, "the handler prints the event")


def _assert_takes_a_replay(programs: Programs, port: int) -> None:
    wait_until(lambda: _listens(port), "the handler listens")
    fixture = str(ROOT / "recordings" / "oncrmdealadd.json")
    replay = programs.run("replay", fixture, "--to", f"http://127.0.0.1:{port}/")
    assert replay.process.returncode == 0, str(replay)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
