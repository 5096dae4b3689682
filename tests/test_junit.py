"""The JUnit file: what a parser of CI systems and the standard library's read in it."""

import gzip
import os
import re
import shutil
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import junitparser
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from b24tunnel.difference import Difference
from b24tunnel.errors import OutsideFailure
from b24tunnel.recording import Attempt, Recording
from b24tunnel.redact import MASK, Masker
from b24tunnel.replaying.junit import JUnitFile
from b24tunnel.replaying.result import Result

NOW = datetime(2026, 11, 25, 14, 15, 3, tzinfo=UTC)
TOKEN = "0123456789abcdef0123456789abcdef"


def result(
    number: int = 1,
    problems: tuple[str, ...] = (),
    differences: tuple[Difference, ...] = (),
    code: str | None = "ONCRMDEALADD",
    sent: bytes = b"event=x",
    original: Recording | None = None,
    **answer: Any,
) -> Result:
    recording = Recording("12-345", NOW, "POST", "/b24/x", (), sent, code=code)
    if "error" not in answer:
        answer = {"status": 200, **answer}
    attempt = Attempt("12-345", "replay", "http://h/", NOW, answer.pop("duration_ms", 12.3456), **answer)
    return Result(number, recording, attempt, problems, differences, original=original)


PASSED = result()
FAILED = result(2, ("answered 500, expected 2xx",), status=500, body=b'{"error": "no <deal>"}')
UNREACHED = result(3, ("answered nothing, expected 2xx",), error="cannot connect: Connection refused")


def written(
    path: Path,
    *results: Result,
    name: str = "replay to http://h/",
    unsent: bool = False,
) -> Any:
    with JUnitFile(path) as junit:
        for one in results:
            junit.add(one)
        junit.close(name, 1.5, unsent)
    return ElementTree.parse(path).getroot()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "junit.xml"


def only_case(root: Any) -> Any:
    [case] = root.iter("testcase")
    return case


def test_a_parser_of_ci_systems_reads_the_sums_and_each_case(path: Path) -> None:
    written(path, PASSED, FAILED, UNREACHED)
    read = junitparser.JUnitXml.fromfile(str(path))
    assert (read.tests, read.failures, read.errors, read.skipped, read.time) == (3, 1, 1, 0, 1.5)
    [suite] = read
    assert (suite.tests, suite.failures, suite.errors, suite.skipped, suite.time) == (3, 1, 1, 0, 1.5)
    assert suite.name == "replay to http://h/"
    assert suite.hostname is None
    passed, failed, unreached = suite
    assert passed.is_passed
    assert [case.classname for case in suite] == ["ONCRMDEALADD"] * 3
    assert [case.name for case in suite] == ["12-345 #1", "12-345 #2", "12-345 #3"]
    assert passed.time == pytest.approx(0.012346)
    [failure] = failed.result
    assert isinstance(failure, junitparser.Failure)
    assert failure.message == "answered 500, expected 2xx"
    assert failure.text == 'answered 500, expected 2xx\nstatus: 500\nanswer:\n{"error": "no <deal>"}'
    [error] = unreached.result
    assert isinstance(error, junitparser.Error)
    assert error.message == "answered nothing, expected 2xx"
    assert "no answer: cannot connect: Connection refused" in error.text


def test_the_sums_that_are_written_are_those_that_a_parser_counts(path: Path) -> None:
    written(path, PASSED, FAILED, UNREACHED, FAILED, unsent=True)
    read = junitparser.JUnitXml.fromfile(str(path))
    before = (read.tests, read.failures, read.errors, read.skipped)
    read.update_statistics()
    assert before == (read.tests, read.failures, read.errors, read.skipped) == (5, 2, 1, 1)


def test_the_time_of_the_run_is_utc_without_a_zone_as_the_schema_wants_it(path: Path) -> None:
    before = datetime.now(UTC).replace(tzinfo=None, microsecond=0)
    suite = written(path, PASSED)[0]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.get("timestamp"))
    assert before <= datetime.fromisoformat(suite.get("timestamp")) <= datetime.now(UTC).replace(tzinfo=None)


def test_what_is_no_event_is_named_by_its_type(path: Path) -> None:
    assert only_case(written(path, result(code=None))).get("classname") == "other"


