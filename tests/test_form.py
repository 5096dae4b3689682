"""The form codec, stated in sentences, then held against PHP itself."""

import signal
import string
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from php_oracle import PhpOracle
from raw_cases import RAW_CASES, RawCase

from b24tunnel import form
from b24tunnel.form import Field, FormError, UnknownPath

NORMAL = settings(deadline=None, max_examples=2_000, database=None)
THOROUGH = settings(
    deadline=None, max_examples=100_000, database=None, suppress_health_check=[HealthCheck.too_slow]
)


@pytest.fixture(scope="module")
def php() -> Iterator[PhpOracle]:
    with PhpOracle() as oracle:
        yield oracle


def ordered(value: Any) -> Any:
    """The value in a form whose comparison heeds the order of keys."""
    if isinstance(value, dict):
        return [("key", key, ordered(item)) for key, item in value.items()]
    return [ordered(item) for item in value] if isinstance(value, list) else value


def leaves(value: Any, above: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    if isinstance(value, str):
        return {above: value}
    found = {}
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        found |= leaves(item, (*above, str(key)))
    return found


def without_empty_arrays(value: Any) -> Any:
    if isinstance(value, str):
        return value
    items = value.items() if isinstance(value, dict) else enumerate(value)
    kept = {str(key): without_empty_arrays(item) for key, item in items}
    kept = {key: item for key, item in kept.items() if item != []}
    return list(kept.values()) if list(kept) == [str(index) for index in range(len(kept))] else kept


# What a body means


@pytest.mark.parametrize(
    ("body", "value"),
    [
        pytest.param(b"", [], id="an empty body is an empty list"),
        pytest.param(b"&&=1&=&", [], id="pairs without a name vanish"),
        pytest.param(b"a=1&b=2", {"a": "1", "b": "2"}, id="plain pairs"),
        pytest.param(b"a=b=c", {"a": "b=c"}, id="the first = divides"),
        pytest.param(b"a", {"a": ""}, id="a bare key is empty text"),
        pytest.param(b"a=1&b=2&a=3", {"a": "3", "b": "2"}, id="the last duplicate wins and keeps the first place"),
        pytest.param(b"a;b=1", {"a;b": "1"}, id="a semicolon separates nothing"),
        pytest.param(b"a=x+y%20z%2B", {"a": "x y z+"}, id="plus and %20 are spaces"),
        pytest.param(
            b"a=%&b=%4&c=%g1&d=%%34", {"a": "%", "b": "%4", "c": "%g1", "d": "%4"}, id="broken percent signs"
        ),
        pytest.param(b"a=%cd%C3%A9", {"a": "\udccdé"}, id="bytes that are no UTF-8 are surrogate escapes"),
        pytest.param(b"%ff[%fe]=1", {"\udcff": {"\udcfe": "1"}}, id="in keys too"),
        pytest.param(
            b"data%5BFIELDS%5D%5BID%5D=7&a[]=1",
            {"data": {"FIELDS": {"ID": "7"}}, "a": ["1"]},
            id="nested keys",
        ),
        pytest.param(b"a[]=x&a[]=y", {"a": ["x", "y"]}, id="empty brackets append"),
        pytest.param(
            b"a[][b]=x&a[][b]=y", {"a": [{"b": "x"}, {"b": "y"}]}, id="each empty bracket is a new entry"
        ),
        pytest.param(b"a[1]=x&a[0]=y", {"a": {"1": "x", "0": "y"}}, id="indexes out of order are no list"),
        pytest.param(b"0=a&1=b", ["a", "b"], id="the top can be a list"),
        pytest.param(b"a[7]=x&a[]=y", {"a": {"7": "x", "8": "y"}}, id="an integer key sets the next index"),
        pytest.param(
            b"a[05]=x&a[-0]=y&a[+1]=z&a[]=w",
            {"a": {"05": "x", "-0": "y", " 1": "z", "0": "w"}},
            id="05, -0, +1 are texts",
        ),
        pytest.param(b"a[-3]=x&a[]=y", {"a": {"-3": "x", "-2": "y"}}, id="negative keys count on"),
        pytest.param(b"a[-1]=x&a[]=y", {"a": {"-1": "x", "0": "y"}}, id="from -1 to 0"),
        pytest.param(
            b"a[9223372036854775807]=x&a[]=y",
            {"a": {"9223372036854775807": "x"}},
            id="nothing follows the largest integer",
        ),
        pytest.param(
            b"a[9223372036854775808]=x&a[]=y",
            {"a": {"9223372036854775808": "x", "0": "y"}},
            id="a larger number is text",
        ),
        pytest.param(
            b"a[-9223372036854775808]=x&a[]=y",
            {"a": {"-9223372036854775808": "x", "-9223372036854775807": "y"}},
            id="the smallest integer",
        ),
        pytest.param(b"a=1&a[b]=2", {"a": {"b": "2"}}, id="an array replaces an earlier text"),
        pytest.param(b"a[b]=1&c=2&a=3", {"a": "3", "c": "2"}, id="a text replaces an earlier array"),
        pytest.param(
            b"a.b=1&a c=2&a.b[c.d e]=3",
            {"a_b": {"c.d e": "3"}, "a_c": "2"},
            id="dots and spaces of the top name",
        ),
        pytest.param(b"++a=1&+=2&+.=3", {"a": "1", "_": "3"}, id="leading spaces vanish"),
        pytest.param(b"a[b=1&c[d.e[f=2", {"a_b": "1", "c_d_e_f": "2"}, id="an open bracket is part of the name"),
        pytest.param(
            b"a[b]c=1&d[e]f[g]=2",
            {"a": {"b": "1"}, "d": {"e": "2"}},
            id="text behind a bracket ends the name",
        ),
        pytest.param(b"a[b][c=1&d[][e=2", {"a": {"b": "1"}, "d": ["2"]}, id="a later open bracket is dropped"),
        pytest.param(b"a]b=1&]=2", {"a]b": "1", "]": "2"}, id="a closing bracket alone is text"),
        pytest.param(b"[a]=1&[]=2&[=3", [], id="brackets without a name vanish"),
        pytest.param(
            b"a[b[c]=1&d[[]=2", {"a": {"b[c": "1"}, "d": {"[": "2"}}, id="the first closing bracket closes"
        ),
        pytest.param(
            b"a[+]=1&b[%09]=2&c[++]=3&d[+x]=4",
            {"a": ["1"], "b": ["2"], "c": {"  ": "3"}, "d": {" x": "4"}},
            id="one space in brackets is nothing",
        ),
        pytest.param(
            b"a%00b=1&c[d%00e]=2&%00=3&f=%00g",
            {"a": "1", "c_d": "2", "f": "\0g"},
            id="a NUL ends a name, not a value",
        ),
        pytest.param(b"a=1\0&b=2", {"a": "1"}, id="a raw NUL ends the body"),
        pytest.param(
            b"__Host-a=1&..Host-b=2&._Secure-c=3", {"__Host-a": "1"}, id="no name turns into a cookie prefix"
        ),
        pytest.param(
            b"a[__Host-b]=1&c[__Secure-][d]=2", {"a": [], "c": []}, id="such an index leaves an empty array"
        ),
    ],
)
def test_a_body_means_what_php_makes_of_it(body: bytes, value: Any) -> None:
    assert ordered(form.parse(body)) == ordered(value)


def test_sixty_four_levels_are_kept() -> None:
    value = form.parse(b"a" + b"[x]" * 64 + b"=1")
    assert list(leaves(value)) == [("a", *("x",) * 64)]


@pytest.mark.parametrize("name", [b"a" + b"[x]" * 65, b"a" + b"[x]" * 64 + b"[x", b"a" + b"[]" * 100_000])
def test_one_level_more_deletes_the_whole_variable(name: bytes) -> None:
    assert form.parse(b"a[b]=1&c=2&" + name + b"=3") == {"c": "2"}


def test_a_thousand_parameters_are_no_limit_but_a_million_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(form.parse(b"a[]=1&" * 2_000)["a"]) == 2_000  # type: ignore[call-overload]
    monkeypatch.setattr(form, "MAX_PARAMETERS", 3)
    assert form.parse(b"&a&&b&c&&&") == {"a": "", "b": "", "c": ""}
    for read in (form.parse, lambda body: list(form.fields(body))):
        with pytest.raises(FormError, match="more than 3 parameters"):
            read(b"a&b&c&d")


def test_lists_that_turn_into_maps_and_back_cost_no_more_than_others() -> None:
    # Quadratic work would take hours here.
    count = 200_000
    body = b"".join(b"a[]=1&a[k%d]=2&b[%d]=3&" % (index, count - index) for index in range(count))
    value = form.parse(body)
    assert [len(array) for array in value.values()] == [2 * count, count]  # type: ignore[union-attr]


# What a structure becomes


@pytest.mark.parametrize(
    ("value", "body"),
    [
        pytest.param({"a": ["1"], "b": {"c": "x y"}}, b"a%5B0%5D=1&b%5Bc%5D=x+y", id="nested, brackets escaped"),
        pytest.param(
            {"a": True, "b": False, "c": None, "d": -7}, b"a=1&b=0&d=-7", id="true, false, null, integers"
        ),
        pytest.param({"a": [], "b": {}, "c": [[], {"d": []}]}, b"", id="empty arrays vanish"),
        pytest.param([], b"", id="nothing"),
        pytest.param(["x", ("y",)], b"0=x&1%5B0%5D=y", id="lists and tuples at the top"),
        pytest.param({5: {6: "x"}}, b"5%5B6%5D=x", id="integer keys"),
        pytest.param({"a.b c": "~-_.*'()!/:"}, b"a.b+c=%7E-_.%2A%27%28%29%21%2F%3A", id="PHP escapes the tilde"),
        pytest.param(
            {"é\udcff": "\0\udccd"}, b"%C3%A9%FF=%00%CD", id="surrogate escapes become their bytes again"
        ),
        pytest.param(
            [0.5, 1.0, 1e15, 1e-5, 1 / 3], b"0=0.5&1=1&2=1.0E%2B15&3=1.0E-5&4=0.33333333333333", id="floats"
        ),
    ],
)
def test_a_structure_becomes_what_php_writes(value: Any, body: bytes) -> None:
    assert form.encode(value) == body


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("text", "not of str"),
        (None, "not of NoneType"),
        ({"a": {"b": b"bytes"}}, r"a\[b\] is of type bytes: make it a string first"),
        ({"a": {1.5: "x"}}, "1.5 is no key"),
        ({None: "x"}, "None is no key"),
    ],
)
def test_what_a_form_cannot_hold_is_refused_by_name(value: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        form.encode(value)


def test_an_array_that_contains_itself_is_refused() -> None:
    inner: dict[str, Any] = {"twice": ["x"]}
    inner["again"] = inner["twice"]
    assert form.encode({"a": inner}) == b"a%5Btwice%5D%5B0%5D=x&a%5Bagain%5D%5B0%5D=x"
    inner["itself"] = [inner]
    with pytest.raises(FormError, match=r"a\[itself\]\[0\] contains itself"):
        form.encode({"a": inner})


def test_a_surrogate_that_stands_for_no_byte_is_refused() -> None:
    with pytest.raises(FormError, match="lone surrogate at 1"):
        form.encode({"a": "x\ud800"})


def test_depth_is_no_limit_for_encoding() -> None:
    value: Any = "x"
    for _ in range(10_000):
        value = [value]
    assert form.encode(value) == b"0" + b"%5B0%5D" * 9_999 + b"=x"


# Fields


def test_fields_are_the_pairs_in_order_with_their_bytes() -> None:
    body = b"&a%5B%5D=x+y&a[]&a.b=%31&[c]=secret"
    found = list(form.fields(body))
    assert found == [
        Field(("a", "0"), "a[]", "x y", start=1, name_end=8, value_start=9, end=12),
        Field(("a", "1"), "a[]", "", start=13, name_end=16, value_start=16, end=16),
        Field(("a_b",), "a.b", "1", start=17, name_end=20, value_start=21, end=24),
        Field(None, "[c]", "secret", start=25, name_end=28, value_start=29, end=35),
    ]
    assert [body[field.value_start : field.value_end] for field in found] == [b"x+y", b"", b"%31", b"secret"]
    assert [field.is_bare for field in found] == [False, True, False, False]


def test_fields_behind_a_raw_nul_have_no_path_but_are_shown() -> None:
    assert [(field.path, field.name, field.value) for field in form.fields(b"a=1\0b=2&c=3")] == [
        (("a",), "a", "1"),
        (None, "b", "2"),
        (None, "c", "3"),
    ]


# Editing


@pytest.mark.parametrize(
    ("body", "path", "edited"),
    [
        pytest.param(
            b"x=1&data[FIELDS]%5bID]=7&y=%7e",
            "data.FIELDS.ID",
            b"x=1&data[FIELDS]%5bID]=n+%26&y=%7e",
            id="only these bytes",
        ),
        pytest.param(b"a=1&a=2&b=3", "a", b"a=1&a=n+%26&b=3", id="the pair that counts"),
        pytest.param(b"a&b=1", "a", b"a=n+%26&b=1", id="a bare key"),
        pytest.param(b"b=1&a=", "a", b"b=1&a=n+%26", id="an empty value at the end"),
        pytest.param(b"a[]=1&a[]=2", "a.1", b"a[]=1&a[]=n+%26", id="an appended entry by its index"),
        pytest.param(b"a[b.c]=1", r"a.b\.c", b"a[b.c]=n+%26", id="an escaped dot"),
        pytest.param(b"a[b.c]=1", ("a", "b.c"), b"a[b.c]=n+%26", id="a sequence of keys"),
        pytest.param(b"a.b=1", "a_b", b"a.b=n+%26", id="the name as PHP calls it"),
        pytest.param(b"a=1\0a=2", "a", b"a=n+%26\0a=2", id="before a raw NUL"),
    ],
)
def test_an_edit_replaces_the_bytes_of_one_value(body: bytes, path: Any, edited: bytes) -> None:
    assert form.edit(body, path, "n &") == edited


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("data.FIELDS.IDD", r"There is no data\.FIELDS\.IDD in this body; did you mean data\.FIELDS\.ID\?"),
        ("data.fields.id", r"did you mean data\.FIELDS\.ID\?"),
        ("data.FIELDS", r"data\.FIELDS names an array, not a value; did you mean data\.FIELDS\.ID\?"),
        ("event.x", r"There is no event\.x in this body"),
        ("zzzzzzzz", r"There is no zzzzzzzz in this body\.$"),
        ((), "names an array"),
        ("", "There is no"),
        ("\udcff", r"There is no \\udcff"),
    ],
)
def test_an_unknown_path_is_named_and_a_close_one_is_offered(path: Any, message: str) -> None:
    with pytest.raises(UnknownPath, match=message) as caught:
        form.edit(b"event=E&data[FIELDS][ID]=7", path, "8")
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, LookupError)


