"""Each option of `listen` is set by a flag, else a variable, else the project's file, else the user's."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from programs import Programs, free_port
from raw_server import RawServer, exchange

from b24tunnel.cli.listen import _wish, listen_command
from b24tunnel.cli.settled import expected, settable, settings_of, settled_recordings
from b24tunnel.errors import WrongUsage
from b24tunnel.settings import PROJECT_FILE, USER_FILE
from b24tunnel.tunnel.choosing import Wish

OPTIONS = settable(listen_command)
BELOW = sorted(set(OPTIONS) - {"tunnel"})


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, without anything that this machine's environment says."""
    directory = tmp_path / "project"
    directory.mkdir()
    monkeypatch.chdir(directory)
    for name in list(os.environ):
        if name.startswith("B24TUNNEL_LISTEN_"):
            monkeypatch.delenv(name)
    return directory


def values(key: str) -> tuple[Any, ...]:
    """Four different values that a file can give the option, for a flag two in turn, as it has no more."""
    parameter = OPTIONS[key]
    if isinstance(parameter.type, click.Choice):
        return tuple(itertools.islice(itertools.cycle(parameter.type.choices), 4))
    return {
        "a list of texts": (["A"], ["B", "C"], ["D"], ["E"]),
        "true or false": (True, False, True, False),
        "a whole number": (1024, 1025, 1026, 1027) if key == "max-body" else (11, 12, 13, 14),
        "a number": (1.5, 2.5, 3, 4.5),
        "a text": ("one", "two", "three", "four"),
    }[expected(parameter)]


def taken(key: str, value: Any, *, base: Path | None = None) -> Any:
    """What the command gets for a value of a file or a flag."""
    if expected(OPTIONS[key]) == "a list of texts":
        return tuple(value)
    if isinstance(OPTIONS[key].type, click.Path):
        return Path(value) if base is None else base / value
    return value


def typed(key: str, value: Any) -> list[str]:
    """The arguments that give the option a value."""
    parameter = OPTIONS[key]
    if not isinstance(parameter, click.Option):
        return list(value)
    if expected(parameter) == "true or false":
        assert parameter.secondary_opts, f"--{key} cannot be switched off again by a flag"
        return [(parameter.opts if value else parameter.secondary_opts)[0]]
    return [f"--{key}", *(value if isinstance(value, list) else [str(value)])]


def variable(value: Any) -> str:
    """A value as the environment has it."""
    return " ".join(value) if isinstance(value, list) else str(value)


def settle(file: Path, key: str, value: Any) -> None:
    """A file with this one option."""
    line = f"{key} = {json.dumps(value)}\n"
    file.write_text(line if key == "tunnel" else f"[listen]\n{line}")


def parsed(*arguments: str) -> click.Context:
    return listen_command.make_context("listen", list(arguments))


def effective(key: str, *arguments: str) -> Any:
    """What the option comes to, with the tunnel's part as `listen` puts it together."""
    context = parsed(*arguments)
    if key == "tunnel":
        return _wish(context, settings_of(context), here=False).name or settings_of(context).tunnel
    return context.params[str(OPTIONS[key].name)]


