"""Tunnels that are programs, as real processes: a stand-in that forwards, and each way of going wrong."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from programs import Programs, wait_until
from tunnel_program import LocalServer, TunnelProgram, arguments_of_all, exists, post
from waiting import until

from b24tunnel.errors import WrongUsage
from b24tunnel.tunnel.command import CommandSettings, CommandTunnel, PresetSettings
from b24tunnel.tunnel.presets import PRESETS
from b24tunnel.tunnel.provider import TunnelFailed

FORWARDING = r"Forwarding (https?://\S+) ->"
OPENED = "print:Forwarding {url} -> here"
SECRET = "a-token-nobody-may-see"
Make = Callable[..., CommandTunnel]


def ignore(_: str) -> None:
    """Nothing has to be said."""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TunnelProgram]:
    """The stand-in, also found as tuna and lt; after the test nothing is left of any run."""
    program = TunnelProgram(tmp_path / "program", "standin", "tunnel_standin.py", "TUNNEL_STANDIN_NOTES")
    for name, value in program.environment.items():
        monkeypatch.setenv(name, value)
    for name in ("tuna", "lt", "clo", "frpc", "tailscale", "devtunnel", "zrok", "tmole", "bore"):
        shutil.copy(program.binary, program.binary.with_name(name))
    monkeypatch.setenv("PATH", str(program.binary.parent), prepend=os.pathsep)
    yield program
    program.assert_nothing_is_left()


@pytest.fixture
async def make(program: TunnelProgram, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Makes a tunnel of the user's own whose program does these deeds, and closes it."""
    made: list[CommandTunnel] = []

    def make(*deeds: str, command: str | None = None, **settings: Any) -> CommandTunnel:
        monkeypatch.setenv("TUNNEL_STANDIN", "\n".join(deeds))
        command = command or f"{shlex.quote(str(program.binary))} --port {{port}}"
        settings = {"url": FORWARDING, **settings} if "ready" not in settings else settings
        made.append(CommandTunnel.of_program("mine", CommandSettings(command, **settings)))
        return made[-1]

    yield make
    for tunnel in made:
        await tunnel.close()