# Removing


@pytest.mark.parametrize(
    ("body", "path", "left"),
    [
        pytest.param(b"x=1&data[FIELDS]%5bID]=7&y=%7e", "data.FIELDS.ID", b"x=1&y=%7e", id="with what follows"),
        pytest.param(b"x=1&y=2", "y", b"x=1", id="the last with what stands before"),
        pytest.param(b"x=1", "x", b"", id="the only one"),
        pytest.param(b"&&x=1&&y=2&&", "x", b"&&&y=2&&", id="one separator and no more"),
        pytest.param(b"x=1&y=2&&", "y", b"x=1&&", id="the one that follows, where there is one"),
        pytest.param(b"a=1&b=2&a=3&c=4", "a", b"b=2&c=4", id="what is overwritten goes too"),
        pytest.param(b"x=0&a=1&a=2", "a", b"x=0", id="both at the end"),
        pytest.param(b"a[b]=1&x=0&a[c][]=2&a[c][]=3", "a", b"x=0", id="a whole array"),
        pytest.param(b"a[b]=1&x=0&a[c][]=2&a[c][]=3", "a.c", b"a[b]=1&x=0", id="an array in an array"),
        pytest.param(b"a[]=1&a[]=2&a[]=3", "a.1", b"a[]=1&a[]=3", id="an entry by its index"),
        pytest.param(b"a[b]=1&x=0&a=2", "a", b"x=0", id="an array that a text replaced"),
        pytest.param(b"a=1&a[b]=2&x=0", "a.b", b"x=0", id="a text that the array replaced"),
        pytest.param(b"a=1&a[b]=2&a[c]=3", "a.b", b"a=1&a[c]=3", id="not while there is still an array"),
        pytest.param(b"a[c]=0&a=1&a[b]=2&x=0", "a.b", b"x=0", id="nor does an array from before come back"),
        pytest.param(b"a=1&a[b]=2&a[b][c]=3", "a.b.c", b"", id="two that arrays replaced"),
        pytest.param(b"a&b=1", "a", b"b=1", id="a bare key"),
        pytest.param(b"a.b=1&c=2", "a_b", b"c=2", id="the name as PHP calls it"),
        pytest.param(b"a[b.c]=1&d=2", ("a", "b.c"), b"d=2", id="a sequence of keys"),
        pytest.param(b"x=0&a=1\0a=2", "a", b"x=0\0a=2", id="before a raw NUL"),
        pytest.param(b"a=1\0a=2", "a", b"\0a=2", id="nothing between it and a raw NUL"),
        pytest.param(b"t=%CD%EE&a=%FF", "a", b"t=%CD%EE", id="bytes that are no UTF-8 stay"),
        pytest.param(b"a=1&b=2", (), b"", id="everything"),
    ],
)
def test_a_removal_takes_pairs_with_one_separator_each(body: bytes, path: Any, left: bytes) -> None:
    assert form.remove(body, path) == left


