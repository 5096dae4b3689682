"""What each known program prints, as its source, pasted output or scripts show it, and what is read out of it."""

from __future__ import annotations

import json
import re

import pytest

from b24tunnel.tunnel.command_settings import CommandSettings
from b24tunnel.tunnel.lines import Lines
from b24tunnel.tunnel.preset import OPTIONS
from b24tunnel.tunnel.presets import PRESETS
from b24tunnel.tunnel.reader import Reader, normalised

PORT = 8080
OWN = "https://hooks.example.org"

ZROK_MESSAGE = "access your zrok share at the following endpoints:\n https://zje5invented.share.zrok.io"

# What a program prints (lines), and the address that is read from it.
ADDRESSES = [
    (
        "tuna",
        "INFO[11:14:38] New version: https://tuna.am/docs/guides/update?os=linux\n"
        "INFO[11:14:39] Welcome to Tuna\n"
        "INFO[11:14:39] Account: Имя (Free)\n"
        "INFO[11:14:39] Web Interface: http://127.0.0.1:4040\n"
        "INFO[11:14:40] Forwarding https://34mfdk-203-0-113-7.ru.tuna.am -> 127.0.0.1:8080",
        "https://34mfdk-203-0-113-7.ru.tuna.am",
    ),
    (
        "tuna",
        "INFO[11:14:39] Account: Имя (Paid till 09.06.2043)\n"
        "INFO[11:14:40] Forwarding https://hooks.example.org -> 127.0.0.1:8080",
        OWN,
    ),
    ("tuna", '{"level":"info","msg":"Forwarding","url":"https://x.tuna.am"}', "https://x.tuna.am"),
    (
        "cloudpub",
        "Сервис опубликован: http://localhost:8080 -> https://wildly-invented-fish.cloudpub.ru:443",
        "https://wildly-invented-fish.cloudpub.ru",
    ),
    (
        "cloudpub",
        "New version available: 3.0.3. Run `clo upgrade`\n"
        "Ошибка сети, пробуем еще раз.\n"
        "Сервис опубликован: http://localhost:8080 -> https://wildly-invented-fish.cloudpub.ru",
        "https://wildly-invented-fish.cloudpub.ru",
    ),
    (
        "cloudpub",
        "Service published: [name] http://localhost:8080 -> https://wildly-invented-fish.cloudpub.online:443",
        "https://wildly-invented-fish.cloudpub.online",
    ),
    (
        "xtunnel",
        "Public address: https://00000000-1111-4222-8333-444444444444.tunnel4.com",
        "https://00000000-1111-4222-8333-444444444444.tunnel4.com",
    ),
    (
        "zrok",
        json.dumps({"time": "2026-05-18T10:00:00Z", "level": "INFO", "source": {}, "msg": ZROK_MESSAGE}),
        "https://zje5invented.share.zrok.io",
    ),
    ("zrok", f"INFO {ZROK_MESSAGE}", "https://zje5invented.share.zrok.io"),
    (
        "zrok",
        json.dumps({"level": "info", "msg": f"{ZROK_MESSAGE}\n https://second.example.org", "time": "…"}),
        "https://zje5invented.share.zrok.io",
    ),
    (
        "zrok",
        json.dumps({"msg": "access your zrok share at the following endpoints:\n zrok.example.org:8443"}),
        "https://zrok.example.org:8443",
    ),
    (
        "bore",
        "\x1b[2m2026-11-25T01:30:00.123456Z\x1b[0m \x1b[32m INFO\x1b[0m \x1b[2mbore_cli::client\x1b[0m: "
        "connected to server \x1b[3mremote_port\x1b[0m\x1b[2m=\x1b[0m35429\n"
        "2026-11-25T01:30:00.123456Z  INFO bore_cli::client: listening at bore.pub:35429",
        "http://bore.pub:35429",
    ),
    ("localtunnel", "your url is: https://wild-invented-cats.loca.lt", "https://wild-invented-cats.loca.lt"),
    (
        "localtunnel",
        "your url is: https://wild-invented-cats.loca.lt\nyour cachedUrl is: https://other-cats.loca.lt",
        "https://wild-invented-cats.loca.lt",
    ),
    (
        "tunnelmole",
        "https://cqinvt-ip-203-0-113-7.tunnelmole.net ⟶   http://localhost:8080\n"
        "http://cqinvt-ip-203-0-113-7.tunnelmole.net ⟶   http://localhost:8080\n"
        "https://dashboard.tunnelmole.com/share/abc",
        "https://cqinvt-ip-203-0-113-7.tunnelmole.net",
    ),
    (
        "tailscale",
        "Available on the internet:\n\nhttps://host.tailinvented.ts.net/\n|-- proxy http://127.0.0.1:8080\n\n"
        "Press Ctrl+C to exit.",
        "https://host.tailinvented.ts.net",
    ),
    (
        "tailscale",
        "Available on the internet:\n\nhttps://host.tailinvented.ts.net:8443/\n|-- proxy http://127.0.0.1:8080",
        "https://host.tailinvented.ts.net:8443",
    ),
    (
        "devtunnel",
        "Hosting port: 8080\n"
        "Connect via browser: https://3tginvnt.usw3.devtunnels.ms:8080, https://3tginvnt-8080.usw3.devtunnels.ms\n"
        "Inspect network activity: https://3tginvnt-8080-inspect.usw3.devtunnels.ms\n\n"
        "Ready to accept connections for tunnel: quick-invented-mprv",
        "https://3tginvnt-8080.usw3.devtunnels.ms",
    ),
    (
        "devtunnel",
        "Connect via browser: https://3tginvnt-8080.usw3.devtunnels.ms\n"
        "Inspect via browser: https://3tginvnt-8080-inspect.usw3.devtunnels.ms",
        "https://3tginvnt-8080.usw3.devtunnels.ms",
    ),
    (
        "frp",
        "2026-07-23 10:00:00.000 [I] [client/service.go:331] login to server success, get run id [abc]\n"
        "2026-07-23 10:00:00.100 [I] [client/control.go:165] [abc] [hooks] start proxy success",
        OWN,
    ),
]

