"""Where an answer differs from an earlier one."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b24tunnel.aligning import Budget, aligned
from b24tunnel.difference import MOST, Difference, how_many
from b24tunnel.errors import WrongUsage
from b24tunnel.ignoring import DEEPEST, Ignored
from b24tunnel.recording import Attempt
from b24tunnel.replaying.answered import MOST_BYTES
from b24tunnel.replaying.comparing import Comparison

JSON = (("Content-Type", "application/json"),)


def answer(body: bytes | str = b"", status: int | None = 200, headers: Any = (), **more: Any) -> Attempt:
    octets = body.encode("utf-8", "surrogateescape") if isinstance(body, str) else body
    return Attempt("1-1", "replay", "http://h/", datetime.now(UTC), 1.0, status, headers, octets, **more)


def different(before: bytes | str, after: bytes | str, *ignore: str, headers: Any = ()) -> list[tuple[Any, ...]]:
    """The differences of two bodies as plain tuples, without ``body`` in front of each place."""
    found = Comparison(ignore=ignore).differences(answer(before, headers=headers), answer(after, headers=headers))
    return [(where.removeprefix("body "), old, new) for where, old, new in found]


class TestStatusAndHeaders:
    def test_a_status_that_differs_comes_first(self) -> None:
        found = Comparison().differences(answer("a", 200, JSON), answer("b", 500))
        assert found == (
            Difference("status", "200", "500"),
            Difference("header Content-Type", "application/json", None),
            Difference("body line 1", "a", "b"),
        )

    def test_an_error_stands_in_place_of_the_status_and_nothing_else_is_compared(self) -> None:
        silent = answer(b"", None, error="cannot connect: refused")
        assert Comparison().differences(answer("a"), silent) == (
            Difference("status", "200", "no answer: cannot connect: refused"),
        )
        assert Comparison().differences(silent, silent) == ()

    def test_nothing_recorded_is_a_difference_that_says_so(self) -> None:
        (only,) = Comparison().differences(None, answer("a", 204))
        assert only == ("answer", "(nothing was recorded to compare with)", "204")

    def test_headers_are_chosen_by_name_in_any_case_and_have_several_values(self) -> None:
        before = answer(headers=(("x-a", "1"), ("X-B", "1"), ("Date", "now")))
        after = answer(headers=(("X-A", " 1 "), ("x-b", "1"), ("x-B", "2"), ("Date", "later")))
        found = Comparison(headers=("X-A", "x-b", "X-B")).differences(before, after)
        assert found == (Difference("header X-B", "1", "1, 2"),)
        assert Comparison(headers=()).differences(before, after) == ()

    def test_a_header_without_a_name_is_refused(self) -> None:
        with pytest.raises(WrongUsage, match="empty name"):
            Comparison(headers=("A", " "))


class TestJson:
    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ('{"a":1,"b":[1,2]}', '{ "b": [1,\n2], "a": 1 }'),
            ("[1, 10, 0.5, -0, 100]", "[1.0, 1e1, 5E-1, 0.0, 1.00e+2]"),
            ('["\\u00e9\\/"]', '["é/"]'),
            ("[NaN]", "[ NaN ]"),
            pytest.param("[%s]" % ("9" * 5000), "[ %s.0 ]" % ("9" * 5000), id="huge"),
            ('{"a":1,"a":2}', '{"a": 1.0, "a": 2}'),
            ("[1e999999999999]", "[10e999999999998]"),
        ],
    )
    def test_what_says_the_same_is_equal_however_it_is_written(self, before: str, after: str) -> None:
        assert different(before, after) == []

    @pytest.mark.parametrize(
        ("before", "after", "expected"),
        [
            ("[1]", "[true]", [("$[0]", "1", "true")]),
            ("[0]", "[false]", [("$[0]", "0", "false")]),
            ("[1]", '["1"]', [("$[0]", "1", '"1"')]),
            ('["1e0"]', "[1]", [("$[0]", '"1e0"', "1")]),
            ("[null]", "[{}]", [("$[0]", "null", "{}")]),
            ("[0.1]", "[0.1000000000000000055]", [("$[0]", "0.1", "0.1000000000000000055")]),
            ("[1e400]", "[2e400]", [("$[0]", "1e400", "2e400")]),
            ("[9007199254740992]", "[9007199254740993]", [("$[0]", "9007199254740992", "9007199254740993")]),
            ("[NaN]", "[Infinity]", [("$[0]", "NaN", "Infinity")]),
            ("{}", "[]", [("$", "{}", "[]")]),
            ('{"a":{"b":[{"c":1}]}}', '{"a":{"b":[{"c":2}]}}', [("$.a.b[0].c", "1", "2")]),
            ('{"a":1}', '{"b":1}', [("$.a", "1", None), ("$.b", None, "1")]),
            ('{"a b":1,"1":1}', "{}", [("$['a b']", "1", None), ("$['1']", "1", None)]),
            ("{}", '{"\'":1,"":2}', [("$['\\'']", None, "1"), ("$['']", None, "2")]),
            ('{"имя":null}', "{}", [("$.имя", "null", None)]),
            ('{"a":1,"a":2}', '{"a":2}', [("$.a", "1, 2", "2")]),
            ('{"a":1,"a":2}', '{"a":[1,2]}', [("$.a", "1, 2", "[1, 2]")]),
            ('{"x":{"a":1,"a":2}}', "{}", [("$.x", '{"a": 1, "a": 2}', None)]),
            ('["\\ud800"]', '["\\ud801"]', [("$[0]", '"\ud800"', '"\ud801"')]),
        ],
    )
    def test_a_difference_names_its_place(self, before: str, after: str, expected: list[Any]) -> None:
        assert different(before, after) == expected

    def test_a_scalar_is_json_only_where_it_is_called_so(self) -> None:
        assert different("1", "1.0", headers=JSON) == []
        assert different("1", "1.0") == [("line 1", "1", "1.0")]
        assert different('"a"', '"b"', headers=(("content-type", "application/problem+json; charset=utf-8"),)) == [
            ("$", '"a"', '"b"')
        ]

    def test_json_against_anything_else_is_text(self) -> None:
        assert different("{}", "<p>", headers=JSON) == [("line 1", "{}", "<p>")]

    @pytest.mark.parametrize(
        ("before", "after", "expected"),
        [
            ([1, 2, 3], [0, 1, 2, 3], [("$[0]", None, "0")]),
            ([1, 2, 3], [1, 3], [("$[1]", "2", None)]),
            ([1, 2, 3, 4], [1, 9, 3, 4, 5], [("$[1]", "2", "9"), ("$[4]", None, "5")]),
            ([1, 2, 3], [3, 1, 2], [("$[0]", None, "3"), ("$[2]", "3", None)]),
        ],
    )
    def test_an_element_that_came_or_went_leaves_the_others_as_they_are(
        self, before: list[Any], after: list[Any], expected: list[Any]
    ) -> None:
        assert different(json.dumps(before), json.dumps(after)) == expected

    def test_elements_that_all_changed_are_taken_for_those_that_they_are_most_like(self) -> None:
        before = [{"id": n, "name": f"n{n}", "seen": 1} for n in range(5)]
        after = [{"id": n, "name": f"n{n}", "seen": 2} for n in (9, 0, 1, 2, 3, 4)]
        found = different(json.dumps(before), json.dumps(after))
        assert found[0] == ("$[0]", None, '{"id": 9, "name": "n9", "seen": 2}')
        assert found[1:] == [(f"$[{n}].seen", "1", "2") for n in range(5)]

    def test_long_lists_of_which_little_changed_are_aligned(self) -> None:
        before = [[n] for n in range(9000)]
        after = [*before[3:4000], "new", *before[4000:8000], *before[8001:]]
        assert different(json.dumps(before), json.dumps(after)) == [
            *((f"$[{n}]", f"[{n}]", None) for n in range(3)),
            ("$[3997]", None, '"new"'),
            ("$[8000]", "[8000]", None),
        ]

    def test_long_lists_that_have_little_in_common_are_compared_by_position(self) -> None:
        numbers = random.Random(7)
        before, after = ([numbers.randrange(2) for _ in range(20_000)] for _ in range(2))
        comparison = Comparison().differences(answer(json.dumps(before)), answer(json.dumps(after)))
        unequal = sum(old != new for old, new in zip(before, after, strict=True))
        assert how_many(comparison) == unequal
        assert len(comparison) == MOST + 1
        assert comparison[-1] == (f"and {unequal - MOST} more", None, None)

    @pytest.mark.parametrize("depth", [DEEPEST - 1, DEEPEST, DEEPEST + 1, 500, 30_000])
    @pytest.mark.parametrize("ignore", [(), ("$..x",)])
    def test_nesting_has_a_bound_beyond_which_it_is_text(self, depth: int, ignore: tuple[str, ...]) -> None:
        before, after = ("[" * depth + inner + "]" * depth for inner in ("1", '1.0, "a"'))
        found = different(before, after, *ignore)
        if depth <= DEEPEST:
            assert found == [("$" + "[0]" * (depth - 1) + "[1]", None, '"a"')]
        else:
            assert found == [("line 1", before, after)]


class TestIgnoring:
    @pytest.mark.parametrize(
        ("before", "after", "ignore", "expected"),
        [
            ('{"time":1,"a":1}', '{"time":2,"a":2}', ["$.time"], [("$.a", "1", "2")]),
            ('{"time":1}', "{}", ["$['time']"], []),
            ('{"items":[{"id":1,"n":1},{"id":2}]}', '{"items":[{"id":3,"n":2},{"id":4}]}', ["$.items[*].id"],
             [("$.items[0].n", "1", "2")]),
            ('{"a":{"ts":1,"b":[{"ts":2}]}}', '{"ts":3,"a":{"b":[{}]}}', ["$..ts"], []),
            ("[1,2,3]", "[9,2,4]", ["$[0]"], [("$[2]", "3", "4")]),
            ("[1,2]", "[3,4,5,6]", ["$[*]"], []),
            ('{"a":[{"k":"t","v":1},{"k":"u","v":1}]}', '{"a":[{"k":"t","v":2},{"k":"u","v":2}]}',
             ["$.a[?@.k == 't'].v"], [("$.a[1].v", "1", "2")]),
            ('{"a":1,"a":2}', '{"a":3}', ["$.a"], []),
            ('{"a":1}', "[1]", ["$"], []),
            ('{"n":1}', '{"n":2}', ["$[?@ == 1]"], [("$.n", None, "2")]),
            ('{"a":{"t":1}}', "{}", ["$..t"], [("$.a", "{}", None)]),
            ('{"a":1}', '{"a":2}', ["$.b", "$.a.c", "$[7]"], [("$.a", "1", "2")]),
        ],
    )  # fmt: skip
    def test_what_a_path_leads_to_is_left_out(
        self, before: str, after: str, ignore: list[str], expected: list[Any]
    ) -> None:
        assert different(before, after, *ignore) == expected

    def test_a_scalar_is_ignored_as_the_root_and_never_taken_for_json_in_text(self) -> None:
        assert different('"a"', '"b"', "$", headers=JSON) == []
        for text in ("{}", "{", "[1", '{\\"a\\":1}'):
            assert different(f'"{text}"', '""', "$.a", headers=JSON) == [("$", f'"{text}"', '""')]

    @pytest.mark.parametrize(
        ("path", "message"),
        [
            ("time", "'time' is no JSONPath: it begins with $, as '$.time' does."),
            ("result.id", "as '$.result.id' does."),
            (".time", "as '$.time' does."),
            ("[0]", "as '$[0]' does."),
            ("", "as '$.time' does."),
            ("$..", "'$..' is no JSONPath ("),
            ("$.a b", "unexpected token 'b'"),
            ("$['a", "is no JSONPath"),
            ("$[?foo(@)]", "is no JSONPath"),
            ("$[99999999999999999999]", "is no JSONPath"),
            pytest.param("$" + ".a" * 600, "is too long", id="long"),
            pytest.param("$[?" + "(" * 900, "is no JSONPath", id="deep"),
        ],
    )
    def test_a_wrong_path_is_said_with_the_right_one(self, path: str, message: str) -> None:
        with pytest.raises(WrongUsage) as caught:
            Comparison(ignore=["$.ok", path])
        assert message in str(caught.value)
        assert len(str(caught.value)) < 300
        assert "\n" not in str(caught.value)

    @given(st.text(st.sampled_from("$.[]*?@()'\"\\ab01-:,<=&|!~^{}# \n\udc80\x00é"), max_size=12))
    def test_any_path_is_one_or_wrong_usage(self, path: str) -> None:
        try:
            ignored = Ignored([f"${path}"])
        except WrongUsage:
            return
        ignored.places({"a": [1.0, {"b": "a"}], "b": None})


class TestText:
    @pytest.mark.parametrize(
        ("before", "after", "expected"),
        [
            ("a\nb\nc", "a\nB\nc", [("line 2", "b", "B")]),
            ("a\nb\nc", "new\na\nb\nc", [("line 1", None, "new")]),
            ("a\nb\nc", "a\nc", [("line 2", "b", None)]),
            ("a\n", "a", [("line 2", "", None)]),
            ("a\r\nb", "a\nb", [("line 1", "a\r", "a")]),
            ("", "a", [("line 1", "", "a")]),
        ],
    )
    def test_text_is_compared_line_by_line(self, before: str, after: str, expected: list[Any]) -> None:
        assert different(before, after) == expected

    def test_many_lines_are_compared_within_bounds(self) -> None:
        numbers = random.Random(5)
        before, after = ("\n".join(numbers.choice("xy") for _ in range(30_000)) for _ in range(2))
        assert len(different(before, after)) == MOST + 1
        assert different(before, f"new\n{before}") == [("line 1", None, "new")]
        assert how_many(Comparison().differences(answer("x\n" * 30_000), answer("x\n" * 29_000))) == 1000

    def test_other_bytes_are_told_apart_by_size_and_digest(self) -> None:
        ((where, before, after),) = different(b"\xff\x00abc", b"\xff\x00abd!")
        assert where == "from byte 4"
        assert before.startswith("5 bytes, SHA-256 ")
        assert after.startswith("6 bytes, SHA-256 ")
        assert "abc" not in before

    def test_text_has_the_character_set_that_it_names(self) -> None:
        headers = (("Content-Type", "text/plain; charset=windows-1251"),)
        before, after = "да".encode("cp1251"), "нет".encode("cp1251")
        assert different(before, after, headers=headers) == [("line 1", "да", "нет")]


class TestCompressedAndCut:
    def test_compressed_bodies_are_compared_by_what_they_hold(self) -> None:
        compressed = answer(gzip.compress(b'{"a": 1, "t": 1}'), headers=(*JSON, ("Content-Encoding", "gzip")))
        plain = answer('{"t":2,"a":1}', headers=JSON)
        comparison = Comparison(ignore=["$.t"])
        assert comparison.differences(compressed, plain) == ()
        assert comparison.not_compared(compressed, plain) is None

    def test_what_cannot_be_decompressed_is_compared_as_bytes_and_that_is_said(self) -> None:
        one, other = (answer(body, headers=(("Content-Encoding", "br"),)) for body in (b"\xff1", b"\xff2"))
        assert [d.where for d in Comparison().differences(one, other)] == ["body from byte 1"]
        assert Comparison().not_compared(one, other) == "a body was compared as bytes only: it is compressed (br)"

    def test_bodies_that_were_cut_off_are_compared_as_far_as_both_go(self) -> None:
        cut = answer("one\ntwo\nthr", truncated=True)
        comparison = Comparison()
        for longer in (answer("one\ntwo\nthree\nfour"), answer("one\ntwo\nthree", truncated=True)):
            assert comparison.differences(cut, longer) == ()
            assert comparison.differences(longer, cut) == ()
            assert comparison.not_compared(longer, cut) == (
                "of the bodies only the first 11 bytes were kept and compared"
            )
        assert comparison.differences(cut, answer("one\n2\nthree\nfour")) == (
            Difference("body line 2 (it was cut off)", "two", "2"),
        )

    def test_a_whole_body_is_shorter_than_what_was_cut_off(self) -> None:
        cut = answer("one\ntwo\nthr", truncated=True)
        assert Comparison().differences(cut, answer("one\ntwo")) == (
            Difference("body line 3 (it was cut off)", "thr", None),
        )
        assert Comparison().differences(cut, answer("one\ntwo\nthr")) == (
            Difference("body (it was cut off)", "more than 11 bytes", "11 bytes"),
        )

    def test_a_character_that_was_cut_through_is_no_difference(self) -> None:
        text = "да" * 10
        cut = answer(text.encode()[:-1], truncated=True)
        assert Comparison().differences(cut, answer(text)) == ()
        (only,) = Comparison().differences(cut, answer("не" * 10))
        assert only == ("body line 1 (it was cut off)", "да" * 9 + "д", "не" * 9 + "н")

    def test_a_compressed_body_is_compared_as_far_as_a_bound(self) -> None:
        headers = (("Content-Encoding", "gzip"),)
        one, other = (
            answer(gzip.compress(b"a" * MOST_BYTES * 3 + end, 1), headers=headers) for end in (b"1", b"2")
        )
        assert Comparison().differences(one, other) == ()
        assert f"first {MOST_BYTES:,} bytes" in (Comparison().not_compared(one, other) or "")


# Whatever handlers answer

_LEAF = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
_VALUES = st.recursive(
    _LEAF, lambda below: st.lists(below, max_size=6) | st.dictionaries(st.text(max_size=3), below, max_size=4)
)
_BODIES = st.one_of(
    st.binary(max_size=40),
    st.text(st.sampled_from("ab\n\r"), max_size=30).map(str.encode),
    _VALUES.map(lambda value: json.dumps(value).encode()),
    st.text(st.sampled_from('{}[],:"a1.e-\\ntrue'), max_size=20).map(str.encode),
)
_HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["Content-Type", "content-type", "Content-Encoding", "X"]),
        st.sampled_from(
            ["application/json", "text/html; charset=koi8-r", "gzip", "deflate", "x", "a; charset=utf-7"]
        ),
    ),
    max_size=3,
).map(tuple)
_ANSWERS = st.builds(
    answer, _BODIES, st.sampled_from([200, 200, 500]), _HEADERS, truncated=st.sampled_from([False, False, True])
)


@given(_ANSWERS, _ANSWERS, st.sampled_from([(), ("$..a",), ("$[*]", "$.a")]))
def test_any_two_answers_can_be_compared_in_either_direction(
    one: Attempt, other: Attempt, ignore: tuple[str, ...]
) -> None:
    comparison = Comparison(("Content-Type", "X"), ignore)
    there = comparison.differences(one, other)
    back = comparison.differences(other, one)
    assert Counter((before, after) for _, before, after in there) == Counter((d.after, d.before) for d in back)
    assert all(d.before != d.after for d in there)
    comparison.not_compared(one, other)
    assert comparison.differences(one, one) == ()


@given(_VALUES, _VALUES)
def test_json_differs_exactly_where_it_does_not_say_the_same(one: Any, other: Any) -> None:
    def plain(value: Any) -> Any:
        """The value so that == tells true from 1, and a NaN is itself."""
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list):
            return [plain(item) for item in value]
        return ("nan",) if value != value else (isinstance(value, bool), value)

    found = different(json.dumps(one), json.dumps(other), headers=JSON)
    assert (found == []) == (plain(one) == plain(other))


@given(st.text(st.sampled_from("abc\n"), max_size=40), st.text(st.sampled_from("abc\n"), max_size=40))
def test_text_differs_exactly_where_its_bytes_do(one: str, other: str) -> None:
    assert (different(one, other) == []) == (one == other)


@given(st.lists(st.sampled_from("abcd")), st.lists(st.sampled_from("abcd")), st.sampled_from([0, 30, 10_000]))
def test_two_sequences_side_by_side_are_whole_and_in_order(
    before: list[str], after: list[str], steps: int
) -> None:
    pairs = aligned(before, after, Budget(steps))
    assert [i for i, _ in pairs if i is not None] == list(range(len(before)))
    assert [j for _, j in pairs if j is not None] == list(range(len(after)))
    assert (None, None) not in pairs
    if steps == 10_000:
        common = [[0] * (len(after) + 1) for _ in range(len(before) + 1)]
        for i in range(len(before)):
            for j in range(len(after)):
                same = before[i] == after[j]
                common[i + 1][j + 1] = common[i][j] + 1 if same else max(common[i][j + 1], common[i + 1][j])
        equal = [(i, j) for i, j in pairs if i is not None and j is not None and before[i] == after[j]]
        assert len(equal) == common[-1][-1]


def test_where_the_work_has_no_end_items_are_paired_by_position() -> None:
    assert aligned("abcd", "bcde", Budget(0)) == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert aligned("abcd", "bcde", Budget()) == [(0, None), (1, 0), (2, 1), (3, 2), (None, 3)]