@pytest.mark.parametrize(
    ("body", "path", "message"),
    [
        (b"event=E&data[FIELDS][ID]=7", "data.fields.id", r"no data\.fields\.id in .*mean data\.FIELDS\.ID\?$"),
        (b"event=E&data[FIELDS][ID]=7", "data.fields", r"did you mean data\.FIELDS\?$"),
        (b"event=E&data[FIELDS][ID]=7", "event.x", r"There is no event\.x in this body"),
        (b"a[b]=1&a=2", "a.b", r"There is no a\.b in this body"),
        (b"a=1\0b=2", "b", r"There is no b in this body"),
        (b"", "b", r"There is no b in this body\.$"),
    ],
)
def test_removing_what_is_not_there_is_an_error(body: bytes, path: str, message: str) -> None:
    with pytest.raises(UnknownPath, match=message):
        form.remove(body, path)


# Names whose meaning does not depend on other pairs, as that of `[]` does.
FIXED_NAMES = st.lists(st.sampled_from(["a", "b", "0", "1", "c d", "é"]), min_size=1, max_size=4).map(
    lambda keys: keys[0] + "".join(f"[{key}]" for key in keys[1:])
)
FIXED_PAIRS = st.tuples(FIXED_NAMES, st.sampled_from(["", "=", "=1", "=%ff+x"])).map("".join).map(str.encode)
FIXED_BODIES = st.tuples(st.lists(FIXED_PAIRS, min_size=1, max_size=8), st.sampled_from([b"&", b"&&"])).map(
    lambda pairs: pairs[1].join(pairs[0])
)