# A line that ends it, whether trying again is senseless, and a part of the advice.
FAILURES = [
    ("tuna", 'FATA[11:14:39] {"message":"Unknown token"}', True, "TUNA_TOKEN"),
    ("tuna", "ERRO[11:14:39] token must be specified", True, "tuna login"),
    ("tuna", "AuthorizationRequired", True, "tuna login"),
    ("cloudpub", "Отсутствует токен авторизации", True, "clo login"),
    ("cloudpub", "Authorization token is missing", True, "clo login"),
    ("cloudpub", "Сессия завершена, токен авторизации сброшен", True, "clo login"),
    ("cloudpub", "Ошибка публикации: http://localhost:8080 -> https://причина.example.org", False, "again"),
    ("cloudpub", "Service error: http://localhost:8080 -> https://x.cloudpub.online:443", False, "again"),
    (
        "zrok",
        "[\x1b[31mERROR\x1b[0m]: unable to create share (unable to load environment; did you 'zrok2 enable'?)",
        True,
        "zrok2 enable",
    ),
    (
        "zrok",
        "[ERROR]: unable to create share (unable to load environment; did you 'zrok enable'?)",
        True,
        "enable",
    ),
    ("zrok", '{"level":"error","msg":"[POST /enable][401] enableUnauthorized","time":"…"}', True, "token"),
    ("zrok", "[ERROR]: unable to create share (bandwidth limit)", False, "again"),
    ("bore", "Error: could not connect to bore.pub:7835", False, "again"),
    ("bore", "Error: server error: port already in use", False, "another port"),
    ("bore", "Error: server error: client port number not in allowed range", True, "another port"),
    ("bore", "Error: server requires authentication, but no client secret was provided", True, "BORE_SECRET"),
    ("bore", "Error: timed out waiting for initial message", False, "again"),
    ("localtunnel", "your url is: undefined", False, "again"),
    (
        "localtunnel",
        "Error: connection refused: loca.lt:34567 (check your firewall settings)",
        False,
        "firewall",
    ),
    ("tunnelmole", "You currently don't have anything running on port 8080", False, "receiver"),
    (
        "tunnelmole",
        "shop.tunnelmole.net is already taken, please choose a different hostname",
        True,
        "another name",
    ),
    ("tailscale", "https://login.tailscale.com/f/funnel?node=nInvented", True, "Funnel"),
    (
        "tailscale",
        "Funnel not available; HTTPS must be enabled. See https://tailscale.com/s/https.",
        True,
        "enable HTTPS",
    ),
    (
        "tailscale",
        'Funnel not available; "funnel" node attribute not set. See https://tailscale.com/s/no-funnel.',
        True,
        "Funnel",
    ),
    ("tailscale", "port 8444 is not allowed for funnel; allowed ports are: 443,8443,10000", True, "allowed port"),
    ("tailscale", "backend error: invalid key: API key does not exist", True, "tailscale up"),
    (
        "devtunnel",
        "Tunnel service error: Request not permitted. Unauthorized tunnel creation access: Anonymous does not "
        "have 'create' access scope",
        True,
        "devtunnel user login",
    ),
    ("devtunnel", "Login required.", True, "devtunnel user login"),
    ("devtunnel", "Login token expired.", True, "devtunnel user login"),
    (
        "devtunnel",
        "devtunnel: Error connecting host tunnel session: The server returned status code '429' when status code "
        "'101' was expected.",
        False,
        "wait some minutes",
    ),
    ("devtunnel", "Tunnel service error: Service unavailable", False, "again"),
    ("frp", "connect to server error: dial tcp 203.0.113.7:7000: connect: connection refused", False, "reachable"),
    (
        "frp",
        "login to the server failed: token in login doesn't match token from configuration. With loginFailExit "
        "enabled, no additional retries will be attempted",
        True,
        "auth.token",
    ),
    ("frp", "login to the server failed: i/o deadline reached", False, "reachable"),
    ("frp", "2026 [W] [client/control.go:168] [hooks] start error: router config conflict", False, "try again"),
    ("frp", "2026 [W] [hooks] start error: proxy name [hooks] is already in use", False, "try again"),
    ("frp", "2026 [W] [hooks] start error: port already used", False, "try again"),
]

