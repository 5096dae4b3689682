"""Reading what was there at one moment while others write, rotate and prune: nothing is left out in silence."""

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

import pytest
from journal_files import BEGAN, write
from programs import Programs

from b24tunnel.journal import Journal, JournalWriter, files
from b24tunnel.journal.extent import FileTakenAway
from b24tunnel.journal.prune import prune
from b24tunnel.journal.scan import Scan
from b24tunnel.journal.writing_mark import mark_as_written
from b24tunnel.recording import Recording, to_line
from b24tunnel.selecting import Selection

NOW = datetime.now(UTC)
OLD = NOW - timedelta(days=9)


def recording(id: str, at: datetime = BEGAN) -> Recording:
    return Recording(id, at, "POST", "/b24/x", (), b"event=ONX&a=" + b"x" * 50, code="ONX")


def fill(directory: Path, sessions: int = 3, each: int = 4) -> list[str]:
    """Sessions of which a prune by age leaves the last recording alone."""
    ids = []
    for session in range(1, sessions + 1):
        own = [recording(f"{session}-{n}", OLD) for n in range(1, each)] + [recording(f"{session}-{each}", NOW)]
        write(directory, session, *own)
        ids += [one.id for one in own]
    return ids


def path_of(directory: Path, session: int) -> Path:
    return files.segment_path(directory / "journal", session, 1)


def until_it_is_told(ids: Iterable[str]) -> tuple[list[str], FileTakenAway]:
    """What is given out, and then that a file is not there as it was."""
    found: list[str] = []
    with pytest.raises(FileTakenAway) as raised:
        found.extend(ids)
    return found, raised.value


def then_pruned(journal: Journal, ids: Iterable[str]) -> Iterator[str]:
    """The same ids, with a prune of what is old after the first."""
    for number, one in enumerate(ids):
        if number == 0:
            prune(journal.directory, older_than=timedelta(1))
        yield one


