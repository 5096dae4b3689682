"""`b24tunnel init` writes a settings file that reads without error and has every key that there is."""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from programs import Programs

from b24tunnel.cli import cli
from b24tunnel.cli.listen import listen_command
from b24tunnel.cli.settled import settable
from b24tunnel.routes import Route
from b24tunnel.senders import NODE_LISTS
from b24tunnel.settings import PROJECT_FILE, OriginSettings, read_settings
from b24tunnel.tunnel.choosing import Wish, choose


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "project"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


def init(*options: str) -> Result:
    return CliRunner().invoke(cli, ["init", *options])


def uncommented(text: str) -> str:
    """The file with everything in it set."""
    return re.sub(r"^#(?! )", "", text, flags=re.MULTILINE)


def test_what_it_writes_sets_nothing(project: Path, home: Path) -> None:
    before = read_settings(project, home)
    result = init()
    assert result.exit_code == 0, result.output
    assert str(project / PROJECT_FILE) in result.stdout
    assert "b24tunnel listen" in result.stdout
    after = read_settings(project, home)
    assert dataclasses.replace(after, sources=()) == dataclasses.replace(before, sources=())


def test_uncommented_it_holds_exactly_the_keys_that_there_are(project: Path, home: Path) -> None:
    init()
    file = project / PROJECT_FILE
    file.write_text(uncommented(file.read_text()))
    found = tomllib.loads(file.read_text())
    options = set(settable(listen_command))
    assert set(found) == {"tunnel", "listen", "routes", "origin", "tunnels"}
    assert set(found["listen"]) == options - {"tunnel"}
    assert set(found["origin"]) == {field.name for field in dataclasses.fields(OriginSettings)}
    assert [set(route) for route in found["routes"]] == [{field.name for field in dataclasses.fields(Route)}]
    settings = read_settings(project, home)
    assert settings.origin.lists == NODE_LISTS
    for name in settings.tunnels:
        choose(Wish(name), settings, home)
    listen_command.make_context("listen", [])


def test_a_single_key_can_be_set_without_touching_its_tables_header(project: Path, home: Path) -> None:
    init()
    file = project / PROJECT_FILE
    file.write_text(file.read_text().replace("#senders =", "senders =").replace("#port = 0", "port = 8123"))
    settings = read_settings(project, home)
    assert settings.origin.senders
    assert settings.listen["port"].value == 8123


def test_it_shows_each_options_own_default_and_help(project: Path) -> None:
    init()
    text = (project / PROJECT_FILE).read_text()
    listen = tomllib.loads(uncommented(text))["listen"]
    prose = " ".join(line.removeprefix("# ") for line in text.splitlines())
    for key, parameter in settable(listen_command).items():
        if isinstance(parameter, click.Option):
            assert parameter.help in prose
        default = parameter.to_info_dict()["default"]
        if isinstance(default, int | float | Path) and not isinstance(default, bool):
            assert listen[key] == (str(default) if isinstance(default, Path) else default)


def test_a_file_that_is_there_stays_without_force(project: Path) -> None:
    file = project / PROJECT_FILE
    file.write_text('tunnel = "ngrok"\n')
    result = init()
    assert result.exit_code == 2
    assert f"{file} is there already: --force writes over it." in result.output
    assert file.read_text() == 'tunnel = "ngrok"\n'
    assert init("--force").exit_code == 0
    assert "[listen]" in file.read_text()


def test_the_file_above_that_held_until_now_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / PROJECT_FILE).write_text('tunnel = "ngrok"\n')
    below = project / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    result = init()
    assert result.exit_code == 0
    assert f"Note: {project / PROJECT_FILE} held here until now" in result.output
    assert (below / PROJECT_FILE).is_file()
    assert "Note:" not in init("--force").output  # the one above did not hold any more


def test_what_is_in_its_place_is_told(project: Path) -> None:
    (project / PROJECT_FILE).mkdir()
    for options in ([], ["--force"]):
        result = init(*options)
        assert result.exit_code in (2, 3)
        assert str(project / PROJECT_FILE) in result.output
        assert (project / PROJECT_FILE).is_dir()


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root can give files away")
def test_a_file_above_of_another_users_does_not_keep_it_from_writing(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / PROJECT_FILE).write_text("")
    os.chown(project / PROJECT_FILE, 65534, 65534)
    below = project / "below"
    below.mkdir()
    monkeypatch.chdir(below)
    assert init().exit_code == 0


def test_what_it_wrote_is_used_by_the_next_listen(programs: Programs, project: Path) -> None:
    programs.directory = project
    assert programs.run("init").process.returncode == 0
    file = project / PROJECT_FILE
    file.write_text(file.read_text().replace("#no-bind = false", "no-bind = true"))
    listen = programs.b24tunnel("listen", "--output", "json")
    listen.next_json("ready")
    assert listen.stop() == 0