def below(leaf: tuple[str, ...], path: tuple[str, ...]) -> bool:
    return leaf[: len(path)] == path


@pytest.mark.php
@NORMAL
@given(FIXED_BODIES, st.data())
def test_php_misses_what_was_removed_and_nothing_else(php: PhpOracle, body: bytes, data: st.DataObject) -> None:
    before = leaves(php.parse(body))
    leaf = data.draw(st.sampled_from(list(before)))
    path = leaf[: data.draw(st.integers(1, len(leaf)))]
    left = form.remove(body, path)
    assert leaves(php.parse(left)) == {other: value for other, value in before.items() if not below(other, path)}

    pairs = body.split(b"&")
    kept = iter(pairs)
    assert all(pair in kept for pair in left.split(b"&") if pair)
    gone = len([pair for pair in pairs if pair]) - len([pair for pair in left.split(b"&") if pair])
    assert left.count(b"&") == max(body.count(b"&") - gone, 0)


@pytest.mark.parametrize("case", RAW_CASES, ids=lambda case: case.name)
def test_every_value_of_a_real_delivery_can_be_removed_alone(case: RawCase) -> None:
    before = leaves(form.parse(case.body))
    has_fixed_names = b"%5B%5D" not in case.body and b"[]" not in case.body
    for path in before:
        after = leaves(form.parse(form.remove(case.body, path)))
        if has_fixed_names:
            assert after == {other: value for other, value in before.items() if other != path}
        else:
            assert len(after) == len(before) - 1


