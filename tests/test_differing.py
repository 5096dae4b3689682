"""Where two recordings differ, field by field."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_cases import RAW_CASES, RawCase

from b24tunnel.differing import differences_of
from b24tunnel.errors import WrongUsage
from b24tunnel.recording import Recording

NOW = datetime(2026, 11, 25, 14, 15, 3, tzinfo=UTC)
FORM = (("Content-Type", "application/x-www-form-urlencoded"),)
JSON = (("Content-Type", "application/json"),)
TEXT = (("Content-Type", "text/plain"),)
BODY = b"event=ONCRMDEALADD&data%5BFIELDS%5D%5BID%5D=1&ts=1&auth%5Baccess_token%5D=aaaaaaaa"


def recording(body: bytes = BODY, headers: Any = FORM, target: str = "/b24/x", **more: Any) -> Recording:
    return Recording("1-1", NOW, "POST", target, headers, body, **more)


def different(before: Recording, after: Recording, *ignore: str) -> list[tuple[Any, ...]]:
    return [tuple(difference) for difference in differences_of(before, after, ignore)]


def bodies(before: bytes, after: bytes, *ignore: str, headers: Any = FORM) -> list[tuple[Any, ...]]:
    return different(recording(before, headers), recording(after, headers), *ignore)


def test_what_is_compared_is_the_request_not_how_it_came_to_be_recorded() -> None:
    other = Recording(
        "7-9", NOW + timedelta(1), "POST", "/b24/x", FORM, BODY, remote="1.2.3.4", source="import", portal="p"
    )
    assert different(recording(), other) == []


def test_every_part_of_the_request_has_its_place() -> None:
    before = recording(b"a=1", code="ONX", target="/b24/x?q=1&r[]=2")
    after = Recording("1-2", NOW, "GET", "/b24/y?q=2", TEXT, b"a=1", "1.0", type="robot")
    assert different(before, after)[:7] == [
        ("request type", "event", "robot"),
        ("event code", "ONX", None),
        ("request method", "POST", "GET"),
        ("request path", "/b24/x", "/b24/y"),
        ("HTTP version", "1.1", "1.0"),
        ("query q", "1", "2"),
        ("query r.0", "2", None),
    ]


def test_fields_of_a_form_are_told_by_their_path() -> None:
    after = BODY.replace(b"ID%5D=1", b"ID%5D=2").replace(b"&ts=1", b"") + b"&data%5Ba.b%5D="
    assert bodies(BODY, after) == [
        ("data.FIELDS.ID", "1", "2"),
        ("ts", "1", None),
        ("data.a\\.b", None, ""),
    ]


def test_a_code_that_only_repeats_the_event_is_left_out() -> None:
    before = recording(b"event=ONX", code="ONX")
    assert different(before, recording(b"event=ONY", code="ONY")) == [("event", "ONX", "ONY")]
    assert different(before, recording(b"event=ONX", code="ONY")) == [("event code", "ONX", "ONY")]
    in_query = (recording(b"", target=f"/?event={code}", code=code) for code in ("ONX", "ONY"))
    assert different(*in_query) == [("query event", "ONX", "ONY")]


def test_headers_are_compared_without_regard_to_order_and_case_of_names() -> None:
    before = recording(headers=(*FORM, ("Host", "a"), ("X", "1"), ("X", "2")))
    after = recording(headers=(("x", "1"), ("HOST", "a"), ("X", "3"), ("Y", ""), *FORM))
    assert different(before, after) == [("header X", "1, 2", "1, 3"), ("header Y", None, "")]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (b"a%5Bb%5D=1", b"a[b]=1", [("body bytes", "a%5Bb%5D=1", "a[b]=1")]),
        (b"a=1&b=%20x", b"a=1&b=+x", [("body bytes", "b=%20x", "b=+x")]),
        (b"a=1&b=2", b"b=2&a=1", [("body bytes", "a=1", "b=2")]),
        (b"a=0&a=1", b"a=1", [("body bytes", "a=0", "a=1")]),
        (b"a[]=x&a[]=y", b"a[1]=y&a[0]=x",
         [("a", "a list: its keys are 0, 1", "no list: its keys are 1, 0")]),
        (b"0=x&1=y", b"1=y&0=x", [("body keys", "a list: its keys are 0, 1", "no list: its keys are 1, 0")]),
        (b"a[]=x", b"a[k]=x", [("a.0", "x", None), ("a.k", None, "x")]),
        (b"a=x", b"a[b]=x", [("a", "x", None), ("a.b", None, "x")]),
    ],
)  # fmt: skip
def test_what_php_tells_apart_is_told_apart_and_the_rest_is_spelling(
    before: bytes, after: bytes, expected: list[Any]
) -> None:
    assert bodies(before, after) == expected


def test_bytes_that_no_field_has_are_still_a_difference() -> None:
    for before, after in ((b"a=1", b"a=1&"), (b"a=1", b"a=1&a=1"), (b"a=1", b"a=1\0&b=2")):
        ((where, old, new),) = bodies(before, after)
        assert where == "body bytes"
        assert old != new
    ((where, old, new),) = different(recording(target="/?a=%31"), recording(target="/?a=1"))
    assert (where, old, new) == ("query bytes", "a=%31", "a=1")
    ((where, old, new),) = different(recording(target="/?"), recording(target="/?&"))
    assert where == "query bytes"


def test_json_is_compared_by_what_it_says() -> None:
    assert bodies(b'{"a":[1,{"b":2}]}', b'{"a":[0,1,{"b":3}]}', headers=JSON) == [
        ("body $.a[0]", None, "0"),
        ("body $.a[1].b", "2", "3"),
    ]
    ((where, _, _),) = bodies(b'{"a":1,"b":2}', b'{"b": 2, "a": 1.0}', headers=JSON)
    assert where == "body bytes"
    # Nothing says what it is.
    assert bodies(b'{"a":1}', b'{"a":2}', headers=()) == [("body $.a", "1", "2")]


def test_other_bodies_are_compared_by_line_or_as_bytes() -> None:
    assert bodies(b"a=1\nb=2", b"a=1\nb=3", headers=TEXT) == [("body line 2", "b=2", "b=3")]
    ((where, _, _),) = bodies(b"\xff\x00", b"\xff\x01", headers=TEXT)
    assert where == "body from byte 1"
    compressed = (*FORM, ("Content-Encoding", "gzip"))
    ((where, _, _),) = bodies(b"\x1f\x8b\xff1", b"\x1f\x8b\xff2", headers=compressed)
    assert where == "body from byte 3"
    different_kinds = different(recording(b"a=1", FORM), recording(b'{"a":1}', JSON))
    assert [where for where, _, _ in different_kinds] == ["header Content-Type", "body line 1"]


def test_multipart_is_compared_by_its_fields() -> None:
    def multipart(boundary: str, value: str) -> Recording:
        part = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="data[ID]"\r\n\r\n{value}\r\n--{boundary}--\r\n'
        )
        return recording(part.encode(), (("Content-Type", f"multipart/form-data; boundary={boundary}"),))

    assert different(multipart("x", "1"), multipart("y", "2"), "header *") == [("data.ID", "1", "2")]
    ((where, _, _),) = different(multipart("x", "1"), multipart("y", "1"), "header *")
    assert where == "body bytes"


@pytest.mark.parametrize(
    ("ignore", "left"),
    [
        (("ts",), ["header X", "data.FIELDS.ID", "auth.access_token"]),
        (("auth.*",), ["header X", "data.FIELDS.ID", "ts"]),
        (("auth", "data"), ["header X", "ts"]),
        (("*.ID",), ["header X", "ts", "auth.access_token"]),
        (("header x",), ["data.FIELDS.ID", "ts", "auth.access_token"]),
        (("Header *", "t?"), ["data.FIELDS.ID", "auth.access_token"]),
        (("TS", "FIELDS", "aut"), ["header X", "data.FIELDS.ID", "ts", "auth.access_token"]),
        (("*",), []),
        (("$.ts",), ["header X", "data.FIELDS.ID", "ts", "auth.access_token"]),
    ],
)
def test_places_are_ignored_by_glob_with_all_below_them(ignore: tuple[str, ...], left: list[str]) -> None:
    before = recording(headers=(*FORM, ("X", "1")))
    after = recording(BODY.replace(b"=1", b"=2").replace(b"aaaaaaaa", b"bbbbbbbb"), headers=(*FORM, ("X", "2")))
    assert [where for where, _, _ in different(before, after, *ignore)] == left


def test_spelling_is_no_matter_where_what_differs_is_ignored() -> None:
    assert bodies(b"a=1&ts=1", b"a=1&ts=2", "ts") == []
    assert bodies(b'{"a":1,"t":1}', b'{"a":1,"t":2}', "$.t", headers=JSON) == []
    assert bodies(b"a=%31", b"a=1", "body bytes") == []


def test_what_to_ignore_is_checked() -> None:
    for wrong in ("", "$.", "$[?"):
        with pytest.raises(WrongUsage):
            differences_of(recording(), recording(), [wrong])


def test_many_differences_are_counted_and_not_listed() -> None:
    before, after = (b"&".join(b"a%d=%d" % (n, n + add) for n in range(5000)) for add in (0, 1))
    found = differences_of(recording(before), recording(after), ["a0"], most=10)
    assert len(found) == 11
    assert found[0].where == "a1"
    assert found[-1] == ("and 4989 more", None, None)


@pytest.mark.parametrize("case", RAW_CASES, ids=lambda case: case.name)
def test_a_real_body_is_equal_to_itself_and_one_changed_value_is_one_difference(case: RawCase) -> None:
    assert bodies(case.body, case.body) == []
    changed = case.body + b"&b24tunnel=x"
    assert bodies(case.body, changed) == [("b24tunnel", None, "x")] or b"\0" in case.body


# Whatever was recorded

_SPELLED = st.lists(
    st.sampled_from(
        [b"a", b"a[]", b"a[b]", b"[", b"]", b"=", b"&", b"1", b"%5B", b"%", b"\0", b"\xff", b".", b"+"]
    )
    | st.sampled_from([b"{", b"}", b'"a"', b":", b",", b"\n", b"a=1&", b"event=", b"a[1]=", b"a[0]="]),
    max_size=12,
).map(b"".join)
_RECORDINGS = st.builds(
    recording,
    _SPELLED,
    st.sampled_from([FORM, JSON, TEXT, (), (("Content-Type", "multipart/form-data; boundary=1"),)]),
    _SPELLED.map(lambda spelled: "/?" + spelled.decode("utf-8", "surrogateescape")),
    code=st.sampled_from([None, "", "a"]),
)


@given(_RECORDINGS, _RECORDINGS)
def test_any_two_recordings_can_be_compared_in_either_direction(one: Recording, other: Recording) -> None:
    there = differences_of(one, other)
    assert Counter(d[1:] for d in there) == Counter((d.after, d.before) for d in differences_of(other, one))
    assert all(before != after for _, before, after in there)
    assert bool(there) == (
        (one.body, one.headers, one.target.strip("?"), one.code, one.type)
        != (other.body, other.headers, other.target.strip("?"), other.code, other.type)
    )
    assert differences_of(one, one) == ()
