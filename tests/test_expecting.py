"""What is expected of an answer, and what is said where it is not so."""

from __future__ import annotations

import gzip
import zlib
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b24tunnel.errors import WrongUsage
from b24tunnel.recording import Attempt
from b24tunnel.replaying.answered import MOST_BYTES
from b24tunnel.replaying.expecting import Expectation, expectations, problems

GZIP = (("Content-Encoding", "gzip"),)


def answer(body: bytes = b"ok", status: int | None = 200, **more: Any) -> Attempt:
    error = None if status is not None else "cannot connect: connection refused"
    return Attempt("1-1", "replay", "http://h/", datetime.now(UTC), 1.0, status, body=body, error=error, **more)


def problem(text: str, attempt: Attempt) -> str | None:
    return Expectation.parse(text).problem(attempt)


@pytest.mark.parametrize(
    ("text", "met", "unmet"),
    [
        ("204", [204], [200, 205]),
        ("2xx", [200, 299], [199, 300]),
        ("3XX", [301], [200]),
        ("200-202", [200, 202], [199, 203]),
        ("200, 204 ,3xx", [200, 204, 399], [201, 400]),
        ("418,500-503", [418, 500, 503], [417, 504]),
    ],
)
def test_a_status_is_expected_as_a_number_a_class_a_range_or_a_list(
    text: str, met: list[int], unmet: list[int]
) -> None:
    for status in met:
        assert problem(text, answer(status=status)) is None
    for status in unmet:
        assert problem(text, answer(status=status)) == (
            f"answered {status}, expected {text.replace(' ', '').lower()}"
        )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("body~o.$", None),
        ("body~^k", "the body does not match /^k/"),
        ("body!~error", None),
        ("body!~(?i)OK", "the body matches /(?i)OK/"),
        ("body=ok", None),
        ("body=ok ", "the body is not 'ok '"),
        ("body=", "the body is not ''"),
        ("BODY=ok", None),
        ("header X-Handler~^dev", None),
        ("header x-handler=dev 2", None),
        ("header X-Handler=2", "the header X-Handler is not '2'"),
        ("header X-Handler~2$", None),
        ("header X-Handler~^2", "the header X-Handler does not match /^2/"),
        ("header X-Handler!~dev", "the header X-Handler matches /dev/"),
        ("header X-Other!~dev", None),
        ("header X-Other~.", "the answer has no header X-Other"),
    ],
)
def test_a_body_and_a_header_are_expected_by_pattern_or_exactly(text: str, expected: str | None) -> None:
    headers = (("x-HANDLER", "dev 1"), ("X-Handler", " dev 2"))
    assert problem(text, answer(headers=headers)) == expected


def test_a_body_is_text_in_the_character_set_that_it_names() -> None:
    def named(charset: str, body: bytes) -> Attempt:
        return answer(body, headers=(("Content-Type", f"text/plain; charset={charset}"),))

    assert problem("body~сделк", named("windows-1251", "сделка".encode("cp1251"))) is None
    assert problem("body~сделк", answer("сделка".encode("cp1251"))) is not None
    assert problem("body=é", named("base64", "é".encode())) is None
    assert problem("body=é", named("no-such-thing", "é".encode())) is None


def test_without_an_answer_every_expectation_says_why_and_it_is_said_once() -> None:
    silent = answer(b"", None)
    expected = expectations(["204", "body~ok", "header X=1"])
    assert {one.problem(silent) for one in expected} == {"no answer: cannot connect: connection refused"}
    assert problems(expected, silent) == ("no answer: cannot connect: connection refused",)


def test_all_that_is_expected_must_hold() -> None:
    expected = expectations(["5xx", "body~a", "body~b"])
    assert problems(expected, answer(b"ab", 500)) == ()
    assert problems(expected, answer(b"c", 404)) == (
        "answered 404, expected 5xx",
        "the body does not match /a/",
        "the body does not match /b/",
    )


def test_2xx_is_expected_where_nothing_is_said_of_the_status() -> None:
    assert expectations([]) == (Expectation.parse("2xx"),)
    assert [one.text for one in expectations(["body~ok"])] == ["2xx", "body~ok"]
    assert [one.text for one in expectations(["body~ok", "404"])] == ["body~ok", "404"]


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (gzip.compress(b"fine", mtime=0), "gzip"),
        (gzip.compress(b"fi", mtime=0) + gzip.compress(b"ne", mtime=0), "GZIP"),
        (gzip.compress(b"fine", mtime=0) + b"\0garbage", "x-gzip"),
        (zlib.compress(b"fine"), "deflate"),
        (zlib.compress(b"fine")[2:-4], "deflate"),  # without head and checksum, as some send it
        (b"fine", "identity"),
    ],
)
def test_a_compressed_body_is_looked_into(body: bytes, encoding: str) -> None:
    compressed = answer(body, headers=(("content-encoding", encoding),))
    assert problem("body=fine", compressed) is None
    assert problem("body=no", compressed) == "the body is not 'no'"


