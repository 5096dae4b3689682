"""`b24tunnel diff`, and how differences are shown."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from journal_files import write
from programs import Programs
from rich.cells import cell_len

from b24tunnel.cli.diff import diff_command
from b24tunnel.cli.differences import difference_lines
from b24tunnel.difference import Difference
from b24tunnel.errors import WrongUsage
from b24tunnel.recording import Recording
from b24tunnel.redact import Masker

NOW = datetime(2026, 11, 25, 14, 15, 3, tzinfo=UTC)
FORM = (("Content-Type", "application/x-www-form-urlencoded"),)
FIRST, SECOND = "f1rst5ecretvalue", "5econd5ecretvalue"


def recording(id: str, body: str, headers: Any = FORM, target: str = "/b24/x") -> Recording:
    return Recording(id, NOW, "POST", target, headers, body.encode(), code="ONX")


def diff(*arguments: str) -> Result:
    return CliRunner().invoke(diff_command, arguments)


def lines(*differences: tuple[str, str | None, str | None], colours: bool = False, **more: Any) -> list[str]:
    return difference_lines([Difference(*one) for one in differences], Masker(()), colours=colours, **more)


class TestCommand:
    @pytest.fixture(autouse=True)
    def _journal(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        body = "event=ONX&data[ID]={}&auth[access_token]={}&auth[domain]=a.example"
        write(
            tmp_path / "recordings",
            1,
            recording("1-1", body.format(1, FIRST)),
            recording("1-2", body.format(2, SECOND)),
            recording("1-3", body.format(2, FIRST) + f"&note={FIRST}"),
            recording("1-4", '{"a":1,"time":1}', (("Content-Type", "application/json"),)),
            recording("1-5", '{"a":1,"time":2}', (("Content-Type", "application/json"),)),
        )

    def test_what_differs_is_listed_and_counted_with_exit_code_1(self) -> None:
        found = diff("1-1", "1-2", "--ignore", "auth.*")
        assert found.stdout == "data.ID\n  - 1\n  + 2\n1 difference.\n"
        assert found.exit_code == 1

    def test_nothing_that_differs_is_exit_code_0(self) -> None:
        for arguments in (("1-1", "1-1"), ("1-1", "1-2", "--ignore", "auth", "--ignore", "data.ID")):
            found = diff(*arguments)
            assert (found.stdout, found.exit_code) == ("No difference.\n", 0)
        assert (diff("1-1", "1-1", "--json").stdout, diff("1-1", "1-1", "--json").exit_code) == ("", 0)

    def test_two_secrets_are_masked_and_still_seen_to_differ(self) -> None:
        found = diff("1-1", "1-2").stdout
        assert "auth.access_token\n  - [masked]\n  + [masked, another]\n" in found
        assert FIRST not in found
        assert SECOND not in found
        shown = diff("1-1", "1-2", "--reveal").stdout
        assert f"auth.access_token\n  - {FIRST}\n  + {SECOND}\n" in shown

    def test_a_secret_of_either_recording_is_masked_wherever_it_turns_up(self) -> None:
        for arguments in (("1-2", "1-3"), ("1-3", "1-2")):
            found = diff(*arguments).stdout
            assert "note\n" in found
            assert FIRST not in found

    def test_as_json_each_difference_is_an_object_a_line(self) -> None:
        found = diff("1-1", "1-2", "--json")
        assert [json.loads(line) for line in found.stdout.splitlines()] == [
            {"where": "data.ID", "before": "1", "after": "2"},
            {"where": "auth.access_token", "before": "[masked]", "after": "[masked, another]"},
        ]
        assert found.exit_code == 1

    def test_a_path_with_a_dollar_is_one_of_json(self) -> None:
        assert diff("1-4", "1-5").stdout == "body $.time\n  - 1\n  + 2\n1 difference.\n"
        assert diff("1-4", "1-5", "--ignore", "$.time").stdout == "No difference.\n"

    def test_a_selector_names_one_recording(self, tmp_path: Path) -> None:
        found = diff("last:2", "1-1")
        assert isinstance(found.exception, WrongUsage)
        assert "names several recordings" in str(found.exception)
        assert isinstance(diff("1-1", "1-9").exception, WrongUsage)
        assert isinstance(diff("1-1", "1-2", "--ignore", "$..").exception, WrongUsage)

    def test_as_a_process_it_ends_as_diff_does(self, programs: Programs, tmp_path: Path) -> None:
        same, other = programs.run("diff", "1-1", "1-1"), programs.run("diff", "1-1", "1-2")
        assert (same.lines, same.process.returncode) == (["No difference.\n"], 0)
        assert (other.lines[-1], other.process.returncode) == ("2 differences.\n", 1)
        wrong = programs.run("diff", "1-1", "nothing")
        assert (wrong.lines, wrong.process.returncode) == ([], 2)
        assert wrong.errors[0].startswith("Error: 'nothing' selects no recording")


class TestShown:
    def test_only_what_there_is_has_a_line(self) -> None:
        assert lines(("a", None, "1"), ("b", "2", None), ("c", "", "3"), ("and 4 more", None, None)) == [
            *("a", "  + 1"),
            *("b", "  - 2"),
            *("c", "  - (empty)", "  + 3"),
            "and 4 more",
        ]

    def test_before_is_red_and_after_is_green_where_there_are_colours(self) -> None:
        assert lines(("a", "1", "2"), colours=True, width=80) == [
            "a",
            "\x1b[31m  - 1\x1b[0m",
            "\x1b[32m  + 2\x1b[0m",
        ]

    def test_nothing_in_a_value_or_a_place_is_obeyed_by_a_terminal(self) -> None:
        shown = lines(("a\x1b[2J\nb", "\x1b]0;x\x07", "x\ny\t\r"))
        assert shown == ["a\\x1b[2J⏎b", "  - \\x1b]0;x\\x07", "  + x⏎y\\t⏎"]

    def test_values_that_look_alike_are_still_seen_to_differ(self) -> None:
        for before, after in (("\x1b", "\\x1b"), ("a\nb", "a\r\nb"), ("⏎", "\n"), ("\udc80", "\\udc80")):
            _, old, new = lines(("a", before, after))
            assert old[4:] != new[4:]

    def test_a_long_value_is_cut_around_what_differs(self) -> None:
        place, old, new = lines(("p" * 200, "x" * 100 + "1" + "y" * 100, "x" * 100 + "2" + "y" * 100), width=60)
        assert [len(line) for line in (place, old, new)] == [60, 60, 60]
        assert place.endswith("p…")
        assert old == "  - …" + "x" * 20 + "1" + "y" * 33 + "…"
        assert new == "  + …" + "x" * 20 + "2" + "y" * 33 + "…"

    def test_where_there_is_no_terminal_megabytes_are_cut(self) -> None:
        assert lines(("a", "1" * 1500, None)) == ["a", "  - " + "1" * 1500]
        assert len(lines(("a", "1" * 5_000_000, None))[1]) == 2000

    @given(
        st.text(st.sampled_from("abц漢\u0301\x1b\n⏎\\x1b\udc80"), max_size=90),
        st.text(st.sampled_from("abц漢\u0301\x1b\n⏎\\x1b\udc80"), max_size=90),
        st.integers(1, 90),
    )
    def test_lines_are_no_wider_than_the_terminal(self, before: str, after: str, width: int) -> None:
        for line in lines((before, before, after), width=width):
            assert cell_len(line) <= max(width, 44)
            assert "\x1b" not in line
            assert "\n" not in line

    def test_without_a_masker_everything_is_shown(self) -> None:
        difference = Difference("auth.access_token", FIRST, SECOND)
        assert difference_lines([difference], None, colours=False)[1:] == [f"  - {FIRST}", f"  + {SECOND}"]
