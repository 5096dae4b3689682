"""Changes to a recording: what they touch, what they leave, and what they say when they cannot be made."""

from __future__ import annotations

import gzip
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from b24tunnel import form
from b24tunnel.changing import (
    Change,
    SetHeader,
    SetPath,
    SetTs,
    SetValue,
    UnknownPath,
    Unset,
    UnsetHeader,
    leaves,
    with_value,
    without,
)
from b24tunnel.errors import WrongUsage
from b24tunnel.form import MAX_PARAMETERS
from b24tunnel.recording import Headers, Recording

NOW = datetime(2026, 11, 25, 14, 15, tzinfo=UTC)
FORM = ("Content-Type", "application/x-www-form-urlencoded")
JSON = ("Content-Type", "application/json")
MULTIPART = ("content-type", 'Multipart/Form-Data; charset=x; boundary="b"')


def recording(body: bytes, *headers: tuple[str, str], target: str = "/hook", **parts: Any) -> Recording:
    return Recording("12-5", NOW, "POST", target, headers, body, **parts)


def parts(*fields: tuple[str, str]) -> bytes:
    pieces = [f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields]
    return "".join([*pieces, "--b--\r\n"]).encode()


DEAL = recording(b"event=ONX&data[FIELDS][ID]=5&ts=1&auth[domain]=d", FORM, ("content-length", "49"), code="ONX")


# What stays


def test_a_change_makes_a_new_recording_whose_parsed_view_is_new() -> None:
    assert DEAL.event.data == {"FIELDS": {"ID": "5"}}
    changed = with_value(DEAL, ["data", "FIELDS", "ID"], "70")
    assert changed.event.data == {"FIELDS": {"ID": "70"}}
    assert DEAL.event.data == {"FIELDS": {"ID": "5"}}
    assert changed == replace(
        DEAL,
        body=b"event=ONX&data[FIELDS][ID]=70&ts=1&auth[domain]=d",
        headers=(FORM, ("content-length", "49")),
    )


def test_a_recorded_content_length_follows_and_none_is_added() -> None:
    longer = with_value(DEAL, ["ts"], "12345")
    assert longer.headers == (FORM, ("content-length", str(len(longer.body))))
    assert without(DEAL, ["ts"]).headers[1] == ("content-length", str(len(DEAL.body) - len("&ts=1")))
    assert with_value(recording(b"a=1", FORM), ["a"], "10").headers == (FORM,)
    # One of the query's is not the body's.
    assert with_value(replace(DEAL, target="/h?x=1"), ["x"], "100").headers == DEAL.headers


def test_a_query_is_changed_where_the_body_has_no_such_value() -> None:
    both = recording(b"a=1", FORM, target="/h?key=%7e&a=2&x%5By%5D=3")
    assert with_value(both, ["a"], "9") == replace(both, body=b"a=9")
    assert with_value(both, ["x", "y"], "я") == replace(both, target="/h?key=%7e&a=2&x%5By%5D=%D1%8F")
    assert without(both, ["a"]) == replace(both, body=b"", target="/h?key=%7e&x%5By%5D=3")
    assert without(both, ["key"]) == replace(both, target="/h?a=2&x%5By%5D=3")
    assert without(recording(b"", target="/h?x=1"), ["x"]).target == "/h?"
    assert leaves(both) == {("key",): "~", ("a",): "1", ("x", "y"): "3"}


def test_a_value_of_the_query_that_the_body_hides_is_not_there() -> None:
    hiding = recording(b"a=1&c[d]=2", FORM, target="/h?a[b]=0&c=3")
    assert leaves(hiding) == {("a",): "1", ("c", "d"): "2"}
    for path in (["a", "b"], ["c"]):
        with pytest.raises(UnknownPath):
            with_value(hiding, path, "5")
    with pytest.raises(UnknownPath):
        without(hiding, ["a", "b"])
    assert leaves(without(hiding, ["c", "d"])) == {("a",): "1"}