@pytest.fixture
async def make_preset(program: TunnelProgram, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """The same with a preset, whose program is in PATH."""
    made: list[CommandTunnel] = []

    def make(name: str, *deeds: str, **settings: Any) -> CommandTunnel:
        monkeypatch.setenv("TUNNEL_STANDIN", "\n".join(deeds))
        made.append(CommandTunnel.of_preset(PRESETS[name], PresetSettings(**settings)))
        return made[-1]

    yield make
    for tunnel in made:
        await tunnel.close()


async def refused(tunnel: CommandTunnel, program: TunnelProgram) -> TunnelFailed:
    """What `open` raises; nothing runs any more then."""
    with pytest.raises(TunnelFailed) as caught:
        await tunnel.open(9, ignore)
    program.assert_nothing_is_left()
    assert str(caught.value).endswith(".")
    assert SECRET not in str(caught.value)
    return caught.value


async def test_what_is_posted_to_the_printed_address_arrives(make: Make) -> None:
    tunnel = make("print:Welcome, see https://docs.example.org", "error:warming up", OPENED)
    async with LocalServer() as server:
        url = await tunnel.open(server.port, ignore)
        assert await post(f"{url}/b24/x", b"event=ONCRMDEALADD") == "taken"
        assert server.bodies == [b"event=ONCRMDEALADD"]
        await tunnel.close()


async def test_the_address_may_come_on_either_stream_coloured_and_in_pieces(make: Make) -> None:
    for deed in (
        "error:Forwarding {url} -> here",
        r"write:spinning\rstill\rForwarding \u001b[1m{url}\u001b(B\u001b[m -> here\r\n",
    ):
        assert (await make(deed).open(9, ignore)).startswith("http://127.0.0.1:")


async def test_a_user_is_told_that_an_address_is_plain_http(make: Make) -> None:
    said: list[str] = []
    await make(OPENED).open(9, said.append)
    assert said == [], "nobody can read what does not leave this machine"
    await make("print:ready at http://hooks.example.org to here", url=r"ready at (\S+)").open(9, said.append)
    assert "http://hooks.example.org is plain http" in " ".join(said)


async def test_a_line_that_nobody_can_make_sense_of_does_not_end_the_reading(make: Make) -> None:
    tunnel = make("print:ready at https://[1:2] to here", OPENED, url=r"(https?://\S+) (?:to|->) here")
    assert (await tunnel.open(9, ignore)).startswith("http://127.0.0.1:")


async def test_a_program_that_never_prints_its_address_is_waited_for(make: Make) -> None:
    tunnel = make("print:all is well", ready="all is well", public_url="https://hooks.example.org/")
    assert await tunnel.open(9, ignore) == "https://hooks.example.org"


async def test_where_both_are_given_the_pattern_tells_when_and_the_address_is_the_users(make: Make) -> None:
    tunnel = make(OPENED, public_url="https://hooks.example.org")
    assert await tunnel.open(9, ignore) == "https://hooks.example.org"


async def test_a_tunnel_can_be_opened_again_after_it_was_closed(make: Make, program: TunnelProgram) -> None:
    tunnel = make(OPENED)
    await tunnel.open(9, ignore)
    await tunnel.close()
    await tunnel.close()
    program.assert_nothing_is_left()
    await tunnel.open(9, ignore)
    assert len(program.runs()) == 2


async def test_a_failure_line_ends_the_opening_with_what_was_said(make: Make, program: TunnelProgram) -> None:
    failed = await refused(make("error:no tunnel for you today", failures=("no tunnel",)), program)
    assert "'no tunnel for you today'" in str(failed)
    assert not failed.permanent


@pytest.mark.parametrize("code", [0, 1])
async def test_a_program_that_ends_without_an_address_has_failed(
    make: Make, program: TunnelProgram, code: int
) -> None:
    failed = await refused(make("print:Error: out of luck", "print:bye", f"exit:{code}"), program)
    assert f"exit code {code} and said 'Error: out of luck'" in str(failed)


async def test_a_program_that_prints_the_address_and_ends_is_lost(make: Make) -> None:
    tunnel = make(OPENED, "exit:0")
    await tunnel.open(9, ignore)
    lost = await tunnel.lost()
    assert "exit code 0" in lost.reason
    assert lost.url is None


async def test_silence_and_idle_talk_end_with_the_deadline(make: Make, program: TunnelProgram) -> None:
    assert "printed nothing" in str(await refused(make(seconds=1), program))
    assert "'still trying'" in str(await refused(make("print:still trying", seconds=1), program))


async def test_a_program_with_children_that_hear_nothing_is_gone_after_a_failure(
    make: Make, program: TunnelProgram
) -> None:
    await refused(make("deaf:", "child:", "print:broken", failures=("broken",)), program)


@pytest.mark.parametrize(
    "deeds", [("deaf:", "child:", OPENED), ("child:", OPENED), ("deaf:", OPENED, "mute:"), (OPENED, "flood:9000")]
)
async def test_nothing_is_left_after_closing(make: Make, program: TunnelProgram, deeds: tuple[str, ...]) -> None:
    tunnel = make(*deeds)
    await tunnel.open(9, ignore)
    await tunnel.close()
    program.assert_nothing_is_left()


async def test_children_of_a_program_that_has_ended_are_gone_after_closing(
    make: Make, program: TunnelProgram
) -> None:
    tunnel = make("child:", OPENED, "exit:3")
    await tunnel.open(9, ignore)
    assert "exit code 3" in (await tunnel.lost()).reason
    await tunnel.close()
    program.assert_nothing_is_left()


async def test_a_shell_with_its_children_is_gone_after_closing(make: Make, program: TunnelProgram) -> None:
    tunnel = make(OPENED, command=f"sh -c '\"{program.binary}\" {{port}} & wait'")
    await tunnel.open(9, ignore)
    await tunnel.close()
    program.assert_nothing_is_left()


async def test_bytes_of_all_kinds_and_long_lines_hide_no_address(make: Make) -> None:
    tunnel = make("garbage:100", "flood:8", r"write:\n", OPENED, "garbage:100", "flood:8")
    assert (await tunnel.open(9, ignore)).startswith("http://")


async def test_an_endless_line_ends_with_the_deadline(make: Make, program: TunnelProgram) -> None:
    failed = await refused(make("flood:100000", seconds=1), program)
    assert len(str(failed)) < 1000


async def test_a_program_that_closes_its_output_before_the_address_ends_with_the_deadline(
    make: Make, program: TunnelProgram
) -> None:
    await refused(make("mute:", seconds=1), program)


async def test_another_address_takes_the_place_of_the_first(make: Make, tmp_path: Path) -> None:
    go = tmp_path / "go"
    tunnel = make(OPENED, f"until:{go}", "print:Forwarding https://new.example.org -> here")
    first = await tunnel.open(9, ignore)
    waiting = asyncio.create_task(tunnel.lost())
    await asyncio.sleep(0)
    waiting.cancel()
    go.touch()
    lost = await tunnel.lost()
    assert lost.url == "https://new.example.org" != first
    again = asyncio.create_task(tunnel.lost())
    await asyncio.sleep(0)
    assert not again.done()
    again.cancel()


async def test_an_open_tunnel_whose_program_says_that_it_is_gone_is_lost(make: Make, tmp_path: Path) -> None:
    go = tmp_path / "go"
    tunnel = make(OPENED, f"until:{go}", "print:session expired", failures=("session expired",))
    await tunnel.open(9, ignore)
    go.touch()
    assert "session expired" in (await tunnel.lost()).reason


async def test_a_program_that_is_killed_is_lost(make: Make, program: TunnelProgram) -> None:
    tunnel = make(OPENED)
    await tunnel.open(9, ignore)
    os.kill(program.run()["pid"], signal.SIGKILL)
    assert "signal 9" in (await tunnel.lost()).reason


async def test_a_cancelled_opening_leaves_nothing(make: Make, program: TunnelProgram) -> None:
    tunnel = make("child:", "print:waiting")
    opening = asyncio.create_task(tunnel.open(9, ignore))
    await until(lambda: any("child" in run for run in program.runs()))
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await tunnel.close()
    program.assert_nothing_is_left()


async def test_a_missing_program_is_told_with_how_to_get_it(
    make_preset: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        TunnelFailed, match=r"needs the program 'tuna', which is not installed: .*tuna login"
    ) as caught:
        await make_preset("tuna").open(9, ignore)
    assert caught.value.permanent
    with pytest.raises(TunnelFailed, match="no-such"):
        await make_preset("tuna", binary=str(tmp_path / "no-such")).open(9, ignore)


async def test_a_file_that_is_no_program_is_told(make_preset: Make, tmp_path: Path) -> None:
    file = tmp_path / "tuna"
    file.write_text("no program")
    with pytest.raises(TunnelFailed, match="cannot be started") as caught:
        await make_preset("tuna", binary=str(file)).open(9, ignore)
    assert caught.value.permanent
    file.chmod(0o755)
    with pytest.raises(TunnelFailed, match="cannot be started"):
        await make_preset("tuna", binary=str(file)).open(9, ignore)


@pytest.mark.parametrize(
    ("name", "settings", "arguments"),
    [
        ("tuna", {}, ["http", "9"]),
        ("tuna", {"domain": "shop"}, ["http", "9", "--subdomain=shop"]),
        ("tuna", {"domain": "shop.ru.tuna.am"}, ["http", "9", "--subdomain=shop"]),
        ("tuna", {"domain": "hooks.example.org"}, ["http", "9", "--domain=hooks.example.org"]),
        ("tuna", {"options": ("--location=nl",)}, ["http", "9", "--location=nl"]),
        ("localtunnel", {"domain": "shop"}, ["--port", "9", "--subdomain", "shop"]),
        ("zrok", {}, ["share", "public", "localhost:9", "--headless"]),
        ("tailscale", {"options": ("--https=8443",)}, ["funnel", "--yes", "--https=8443", "9"]),
        ("devtunnel", {"domain": "shop"}, ["host", "shop"]),
        ("frp", {"options": ("-c", "x-{port}.toml"), "public_url": "https://a.example.org"}, ["-c", "x-9.toml"]),
    ],
)
async def test_programs_are_called_as_they_want_to_be(
    make_preset: Make, program: TunnelProgram, name: str, settings: dict[str, Any], arguments: list[str]
) -> None:
    with pytest.raises(TunnelFailed):
        await make_preset(name, "exit:1", **settings).open(9, ignore)
    assert program.run()["arguments"] == arguments


async def test_a_name_that_was_not_granted_is_told(make_preset: Make) -> None:
    said: list[str] = []
    deed = "print:your url is: https://wild-invented-cats.loca.lt"
    assert await make_preset("localtunnel", deed, domain="shop").open(9, said.append) == (
        "https://wild-invented-cats.loca.lt"
    )
    [sentence] = said
    assert "shop" in sentence
    assert "wild-invented-cats" in sentence
    said.clear()
    deed = "print:your url is: https://shop.loca.lt"
    await make_preset("localtunnel", deed, domain="shop").open(9, said.append)
    assert said == []


async def test_variables_that_a_program_would_take_for_its_options_are_not_passed_on(
    make_preset: Make, program: TunnelProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOST", "PORT", "SUBDOMAIN", "OPEN", "host"):
        monkeypatch.setenv(name, "taken")
    monkeypatch.setenv("KEPT", "yes")
    await make_preset("localtunnel", "print:your url is: https://cats.loca.lt").open(9, ignore)
    environment = program.run()["environment"]
    assert not {"HOST", "PORT", "SUBDOMAIN", "OPEN", "host"} & set(environment)
    assert environment["KEPT"] == "yes"
    assert environment["B24TUNNEL_PORT"] == "9"


async def test_what_would_hide_or_change_the_output_is_settled(
    make_preset: Make, program: TunnelProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNNELMOLE_QUIET_MODE", "1")
    await make_preset("tunnelmole", "print:https://a.tunnelmole.net ⟶ http://localhost:9").open(9, ignore)
    await make_preset("bore", "print:listening at bore.pub:35429").open(9, ignore)
    tunnelmole, bore = (run["environment"] for run in program.runs())
    assert "TUNNELMOLE_QUIET_MODE" not in tunnelmole
    assert bore["NO_COLOR"] == "1"


async def test_what_a_program_goes_on_after_is_told(make_preset: Make) -> None:
    said: list[str] = []
    done = "print:Сервис опубликован: http://localhost:9 -> https://fish.cloudpub.ru:443"
    await make_preset("cloudpub", "error:Ошибка сети, пробуем еще раз.", done).open(9, said.append)
    assert "trouble with the network" in " ".join(said)


async def test_a_permanent_failure_is_told_as_such(make_preset: Make, program: TunnelProgram) -> None:
    failed = await refused(make_preset("tuna", "print:FATA Unknown token"), program)
    assert failed.permanent
    assert "TUNA_TOKEN" in str(failed)


async def test_no_secret_is_in_a_message_nor_in_the_arguments(
    make_preset: Make, program: TunnelProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNA_TOKEN", SECRET)
    line = f"Unknown token {SECRET}, see https://me:{SECRET}@tuna.example.org, token: other-secret"
    failed = await refused(make_preset("tuna", f"print:{line}"), program)
    assert "other-secret" not in str(failed)
    assert "masked" in str(failed)
    await make_preset("tuna", "print:Forwarding https://a.ru.tuna.am -> 127.0.0.1:9").open(9, ignore)
    assert SECRET not in arguments_of_all()
    assert program.runs()[-1]["environment"]["TUNA_TOKEN"] == SECRET


async def test_a_long_last_line_is_shortened(make: Make, program: TunnelProgram) -> None:
    assert len(str(await refused(make(f"print:{'long ' * 1000}", "exit:1"), program))) < 700


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("cloudpub", {"domain": "shop"}),
        ("xtunnel", {"domain": "shop"}),
        ("localtunnel", {"domain": "hooks.example.org"}),
        ("localtunnel", {"domain": "--print-requests"}),
        ("tuna", {"domain": "a b"}),
        ("tuna", {"options": (f"--token={SECRET}",)}),
        ("tailscale", {"options": ("--bg",)}),
        ("tuna", {"public_url": "https://a.example.org"}),
        ("frp", {}),
        ("frp", {"public_url": "no address"}),
    ],
)
def test_settings_that_do_not_fit_a_preset_are_refused(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(WrongUsage) as caught:
        CommandTunnel.of_preset(PRESETS[name], PresetSettings(**settings))
    assert SECRET not in str(caught.value)


async def test_a_version_that_cannot_be_asked_for_a_name_says_so(make_preset: Make) -> None:
    with pytest.raises(TunnelFailed, match="newer version") as caught:
        await make_preset("zrok", domain="shop").open(9, ignore)
    assert caught.value.permanent


@pytest.mark.parametrize(
    "settings",
    [
        {"command": "prog {port}"},
        {"command": "prog", "url": FORWARDING},
        {"command": "", "url": FORWARDING},
        {"command": "prog '{port}", "url": FORWARDING},
        {"command": "prog {port}", "url": "("},
        {"command": "prog {port}", "url": "(a)(b)"},
        {"command": "prog {port}", "url": ".*"},
        {"command": "prog {port}", "url": "x" * 501},
        {"command": "prog {port}", "url": FORWARDING, "failures": ("[",)},
        {"command": "prog {port}", "ready": "well"},
        {"command": "prog {port}", "public_url": "https://a.example.org"},
        {"command": "prog {port}", "ready": "well", "public_url": "a.example.org"},
        {"command": "prog {port}", "url": FORWARDING, "seconds": 0},
        {"command": "prog {port}", "url": FORWARDING, "seconds": 601},
        {"command": "prog {port}", "url": FORWARDING, "probe_seconds": 4},
        {"command": "prog {port}", "url": FORWARDING, "probe_seconds": 3601},
    ],
)
def test_settings_of_a_program_that_do_not_fit_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(WrongUsage, match=r"[.]$"):
        CommandSettings(**settings)


async def test_a_command_is_no_shells(make: Make, program: TunnelProgram) -> None:
    await make(OPENED, command=f"{program.binary} {{port}} '$HOME;' \"a b\" | `id`").open(9, ignore)
    assert program.run()["arguments"] == ["9", "$HOME;", "a b", "|", "`id`"]


OPENS_A_TUNNEL = f"""
import asyncio, json, sys
from b24tunnel.tunnel.command import CommandSettings, CommandTunnel

async def main():
    settings = CommandSettings(sys.argv[1] + " {{port}}", url={FORWARDING!r})
    tunnel = CommandTunnel.of_program("mine", settings)
    url = await tunnel.open(9, lambda _: None)
    print(json.dumps({{"type": "open", "url": url}}), flush=True)
    await tunnel.lost()

asyncio.run(main())
"""


@pytest.mark.parametrize("deeds", [("child:", OPENED), ("deaf:", "child:", OPENED), ("child:", OPENED, "mute:")])
def test_a_killed_process_leaves_no_program_no_child_and_no_warden(
    program: TunnelProgram, programs: Programs, deeds: tuple[str, ...]
) -> None:
    opener = programs.start(
        *(sys.executable, "-c", OPENS_A_TUNNEL, shlex.quote(str(program.binary))),
        env={**program.environment, "TUNNEL_STANDIN": "\n".join(deeds)},
    )
    opener.next_json("open")
    run = program.run()
    assert {"pid", "child"} <= set(run)
    warden = wardens_of(run["pid"])
    assert len(warden) == 1
    opener.send_signal(signal.SIGKILL)
    for pid in (run["pid"], run["child"], *warden):
        wait_until(lambda pid=pid: not exists(pid), f"the end of {pid}")


def test_children_of_a_program_that_has_ended_do_not_outlive_a_killed_process(
    program: TunnelProgram, programs: Programs
) -> None:
    script = OPENS_A_TUNNEL.replace("await tunnel.lost()", "await tunnel.lost(); await asyncio.Event().wait()")
    opener = programs.start(
        *(sys.executable, "-c", script, shlex.quote(str(program.binary))),
        env={**program.environment, "TUNNEL_STANDIN": f"child:\n{OPENED}\nexit:0"},
    )
    opener.next_json("open")
    run = program.run()
    wait_until(lambda: not exists(run["pid"]), "the program's end")
    assert exists(run["child"])
    opener.send_signal(signal.SIGKILL)
    wait_until(lambda: not exists(run["child"]), "the end of the program's child")


def wardens_of(pid: int) -> list[int]:
    """The wardens that watch over this program."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):
            arguments = path.read_bytes().decode("utf-8", "replace").split("\0")
            if any(part.endswith("warden.py") for part in arguments) and str(pid) in arguments:
                found.append(int(path.parent.name))
    return found