# Names apart from their spelling


def test_names_that_are_decoded_are_read_by_the_same_rules() -> None:
    assert form.assign([(b"a.b", "1"), (b"c[]", "2"), (b"c[x y]", "3"), (b"d[", "4")]) == {
        "a_b": "1",
        "c": {"0": "2", "x y": "3"},
        "d_": "4",
    }
    names = [b"a[]", b"a[]", b"a[0]"]
    assert form.index_of(names, "a.0") == 2
    assert form.indexes_of(names, "a.0") == [0, 2]
    with pytest.raises(UnknownPath, match="names an array"):
        form.index_of(names, "a")


@given(st.lists(st.text("a.\\", max_size=4), min_size=1, max_size=4))
@settings(deadline=None, database=None)
def test_a_path_in_a_string_is_taken_apart_as_it_was_joined(keys: list[str]) -> None:
    assert form.split_path(form.join_path(keys)) == tuple(keys)


# Generated bodies

TOPS = [
    "a",
    "b",
    "a.b",
    " a",
    "+a",
    "0",
    "1",
    "-3",
    "05",
    "",
    "%00",
    "a%00",
    "__Host-",
    "_.Host-",
    "%FF",
    "a]",
]
PIECES = [
    *(
        "a",
        "b",
        "[",
        "]",
        "[]",
        "[a]",
        "[b]",
        "[0]",
        "[1]",
        "[-3]",
        "[-1]",
        "[05]",
        "[-0]",
        "[+1]",
        "[ ]",
        "[++]",
    ),
    *("[9223372036854775807]", "[9223372036854775806]", "[-9223372036854775808]", "[9223372036854775808]"),
    *(
        "[-9223372036854775809]",
        "9223372036854775807",
        "[%09]",
        "[%0b]",
        "[%A0]",
        "[__Host-]",
        "[__Secure-x]",
    ),
    *(
        "%5B",
        "%5D",
        "%5b0%5d",
        "%",
        "%0",
        "%00",
        "%ff",
        "%C3",
        "%A9",
        "é",
        "+",
        " ",
        ".",
        "-",
        "_",
        "\t",
        "=",
        "&",
        "&&",
    ),
    *("[a][b]", "[][]", "[0][]", "[a][0]"),
]
SHALLOW = st.builds(
    "{}{}".format, st.sampled_from(TOPS), st.lists(st.sampled_from(PIECES), max_size=7).map("".join)
)
DEEP = st.builds(
    lambda top, part, depth, tail: top + part * depth + tail,
    st.sampled_from(TOPS),
    st.sampled_from(["[a]", "[]", "[0]", "[ ]", "%5B%5D"]),
    st.integers(61, 66),
    st.lists(st.sampled_from(["[a]", "[", "]", "[]", "x", "[__Host-]", "%00"]), max_size=3).map("".join),
)
VALUES = st.lists(
    st.sampled_from([*PIECES[:6], "x", "%", "%4", "%41", "%fF", "%00", "+", "=", "%26", "~"]), max_size=3
)
PAIRS = st.builds(
    "".join,
    st.tuples(
        st.one_of(SHALLOW, SHALLOW, SHALLOW, DEEP), st.sampled_from(["=", "=", "=", ""]), VALUES.map("".join)
    ),
)
STRUCTURED = st.builds(
    lambda pairs, separator: separator.join(pairs).encode(),
    st.lists(PAIRS, max_size=9),
    st.sampled_from(["&", "&", "&&", "&=&"]),
)
RAW = st.one_of(
    st.binary(max_size=60),
    st.lists(st.sampled_from([bytes([octet]) for octet in b"ab01-[[]]=&%+ .5BD\t\0\xff_"]), max_size=60).map(
        b"".join
    ),
)
BODIES = st.one_of(STRUCTURED, STRUCTURED, STRUCTURED, RAW)

