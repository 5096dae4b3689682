"""The two tunnels that are none: this machine itself, and an address that the user has."""

import asyncio

import pytest

from b24tunnel.errors import WrongUsage
from b24tunnel.tunnel.local import LocalTunnel
from b24tunnel.tunnel.url import UrlTunnel


def no_words(message: str) -> None:
    raise AssertionError(f"there is nothing to say, and {message!r} was said")


@pytest.mark.parametrize("tunnel", [LocalTunnel(), UrlTunnel("https://hooks.example.org")])
async def test_nobody_here_knows_of_a_loss(tunnel: LocalTunnel | UrlTunnel) -> None:
    losing = asyncio.ensure_future(tunnel.lost())
    done, _ = await asyncio.wait((losing,), timeout=0)
    assert not done
    losing.cancel()


async def test_the_local_tunnel_is_this_machine_itself() -> None:
    tunnel = LocalTunnel()
    assert await tunnel.open(8123, no_words) == "http://127.0.0.1:8123"
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
    assert await tunnel.open(8123, no_words) == address
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
