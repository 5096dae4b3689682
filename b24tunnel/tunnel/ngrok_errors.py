"""What ngrok's error codes mean for somebody who waits for events, and the way out.

After the pages "errors/err_ngrok_N" of ngrok's documentation.
"""

from __future__ import annotations

import re

from b24tunnel.tunnel.provider import TunnelFailed

_CODE = re.compile(r"ERR_NGROK_(\d{1,6})")
_TOKEN_PAGE = "https://dashboard.ngrok.com/get-started/your-authtoken"

# What a visitor of the address is told while the agent and its session are well, or about a single request.
_VISITORS = frozenset({702, 734, 3004, 3200, 6024, 8012})
# Trying again later is worth it: seconds. The service forgets a session whose agent was killed after a while.
_PAUSES = {108: 60.0, 334: 30.0, 702: 60.0, 734: 60.0}

_SENTENCES = {
    105: f"ngrok does not take the authtoken for one (an API key, quotes or a space in it?): copy it again from "
    f"{_TOKEN_PAGE}.",
    107: f"ngrok knows the authtoken no longer (reset, revoked, or removed from the team): take a new one from "
    f"{_TOKEN_PAGE}.",
    108: "Too many ngrok agents run for this account at a time (3 on the free plan): stop another one, or wait a "
    "minute if one was killed.",
    120: "This ngrok agent is too old to be used without an account: run `ngrok update`, and set an authtoken.",
    121: "This ngrok agent is older than the account allows: run `ngrok update`.",
    313: "The ngrok plan includes no domain of that name: leave the domain out, or take the one that the "
    "dashboard shows.",
    334: "The ngrok domain is in use by another agent already: stop that one, or leave the domain out.",
    702: "ngrok limits the rate of connections to this account: wait a minute, or take a bigger plan.",
    725: "The ngrok account's traffic for this month is used up: wait for the next month, take a bigger plan, or "
    "another tunnel.",
    734: "ngrok limits the rate of requests to this account: wait a minute, or take a bigger plan.",
    3004: "ngrok found no valid HTTP behind its tunnel: see that nothing but the receiver listens at its port.",
    3200: "ngrok has no agent online at this address: start the tunnel again, and bind the new address.",
    4018: "ngrok needs an account: sign up at https://dashboard.ngrok.com/signup, and put the authtoken into the "
    "environment variable NGROK_AUTHTOKEN.",
    6024: "ngrok shows browsers a warning page first on the free plan: events of a portal are not concerned.",
    8012: "The ngrok agent could not reach the receiver: see that it still listens at its port.",
    8014: "ngrok has blocked this account or address for abuse: write to its support, or take another tunnel.",
    9040: "ngrok refuses agents from your country or network, without exceptions and often over a VPN, too: take "
    "another tunnel.",
}


def code_in(text: str) -> int | None:
    """The first of ngrok's error codes in a text."""
    found = _CODE.search(text)
    return int(found[1]) if found else None


def concerns_tunnel(code: int) -> bool:
    """Whether the code says that there is no tunnel; others concern single visitors of one that works."""
    return code not in _VISITORS


def sentence_for(code: int) -> str:
    """What happened and the way out, in one sentence with the code."""
    known = _SENTENCES.get(code, "ngrok gives no tunnel: its documentation tells why and what helps.")
    return f"{known[:-1]} (ERR_NGROK_{code}, https://ngrok.com/docs/errors/err_ngrok_{code})."


def failure_for(code: int) -> TunnelFailed:
    """The code as a failure: permanent unless waiting helps."""
    pause = _PAUSES.get(code, 0.0)
    return TunnelFailed(sentence_for(code), permanent=not pause, pause=pause)
