"""The verdict is read from a part of the delivery; it must be what the whole of it says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b24tunnel.event import Event
from b24tunnel.verdict import judge

TOKEN = "0123456789abcdef0123456789abcdef"
FULL = (
    b"event=ONCRMDEALUPDATE&event_handler_id=2&data%5BFIELDS%5D%5BID%5D=1&ts=1795572570"
    b"&auth%5Baccess_token%5D=a&auth%5Bdomain%5D=127.0.0.1&auth%5Bapplication_token%5D=" + TOKEN.encode()
)


def by_the_whole(target: str, body: bytes, known: str | None) -> tuple[str | None, str]:
    """The same, by reading all of the delivery."""
    event = Event.from_request(target, body)
    if known is None:
        return event.code, "unverified"
    return event.code, "verified" if event.application_token == known else "mismatched"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (FULL, ("ONCRMDEALUPDATE", "verified")),
        (FULL + b"&auth[application_token]=other", ("ONCRMDEALUPDATE", "mismatched")),
        (FULL + b"&auth=x", ("ONCRMDEALUPDATE", "mismatched")),
        (FULL + b"&auth=x&auth[domain]=y", ("ONCRMDEALUPDATE", "mismatched")),
        (FULL + b"&%65vent=OTHER", ("OTHER", "verified")),
        (FULL + b"&+event=OTHER", ("OTHER", "verified")),
        (FULL + b"&event[]=OTHER", (None, "verified")),
        (FULL + b"&auth%5Bapplication_token%5D%5B%5D=" + TOKEN.encode(), ("ONCRMDEALUPDATE", "mismatched")),
        (FULL + b"&auth[x]" + b"[y]" * 70 + b"=1", ("ONCRMDEALUPDATE", "mismatched")),
        (FULL + b"\0&event=OTHER", ("ONCRMDEALUPDATE", "verified")),
        (FULL.replace(b"event=ONCRMDEALUPDATE", b"event=ON%43RM"), ("ONCRM", "verified")),
        (b"eventful=1&authentic=2", (None, "mismatched")),
        (b"event", ("", "mismatched")),
        (b"", (None, "mismatched")),
    ],
)
def test_what_it_says_of_a_delivery(body: bytes, expected: tuple[str | None, str]) -> None:
    assert judge("/b24/x", body, TOKEN) == expected
    assert by_the_whole("/b24/x", body, TOKEN) == expected


def test_without_a_known_token_nothing_is_verified() -> None:
    assert judge("/b24/x", FULL, None) == ("ONCRMDEALUPDATE", "unverified")


def test_a_query_counts_too() -> None:
    query = f"/b24/x?event=ONX&auth[application_token]={TOKEN}"
    assert judge(query, b"", TOKEN) == ("ONX", "verified")
    assert judge(query, b"auth=x", TOKEN) == ("ONX", "mismatched")


def test_a_delivery_of_very_many_pairs_is_not_looked_into() -> None:
    assert judge("/b24/x", b"event=ONX&" + b"a=1&" * 30_000, TOKEN) == (None, "mismatched")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"event=" + b"A" * 255, ("A" * 255, "mismatched")),
        (b"event=" + b"A" * 256, (None, "mismatched")),
        (b"event=" + b"%41" * 10_000, (None, "mismatched")),
        (b"event=ONX&auth[application_token]=" + b"x" * 20_000, (None, "mismatched")),
        (b"event=ONX&data[text]=" + b"x" * 1_000_000, ("ONX", "mismatched")),
    ],
)
def test_codes_and_tokens_of_any_length_are_not_looked_into(body: bytes, expected: tuple[str | None, str]) -> None:
    assert judge("/b24/x", body, TOKEN) == expected


_names = st.sampled_from(
    [
        *("event", "auth", "data", "events", "authx", "ev", "event_handler_id", "ts", " event", ".auth", "+auth"),
        *("%65vent", "aut%68", "auth%20", "event%00", "auth.", "event[", "event]", "[event]", "", "Auth", "EVENT"),
    ]
)
_keys = st.sampled_from(
    [
        *("[]", "[application_token]", "%5Bapplication_token%5D", "%5bapplication_token%5d", "[domain]", "[0]"),
        *("%5Bdomain%5D", "[application_token", "application_token]", "[application%5Ftoken]"),
        *("[ application_token]", "[application_tokens]", ".application_token", "[x][y]", "[x]y", "%5B%5D"),
        "[" + "x][" * 70 + "]",
    ]
)
_values = st.sampled_from(["", "=", "=x", f"={TOKEN}", "=ONX", "=%4FNX", "=a=b", "=+", "=%", "=%FF"])
_pairs = st.builds(lambda n, k, v: n + "".join(k) + v, _names, st.lists(_keys, max_size=3), _values)


@given(st.lists(_pairs, max_size=8), st.sampled_from(["/b24/x", "/b24/x?auth[application_token]=q", "/b24/x?"]))
def test_it_agrees_with_reading_the_whole(pairs: list[str], target: str) -> None:
    body = "&".join(pairs).encode()
    assert judge(target, body, TOKEN) == by_the_whole(target, body, TOKEN)


@given(st.binary(max_size=60))
def test_it_agrees_with_reading_the_whole_of_any_bytes(noise: bytes) -> None:
    body = b"auth%5Bapplication_token%5D=" + TOKEN.encode() + b"&event=ONX&" + noise
    assert judge("/b24/x", body, TOKEN) == by_the_whole("/b24/x", body, TOKEN)
