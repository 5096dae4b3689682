"""What a project and its user have settled: two files of one form, checked where they are read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from b24tunnel.errors import OutsideFailure, WrongUsage
from b24tunnel.settings import PROJECT_FILE, USER_FILE, ProjectSettings, read_settings


@dataclass(frozen=True)
class Server:
    host: str
    port: int = 22
    key: str | None = None
    options: tuple[str, ...] = ()
    fast: bool = False


@pytest.fixture
def project(tmp_path: Path) -> Path:
    directory = tmp_path / "project"
    directory.mkdir()
    return directory


def settle(
    project: Path, home: Path, in_project: str | None = None, of_user: str | None = None
) -> ProjectSettings:
    (home / USER_FILE).unlink(missing_ok=True)
    if in_project is not None:
        (project / PROJECT_FILE).write_text(in_project)
    if of_user is not None:
        (home / USER_FILE).write_text(of_user)
    return read_settings(project, home)


def test_without_files_nothing_is_settled(project: Path, home: Path) -> None:
    assert settle(project, home) == ProjectSettings()


def test_the_projects_file_goes_before_the_users_key_by_key(project: Path, home: Path) -> None:
    found = settle(
        project,
        home,
        'tunnel = "ssh"\n[tunnels.ssh]\nhost = "project.example.org"\n',
        'tunnel = "ngrok"\n[tunnels.ssh]\nhost = "mine"\nport = 2222\n[tunnels.ngrok]\nauthtoken = "t"\n',
    )
    assert found.tunnel == "ssh"
    assert found.section("ssh", Server) == Server("project.example.org", 2222)
    assert found.tunnels["ngrok"] == {"authtoken": "t"}
    assert found.sources == (home / USER_FILE, project / PROJECT_FILE)


def test_the_nearest_file_above_is_the_projects(project: Path, home: Path) -> None:
    settle(project, home, 'tunnel = "srv.us"')
    below = project / "a" / "b"
    below.mkdir(parents=True)
    assert read_settings(below, home).tunnel == "srv.us"
    (project / "a" / PROJECT_FILE).write_text('tunnel = "ngrok"')
    assert read_settings(below, home).tunnel == "ngrok"


def test_what_the_command_line_says_goes_before_both(project: Path, home: Path) -> None:
    found = settle(project, home, '[tunnels.ssh]\nhost = "one"\nkey = "k"\n')
    assert found.section("ssh", Server, host="two", key=None) == Server("two", key="k")


def test_a_list_of_texts_becomes_a_tuple(project: Path, home: Path) -> None:
    found = settle(project, home, '[tunnels.ssh]\nhost = "h"\noptions = ["a", "b"]\nfast = true\n')
    assert found.section("ssh", Server) == Server("h", options=("a", "b"), fast=True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("tunnel =", "is no TOML"),
        ("\udcff", "is no TOML"),
        ("tunel = 'x'", "knows no 'tunel': did you mean 'tunnel'?"),
        ("portal = 'x'", "knows no 'portal': known are tunnel, listen, tunnels, routes, origin; the options of"),
        ("tunnel = 7", 'such as tunnel = "ngrok"'),
        ("tunnels = 7", "such as [tunnels.ngrok]"),
        ("[tunnels]\nssh = 7", "such as [tunnels.ngrok]"),
        ("[[tunnels]]\n", "such as [tunnels.ngrok]"),
        ("x = " + "[" * 10_000, "is no TOML"),
        ("# " + "x" * 1024 * 1024, "are no settings"),
    ],
)
def test_a_file_that_holds_something_else_is_named_with_the_reason(
    project: Path, home: Path, content: str, words: str
) -> None:
    file = project / PROJECT_FILE
    file.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(WrongUsage) as raised:
        read_settings(project, home)
    assert words in str(raised.value)
    assert str(file) in str(raised.value)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('hots = "x"', "knows no 'hots': did you mean 'host'?"),
        ("host = 7", "host cannot be 7; it is a text"),
        ('host = "x"\nport = "22"', "port cannot be '22'; it is a whole number"),
        ('host = "x"\nport = true', "port cannot be True"),
        ('host = "x"\nfast = 1', "it is true or false"),
        ('host = "x"\noptions = "a b"', "it is a list of texts"),
        ('host = "x"\noptions = ["a", 7]', "it is a list of texts"),
        ("port = 22", "lacks host, a text"),
    ],
)
def test_a_table_that_does_not_fit_is_named_with_the_reason(
    project: Path, home: Path, table: str, words: str
) -> None:
    found = settle(project, home, f"[tunnels.ssh]\n{table}\n")
    with pytest.raises(WrongUsage) as raised:
        found.section("ssh", Server)
    assert words in str(raised.value)
    assert f"[tunnels.ssh] in {project / PROJECT_FILE}" in str(raised.value)


@pytest.mark.parametrize("key", ["authtoken", "token", "password", "client_secret"])
def test_a_secret_in_the_projects_file_is_refused_and_not_repeated(project: Path, home: Path, key: str) -> None:
    with pytest.raises(WrongUsage) as raised:
        settle(project, home, f'[tunnels.ngrok]\n{key} = "very-secret"\n')
    assert str(home / USER_FILE) in str(raised.value)
    assert "very-secret" not in str(raised.value)
    assert settle(project, home, "", f'[tunnels.ngrok]\n{key} = "very-secret"\n').tunnels["ngrok"]


def test_a_file_that_cannot_be_read_is_told(project: Path, home: Path) -> None:
    (home / USER_FILE).unlink(missing_ok=True)
    (home / USER_FILE).mkdir()
    with pytest.raises(OutsideFailure, match="cannot be read"):
        read_settings(project, home)


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root can give files away")
def test_a_file_that_another_user_has_laid_above_the_project_is_refused(project: Path, home: Path) -> None:
    settle(project, home, 'tunnel = "srv.us"')
    os.chown(project / PROJECT_FILE, 65534, 65534)
    below = project / "below"
    below.mkdir()
    with pytest.raises(WrongUsage, match="belongs to another user"):
        read_settings(below, home)