def test_differences_are_shown_with_both_sides(path: Path) -> None:
    differences = (Difference("status", "200", "201"), Difference("body $.id", None, "7"))
    failure = only_case(written(path, result(differences=differences, status=201)))[0]
    assert failure.tag == "failure"
    assert failure.get("message") == "differs in status, body $.id"
    assert failure.get("type") == "different answer"
    assert failure.text == "status:\n  - 200\n  + 201\nbody $.id:\n  - (nothing)\n  + 7\nstatus: 201"


def test_many_differences_are_counted_and_not_all_listed(path: Path) -> None:
    differences = tuple(Difference(f"body $.{number}", "a", "b") for number in range(250))
    failure = only_case(written(path, result(differences=differences)))[0]
    assert failure.text.count("  - a") == 100
    assert "and 150 more" in failure.text
    assert len(failure.get("message")) <= 500


def test_a_run_that_sent_not_everything_says_so_in_a_skipped_case(path: Path) -> None:
    written(path, PASSED, unsent=True)
    [suite] = junitparser.JUnitXml.fromfile(str(path))
    _, rest = suite
    assert rest.is_skipped
    assert "not sent" in rest.result[0].message
    assert (suite.tests, suite.skipped) == (2, 1)


def test_a_run_without_a_result_is_a_file_too(path: Path) -> None:
    written(path)
    [suite] = junitparser.JUnitXml.fromfile(str(path))
    assert suite.tests == 0
    assert list(suite) == []


def expected(text: str) -> str:
    """What a parser gives of a text: what XML cannot hold as its number."""
    shown = ""
    for character in text:
        number = ord(character)
        if number in (9, 10, 13) or 0x20 <= number <= 0xD7FF or 0xE000 <= number <= 0xFFFD or number > 0xFFFF:
            shown += character
        elif 0xDC80 <= number <= 0xDCFF:
            shown += f"\\x{number - 0xDC00:02x}"
        else:
            shown += f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
    return shown


ANY_TEXT = st.text(
    st.characters(categories=None) | st.sampled_from("\x00\x1b\r\n\t<>&\"']]>\ufffe\udc80\ud800"), max_size=40
)


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_any_text_comes_back_with_what_xml_cannot_hold_shown(
    tmp_path_factory: pytest.TempPathFactory, problem: str, name: str, code: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.xml"
    code = code or "X"
    root = written(path, result(problems=(problem,), code=code, status=500), name=name)
    case = only_case(root)
    assert root[0].get("name") == expected(name)
    assert case.get("classname") == expected(code)
    assert case[0].get("message") == expected(problem)
    assert case[0].text == expected(f"{problem}\nstatus: 500")
    assert len(junitparser.JUnitXml.fromfile(str(path))) == 1


@given(st.binary(max_size=60))
def test_any_answer_comes_back_with_what_xml_cannot_hold_shown(
    tmp_path_factory: pytest.TempPathFactory, body: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.xml"
    assume(not body.startswith(b"\x1f\x8b"))  # gzip
    failure = only_case(written(path, result(problems=("wrong",), body=body)))[0]
    answer = f"\nanswer:\n{body.decode('utf-8', 'surrogateescape')}" if body else ""
    assert failure.text == expected(f"wrong\nstatus: 200{answer}")


def test_control_characters_are_shown_as_numbers(path: Path) -> None:
    failure = only_case(written(path, result(problems=("a\x1b[31m\x00b",), body=b"\xff\xfe")))[0]
    assert failure.get("message") == r"a\x1b[31m\x00b"
    assert failure.text.endswith(r"\xff\xfe")


def test_a_long_answer_is_cut_at_2000_characters(path: Path) -> None:
    failure = only_case(written(path, result(problems=("wrong",), body=b"x" * 60_000)))[0]
    assert failure.text.count("x") == 1999
    assert failure.text.endswith("x…")
    whole = only_case(written(path, result(problems=("wrong",), body=b"x" * 2000)))[0]
    assert whole.text.count("x") == 2000


def form_with(token: str) -> bytes:
    return f"event=x&auth[access_token]={token}".encode()


def test_no_secret_is_in_the_file_not_even_half_of_one(path: Path) -> None:
    long_answer = b"." * 1990 + TOKEN.encode() + b"." * 100
    half = b"." * 90 + TOKEN[:-3].encode()
    sent = form_with(TOKEN)
    written(
        path,
        result(
            1,
            (f"answered {TOKEN}",),
            (Difference(f"body {TOKEN}", TOKEN, TOKEN),),
            sent=sent,
            body=long_answer,
        ),
        result(2, (f"no {TOKEN}",), error=f"cannot connect: {TOKEN}", sent=sent),
        result(3, (), error=f"cannot connect: {TOKEN}", sent=sent),
        result(4, ("y" * 480 + TOKEN,), body=TOKEN.encode(), sent=sent),
        result(5, ("wrong",), body=half, truncated=True, sent=sent),
    )
    content = path.read_text()
    assert TOKEN[:6] not in content
    assert MASK in content


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("header Set-Cookie", f"sid={TOKEN}; Path=/"),
        ("header X-Api-Key", TOKEN),
        ("body $.auth.key", f'"{TOKEN}"'),
        ("body $", f'{{"access_token": "{TOKEN}"}}'),
    ],
)
def test_what_is_secret_in_an_answer_by_the_name_of_its_place_is_not_in_the_file(
    path: Path, where: str, value: str
) -> None:
    """Nothing of it is known from the recording."""
    other = value.replace(TOKEN, TOKEN[::-1])
    failure = only_case(written(path, result(differences=(Difference(where, value, other),))))[0]
    assert TOKEN not in failure.text
    assert TOKEN[::-1] not in failure.text
    assert f"{where}:\n  - " in failure.text
    assert "[masked, another]" in failure.text
    written(path, result(differences=(Difference(where, None, value), Difference(where, value, None))))
    assert TOKEN not in path.read_text()