class TestAPruneMeanwhile:
    def test_what_stands_before_is_given_out_and_then_it_is_told(self, tmp_path: Path) -> None:
        ids, journal = fill(tmp_path), Journal.open(tmp_path)
        documents = journal.documents(extent=journal.extent())
        found, raised = until_it_is_told(then_pruned(journal, (document["id"] for document in documents)))
        assert found == ids[:4]
        assert str(path_of(tmp_path, 2)) in str(raised)

    def test_and_so_it_is_from_the_end(self, tmp_path: Path) -> None:
        ids, journal = fill(tmp_path), Journal.open(tmp_path)
        documents = journal.extent().newest_first(Scan(journal.directory))
        found, raised = until_it_is_told(then_pruned(journal, (document["id"] for document in documents)))
        assert found == ids[:7:-1]
        assert str(path_of(tmp_path, 2)) in str(raised)

    @pytest.mark.parametrize("what", ["removed", "rewritten", "shorter"])
    def test_it_says_which_file(self, tmp_path: Path, what: str) -> None:
        ids = fill(tmp_path)
        path = path_of(tmp_path, 2)
        content = path.read_bytes()
        journal = Journal.open(tmp_path)
        extent = journal.extent()
        if what == "removed":
            path.unlink()
        elif what == "shorter":
            path.write_bytes(content[: content.rindex(b"\n", 0, -1) + 1])
        else:
            (tmp_path / "beside").write_bytes(content)
            (tmp_path / "beside").replace(path)
        found, raised = until_it_is_told(document["id"] for document in journal.documents(extent=extent))
        assert found == ids[:4]
        assert f"{path} was removed or rewritten before it could be read" in str(raised)
        assert raised.exit_code == 3
        assert str(raised).count(". ") == 0
        # Asked again, it is what there is.
        left = {"removed": 8, "shorter": 11, "rewritten": 12}
        assert Selection(journal, (), tmp_path).count() == left[what]

    def test_what_is_not_selected_may_go(self, tmp_path: Path) -> None:
        fill(tmp_path)
        journal = Journal.open(tmp_path)
        extent = journal.extent()
        path_of(tmp_path, 2).unlink()
        assert [document["session"] for document in journal.documents({1, 3}, extent)] == [1] * 4 + [3] * 4

    def test_of_many_of_the_last_nothing_is_dropped_in_silence(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ids = fill(tmp_path, sessions=2, each=100)
        chosen = iter(Selection(Journal.open(tmp_path), ["last:150"], tmp_path))
        assert [one.id for one in chosen] == ids[50:]
        journal = Journal.open(tmp_path)
        read = files.lines_in

        def pruned_before(file: BinaryIO, passed_over: tuple[bytes, ...]) -> Iterator[bytes]:
            monkeypatch.setattr(files, "lines_in", read)
            prune(journal.directory, older_than=timedelta(1))
            return read(file, passed_over)

        # Between looking for the first one and reading from there on.
        monkeypatch.setattr(files, "lines_in", pruned_before)
        latest = journal.latest_documents(150, journal.extent())
        found, raised = until_it_is_told(document["id"] for document in latest)
        assert found == ids[50:100]
        assert str(path_of(tmp_path, 2)) in str(raised)

    def test_of_many_of_the_last_the_first_may_be_gone(self, tmp_path: Path) -> None:
        fill(tmp_path, sessions=2, each=100)
        journal = Journal.open(tmp_path)
        extent = journal.extent()
        prune(journal.directory, older_than=timedelta(1))
        for count in (1, 2, 100, 101, 150):
            with pytest.raises(FileTakenAway):
                list(journal.latest_documents(count, extent))
        assert [one.id for one in journal.latest(150)] == ["1-100", "2-100"]

    def test_of_many_of_the_last_the_first_may_be_cut_off_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As a writer does with what the disk did not take."""
        large = (replace(recording(f"1-{number}"), body=b"x" * 5000) for number in range(1, 151))
        path = write(tmp_path, 1, *large)
        journal = Journal.open(tmp_path)
        read = files.lines_in

        def cut_before(file: BinaryIO, passed_over: tuple[bytes, ...]) -> Iterator[bytes]:
            os.truncate(path, path.stat().st_size // 10)
            return read(file, passed_over)

        with path.open("r+b") as file:
            mark_as_written(file.fileno())
            extent = journal.extent()
            monkeypatch.setattr(files, "lines_in", cut_before)
            with pytest.raises(FileTakenAway):
                list(journal.latest_documents(120, extent))

    def test_another_process_prunes_while_a_selection_is_gone_through(
        self, tmp_path: Path, programs: Programs
    ) -> None:
        recordings = tmp_path / "recordings"
        ids = fill(recordings, sessions=3, each=200)

        def pruned_after_the_first() -> Iterator[str]:
            for number, one in enumerate(Selection(Journal.open(recordings), (), tmp_path)):
                if number == 0:
                    assert programs.run("prune", "--older-than", "1d").process.returncode == 0
                yield one.id

        found, raised = until_it_is_told(pruned_after_the_first())
        assert found == ids[:200]
        assert str(path_of(recordings, 2)) in str(raised)


class TestWhatIsNoHarm:
    async def test_a_session_grows_rotates_and_ends(self, tmp_path: Path) -> None:
        writer = JournalWriter(tmp_path, segment_bytes=700)
        for _ in range(9):
            await writer.append(recording(writer.next_id()))
        journal = Journal.open(tmp_path)
        extent = journal.extent()
        assert len(extent.parts) > 2
        expected = [f"1-{number}" for number in range(1, 10)]
        for goes_on in range(12):
            await writer.append(recording(writer.next_id()))
            if goes_on == 8:
                await writer.close()
                break
            assert [document["id"] for document in journal.documents(extent=extent)] == expected
        assert [document["id"] for document in journal.documents(extent=extent)] == expected
        assert [document["id"] for document in extent.newest_first(Scan(journal.directory))] == expected[::-1]
        assert [document["id"] for document in journal.latest_documents(3, extent)] == expected[-3:]

    def test_another_process_cuts_a_torn_line_off(self, tmp_path: Path) -> None:
        path = write(tmp_path, 1, recording("1-1"), to_line(recording("1-2"))[:-9])
        journal = Journal(tmp_path)
        extent = journal.extent()
        assert Journal.open(tmp_path).torn
        assert path.stat().st_size < len(to_line(recording("1-1"))) * 2
        assert [document["id"] for document in journal.documents(extent=extent)] == ["1-1"]

    @pytest.mark.skipif(sys.platform == "win32", reason="there an open file cannot be removed")
    def test_an_open_file_is_read_to_its_end_whatever_happens_to_its_name(self, tmp_path: Path) -> None:
        ids = fill(tmp_path, sessions=1, each=5000)
        documents = Journal.open(tmp_path).documents(extent=Journal.open(tmp_path).extent())
        found = [next(documents)["id"]]
        path_of(tmp_path, 1).unlink()
        assert found + [document["id"] for document in documents] == ids

    def test_a_file_that_goes_while_it_is_looked_what_there_is(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill(tmp_path, sessions=2)
        listed = files.segments

        def and_then_one_goes(directory: Path, session: int | None = None) -> list[files.Segment]:
            found = listed(directory, session)
            path_of(tmp_path, 1).unlink(missing_ok=True)
            return found

        monkeypatch.setattr(files, "segments", and_then_one_goes)
        journal = Journal(tmp_path)
        assert [document["session"] for document in journal.documents(extent=journal.extent())] == [2] * 4

    def test_a_file_of_a_later_format_is_left_alone(self, tmp_path: Path) -> None:
        path = write(tmp_path, 1, recording("1-1"))
        path.write_bytes(b'{"v":2,"kind":"session"}\n' + path.read_bytes())
        write(tmp_path, 2, recording("2-1"))
        journal = Journal.open(tmp_path)
        assert [document["id"] for document in journal.documents(extent=journal.extent())] == ["2-1"]
        assert [document["id"] for document in journal.latest_documents(9, journal.extent())] == ["2-1"]
        assert path in journal.unreadable
