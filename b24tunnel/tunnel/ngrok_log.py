"""What the ngrok agent prints (logfmt lines), read line by line: has it failed, and with what."""

from __future__ import annotations

import collections
import re

from b24tunnel.redact import Masker
from b24tunnel.tunnel.lines import clean
from b24tunnel.tunnel.ngrok_errors import code_in, concerns_tunnel, failure_for
from b24tunnel.tunnel.provider import TunnelFailed

_KEPT_LINES = 20
_SHORT = 200
_ERROR = re.compile(r"\blvl=(?:eror|error|crit)\b|^ERROR:")
_ERROR_TEXTS = [
    re.compile(pattern)
    for pattern in (
        r'\berr="((?:[^"\\]|\\.)*)"',
        r"\berr=(\S+)",
        r'\bmsg="((?:[^"\\]|\\.)*)"',
        r"^ERROR:\s*(\S.*)",
    )
]


class AgentLog:
    """Takes the agent's lines, and knows from them what it has come to.

    ``code``: the first of ngrok's error codes that says that there is no tunnel. ``crashed``: a line of level
    "crit". ``session``: the service has taken the agent. ``trouble``: the last error without a code, which the
    agent goes on trying to overcome; shown to users, so without the token, as `shown` makes it.
    """

    def __init__(self, token: str) -> None:
        self.code: int | None = None
        self.crashed = False
        self.session = False
        self.trouble: str | None = None
        self._lines: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)
        self._masker = Masker([token])

    def feed(self, line: str) -> bool:
        """Read one line; returns whether the agent has failed with it. It may be called in any thread."""
        line = clean(line)
        if not line:
            return False
        self._lines.append(line)
        if "tunnel session started" in line:
            self.session = True
        if self.failed:
            return False
        code = code_in(line)
        if code is not None and concerns_tunnel(code):
            self.code = code
        elif _ERROR.search(line):
            found = next(filter(None, (pattern.search(line) for pattern in _ERROR_TEXTS)), None)
            self.trouble = self.shown(found[1] if found else line)
            self.crashed = "lvl=crit" in line
        return self.failed

    @property
    def failed(self) -> bool:
        """Whether it cannot come to anything any more."""
        return self.code is not None or self.crashed

    def failure(self, seconds: float) -> TunnelFailed:
        """Why there is no address ``seconds`` after the start."""
        if self.code is not None:
            return failure_for(self.code)
        if self.crashed:
            return TunnelFailed(
                f"The ngrok agent has given up ({self.trouble}): run `ngrok update`, and try again."
            )
        waited = f"The ngrok agent gave no address within {seconds:g} seconds"
        if self.trouble is None and self.session:
            return TunnelFailed(
                f"{waited}, though it is connected to ngrok: it may be too old, so run `ngrok update`."
            )
        if self.trouble is None:
            return TunnelFailed(f"{waited}, and told no error: try again, or take another tunnel.")
        if "x509" in self.trouble:
            return TunnelFailed(
                f"The ngrok agent does not trust the certificate that it is shown ({self.trouble}): behind a "
                "proxy that opens TLS, set `connect_cas: host` in ngrok's own configuration.",
                permanent=True,
            )
        return TunnelFailed(f"{waited} ({self.trouble}): check the network and the proxy, or take another tunnel.")

    def shown(self, text: str) -> str:
        """A text in one short line without the token, to stand in a sentence."""
        return self._masker.text(" ".join(clean(text).split()))[:_SHORT].rstrip(". ")

    def last_words(self) -> str:
        """The last line, in parentheses behind a space; empty if there is none."""
        return f" (it last said: {self.shown(self._lines[-1])})" if self._lines else ""
