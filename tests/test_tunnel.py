"""Tunnel providers: which one a name means, and what address it gives."""

import pytest

from b24tunnel.errors import WrongUsage
from b24tunnel.tunnel import choose
from b24tunnel.tunnel.local import LocalTunnel
from b24tunnel.tunnel.url import UrlTunnel


async def test_the_local_tunnel_is_this_machine_itself() -> None:
    tunnel = LocalTunnel()
    assert await tunnel.open(8123) == "http://127.0.0.1:8123"
    assert await tunnel.alive()
    await tunnel.close()
    await tunnel.close()


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("https://hooks.example.org", "https://hooks.example.org"),
        ("https://hooks.example.org/", "https://hooks.example.org"),
        ("https://hooks.example.org:8443/below/", "https://hooks.example.org:8443/below"),
        ("http://203.0.113.7", "http://203.0.113.7"),
        ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
    ],
)
async def test_an_address_that_the_user_has_is_taken_without_its_last_slash(given: str, address: str) -> None:
    tunnel = UrlTunnel(given)
    assert await tunnel.open(8123) == address
    assert await tunnel.alive()
    await tunnel.close()
    await tunnel.close()


@pytest.mark.parametrize(
    "given",
    [
        "",
        "hooks.example.org",
        "//hooks.example.org",
        "ftp://hooks.example.org",
        "https://",
        "https://hooks.example.org/?key=1",
        "https://hooks.example.org/#part",
        "https://user:word@hooks.example.org",
        "https://hooks.example.org:0",
        "https://hooks.example.org:port",
        "https://[hooks",
    ],
)
def test_anything_else_is_no_public_address(given: str) -> None:
    with pytest.raises(WrongUsage, match=r"no public address: give one like https://"):
        UrlTunnel(given)


@pytest.mark.parametrize(
    "given",
    [
        "https://hooks.example.org/?",
        "https://hooks.example.org/#",
        "https://:word@hooks.example.org",
        "https://@hooks.example.org",
        "https://hooks example.org",
        "https://hooks.example.org/a b",
        "https://hooks.exa\nmple.org",
        " https://hooks.example.org",
    ],
)
async def test_an_address_that_would_not_work_with_a_path_behind_it_is_refused(given: str) -> None:
    with pytest.raises(WrongUsage):
        UrlTunnel(given)


@pytest.mark.parametrize(
    ("name", "public_url", "expected"),
    [
        (None, None, LocalTunnel),
        ("local", None, LocalTunnel),
        (None, "https://hooks.example.org", UrlTunnel),
        ("url", "https://hooks.example.org", UrlTunnel),
    ],
)
def test_a_name_or_an_address_chooses_the_provider(
    name: str | None, public_url: str | None, expected: type
) -> None:
    tunnel = choose(name, public_url)
    assert isinstance(tunnel, expected)
    assert tunnel.name == ("url" if expected is UrlTunnel else "local")


@pytest.mark.parametrize(
    ("name", "public_url", "words"),
    [
        ("url", None, "--public-url"),
        ("local", "https://hooks.example.org", "belongs to the tunnel 'url', not to 'local'"),
        ("zrok", None, "no tunnel provider 'zrok': choose one of local, url"),
        ("URL", None, "choose one of local, url"),
        (None, "nonsense", "no public address"),
    ],
)
def test_a_choice_that_is_none_says_what_there_is(name: str | None, public_url: str | None, words: str) -> None:
    with pytest.raises(WrongUsage, match=words):
        choose(name, public_url)