TEXTS = st.one_of(
    st.text(max_size=5),
    st.text(string.printable, max_size=5),
    st.binary(max_size=5).map(lambda octets: octets.decode("utf-8", "surrogateescape")),
    st.sampled_from(["", "0", "1", "-1", "05", "[]", "a[b]", "a.b", "~", "\0", " ", "9223372036854775807"]),
).filter(
    lambda text: not any("\ud800" <= letter <= "\udfff" and not "\udc80" <= letter <= "\udcff" for letter in text)
)
SCALARS = st.one_of(TEXTS, TEXTS, st.integers(-(2**63), 2**63 - 1), st.booleans(), st.none(), st.floats())
STRUCTURES = st.recursive(
    st.one_of(st.lists(SCALARS, max_size=4), st.dictionaries(TEXTS, SCALARS, max_size=4)),
    lambda inner: st.one_of(
        st.lists(st.one_of(inner, SCALARS), max_size=4),
        st.dictionaries(TEXTS, st.one_of(inner, SCALARS), max_size=4),
    ),
    max_leaves=12,
)


@NORMAL
@given(BODIES)
@example(b"a[__Host-b]=1&a[]=2")
def test_what_was_parsed_encodes_to_a_body_that_parses_the_same(body: bytes) -> None:
    value = form.parse(body)
    again = form.parse(form.encode(value))
    # A body has no way to spell an empty array.
    assert ordered(again) == ordered(without_empty_arrays(value))