def test_a_secret_that_was_recorded_is_not_in_the_file_where_another_was_sent(path: Path) -> None:
    other = TOKEN[::-1]
    wrong = result(
        problems=(f"the body is not {TOKEN}",),
        differences=(Difference("body $.echo", f'"{TOKEN}"', f'"{other}"'),),
        sent=form_with(other),
        original=Recording("12-345", NOW, "POST", "/b24/x", (), form_with(TOKEN), code="X"),
        body=f"{TOKEN} {other}".encode(),
    )
    failure = only_case(written(path, wrong))[0]
    content = path.read_text()
    assert TOKEN not in content
    assert other not in content
    assert 'body $.echo:\n  - "[masked]"\n  + "[masked, another]"' in failure.text


@pytest.mark.parametrize("encoding", ["gzip", "GZIP, identity"])
def test_a_compressed_answer_is_shown_as_what_it_says(path: Path, encoding: str) -> None:
    body = gzip.compress(b'{"error": "no deal", "token": "short"}')
    wrong = result(problems=("wrong",), headers=(("Content-Encoding", encoding),), body=body)
    failure = only_case(written(path, wrong))[0]
    assert failure.text.endswith('answer:\n{"error": "no deal", "token": "[masked]"}')


@pytest.mark.parametrize(
    ("headers", "begins", "why"),
    [((("Content-Encoding", "br"),), b"\x0b", "it is compressed (br)"), ((), b"\x1f\x8b", "compressed")],
)
def test_an_answer_that_stays_compressed_is_not_shown(
    path: Path, headers: tuple[tuple[str, str], ...], begins: bytes, why: str
) -> None:
    """Its bytes say nothing to anybody, and may have half a secret in them."""
    body = begins + form_with(TOKEN)
    failure = only_case(written(path, result(problems=("wrong",), headers=headers, body=body)))[0]
    assert failure.text.endswith(f"answer:\n({len(body)} bytes, {why})")


def test_a_masker_is_made_once_for_what_is_wrong_and_never_for_what_passed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[Recording, ...]] = []
    of = Masker.of

    def counted(*recordings: Recording) -> Masker:
        made.append(recordings)
        return of(*recordings)

    monkeypatch.setattr(Masker, "of", counted)
    wrong = result(2, ("a", "b"), tuple(Difference(f"body $.{n}", "1", "2") for n in range(50)), body=b"answer")
    written(path, PASSED, wrong, PASSED)
    assert made == [(wrong.recording,)]


def test_an_answer_that_never_came_is_an_error_even_with_nothing_said_of_it(path: Path) -> None:
    error = only_case(written(path, result(error="cannot connect")))[0]
    assert (error.tag, error.get("message"), error.get("type")) == (
        "error",
        "no answer: cannot connect",
        "no answer",
    )


def test_the_old_file_stays_until_the_new_one_is_whole(path: Path) -> None:
    path.write_text("old")
    with JUnitFile(path) as junit:
        junit.add(PASSED)
        assert path.read_text() == "old"
        junit.close("replay", 1, False)
        assert "testcase" in path.read_text()
    assert list(path.parent.iterdir()) == [path]