# Addresses that such programs print and that are no tunnel's.
DECOYS = [
    "https://admin.localhost.run/",
    "https://localhost.run/docs/forever-free/",
    "https://twitter.com/localhost_run",
    "https://dashboard.pinggy.io",
    "https://console.serveo.net/settings?n=1&src=tip",
    "https://dashboard.tunnelmole.com/share/abc",
    "https://www.cloudflare.com/website-terms/",
    "https://developers.cloudflare.com/cloudflare-one/",
    "https://api.trycloudflare.com/tunnel",
    "https://login.tailscale.com/f/funnel?node=nInvented",
    "https://ngrok.com/docs/errors/err_ngrok_9040",
    "https://3tginvnt-8080-inspect.usw3.devtunnels.ms",
    "https://tuna.am/docs/guides/update?os=linux",
    "http://127.0.0.1:4040",
    "http://localhost:8080",
]
FRAMES = [
    "{}",
    "  {}  ",
    "Visit {} for more",
    "INFO[11:14:39] Web Interface: {}",
    "Inspect network activity: {}",
    "Tip (1): see [{}].",
    'error: Post "{}": dial tcp: no such host',
    '{{"level":"info","msg":"see {}"}}',
    "|-- proxy {}",
]

# Lines that mean neither an address nor an end.
NOTHING = [
    ("tuna", "INFO[11:14:39] Welcome to Tuna"),
    ("cloudpub", "Network error, trying again."),
    ("cloudpub", "New version available: 3.0.3. Run `clo upgrade`"),
    ("xtunnel", "Status: Registered"),
    ("xtunnel", "Registration completed successfully"),
    ("zrok", '{"level":"error","msg":"retrying","time":"…"}'),
    ("zrok", "https://api-v2.zrok.io"),
    ("zrok", "{" * 5000),
    ("zrok", "[" * 5000),
    ("zrok", '{"msg": ["following endpoints:"]}'),
    ("localtunnel", "your cachedUrl is: https://wild-invented-cats.loca.lt"),
    ("tunnelmole", "http://cqinvt-ip-203-0-113-7.tunnelmole.net ⟶   http://localhost:8080"),
    ("tunnelmole", "Falling back to free mode with a random subdomain."),
    ("tailscale", "Available within your tailnet:\n\nhttps://host.tailinvented.ts.net/"),
    (
        "tailscale",
        "Available on the internet:\nAvailable within your tailnet:\n\nhttps://host.tailinvented.ts.net/",
    ),
    ("tailscale", "https://host.tailinvented.ts.net/"),
    ("tailscale", "Available on the internet:\nhttps://host.tailinvented.ts.net.example.org/"),
    ("devtunnel", "Connect via browser: https://3tginvnt-9999.usw3.devtunnels.ms"),
    ("devtunnel", "Inspect via browser: https://3tginvnt-8080-inspect.usw3.devtunnels.ms"),
    ("frp", "[I] [client/service.go:331] login to server success, get run id [abc]"),
]


