"""Output cut into clean lines, however it comes in pieces."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b24tunnel.tunnel.lines import LONGEST, Lines, clean

# More of what matters here than chance would give.
OUTPUT = st.lists(
    st.sampled_from(
        [b"\r\n", b"\n", b"\r", b"\x1b[1m", b"\x1b(B", b"https://a.example.org", b"\xff", "ю".encode()]
    )
    | st.binary(max_size=20)
    | st.integers(LONGEST - 3, LONGEST + 3).map(lambda length: b"x" * length),
    max_size=20,
).map(b"".join)


def lines_of(*pieces: bytes) -> list[str]:
    """All lines, the last one also without its end."""
    lines = Lines()
    return [line for piece in pieces for line in lines.feed(piece)] + lines.finish()


@given(OUTPUT, st.lists(st.integers(0, 20_000), max_size=8))
def test_however_the_bytes_are_split_the_lines_are_the_same(output: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(output)) for cut in cuts), len(output)]
    pieces = [output[start:end] for start, end in itertools.pairwise(places)]
    assert lines_of(*pieces) == lines_of(output)


@given(OUTPUT)
def test_byte_by_byte_the_lines_are_the_same(output: bytes) -> None:
    assert lines_of(*(bytes([byte]) for byte in output)) == lines_of(output)


@given(OUTPUT)
def test_no_line_holds_controls_or_is_longer_than_the_longest(output: bytes) -> None:
    for line in lines_of(output):
        assert len(line) <= LONGEST
        assert line.isprintable() or not any(
            ord(character) < 32 or 127 <= ord(character) < 160 for character in line
        )


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_each_end_of_line_ends_one_line(end: bytes) -> None:
    assert lines_of(end.join([b"one", b"", b"two", b""])) == ["one", "", "two"]


def test_a_line_without_its_end_comes_at_the_end() -> None:
    lines = Lines()
    assert lines.feed(b"one\ntwo") == ["one"]
    assert lines.finish() == ["two"]
    assert lines.finish() == []


def test_what_is_too_long_is_cut_and_the_next_line_is_whole() -> None:
    assert lines_of(*[b"x" * 1000] * 100, b"\nnext\n") == ["x" * LONGEST, "next"]


def test_an_endless_line_takes_no_more_memory() -> None:
    lines = Lines()
    for _ in range(1000):
        assert lines.feed(b"x" * 65536) == []
        assert len(lines._begun) <= LONGEST


@pytest.mark.parametrize(
    "written",
    [
        "\x1b[1;32mhttps://a.example.org\x1b[0m",
        "\x1b[38;2;1;2;3mhttps://a.example\x1b[4m.org\x1b[m",
        "https://a.example.org\x1b(B\x1b[m",
        "\x1b[?25l\x1b[2K\x1b[1Ghttps://a.example.org\x1b[?25h",
        "\x1b[>4;2mhttps://a.example.org\x1b7\x1b8\x1b=\x1bc",
        "\x1b]0;a title\x07https://a.example.org",
        "\x1b]8;;https://other.example.org\x1b\\https://a.example.org\x1b]8;;\x1b\\",
        "\x9b31mhttps://a.example.org\x9b0m",
        "\ufeffhttps://a.exam\u200bple.org\u202e",
        "https://a.example.org\x00\x08 \t ",
    ],
)
def test_colours_titles_links_and_what_is_invisible_are_taken_out(written: str) -> None:
    assert clean(written) == "https://a.example.org"


def test_a_tab_keeps_words_apart() -> None:
    assert clean("one\ttwo") == "one two"


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert lines_of(b"a\xffb\n") == ["a\ufffdb"]
