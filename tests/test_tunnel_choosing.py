"""Which tunnel a name means, what the automatic choice tries in which order, and what is usable here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from b24tunnel.errors import WrongUsage
from b24tunnel.settings import ProjectSettings
from b24tunnel.tunnel.choosing import Wish, choose, provider_names, survey
from b24tunnel.tunnel.cloudflared import CloudflaredTunnel
from b24tunnel.tunnel.command import CommandTunnel
from b24tunnel.tunnel.facts import FACTS
from b24tunnel.tunnel.local import LocalTunnel
from b24tunnel.tunnel.ngrok import NgrokTunnel
from b24tunnel.tunnel.presets import PRESETS
from b24tunnel.tunnel.ssh import SshTunnel
from b24tunnel.tunnel.ssh_services import SSH_SERVICES, SshServiceTunnel
from b24tunnel.tunnel.url import UrlTunnel

MINE = {"command": "mine {port}", "url": r"at (https://\S+)"}
NOTHING = ProjectSettings()
SERVICES = ["srv.us", "localhost.run", "pinggy", "serveo"]


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with nothing but Python, whose directory of programs is given."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NGROK_AUTHTOKEN", raising=False)
    return programs


def installed(programs: Path, *names: str) -> None:
    for name in names:
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)


def names(wish: Wish, settings: ProjectSettings, home: Path) -> list[str]:
    return [candidate.tunnel.name for candidate in choose(wish, settings, home)]


@pytest.mark.parametrize(
    ("wish", "tunnels", "kind"),
    [
        (Wish("local"), {}, LocalTunnel),
        (Wish("url", "https://hooks.example.org"), {}, UrlTunnel),
        (Wish(None, "https://hooks.example.org"), {}, UrlTunnel),
        (Wish("ngrok"), {}, NgrokTunnel),
        (Wish("ngrok", domain="name.ngrok-free.app"), {}, NgrokTunnel),
        (Wish("cloudflared"), {}, CloudflaredTunnel),
        (Wish("cloudflared", "https://hooks.example.org"), {}, CloudflaredTunnel),
        (Wish("ssh"), {"ssh": {"host": "vps.example.org"}}, SshTunnel),
        (Wish("ssh", "https://hooks.example.org"), {"ssh": {"host": "vps.example.org"}}, SshTunnel),
        *((Wish(name), {}, SshServiceTunnel) for name in SSH_SERVICES),
        *((Wish(name), {}, CommandTunnel) for name in PRESETS if name != "frp"),
        (Wish("tuna", domain="my-shop"), {"tuna": {"options": ["--location=ru"]}}, CommandTunnel),
        (Wish("frp", "https://hooks.example.org"), {}, CommandTunnel),
        (Wish("mine"), {"mine": MINE}, CommandTunnel),
        (Wish("mine", "https://hooks.example.org"), {"mine": MINE}, CommandTunnel),
    ],
)
def test_a_name_means_its_provider(wish: Wish, tunnels: dict[str, Any], kind: type, home: Path) -> None:
    [candidate] = choose(wish, ProjectSettings(tunnels=tunnels), home)
    assert isinstance(candidate.tunnel, kind)
    assert candidate.tunnel.name == (wish.name or "url")
    assert (candidate.why, candidate.better) == ("", ""), "it was asked for"


def test_every_name_has_its_facts_and_every_provider_a_name(home: Path) -> None:
    known = set(provider_names(NOTHING)) - {"auto"}
    assert known == set(FACTS)
    assert {*SSH_SERVICES, *PRESETS} < known


@pytest.mark.parametrize(
    ("wish", "settings", "words"),
    [
        (Wish("url"), {}, "--public-url"),
        (Wish("local", "https://x.example.org"), {}, "belongs to the tunnel 'url', not to 'local'"),
        (Wish("tuna", "https://x.example.org"), {}, "belongs to the tunnel 'url', not to 'tuna'"),
        (Wish("auto", "https://x.example.org"), {}, "leave one of them out"),
        (Wish(None, domain="my-shop"), {}, "say of which with --tunnel"),
        (Wish("zrock"), {}, "no tunnel provider 'zrock': did you mean 'zrok'? There are auto, ngrok"),
        (Wish("URL"), {}, "did you mean 'url'?"),
        (Wish("whatever"), {}, "no tunnel provider 'whatever': there are auto,"),
        (Wish(None, "nonsense"), {}, "no public address"),
        (Wish("ssh"), {}, "lacks host"),
        (Wish("ssh"), {"ssh": {"hots": "x"}}, "did you mean 'host'?"),
        (Wish("mine"), {"mine": {**MINE, "colour": 1}}, "[tunnels.mine]"),
        (Wish("mine"), {"mine": {"command": "mine {port}"}}, "needs url"),
        (Wish("mine"), {"mine": {"command": "mine", "url": "x"}}, "{port}"),
        (Wish("empty"), {"empty": {}}, "needs command"),
        (Wish("local"), {"ngork": {"domain": "x.example.org"}}, "did you mean 'ngrok'?"),
        (Wish("local"), {"local": {"x": 1}}, "nothing to settle of 'local'"),
        (Wish("local", domain="x.example.org"), {}, "leave --domain out"),
        (Wish("ssh", domain="x.example.org"), {"ssh": {"host": "x"}}, "leave --domain out"),
        (Wish("mine", domain="x.example.org"), {"mine": MINE}, "leave --domain out"),
        (Wish("ngrok", domain="a/b"), {}, "no ngrok domain"),
        (Wish("xtunnel", domain="name"), {}, "cannot be asked for the name"),
    ],
)
def test_a_choice_that_is_none_is_one_sentence_with_the_way_out(
    wish: Wish, settings: dict[str, Any], words: str, home: Path
) -> None:
    with pytest.raises(WrongUsage) as raised:
        choose(wish, ProjectSettings(tunnels=settings), home)
    assert words in str(raised.value)


def test_a_name_that_is_wrong_in_the_settings_is_told_with_the_file(home: Path, tmp_path: Path) -> None:
    with pytest.raises(WrongUsage, match=r"no tunnel provider 'nope' \(.*b24tunnel\.toml\)"):
        choose(Wish(), ProjectSettings("nope", {}, (tmp_path / "b24tunnel.toml",)), home)


def test_the_settings_name_the_tunnel_unless_the_command_line_does(home: Path) -> None:
    settled = ProjectSettings("mine", {"mine": MINE})
    assert names(Wish(), settled, home) == ["mine"]
    assert names(Wish("local"), settled, home) == ["local"]
    assert names(Wish(public_url="https://hooks.example.org"), settled, home) == ["url"]


def test_on_a_machine_with_nothing_but_python_the_services_that_need_nothing_are_tried(home: Path) -> None:
    candidates = choose(Wish(), NOTHING, home)
    assert [candidate.tunnel.name for candidate in candidates] == SERVICES
    assert all(candidate.why == "it needs no account and no program" for candidate in candidates)
    assert candidates[0].better == "", "its address stays"
    assert "[tunnels.ssh]" in candidates[1].better


def test_what_is_settled_goes_before_what_is_installed_and_that_before_what_is_free(
    bare: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(bare, "cloudflared", "lt", "tuna", "zrok", "tailscale", "bore", "frpc")
    monkeypatch.setenv("NGROK_AUTHTOKEN", "token")
    settings = ProjectSettings(tunnels={"mine": MINE, "ssh": {"host": "vps.example.org"}})
    candidates = choose(Wish("auto"), settings, home)
    assert [(candidate.tunnel.name, candidate.why) for candidate in candidates[:7]] == [
        ("ssh", "it is in the settings"),
        ("mine", "it is in the settings"),
        ("ngrok", "a token for it is known"),
        ("tuna", "the program tuna is installed"),
        ("zrok", "the program zrok is installed"),
        ("localtunnel", "the program lt is installed"),
        ("cloudflared", "the program cloudflared is installed"),
    ]
    assert [candidate.tunnel.name for candidate in candidates[7:]] == SERVICES


def test_a_network_of_ones_own_is_never_published_unasked(bare: Path, home: Path) -> None:
    installed(bare, "tailscale")
    assert "tailscale" not in names(Wish(), NOTHING, home)


def test_for_a_portal_on_this_machine_nothing_is_opened(bare: Path, home: Path) -> None:
    installed(bare, "cloudflared")
    assert names(Wish(here=True), NOTHING, home) == ["local"]
    assert names(Wish("cloudflared", here=True), NOTHING, home) == ["cloudflared"]


def test_each_project_has_a_slot_of_its_own_and_keeps_it(home: Path, tmp_path: Path) -> None:
    from b24tunnel.tunnel.choosing import _slot

    slots = [_slot(tmp_path / str(number)) for number in range(50)]
    assert slots == [_slot(tmp_path / str(number)) for number in range(50)]
    assert len(set(slots)) > 45
    assert all(1 <= slot <= 65_000 for slot in slots)


def test_the_survey_says_what_is_usable_here_and_what_another_lacks(bare: Path, home: Path) -> None:
    installed(bare, "tuna")
    found = {known.name: known for known in survey(ProjectSettings(tunnels={"mine": MINE}), home)}
    assert list(found) == [*FACTS, "mine"]
    assert (found["mine"].lacks, found["mine"].automatic) == (None, 1)
    assert (found["tuna"].lacks, found["tuna"].automatic) == (None, 2)
    assert (found["srv.us"].lacks, found["srv.us"].automatic) == (None, 3)
    assert (found["local"].lacks, found["local"].automatic) == (None, None)
    assert found["ngrok"].lacks == "a token: NGROK_AUTHTOKEN"
    assert found["ssh"].lacks == "a server: host in [tunnels.ssh]"
    assert found["zrok"].lacks == "the program zrok2"
    assert found["cloudflared"].lacks == "the program cloudflared"
    assert found["frp"].lacks is not None
    assert found["url"].lacks is not None


def test_a_program_below_the_users_home_is_found(bare: Path, home: Path, tmp_path: Path) -> None:
    installed(bare, "tuna")  # HOME is the directory above
    settings = ProjectSettings(tunnels={"tuna": {"binary": f"~/{bare.name}/tuna"}})
    assert next(known for known in survey(settings, home) if known.name == "tuna").lacks is None
