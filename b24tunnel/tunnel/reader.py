"""Reads what a program for a tunnel prints, line by line: an address, a failure, something to tell, or nothing."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from b24tunnel.tunnel.preset import Failure, Preset

# Addresses that such programs print and that lead to documentation, terms, dashboards or their own API.
_DECOYS = re.compile(
    r"(?:admin\.|www\.|ssh\.)?localhost\.run|(?:www\.)?(?:twitter|x|github)\.com|dashboard\.pinggy\.io"
    r"|console\.serveo\.net|dashboard\.tunnelmole\.com|(?:www|developers)\.cloudflare\.com"
    r"|api\.trycloudflare\.com|login\.tailscale\.com|(?:www\.)?tailscale\.com|(?:www\.|dashboard\.)?ngrok\.com"
    r"|(?:www\.)?tuna\.am|(?:www\.)?cloudpub\.ru|(?:www\.|cabinet\.|dl\.)?xtunnel\.ru|[a-z0-9-]+-inspect\.[a-z0-9.-]+\.ms"
)
_ADDRESS = re.compile(
    r"(?:(https?)://)?((?:[\w-]+\.)*[\w-]+\.?|\[[0-9a-f:]+\])(?::(\d{1,5}))?(/[^\s?#\\]*)?", re.I
)
_LOOPBACK = re.compile(r"(?:.*\.)?localhost|127\.[\d.]+|0\.0\.0\.0|\[(?:::1?|::ffff:.*)\]", re.I)
# What stands around an address in a sentence.
_AROUND = ".,;:!)>]}\"'`|"


@dataclass(frozen=True)
class Failed:
    """A line that says that there is no tunnel, and what is known of it."""

    line: str
    failure: Failure


class Reader:
    """Takes clean lines. ``url``: the address that holds now, if one has come; ``failure``: what ended it.

    ``notes``: sentences for the user, each once. Once there is an address, only what ends a tunnel is a failure.
    """

    def __init__(
        self, preset: Preset, port: int, domain: str | None = None, public_url: str | None = None
    ) -> None:
        """``port``: the receiver's; ``domain``: the name that was asked for.

        ``public_url``: the address, of a program that does not print it but that it is ready.
        """
        self.url: str | None = None
        self.failure: Failed | None = None
        self.notes: list[str] = []
        self._preset = preset
        self._port = port
        self._domain = domain
        self._public_url = public_url
        self._patterns = [re.compile(pattern.replace("{port}", str(port))) for pattern in preset.patterns]
        self._failures = [(re.compile(failure.pattern), failure) for failure in preset.failures]
        self._expected = preset.after is None

    @property
    def granted(self) -> bool:
        """Whether the address has the name that was asked for, as far as addresses of this program tell."""
        if self._domain is None or self.url is None or not self._preset.compared:
            return True
        host = (urlsplit(self.url).hostname or "").rstrip(".")
        wanted = self._domain.lower().rstrip(".")
        return wanted in (host, host.partition(".")[0])

    def feed(self, line: str) -> None:
        """Read one clean line."""
        for text in self._texts(line):
            self._read(text)

    def _texts(self, line: str) -> list[str]:
        if self._preset.json_key is not None and line.lstrip().startswith("{"):
            try:
                value = json.loads(line).get(self._preset.json_key)
            except (ValueError, RecursionError, AttributeError):
                value = None
            if isinstance(value, str):
                return value.split("\n")
        return [line]

    def _read(self, text: str) -> None:
        preset = self._preset
        for note in preset.notes:
            if note.sentence not in self.notes and re.search(note.pattern, text):
                self.notes.append(note.sentence)
        for pattern, failure in self._failures:
            if pattern.search(text):
                if self.failure is None and (self.url is None or failure.ends or failure.permanent):
                    self.failure = Failed(text, failure)
                return
        if preset.ready is not None and re.search(preset.ready, text):
            self.url = self._public_url or self.url
            return
        if preset.until is not None and re.search(preset.until, text):
            self._expected = False
            return
        if preset.after is not None and (heading := re.search(preset.after, text)):
            self._expected = True
            text = text[heading.end() :]
        if self._expected and (found := self._address_in(text)):
            # Several addresses below one heading lead to the same place: the first is taken.
            self._expected = preset.after is None
            if self.url is None or _origin(found) != _origin(self.url):
                self.url = found

    def _address_in(self, text: str) -> str | None:
        for pattern in self._patterns:
            for match in pattern.finditer(text):
                found = normalised(match[pattern.groups], self._preset.scheme)
                if found is not None and self._may_be(found):
                    return found
        return None

    def _may_be(self, url: str) -> bool:
        parts = urlsplit(url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
        if _LOOPBACK.fullmatch(host):
            return self._preset.loopback and parts.port != self._port  # not the receiver itself
        return _DECOYS.fullmatch(host) is None and ("." in host or ":" in host)


def normalised(text: str, scheme: str = "https") -> str | None:
    """An address as it is bound: with a scheme, in lower case, without its scheme's port and a slash at the end.

    None for what is no address, or one with a user or a query, which a handler's path cannot be put behind.
    """
    match = _ADDRESS.fullmatch((text or "").strip().rstrip(_AROUND))
    if match is None:
        return None
    scheme = (match[1] or scheme).lower()
    port = "" if match[3] is None or int(match[3]) == {"http": 80, "https": 443}[scheme] else f":{int(match[3])}"
    if match[3] is not None and not 0 < int(match[3]) < 65536:
        return None
    url = f"{scheme}://{match[2].lower().rstrip('.')}{port}{(match[4] or '').rstrip('/')}"
    try:
        return url if urlsplit(url).hostname else None
    except ValueError:  # brackets around what is no address of IPv6
        return None


def _origin(url: str) -> str:
    # The same host with http, or with a path, is no other tunnel.
    return urlsplit(url).netloc