@pytest.mark.parametrize(
    ("body", "encoding", "why_not"),
    [
        (b"\x0b\x02\x80fine\x03", "br", "it is compressed (br)"),
        (gzip.compress(b"fine", mtime=0), "gzip, br", "it is compressed (gzip, br)"),
        (b"fine", "gzip", "its Content-Encoding is gzip, which it is not"),
        (gzip.compress(b"fine", mtime=0)[:-9], "gzip", "it is compressed (gzip) and breaks off"),
    ],
)
@pytest.mark.parametrize("text", ["body~x", "body!~x", "body=fine"])
def test_what_cannot_be_looked_into_is_a_problem_that_says_why(
    text: str, body: bytes, encoding: str, why_not: str
) -> None:
    found = problem(text, answer(body, headers=(("Content-Encoding", encoding),)))
    assert found == f"the body cannot be looked at: {why_not}"


def test_an_empty_body_may_name_any_encoding() -> None:
    assert problem("body=", answer(b"", headers=GZIP)) is None


def test_a_compressed_body_is_looked_into_as_far_as_a_bound() -> None:
    bomb = answer(gzip.compress(b"a" * (MOST_BYTES * 50) + b"b", 1), headers=GZIP)
    assert problem("body~a", bomb) is None
    assert problem("body~b", bomb) == (
        f"the body does not match /b/ in its first {MOST_BYTES:,} bytes, and the rest was cut off"
    )


@pytest.mark.parametrize("headers", [(), GZIP])
def test_of_a_body_that_was_cut_off_nothing_is_claimed_that_is_not_known(headers: Any) -> None:
    body = gzip.compress(b"begins well", 0)[:-9] if headers else b"begins well"[:-1]
    cut = answer(body, headers=headers, truncated=True)
    assert problem("body~begins", cut) is None
    assert problem("body!~begins", cut) == "the body matches /begins/"
    assert "and the rest was cut off" in (problem("body~ends", cut) or "")
    assert "is not known" in (problem("body!~ends", cut) or "")
    assert "is not known: only" in (problem("body=begins well, and ends", cut) or "")
    assert problem("body=other", cut) == "the body is not 'other'"


def test_a_body_that_was_cut_off_is_not_what_it_begins_with() -> None:
    assert problem("body=ok", answer(b"ok", truncated=True)) == "the body is not 'ok'"


@pytest.mark.parametrize(
    "text",
    [
        *("", "ok", "20", "2000", "099", "0xx", "2xx,", "200-", "200-3xx", "200 204", "status=200", "２００"),
        *("body", "body ~x", "header ~x", "header a b~c", pytest.param("x" * 5000, id="long")),
    ],
)
def test_any_other_text_is_answered_with_the_forms(text: str) -> None:
    with pytest.raises(WrongUsage, match=r"is no expectation of an answer: give a status \(204, 2xx,") as caught:
        Expectation.parse(text)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("body~(", "missing )"),
        ("header X~[", "unterminated"),
        pytest.param("body~" + "(" * 5000 + ")" * 5000, "the regular expression is wrong", id="deep"),
        ("body~a{99999999999999999999}", "the regular expression is wrong"),
        ("299-200", "write the lower one first"),
    ],
)
def test_a_wrong_pattern_or_range_is_said(text: str, message: str) -> None:
    with pytest.raises(WrongUsage) as caught:
        Expectation.parse(text)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_problem_repeats_nothing_of_the_answer() -> None:
    attempt = answer(b"secret-in-body", headers=(("X", "secret-in-header"), ("Content-Type", "text/plain")))
    for text in ("body~a{9}", "body=x", "body!~secret", "header X=1", "header X~1", "header X!~secret"):
        found = problem(text, attempt)
        assert found is not None
        assert "-in-" not in found


@given(
    st.sampled_from(["2xx", "body~a", "body!~a", "body=a", "header Content-Type~a"]),
    st.binary(max_size=60),
    st.booleans(),
    st.sampled_from(["gzip", "deflate", "br", "", "gzip;q=1", "identity, gzip"]),
    st.text(max_size=30),
)
def test_no_answer_makes_it_raise(text: str, body: bytes, cut: bool, encoding: str, content_type: str) -> None:
    headers = (("Content-Encoding", encoding), ("Content-Type", f"a/b; charset={content_type}"))
    for sent in (body, gzip.compress(body, mtime=0)[: -len(body) or None]):
        found = problem(text, answer(sent, headers=headers, truncated=cut))
        assert found is None or (found and "\n" not in found and not found.endswith("."))
