"""Differences without secrets: by the name of their place, and by value."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from b24tunnel.changing import SetValue
from b24tunnel.difference import Difference
from b24tunnel.masked_differences import masked
from b24tunnel.recording import Attempt, Recording
from b24tunnel.redact import MASK, Masker
from b24tunnel.replaying.comparing import Comparison
from b24tunnel.replaying.result import Result

NOW = datetime(2026, 11, 25, 14, 15, 3, tzinfo=UTC)
FIRST, SECOND = "f1rst5ecretvalue", "5econd5ecretvalue"


def recording(id: str, body: str) -> Recording:
    headers = (("Content-Type", "application/x-www-form-urlencoded"),)
    return Recording(id, NOW, "POST", "/b24/x", headers, body.encode(), code="ONX")


def attempt(body: str) -> Attempt:
    headers = (("Content-Type", "application/json"),)
    return Attempt("1-1", "replay", "http://h/", NOW, 1.0, status=200, headers=headers, body=body.encode())


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("auth.access_token", "anything"),
        ("auth.token.0", "anything"),
        ("query APP_SID", "anything"),
        ("query auth", "anything"),
        ("header Authorization", "Bearer anything"),
        ("header Cookie", "anything"),
        ("body $.auth.refresh_token", '"anything"'),
        ("body $['api-key'][0]", '"anything"'),
        ("body $.auth", '{"access_token": "anything"}'),
        ("body bytes", "auth%5Bkey%5D=anything"),
        ("query bytes", "sessid=anything"),
        ("request path", "/rest/1/anything/x"),
        ("request path", "http://anything@h/x"),
        ("body line 1", '{"access_token": "anything"}'),
    ],
)
def test_what_is_secret_by_the_name_of_its_place_is_masked(where: str, text: str) -> None:
    found = masked(Difference(where, text, text.replace("anything", "otherwise")), Masker(()))
    assert found.before is not None
    assert found.after is not None
    assert "anything" not in found.before
    assert "otherwise" not in found.after
    assert found.before != found.after
    assert "[masked, another]" in found.after


def test_the_rest_of_a_secret_that_was_cut_through_is_masked() -> None:
    masker = Masker.of(recording("1-1", f"auth[access_token]={FIRST}"), recording("1-2", "a=1"))
    found = masked(Difference("body line 1 (it was cut off)", f"x {FIRST[:-3]}", None), masker)
    assert found.before == "x [masked]"


def test_without_a_masker_everything_is_shown() -> None:
    difference = Difference("auth.access_token", FIRST, SECOND)
    assert masked(difference, None) == difference


def test_what_is_no_secret_stays_as_it_is() -> None:
    difference = Difference("body $.result.id", "7", None)
    assert masked(difference, Masker([FIRST])) == difference


@pytest.mark.parametrize("new_value", [SECOND, ""])
def test_a_secret_that_was_recorded_and_not_sent_is_masked_as_is_the_one_that_was_sent(new_value: str) -> None:
    original = recording("1-1", f"event=ONX&auth[access_token]={FIRST}")
    sent = SetValue("auth.access_token", new_value)(original)
    now, before = attempt(f'{{"echo": "it is {new_value}"}}'), attempt(f'{{"echo": "it is {FIRST}"}}')
    differences = Comparison().differences(before, now)
    result = Result(1, sent, now, (), differences, original=original)
    [found] = [masked(difference, result.masker) for difference in differences]
    assert found.where == "body $.echo"
    assert found.before == f'"it is {MASK}"'
    assert found.after == ('"it is [masked, another]"' if new_value else '"it is "')