def reading(name: str, output: str, pieces: int = 100_000, domain: str | None = None) -> Reader:
    """What a preset's reader knows once this has come in pieces of so many bytes."""
    reader = Reader(PRESETS[name], PORT, domain, OWN if PRESETS[name].ready else None)
    lines = Lines()
    given = output.encode()
    for start in range(0, len(given), pieces):
        for line in lines.feed(given[start : start + pieces]):
            reader.feed(line)
    for line in lines.finish():
        reader.feed(line)
    return reader


def coloured(output: str) -> str:
    """The same as for a terminal: colours around words, each line ended as there."""
    return (
        re.sub(r"(https?://[\w.:-]+)", "\x1b[1;32m\\1\x1b(B\x1b[m", output).replace("\n", "\x1b[0m\r\n") + "\r\n"
    )


@pytest.mark.parametrize("pieces", [1, 7, 100_000])
@pytest.mark.parametrize(("name", "output", "address"), ADDRESSES)
def test_the_address_is_read_from_what_the_program_prints(
    name: str, output: str, address: str, pieces: int
) -> None:
    for printed in (output, coloured(output)):
        reader = reading(name, printed, pieces)
        assert (reader.url, reader.failure) == (address, None)


@pytest.mark.parametrize(("name", "line", "permanent", "advice"), FAILURES)
def test_a_failure_is_read_with_what_to_do_about_it(name: str, line: str, permanent: bool, advice: str) -> None:
    for printed in (line, f"{line}\r\n", f"something before\n\x1b[31m{line}\x1b[0m\nhttps://after.example.org\n"):
        reader = reading(name, printed, 5)
        assert reader.url is None
        assert reader.failure is not None
        assert reader.failure.failure.permanent is permanent
        assert advice in reader.failure.failure.advice


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("decoy", DECOYS)
def test_addresses_that_are_no_tunnels_are_never_taken(name: str, decoy: str) -> None:
    for frame in FRAMES:
        for printed in (frame.format(decoy), f"\x1b[4m{frame.format(decoy)}\x1b[0m\r\n"):
            assert reading(name, printed).url is None, printed


def test_a_pattern_of_the_users_own_that_fits_too_much_takes_no_such_address_either() -> None:
    preset = CommandSettings("program {port}", url=r"https?://\S+").as_preset("mine")
    reader = Reader(preset, PORT)
    for decoy in DECOYS[:-2]:
        reader.feed(f"Visit {decoy} for more about http://127.0.0.1:{PORT}")
        assert reader.url is None, decoy
    reader.feed("See https://tuna.am/docs, or go to (https://hooks.example.org/below/).")
    assert reader.url == "https://hooks.example.org/below"


@pytest.mark.parametrize(
    ("pattern", "line", "address"),
    [
        (r"at (\S+)$", "serving at hooks.example.org:8000", "http://hooks.example.org:8000"),
        (r"https://\S+", "open: https://hooks.example.org:443/", "https://hooks.example.org"),
        (r"at (\S+)$", "serving at http://127.0.0.1:9999", "http://127.0.0.1:9999"),
        (r"at (\S+)$", f"serving at localhost:{PORT}", None),
        (r"at (\S+)$", "serving at noon", None),
        (r"at(?: (\S+))?$", "serving at", None),
    ],
)
def test_a_pattern_of_the_users_own_finds_the_address(pattern: str, line: str, address: str | None) -> None:
    reader = Reader(CommandSettings("program {port}", url=pattern).as_preset("mine"), PORT)
    reader.feed(line)
    assert reader.url == address


@pytest.mark.parametrize("name", PRESETS)
def test_what_another_program_prints_is_no_address_of_this_one(name: str) -> None:
    for other, output, _ in ADDRESSES:
        if other != name:
            assert reading(name, output).url is None, output


@pytest.mark.parametrize(("name", "line"), NOTHING)
def test_other_lines_are_neither_an_address_nor_a_failure(name: str, line: str) -> None:
    reader = reading(name, line)
    assert (reader.url, reader.failure) == (None, None)


def test_a_limit_asks_for_a_pause() -> None:
    failed = reading(
        "devtunnel", "The server returned status code '429' when status code '101' was expected."
    ).failure
    assert failed is not None
    assert failed.failure.pause >= 60