def test_left_without_close_nothing_is_left_behind(path: Path) -> None:
    with JUnitFile(path) as junit:
        junit.add(PASSED)
    assert list(path.parent.iterdir()) == []


def test_test_cases_are_on_disk_and_not_in_memory(path: Path) -> None:
    with JUnitFile(path) as junit:
        for _ in range(2_000):
            junit.add(FAILED)
        [beside] = path.parent.iterdir()
        assert beside.stat().st_size > 400_000
        assert beside.suffix == ".tmp"
        junit.close("replay", 1, False)
    assert len(list(ElementTree.parse(path).getroot().iter("testcase"))) == 2_000


def test_a_link_stays_a_link(path: Path) -> None:
    there = path.parent / "there" / "report.xml"
    there.parent.mkdir()
    path.symlink_to(there)
    written(path, PASSED)
    assert path.is_symlink()
    assert only_case(ElementTree.parse(there).getroot()).get("name") == "12-345 #1"
    written(path, FAILED)
    assert only_case(ElementTree.parse(there).getroot()).get("name") == "12-345 #2"


def test_the_file_is_as_readable_as_any_other_new_one(path: Path) -> None:
    other = path.with_name("other")
    other.touch()
    written(path, PASSED)
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(other.stat().st_mode)


def unwritable(kind: str, directory: Path) -> Path:
    file = directory / "file"
    file.write_text("")
    if kind == "fifo":
        os.mkfifo(directory / "fifo")
    elif kind == "loop":
        (directory / "loop").symlink_to(directory / "loop")
    return {
        "no directory": directory / "nowhere" / "junit.xml",
        "a directory": directory,
        "below a file": file / "junit.xml",
        "a name too long": directory / ("x" * 300),
        "a device": Path("/dev/null"),
        "fifo": directory / "fifo",
        "loop": directory / "loop",
        "zero": directory / "a\0b",
    }[kind]


@pytest.mark.parametrize(
    "kind",
    ["no directory", "a directory", "below a file", "a name too long", "a device", "fifo", "loop", "zero"],
)
def test_a_path_that_cannot_be_written_is_refused_at_once_in_one_sentence(kind: str, tmp_path: Path) -> None:
    path = unwritable(kind, tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(
        OutsideFailure, match=r"^The JUnit file .* cannot be written \(.+\): give .*\.$"
    ) as refused:
        JUnitFile(path)
    assert "\n" not in str(refused.value)
    assert sorted(tmp_path.iterdir()) == before


def test_a_directory_that_is_gone_at_the_end_is_said_in_one_sentence(tmp_path: Path) -> None:
    directory = tmp_path / "gone"
    directory.mkdir()
    with JUnitFile(directory / "junit.xml") as junit:
        junit.add(PASSED)
        shutil.rmtree(directory)
        with pytest.raises(OutsideFailure, match="cannot be written"):
            junit.close("replay", 1, False)


_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
sys.path[:0] = {paths!r}
import test_junit
from b24tunnel.errors import OutsideFailure
from b24tunnel.replaying.junit import JUnitFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
path = Path(sys.argv[1])
said = []
with JUnitFile(path) as junit:
    try:
        for _ in range({count}):
            junit.add(test_junit.FAILED)
    except OutsideFailure as error:
        said.append("add " + str(error))
    if {room_later}:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    try:
        junit.close("replay", 1, False)
    except OutsideFailure as error:
        said.append("close " + str(error))
print("\\n".join(said))
print(sorted(file.name for file in path.parent.iterdir()))
"""


@pytest.mark.parametrize(
    ("limit", "count", "room_later", "ways"),
    [
        (100_000, 5_000, False, ["add", "close"]),
        (100_000, 5_000, True, ["add", "close"]),
        (700, 3, False, ["close"]),
        (500, 1, False, ["close"]),
        (100, 3, False, ["close"]),
    ],
)
def test_a_disk_that_fills_up_leaves_the_old_file_and_is_said(
    path: Path, limit: int, count: int, room_later: bool, ways: list[str]
) -> None:
    path.write_text("old")
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    program = _FULL_DISK.format(paths=paths, limit=limit, count=count, room_later=room_later)
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    *said, left = done.stdout.splitlines()
    assert [line.split()[0] for line in said] == ways
    assert all("cannot be written" in line for line in said)
    assert left == "['junit.xml']"
    assert path.read_text() == "old"