def test_bytes_that_are_no_utf8_stay_and_are_set() -> None:
    cp1251 = recording(b"\xf2%CD=%CD%EE\xe2&b=1", FORM)
    assert leaves(cp1251) == {("\udcf2\udccd",): "\udccd\udcee\udce2", ("b",): "1"}
    assert with_value(cp1251, ["b"], "\udccd").body == b"\xf2%CD=%CD%EE\xe2&b=%CD"
    assert with_value(cp1251, ["\udcf2\udccd"], "2").body == b"\xf2%CD=2&b=1"
    in_parts = recording(parts(("a", "1")).replace(b"\r\n1", b"\r\n\xcd"), MULTIPART)
    assert leaves(in_parts) == {("a",): "\udccd"}
    assert leaves(with_value(in_parts, ["a"], "\udcee")) == {("a",): "\udcee"}


def test_the_code_follows_the_event() -> None:
    assert with_value(DEAL, ["event"], "ONCRMLEADADD").code == "ONCRMLEADADD"
    assert with_value(DEAL, ["ts"], "2").code == "ONX"
    assert without(DEAL, ["event"]).code is None
    assert without(DEAL, ["event"]).type == "other"
    no_event = recording(b"event=page&PLACEMENT=DEFAULT", FORM, type="page")
    assert with_value(no_event, ["event"], "else").code is None


# Forms of bodies


def test_a_part_of_a_multipart_body_is_changed_and_taken_out() -> None:
    body = parts(("event", "ONX"), ("data[ID]", "5"), ("note", "a\r\nb"))
    changed = recording(body, MULTIPART)
    assert leaves(changed) == {("event",): "ONX", ("data", "ID"): "5", ("note",): "a\r\nb"}
    assert with_value(changed, ["data", "ID"], "x&\r\ny").body == body.replace(b"5", b"x&\r\ny")
    assert without(changed, ["data"]).body == parts(("event", "ONX"), ("note", "a\r\nb"))
    assert without(changed, ["note"]).body == parts(("event", "ONX"), ("data[ID]", "5"))
    with pytest.raises(UnknownPath, match=r"There is no data\.id in 12-5; did you mean data\.ID\?"):
        with_value(changed, ["data", "id"], "6")
    with pytest.raises(WrongUsage, match="The body of 12-5 cannot hold this value"):
        with_value(changed, ["note"], "a\r\n--b\r\n")


def test_a_multipart_body_that_breaks_off_is_changed_too() -> None:
    body = parts(("a", "1"), ("c", "2")).removesuffix(b"\r\n--b--\r\n")
    broken = recording(body, MULTIPART)
    assert leaves(broken) == {("a",): "1", ("c",): "2"}
    assert leaves(without(broken, ["c"])) == {("a",): "1"}
    assert without(broken, ["c"]).body == parts(("a", "1")).removesuffix(b"\r\n--b--\r\n")


@pytest.mark.parametrize(
    ("path", "value", "before", "after"),
    [
        ("a", "7", b'{ "a" : "5" , "b":1}', b'{ "a" : "7" , "b":1}'),
        ("a", 'я\n"', b'{"a":"5"}', '{"a":"я\\n\\""}'.encode()),
        ("a", "7", b'{"a":5}', b'{"a":7}'),
        ("a", "null", b'{"a":5}', b'{"a":null}'),
        ("a", "[1]", b'{"a":true}', b'{"a":[1]}'),
        ("a", "seven", b'{"a":5}', b'{"a":"seven"}'),
        ("a", "", b'{"a":5}', b'{"a":""}'),
        ("a", "NaN", b'{"a":5}', b'{"a":"NaN"}'),
        ("a.1.b", "7", b'{"a":[1,{"b":2}, 3]}', b'{"a":[1,{"b":7}, 3]}'),
        ("0", "7", b"[1,2]", b"[7,2]"),
        ("a", "7", b'{"a":"4","\\u0061":"5"}', b'{"a":"4","\\u0061":"7"}'),
        ("a.c", "7", b'{"a":{"b":1},"a":{"c":"}]\\""}}', b'{"a":{"b":1},"a":{"c":"7"}}'),
    ],
)
def test_a_scalar_of_json_is_replaced_in_its_place(path: str, value: str, before: bytes, after: bytes) -> None:
    assert SetValue(path, value)(recording(before, JSON)).body == after


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        ("a", b'{ "a" : 1 , "b":2}', b'{ "b":2}'),
        ("b", b'{ "a" : 1 , "b":2 }', b'{ "a" : 1 }'),
        ("a", b'{ "a" : 1 }', b"{  }"),
        ("a", b'{"a":[{"x":"]"}],"b":2}', b'{"b":2}'),
        ("a", b'{"b":0,"a":1,"a":2}', b'{"b":0}'),
        ("a", b'{"a":1,"b":0,"a":2}', b'{"b":0}'),
        ("a", b'{"a":1,"a":2}', b"{}"),
        ("a", b'{"a":1,"a":2,"b":0}', b'{"b":0}'),
        ("a.0", b'{"a":[1,2]}', b'{"a":[2]}'),
        ("a.1", b'{"a":[1,2]}', b'{"a":[1]}'),
    ],
)
def test_a_member_of_json_goes_with_one_comma(path: str, before: bytes, after: bytes) -> None:
    assert Unset(path)(recording(before, JSON)).body == after


