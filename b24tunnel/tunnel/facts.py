"""What is known of each provider before it is tried: what it needs, and what its address is worth."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """``needs``: what a user has to have. ``stays``: whether the address is the same at the next start.

    ``russia``: whether it works from there, as far as dated sources say. ``tested``: what the tests of this
    project tried it with, where that is not the service itself.
    """

    needs: str
    stays: str
    russia: str
    tested: str


_UNKNOWN = "unknown"
_OWN = "where your server is reached"
_LINES = "its documented lines, read from a stand-in program"
_SSH = "a stand-in SSH server that speaks its lines"

# Sources on use from Russia: tuna 2024-07 to 2026-10, CloudPub 2026-06, xTunnel 2026-05, Tailscale (its control
# servers were blocked at times) 2024-10 to 2025-08, ngrok 2025-07 to 2026-08, Cloudflare 2025-04 to 2026-09.
FACTS: dict[str, Facts] = {
    "ngrok": Facts(
        "an account: NGROK_AUTHTOKEN",
        "yes, the account's domain",
        "no, refused (ERR_NGROK_9040)",
        "the real pyngrok with a stand-in agent",
    ),
    "cloudflared": Facts(
        "the program cloudflared",
        "only a named tunnel (hostname, TUNNEL_TOKEN)",
        "often not, port 7844 is blocked",
        "a stand-in program that forwards",
    ),
    "ssh": Facts("a server of your own with sshd", "yes", _OWN, "OpenSSH's sshd"),
    "srv.us": Facts("nothing", "yes, with the key that is kept", _UNKNOWN, _SSH),
    "localhost.run": Facts("nothing", "no, and it changes after some hours", _UNKNOWN, _SSH),
    "pinggy": Facts("nothing", "no, and it ends after 60 minutes; Pro: yes", _UNKNOWN, _SSH),
    "serveo": Facts("nothing", "no", "reported blocked in 2019", _SSH),
    "tuna": Facts("the program tuna, an account", "on a paid plan, it seems", "yes, made there", _LINES),
    "cloudpub": Facts("the program clo, an account", "it seems so", "yes, made there", _LINES),
    "xtunnel": Facts("the program xtunnel, an account", "it seems so", "yes, made there", _LINES),
    "zrok": Facts("the program zrok2 or zrok, an account", "with a name of your own", _UNKNOWN, _LINES),
    "bore": Facts("the program bore; no https", "no", _UNKNOWN, _LINES),
    "localtunnel": Facts("the program lt (npm)", "a name can be asked for", "named as an option", _LINES),
    "tunnelmole": Facts("the program tmole (npm)", "on a paid plan", _UNKNOWN, _LINES),
    "tailscale": Facts("the program tailscale, an account with Funnel", "yes", "unreliable", _LINES),
    "devtunnel": Facts("the program devtunnel, an account", "a tunnel made by hand", _UNKNOWN, _LINES),
    "frp": Facts("the program frpc, a server of your own with frps", "yes", _OWN, _LINES),
    "url": Facts("an address that leads here: --public-url", "yes", "as yours is", "addresses of this machine"),
    "local": Facts("nothing; reached from this machine only", "no", "yes", "itself"),
}