@NORMAL
@given(BODIES)
def test_the_last_field_of_a_path_gives_its_leaf(body: bytes) -> None:
    last = {field.path: field.value for field in form.fields(body)}
    for path, value in leaves(form.parse(body)).items():
        assert last[path] == value


@NORMAL
@given(BODIES)
def test_fields_and_the_separators_between_them_are_the_whole_body(body: bytes) -> None:
    position = 0
    for field in form.fields(body):
        assert body[position : field.start].strip(b"&\0") == b""
        assert body[field.name_end : field.value_start] == (b"" if field.is_bare else b"=")
        position = field.end
    assert body[position:].strip(b"&\0") == b""


@NORMAL
@given(BODIES, TEXTS, st.data())
def test_an_edit_changes_one_leaf_and_no_other_byte(body: bytes, value: str, data: st.DataObject) -> None:
    before = leaves(form.parse(body))
    if not before:
        return
    path = data.draw(st.sampled_from(list(before)))
    edited = form.edit(body, data.draw(st.sampled_from([path, form.join_path(path)])), value)

    after = form.parse(edited)
    assert leaves(after) == before | {path: value}
    assert without_leaves(after) == without_leaves(form.parse(body))
    changed = [
        (old, new)
        for old, new in zip(form.fields(body), form.fields(edited), strict=True)
        if body[old.start : old.end] != edited[new.start : new.end]
    ]
    assert [new.path for _, new in changed] in ([path], [] if before[path] == value else [path])
    for old, new in changed:
        assert body[: old.name_end] == edited[: new.name_end]
        assert body[old.end :] == edited[new.end :]


@NORMAL
@given(BODIES, st.data())
def test_what_a_removal_leaves_is_spelled_as_it_was(body: bytes, data: st.DataObject) -> None:
    found = [(field, body[field.start : field.end]) for field in form.fields(body)]
    before = leaves(form.parse(body))
    if not before:
        return
    path = data.draw(st.sampled_from(list(before)))
    left = form.remove(body, path)
    spelled = iter([pair for field, pair in found if field.path != path])
    assert all(pair in spelled for pair in (left[field.start : field.end] for field in form.fields(left)))
    assert len(left) < len(body)


def without_leaves(value: Any) -> Any:
    if isinstance(value, str):
        return None
    if isinstance(value, list):
        return [without_leaves(item) for item in value]
    return [(key, without_leaves(item)) for key, item in value.items()]


# PHP itself