def test_leaves_of_json_are_as_they_are_spelled() -> None:
    body = b' {"a":[1.50,true,null,"\\u044f"],"b":{},"a b":-1e5}'
    assert leaves(recording(body, ("Content-Type", "application/vnd.x+json"))) == {
        ("a", "0"): "1.50",
        ("a", "1"): "true",
        ("a", "2"): "null",
        ("a", "3"): "я",
        ("a b",): "-1e5",
    }


def test_json_errors_name_the_recording() -> None:
    body = recording(b'{"data":{"FIELDS":{"ID":5}}}', JSON)
    with pytest.raises(
        UnknownPath, match=r"There is no data\.fields\.ID in 12-5; did you mean data\.FIELDS\.ID\?"
    ):
        with_value(body, ["data", "fields", "ID"], "1")
    with pytest.raises(UnknownPath, match=r"data\.FIELDS in 12-5 names an array, not a value"):
        with_value(body, ["data", "FIELDS"], "1")
    with pytest.raises(UnknownPath, match=r"There is no data\.Fields in 12-5; did you mean data\.FIELDS\?"):
        without(body, ["data", "Fields"])
    with pytest.raises(WrongUsage, match="holds no bytes but UTF-8"):
        with_value(body, ["data", "FIELDS", "ID"], "\udccd")
    for wrong in (b'{"a":1,}', b'{"a":NaN}', b"[" * 100_000):
        with pytest.raises(WrongUsage, match="The body of 12-5 cannot be changed, because it is"):
            with_value(recording(wrong, JSON), ["a"], "1")


def test_a_body_whose_type_nobody_told_is_what_it_reads_as() -> None:
    assert with_value(recording(b"a=1"), ["a"], "2").body == b"a=2"
    assert with_value(recording(b'{"a":1}'), ["a"], "2").body == b'{"a":2}'
    assert with_value(recording(b"[]=1&a=1"), ["a"], "2").body == b"[]=1&a=2"
    assert with_value(recording(b"a=1", ("Content-Type", "text/plain")), ["a"], "2").body == b"a=2"
    assert leaves(recording(b'{"a":1}', FORM)) == {('{"a":1}',): ""}


def test_a_compressed_body_is_not_changed_but_its_query_is() -> None:
    compressed = recording(gzip.compress(b"a=1"), FORM, ("Content-Encoding", "gzip"), target="/h?b=1")
    assert leaves(compressed) == {("b",): "1"}
    assert with_value(compressed, ["b"], "2").target == "/h?b=2"
    assert without(compressed, ["b"]).target == "/h?"
    for change in (SetValue("a", "2"), Unset("a")):
        with pytest.raises(WrongUsage, match=r"The body of 12-5 is compressed \(gzip\)"):
            change(compressed)
    plain = recording(b"a=1", FORM, ("Content-Encoding", "identity"))
    assert with_value(plain, ["a"], "2").body == b"a=2"


def test_a_multipart_body_without_a_boundary_cannot_be_changed() -> None:
    for named in ("multipart/form-data", 'multipart/form-data; boundary="b', "multipart/form-data; boundary="):
        with pytest.raises(WrongUsage, match="names no boundary"):
            with_value(recording(b"a=1", ("Content-Type", named)), ["a"], "2")


# Bounds. A body of so many pieces takes very long where each piece costs as much as the body is long.

MANY = 100_000