@pytest.mark.parametrize("key", list(OPTIONS))
def test_flag_goes_before_variable_before_project_before_user(
    key: str, project: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_user, of_project, of_variable, of_flag = values(key)
    (home / USER_FILE).unlink()
    default = effective(key)
    settle(home / USER_FILE, key, of_user)
    assert effective(key) == taken(key, of_user) != default
    settle(project / PROJECT_FILE, key, of_project)
    assert effective(key) == taken(key, of_project, base=project)
    monkeypatch.setenv(f"B24TUNNEL_LISTEN_{key.upper().replace('-', '_')}", variable(of_variable))
    assert effective(key) == taken(key, of_variable)
    assert effective(key, *typed(key, of_flag)) == taken(key, of_flag)


@pytest.mark.parametrize("key", BELOW)
def test_an_underscore_does_as_well(key: str, project: Path) -> None:
    [value, *_] = values(key)
    settle(project / PROJECT_FILE, key.replace("-", "_"), value)
    assert effective(key) == taken(key, value, base=project)


def test_both_spellings_at_once_are_told(project: Path) -> None:
    (project / PROJECT_FILE).write_text("[listen]\nmax-body = 2048\nmax_body = 4096\n")
    with pytest.raises(WrongUsage, match="has max-body twice"):
        parsed()


@pytest.mark.parametrize("key", BELOW)
def test_a_value_of_another_type_is_told_with_file_key_and_what_it_should_be(key: str, project: Path) -> None:
    wanted = expected(OPTIONS[key])
    wrong: tuple[Any, ...] = {
        "a list of texts": ("ONCRMDEALADD", [7], True),
        "true or false": ("yes", 1, [True]),
        "a whole number": ("12", True, 12.0),
        "a number": ("12", True, [1]),
        "a text": (7, True, ["x"]),
    }[wanted]
    for value in wrong:
        settle(project / PROJECT_FILE, key, value)
        with pytest.raises(WrongUsage) as raised:
            parsed()
        assert str(raised.value) == f"[listen] in {project / PROJECT_FILE}: {key} is {wanted}."


@pytest.mark.parametrize(
    ("key", "value"), [("port", 65536), ("concurrency", 0), ("timeout", 0.01), ("max-body", 1), ("output", "loud")]
)
def test_a_value_out_of_bounds_is_told_as_that_of_the_flag_is_with_its_source(
    key: str, value: Any, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusal(*arguments: str) -> tuple[str, str]:
        with pytest.raises(click.BadParameter) as raised:
            parsed(*arguments)
        return raised.value.message, raised.value.format_message()

    sentence, _ = refusal(f"--{key}", str(value))
    name = f"B24TUNNEL_LISTEN_{key.upper().replace('-', '_')}"
    settle(project / PROJECT_FILE, key, value)
    of_file = refusal()
    assert of_file[0] == sentence
    assert f"{key} below [listen] in {project / PROJECT_FILE}" in of_file[1]
    monkeypatch.setenv(name, str(value))
    of_variable = refusal()
    assert of_variable[0] == sentence
    assert f"the variable {name}:" in of_variable[1]


def test_nan_is_no_number_of_seconds(project: Path) -> None:
    (project / PROJECT_FILE).write_text("[listen]\ntimeout = nan\n")
    with pytest.raises(click.BadParameter, match="is no number of seconds"):
        parsed()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[listen]\nforwrad = 'http://h'", "knows no 'forwrad': did you mean 'forward'?"),
        ("[listen]\nhelp = true", "knows no 'help': known are events, forward"),
        ("[listen]\ntunnel = 'ngrok'", "tunnel stands above the first table, not in [listen]: move it there."),
        ("listen = 7", "listen is a table, which begins with [listen]."),
        ("[[listen]]\nport = 7", "listen is a table, which begins with [listen]."),
        ("port = 7", "knows no 'port': known are tunnel, listen, tunnels, routes, origin; the options of listen"),
    ],
)
def test_what_is_unknown_is_told_with_its_file(project: Path, content: str, words: str) -> None:
    (project / PROJECT_FILE).write_text(content)
    with pytest.raises(WrongUsage) as raised:
        parsed()
    assert words in str(raised.value)
    assert str(project / PROJECT_FILE) in str(raised.value)