@pytest.mark.parametrize("case", RAW_CASES, ids=lambda case: case.name)
def test_a_real_delivery_has_the_structure_it_had(case: RawCase) -> None:
    value = form.parse(case.body)
    assert ordered(value) == ordered(case.expect)
    assert (value.get("event") if isinstance(value, dict) else None) == case.event


@pytest.mark.parametrize("case", RAW_CASES, ids=lambda case: case.name)
def test_every_value_of_a_real_delivery_can_be_edited_alone(case: RawCase) -> None:
    before = leaves(form.parse(case.body))
    for path in before:
        assert leaves(form.parse(form.edit(case.body, path, "&é"))) == before | {path: "&é"}


@pytest.mark.php
@pytest.mark.parametrize("case", RAW_CASES, ids=lambda case: case.name)
def test_php_reads_a_real_delivery_the_same(php: PhpOracle, case: RawCase) -> None:
    assert ordered(php.parse(case.body)) == ordered(case.expect)
    assert php.encode(case.expect) == form.encode(case.expect)


@pytest.mark.php
def test_the_oracle_ends_php_when_it_is_left(php: PhpOracle) -> None:
    with PhpOracle() as oracle:
        process = oracle._process
        assert process is not None
        assert oracle.parse(b"a=1") == {"a": "1"}
    assert process.returncode == 0


@pytest.mark.php
@pytest.mark.parametrize(
    ("harm", "deadline"), [(signal.SIGKILL, 30.0), (signal.SIGSTOP, 0.05)], ids=["killed", "stopped"]
)
def test_the_oracle_fails_instead_of_hanging(php: PhpOracle, harm: signal.Signals, deadline: float) -> None:
    with PhpOracle(deadline=deadline) as oracle:
        process = oracle._process
        assert process is not None
        process.send_signal(harm)
        with pytest.raises(AssertionError, match="it ended with -9"):
            oracle.parse(b"a=1")
    assert process.returncode == -9


@pytest.mark.php
def test_php_agrees_on_a_body_larger_than_any_pipe(php: PhpOracle) -> None:
    body = b"".join(b"a[%d][]=%s&" % (index % 700, b"%D1%84" * (index % 90)) for index in range(20_000))
    assert ordered(php.parse(body)) == ordered(form.parse(body))


@pytest.mark.php
@NORMAL
@given(BODIES)
def test_php_parses_every_body_the_same(php: PhpOracle, body: bytes) -> None:
    assert ordered(form.parse(body)) == ordered(php.parse(body))


@pytest.mark.php
@NORMAL
@given(STRUCTURES)
def test_php_encodes_every_structure_the_same(php: PhpOracle, value: Any) -> None:
    assert form.encode(value) == php.encode(value)


@pytest.mark.php
@NORMAL
@given(st.integers(10**12, 10**14 - 1), st.integers(0, 99), st.sampled_from([-1.0, 1.0]))
@example(6526197524060, 5, 1.0)
def test_php_rounds_a_number_of_fifteen_digits_the_same(
    php: PhpOracle, digits: int, last: int, sign: float
) -> None:
    value = [sign * (digits * 100 + last)]
    assert form.encode(value) == php.encode(value)


@pytest.mark.php
@pytest.mark.slow
@THOROUGH
@given(BODIES)
def test_php_parses_a_hundred_thousand_bodies_the_same(php: PhpOracle, body: bytes) -> None:
    assert ordered(form.parse(body)) == ordered(php.parse(body))


@pytest.mark.php
@pytest.mark.slow
@THOROUGH
@given(STRUCTURES)
def test_php_encodes_a_hundred_thousand_structures_the_same(php: PhpOracle, value: Any) -> None:
    assert form.encode(value) == php.encode(value)


@given(
    st.lists(st.sampled_from([b"%", b"%4", b"%41", b"%zz", b"+", b"a", b"41", b"%%", b"%2B"]), max_size=30),
    st.integers(3, 9),
)
def test_a_long_value_is_taken_apart_where_no_escape_is(pieces: list[bytes], at_once: int) -> None:
    body = b"x=" + b"".join(pieces)
    whole = form.parse(body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(form, "_AT_ONCE", at_once)
        assert form.parse(body) == whole