@pytest.mark.parametrize(
    ("body", "header"),
    [
        pytest.param(b"&".join(b"a[]=%d" % number for number in range(MANY)) + b"&x=1", FORM, id="form"),
        pytest.param(b"a[b]=1&a=1&" * MANY + b"x=1", FORM, id="form that overwrites"),
        pytest.param(b"--b--b" * MANY + b"\r\n" + parts(("x", "1")), MULTIPART, id="boundaries in one line"),
        pytest.param(b"--bb\n" * MANY + parts(("x", "1")), MULTIPART, id="lines like boundaries"),
        pytest.param(b"--b\n" * MANY + parts(("x", "1")), MULTIPART, id="parts without anything"),
        pytest.param(
            parts(("y", "v"), ("x", "1")).replace(b"\r\n\r\nv", b"\r\n" + b" more\r\n" * MANY + b"\r\nv"),
            MULTIPART,
            id="a header of many lines",
        ),
        pytest.param(parts(("\\" * MANY + ";'" * MANY, "1"), ("x", "1")), MULTIPART, id="a long name"),
        pytest.param(parts(*[("a[]", "1")] * MANY, ("x", "1")), MULTIPART, id="many parts"),
        pytest.param(b'{"x":"1","a":[' + b'"\\"",' * MANY + b"1]}", JSON, id="many strings"),
        pytest.param(b'{"x":"1","a":"' + b"\\\\" * MANY * 10 + b'"}', JSON, id="a long string"),
        pytest.param(b'{"a":' + b"[" * 500 + b"1" + b"]" * 500 + b',"x":"1"}', JSON, id="deep JSON"),
    ],
)
def test_a_hostile_body_is_changed_all_the_same(body: bytes, header: tuple[str, str]) -> None:
    hostile = recording(body, header)
    changed = with_value(hostile, ["x"], "7")
    at = body.rindex(b"1") if header != JSON else body.index(b'"1"') + 1
    assert changed.body == body[:at] + b"7" + body[at + 1 :]
    assert len(without(hostile, ["x"]).body) < len(body)
    with pytest.raises(UnknownPath):
        with_value(hostile, ["no"], "1")


@pytest.mark.parametrize(
    ("body", "header"),
    [
        (b"&".join([b"a"] * (MAX_PARAMETERS + 1)), FORM),
        (b"[" + b"1," * MAX_PARAMETERS + b"1]", JSON),
    ],
)
def test_a_body_of_too_many_values_is_refused_in_one_sentence(body: bytes, header: tuple[str, str]) -> None:
    with pytest.raises(WrongUsage, match=r"The body of 12-5 .*more than 1,000,000 values"):
        with_value(recording(body, header), ["a"], "1")
    assert leaves(recording(body, header)) == {}


def test_leaves_whose_keys_are_out_of_proportion_are_refused() -> None:
    deep = recording(b"[" * 500 + b"1," * 20_000 + b"1" + b"]" * 500, JSON)
    with pytest.raises(WrongUsage, match="12-5 has too many values"):
        leaves(deep)


# Changes as a user writes them


@pytest.mark.parametrize(
    ("change", "body"),
    [
        (SetValue.parse("data.FIELDS.ID=a=b"), b"event=ONX&data[FIELDS][ID]=a%3Db&ts=1&auth[domain]=d"),
        (SetValue.parse("ts="), b"event=ONX&data[FIELDS][ID]=5&ts=&auth[domain]=d"),
        (Unset.parse("data"), b"event=ONX&ts=1&auth[domain]=d"),
        (SetTs.parse("1764080103"), b"event=ONX&data[FIELDS][ID]=5&ts=1764080103&auth[domain]=d"),
        (SetTs.parse("2025-11-25T14:15:03Z"), b"event=ONX&data[FIELDS][ID]=5&ts=1764080103&auth[domain]=d"),
        (SetTs(datetime.fromtimestamp(5.9, UTC)), b"event=ONX&data[FIELDS][ID]=5&ts=5&auth[domain]=d"),
    ],
)
def test_a_change_of_a_value(change: Change, body: bytes) -> None:
    assert change(DEAL).body == body


def test_now_is_when_the_change_is_made() -> None:
    change = SetTs.parse("now")
    earliest = int(datetime.now(UTC).timestamp())
    ts = change(DEAL).event.ts
    assert ts is not None
    assert earliest <= ts.timestamp() <= datetime.now(UTC).timestamp()
    with pytest.raises(UnknownPath, match="There is no ts in 12-5"):
        change(recording(b"event=ONX", FORM))