def test_a_relative_directory_of_the_project_is_beside_its_file(
    project: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = project / "a" / "b"
    below.mkdir(parents=True)
    settle(home / USER_FILE, "recordings", "here")
    monkeypatch.chdir(below)
    assert effective("recordings") == Path("here")
    settle(project / PROJECT_FILE, "recordings", "var/b24")
    assert effective("recordings") == project / "var" / "b24"
    assert effective("recordings", "--recordings", "mine") == Path("mine")
    settle(project / PROJECT_FILE, "recordings", "~/b24")
    assert effective("recordings") == Path.home() / "b24"


def test_other_commands_find_the_recordings_where_listen_keeps_them(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settled_recordings() == Path("recordings")
    settle(project / PROJECT_FILE, "recordings", "var/b24")
    assert settled_recordings() == project / "var" / "b24"
    monkeypatch.setenv("B24TUNNEL_LISTEN_RECORDINGS", "mine")
    assert settled_recordings() == Path("mine")


@pytest.mark.parametrize("directory", ["~nobody-of-this-name/b24", "a\0b"])
def test_a_directory_that_there_cannot_be_is_told(project: Path, directory: str) -> None:
    settle(project / PROJECT_FILE, "recordings", directory)
    with pytest.raises(WrongUsage, match="recordings is no directory that there can be"):
        parsed()


@pytest.mark.parametrize(
    ("project_file", "user_file", "arguments", "wanted"),
    [
        # name, public_url, domain of the wish
        ("", "tunnel='ngrok'", [], (None, None, None)),
        ("[listen]\npublic-url='https://p'", "tunnel='local'", [], ("url", "https://p", None)),
        ("tunnel='frp'\n[listen]\npublic-url='https://p'", "", [], ("frp", "https://p", None)),
        ("tunnel='frp'", "[listen]\npublic-url='https://p'\ndomain='d'", [], (None, None, None)),
        ("[listen]\npublic-url='https://p'", "", ["--tunnel", "local"], ("local", None, None)),
        ("[listen]\npublic-url='https://p'", "", ["--tunnel", "url"], ("url", "https://p", None)),
        ("tunnel='ngrok'\n[listen]\ndomain='d'", "", ["--tunnel", "ngrok"], ("ngrok", None, "d")),
        ("tunnel='ngrok'\n[listen]\ndomain='d'", "", ["--tunnel", "local"], ("local", None, None)),
        ("tunnel='ngrok'\n[listen]\ndomain='d'", "", ["--public-url", "https://q"], (None, "https://q", None)),
        ("[listen]\ndomain='d'", "tunnel='ngrok'", [], (None, None, "d")),
    ],
)
def test_a_tunnel_that_is_named_does_not_get_what_belongs_to_another(
    project: Path,
    home: Path,
    project_file: str,
    user_file: str,
    arguments: list[str],
    wanted: tuple[str | None, str | None, str | None],
) -> None:
    (project / PROJECT_FILE).write_text(project_file)
    (home / USER_FILE).write_text(user_file)
    context = parsed(*arguments)
    found: Wish = _wish(context, settings_of(context), here=False)
    assert (found.name, found.public_url, found.domain) == wanted


def test_help_needs_no_readable_settings_and_shows_the_commands_own_defaults(
    project: Path, programs: Programs, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / PROJECT_FILE).write_text("[listen]\nconcurrency = 3\n")
    with pytest.raises(click.exceptions.Exit):
        parsed("--help")
    whole = capsys.readouterr().out
    assert "default: 8" in whole
    (project / PROJECT_FILE).write_text("[")
    with pytest.raises(click.exceptions.Exit):
        parsed("--help")
    assert capsys.readouterr().out == whole
    with pytest.raises(WrongUsage, match="is no TOML"):
        parsed()


@pytest.fixture
def in_project(programs: Programs, project: Path) -> Callable[..., Any]:
    programs.directory = project
    return programs.b24tunnel


def test_listen_runs_on_what_the_project_has_settled(in_project: Callable[..., Any], project: Path) -> None:
    port = free_port()
    with RawServer() as handler:
        (project / PROJECT_FILE).write_text(
            f'[listen]\nno-bind = true\nforward = "{handler.url}"\nport = {port}\n'
            'output = "json"\nrecordings = "kept"\n'
        )
        listen = in_project("listen")
        url = listen.next_json("ready")["handler_url"]
        assert f":{port}/" in url
        path = "/b24" + url.partition("/b24")[2]
        body = b"event=ONCRMDEALADD"
        head = f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        assert exchange(url, head + body).status == 200
        assert handler.wait_for(1)[0].body == body
        assert listen.stop() == 0, str(listen)
    assert list((project / "kept" / "journal").glob("*.jsonl"))
    assert not (project / "recordings").exists()


def test_events_of_the_file_are_bound_where_none_is_named(in_project: Callable[..., Any], project: Path) -> None:
    (project / PROJECT_FILE).write_text('[listen]\nevents = ["ONCRMDEALUPDAT"]\nportal = "nobody"\n')
    refused = in_project("listen")
    assert refused.wait() == 2
    assert "ONCRMDEALUPDATE" in "".join(refused.errors), str(refused)
    refused = in_project("listen", "ONCRMDEALADD")
    assert refused.wait() == 2
    assert "nobody" in "".join(refused.errors), str(refused)


def test_a_flag_of_the_file_is_switched_off_by_one_of_the_command_line(
    in_project: Callable[..., Any], project: Path
) -> None:
    (project / PROJECT_FILE).write_text("[listen]\nno-bind = true\n")
    refused = in_project("listen", "--bind")
    assert refused.wait() == 2
    assert "Say on which portal to bind" in "".join(refused.errors), str(refused)
    refused = in_project("listen", "--keep-bound")
    assert refused.wait() == 2
    assert "or give --bind or --no-keep-bound" in "".join(refused.errors), str(refused)