def test_what_the_program_goes_on_after_is_told_once() -> None:
    assert len(reading("cloudpub", "Ошибка сети, пробуем еще раз.\nNetwork error, trying again.\n").notes) == 1
    [note] = reading("tunnelmole", "Falling back to free mode with a random subdomain.").notes
    assert "random name" in note


def test_once_there_is_an_address_only_what_ends_the_tunnel_is_a_failure() -> None:
    opened = "your url is: https://wild-invented-cats.loca.lt\n"
    assert reading("localtunnel", f"{opened}connection refused: loca.lt:34567").failure is None
    opened = "Service published: http://localhost:8080 -> https://fish.cloudpub.online:443\n"
    assert reading("cloudpub", f"{opened}Service error: http://localhost:8080 -> gone").failure is not None
    assert reading("cloudpub", f"{opened}Сессия завершена, токен авторизации сброшен").failure is not None


def test_an_address_given_later_takes_the_place_of_the_first() -> None:
    first = "Forwarding https://one.ru.tuna.am -> 127.0.0.1:8080\n"
    assert reading("tuna", f"{first}Forwarding https://two.ru.tuna.am -> 127.0.0.1:8080").url == (
        "https://two.ru.tuna.am"
    )
    assert reading("tuna", f"{first}Forwarding http://one.ru.tuna.am -> 127.0.0.1:8080").url == (
        "https://one.ru.tuna.am"
    )


@pytest.mark.parametrize(
    ("name", "domain", "output", "granted"),
    [
        ("localtunnel", "shop", "your url is: https://shop.loca.lt", True),
        ("localtunnel", "Shop.loca.lt", "your url is: https://shop.loca.lt", True),
        ("localtunnel", "shop", "your url is: https://wild-invented-cats.loca.lt", False),
        ("localtunnel", "shop", "your url is: https://shop-2.loca.lt", False),
        ("tunnelmole", "shop", "https://cqinvt.tunnelmole.net ⟶ http://localhost:8080", False),
        ("tuna", "hooks.example.org", "Forwarding https://hooks.example.org -> 127.0.0.1:8080", True),
        ("devtunnel", "quick-mprv", "Connect via browser: https://3tg-8080.usw3.devtunnels.ms", True),
        ("localtunnel", None, "your url is: https://wild-invented-cats.loca.lt", True),
    ],
)
def test_the_name_that_was_asked_for_is_compared_with_the_one_that_came(
    name: str, domain: str | None, output: str, granted: bool
) -> None:
    assert reading(name, output, domain=domain).granted is granted


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("https://Shop.Example.org:443/", "https://shop.example.org"),
        ("http://shop.example.org:80", "http://shop.example.org"),
        ("http://shop.example.org:443", "http://shop.example.org:443"),
        ("shop.example.org:8443", "https://shop.example.org:8443"),
        ("https://shop.example.org/below/", "https://shop.example.org/below"),
        ("https://shop.example.org).", "https://shop.example.org"),
        ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
        ("https://магазин.example.org", "https://магазин.example.org"),
        ("https://user:password@shop.example.org", None),
        ("https://shop.example.org/?code=1", None),
        ("https://shop.example.org:0", None),
        ("https://shop.example.org:70000", None),
        ("ftp://shop.example.org", None),
        ("", None),
    ],
)
def test_addresses_are_normalised(written: str, address: str | None) -> None:
    assert normalised(written) == address


def test_presets_are_whole() -> None:
    names = ["tuna", "cloudpub", "xtunnel", "zrok", "bore", "localtunnel", "tunnelmole"]
    assert sorted(PRESETS) == sorted([*names, "tailscale", "devtunnel", "frp"])
    assert {name for name, preset in PRESETS.items() if not preset.automatic} == {"bore", "tailscale", "frp"}
    for name, preset in PRESETS.items():
        assert preset.name == name
        assert preset.setup
        assert bool(preset.patterns) != bool(preset.ready)
        assert all(re.compile(pattern.replace("{port}", "1")).groups == 1 for pattern in preset.patterns)
        assert 5 <= preset.probe_seconds <= 3600
        for invocation in preset.invocations:
            for template in filter(None, (invocation.arguments, invocation.named, invocation.custom)):
                assert template.count(OPTIONS) == 1
                assert not any("token" in part for part in template)
    assert PRESETS["zrok"].binaries == ("zrok2", "zrok")