def test_a_header_takes_the_place_of_every_one_of_its_name() -> None:
    headers: Headers = (("A", "1"), ("x-Debug", "old"), ("B", "2"), ("X-DEBUG", "older"))
    changed = SetHeader.parse("X-Debug:  a: b ")(recording(b"", *headers))
    assert changed.headers == (("A", "1"), ("x-Debug", "a: b"), ("B", "2"))
    assert SetHeader.parse("C:")(changed).headers == (*changed.headers, ("C", ""))
    assert UnsetHeader.parse("x-debug")(recording(b"", *headers)).headers == (("A", "1"), ("B", "2"))
    with pytest.raises(WrongUsage, match="There is no header x-debug in 12-5"):
        UnsetHeader("x-debug")(recording(b""))


def test_the_headers_that_are_refused_are_those_that_the_sender_makes() -> None:
    for name in ("Host", "Content-Length", "TE"):
        for kind in (lambda name: SetHeader(name, "1"), UnsetHeader):
            with pytest.raises(WrongUsage, match=f"{name} is made anew for each sending"):
                kind(name)


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        ("/other", "/b24/x?a=%7e&b", "/other?a=%7e&b"),
        ("/other?", "/b24/x?a=1", "/other?"),
        ("/other?c=2", "/b24/x?a=1", "/other?c=2"),
        ("/other", "/b24/x", "/other"),
        (
            "/другой путь/%7e",
            "/?a=\udccd",
            "/%D0%B4%D1%80%D1%83%D0%B3%D0%BE%D0%B9%20%D0%BF%D1%83%D1%82%D1%8C/%7e?a=\udccd",
        ),
    ],
)
def test_another_path_keeps_the_query(path: str, before: str, after: str) -> None:
    assert SetPath(path)(recording(b"", target=before)).target == after


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SetValue.parse("data.FIELDS.ID"), r"'data\.FIELDS\.ID' sets nothing: give a path and a value"),
        (lambda: SetValue.parse("=5"), "sets nothing"),
        (lambda: Unset.parse(""), "An empty path"),
        (lambda: SetTs.parse("yesterday"), "'yesterday' is no time.*or now, or seconds after 1970"),
        (lambda: SetTs.parse("1764080103000"), "beyond the year 9999"),
        (lambda: SetHeader.parse("X-Debug 1"), "A header without a colon"),
        (lambda: SetHeader.parse("X Debug: 1"), "'X Debug' is no header's name"),
        (lambda: SetHeader.parse(": 1"), "is no header's name"),
        (lambda: SetHeader("X", "a\r\nHost: b"), r"The value of X has the character '\\r'"),
        (lambda: SetHeader("X", "a\0"), "The value of X has the character"),
        (lambda: SetHeader("X", "\ud800"), "lone surrogate"),
        (lambda: SetHeader("X", "a" * 40_000), "more than 32,768 characters"),
        (lambda: UnsetHeader.parse("X\n"), "is no header's name"),
        (lambda: SetPath("other"), "'other' is no path"),
        (lambda: SetPath("/a#b"), "is no path"),
        (lambda: SetPath("/a\r\nb"), "is no path"),
        (lambda: SetPath("/\ud800"), "lone surrogate"),
        (lambda: SetValue("ts", "\ud800")(DEAL), "lone surrogate"),
    ],
)
def test_what_is_no_change_is_refused_in_one_sentence(make: Any, message: str) -> None:
    with pytest.raises(WrongUsage, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_token_in_what_cannot_be_read_is_not_shown() -> None:
    for make in (lambda: SetValue.parse("access_token:s3cr3t-s3cr3t"), lambda: SetHeader.parse("Cookie s3cr3t")):
        with pytest.raises(WrongUsage) as caught:
            make()
        assert "s3cr3t" not in str(caught.value)


def test_an_unknown_path_is_a_users_error_and_the_codecs() -> None:
    with pytest.raises(UnknownPath) as caught:
        SetValue("data.fields.ID", "1")(DEAL)
    assert str(caught.value) == "There is no data.fields.ID in 12-5; did you mean data.FIELDS.ID?"
    assert isinstance(caught.value, WrongUsage)
    assert isinstance(caught.value, form.UnknownPath)
    assert caught.value.exit_code == 2
    with pytest.raises(UnknownPath, match=r"^There is no zzzz in 12-5\.$"):
        Unset("zzzz")(DEAL)
