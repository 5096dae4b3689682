"""Portals and ledger on disk: one file, private, never torn, never overwritten by two processes at once."""

import dataclasses
import json
import os
import pickle
import select
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from b24tunnel.errors import OutsideFailure, UserError, WrongUsage
from b24tunnel.portal.lock import FileLock, LockTimeout
from b24tunnel.portal.process import is_running, start_mark
from b24tunnel.portal.state import LedgerRow, Portal, State
from b24tunnel.portal.storage import StateDamaged, StateFromNewerVersion

SECRETS = {
    "client_secret": "SECRET-client-4f1d",
    "access_token": "SECRET-access-9a2b",
    "refresh_token": "SECRET-refresh-77c3",
    "application_token": "SECRET-application-0e5d",
}


def a_portal(name: str = "work", **changes: str) -> Portal:
    values = {
        "client_endpoint": "https://example.bitrix24.com/rest/",
        "server_endpoint": "https://oauth.bitrix.info/rest/",
        "domain": "example.bitrix24.com",
        "member_id": "d41d8cd98f00b204e9800998ecf8427e",
        "client_id": "local.5f",
        "user_id": "1",
        "scope": "crm,task",
        **SECRETS,
        **changes,
    }
    return Portal(name=name, **values)


def a_row(event: str = "ONCRMDEALADD", **changes: object) -> LedgerRow:
    row = LedgerRow(
        portal="work",
        event=event,
        handler="https://t.example/b24/x",
        owner="run-1",
        pid=os.getpid(),
        started=start_mark(os.getpid()),
        created_at="2026-11-25T10:00:00Z",
    )
    return dataclasses.replace(row, **changes)  # type: ignore[arg-type]


def python(code: str, *arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> str:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out


def read_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], 30)
    assert ready, "the process said nothing for 30 s"
    return process.stdout.readline()


def test_a_saved_portal_is_read_back_the_same(tmp_path: Path) -> None:
    State.open(tmp_path).save_portal(a_portal())
    assert State.open(tmp_path).portal("work") == a_portal()


def test_a_portal_that_is_saved_again_replaces_the_first(tmp_path: Path) -> None:
    state = State.open(tmp_path)
    state.save_portal(a_portal())
    state.save_portal(a_portal(access_token="new"))
    state.save_portal(a_portal("another"))
    assert [(portal.name, portal.access_token) for portal in state.portals()] == [
        ("another", SECRETS["access_token"]),
        ("work", "new"),
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
def test_the_file_and_a_directory_that_we_make_are_for_their_owner_only(tmp_path: Path) -> None:
    home = tmp_path / "deep" / "home"
    before = os.umask(0)
    try:
        state = State.open(home)
        state.save_portal(a_portal())
    finally:
        os.umask(before)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE(state.path.stat().st_mode) == 0o600
    assert all(stat.S_IMODE(entry.stat().st_mode) == 0o600 for entry in home.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
def test_a_file_that_was_readable_by_all_is_private_after_the_next_change(tmp_path: Path) -> None:
    state = State.open(tmp_path)
    state.save_portal(a_portal())
    state.path.chmod(0o644)
    state.save_portal(a_portal("another"))
    assert stat.S_IMODE(state.path.stat().st_mode) == 0o600


def test_home_comes_from_the_environment_when_none_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("B24TUNNEL_HOME", str(tmp_path / "elsewhere"))
    assert State.open().path == tmp_path / "elsewhere" / "state.json"
    assert State.open(tmp_path / "given").path == tmp_path / "given" / "state.json"


def test_home_is_the_configuration_directory_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("B24TUNNEL_HOME", raising=False)
    monkeypatch.setattr("platformdirs.user_config_dir", lambda name: str(tmp_path / "config" / name))
    assert State.open().home == tmp_path / "config" / "b24tunnel"


def test_a_home_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutsideFailure, match="B24TUNNEL_HOME"):
        State.open(tmp_path / "file" / "home")


def test_reading_makes_no_file(tmp_path: Path) -> None:
    state = State.open(tmp_path)
    assert state.portals() == []
    assert state.ledger() == []
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_portal_is_refused_with_a_near_name_and_the_known_ones(tmp_path: Path) -> None:
    state = State.open(tmp_path)
    state.save_portal(a_portal("production"))
    state.save_portal(a_portal("sandbox"))
    with pytest.raises(WrongUsage, match=r"'sandbx'; did you mean sandbox\? Known portals: production, sandbox"):
        state.portal("sandbx")
    with pytest.raises(WrongUsage, match="known portals: production, sandbox"):
        state.portal("zzzzzz")


def test_an_unknown_portal_in_an_empty_state_says_how_to_add_one(tmp_path: Path) -> None:
    with pytest.raises(WrongUsage, match="b24tunnel sandbox"):
        State.open(tmp_path).portal("work")


@pytest.mark.parametrize("name", ["", ".hidden", "a b", "a/b", "../x", "a\n", "x" * 65])
def test_a_name_that_would_be_a_nuisance_is_refused(name: str) -> None:
    with pytest.raises(WrongUsage, match="cannot be a portal's name"):
        a_portal(name)


def test_a_portal_is_made_from_what_bitrix24_hands_out() -> None:
    portal = Portal.from_mapping(
        "work", {"client_endpoint": "https://x.example/rest/", "user_id": 7, "scope": None, "expires_in": 3600}
    )
    assert (portal.user_id, portal.scope, portal.domain) == ("7", "", "")
    with pytest.raises(WrongUsage, match="client_endpoint"):
        Portal.from_mapping("work", {"domain": "x.example"})


def test_remove_portal_says_whether_it_removed_something(tmp_path: Path) -> None:
    state = State.open(tmp_path)
    state.save_portal(a_portal())
    assert state.remove_portal("work") is True
    assert state.remove_portal("work") is False
    assert state.portals() == []


def test_remove_portal_leaves_an_entry_that_somebody_saved_since(tmp_path: Path) -> None:
    state = State.open(tmp_path)
    state.save_portal(a_portal(client_endpoint="http://127.0.0.1:2/rest/"))
    assert not state.remove_portal("work", only_if=lambda at: at.client_endpoint == "http://127.0.0.1:1/rest/")
    assert state.remove_portal("work", only_if=lambda at: at.client_endpoint == "http://127.0.0.1:2/rest/")


def test_the_repr_of_a_portal_shows_no_secret() -> None:
    hook = "https://x.bitrix24.com/rest/1/SECRET-hook/"
    portal = a_portal(client_endpoint=hook)
    for text in (repr(portal), str(portal), f"{portal}", repr([portal]), repr({"a": portal})):
        assert "SECRET" not in text
        assert "work" in text
    assert pickle.loads(pickle.dumps(portal)) == portal


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\0\0\0\0",
        b"[]",
        b"null",
        b"{}",
        b'{"version": 1}',
        b'{"version": 1, "tables": []}',
        b'{"version": 1, "tables": {"portals": []}}',
        b'{"version": 1, "tables": {"portals": {"x": {}}}}',
        b'{"version": 1, "tables": {"portals": {"1": 2}}}',
        b'{"version": 1, "tables": {"portals": {"1": {"name": "work"}}}}',
        b'{"version": 1, "tables": {"portals": {"1": {"name": 5, "client_endpoint": ""}}}}',
        b"[" * 100_000,
        b"\xff\xfe{}",
    ],
)
def test_a_damaged_file_is_named_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    state = State.open(tmp_path)
    state.path.write_bytes(content)
    for attempt in (state.portals, lambda: state.portal("work"), lambda: state.remove_portal("work")):
        with pytest.raises(StateDamaged, match="left as it is") as caught:
            attempt()
        assert caught.value.exit_code == 3
        assert str(state.path) in str(caught.value)
    assert state.path.read_bytes() == content


def test_the_error_for_a_damaged_file_holds_nothing_of_its_content(tmp_path: Path) -> None:
    state = State.open(tmp_path)
    state.save_portal(a_portal())
    state.path.write_bytes(state.path.read_bytes()[:-20])
    with pytest.raises(StateDamaged) as caught:
        state.portals()
    assert "SECRET" not in repr(caught.value) + str(caught.value) + repr(caught.value.__cause__)
    assert caught.value.__suppress_context__


def test_a_file_of_a_later_version_is_not_touched(tmp_path: Path) -> None:
    state = State.open(tmp_path)
    content = b'{"version": 2, "tables": {}}'
    state.path.write_bytes(content)
    with pytest.raises(StateFromNewerVersion, match="upgrade"):
        state.save_portal(a_portal())
    assert state.path.read_bytes() == content


def test_keys_that_a_later_version_added_survive_a_change(tmp_path: Path) -> None:
    state = State.open(tmp_path)
    state.save_portal(a_portal())
    document = json.loads(state.path.read_bytes())
    document["tables"]["portals"]["1"]["colour"] = "green"
    document["tables"]["notes"] = {"1": {"text": "x"}}
    state.path.write_text(json.dumps(document))
    state.save_portal(a_portal(access_token="new"))
    after = json.loads(state.path.read_bytes())["tables"]
    assert after["portals"]["1"]["colour"] == "green"
    assert after["portals"]["1"]["access_token"] == "new"
    assert after["notes"] == {"1": {"text": "x"}}


def test_a_transaction_that_fails_changes_nothing(tmp_path: Path) -> None:
    state = State.open(tmp_path)
    state.save_portal(a_portal())
    content = state.path.read_bytes()

    def fail_half_way() -> None:
        with state.transaction() as transaction:
            transaction.save_portal(a_portal("another"))
            transaction.remove_portal("work")
            raise KeyError

    with pytest.raises(KeyError):
        fail_half_way()
    assert state.path.read_bytes() == content
    state.save_portal(a_portal("third"))  # and the lock is free


def test_a_transaction_writes_the_file_once_and_only_if_something_changed(tmp_path: Path) -> None:
    state = State.open(tmp_path)
    with state.transaction() as transaction:
        transaction.save_portal(a_portal())
        transaction.put_row(a_row())
        assert not state.path.exists()
    inode = state.path.stat().st_ino
    with state.transaction() as transaction:
        assert transaction.portal("work") == a_portal()
    assert state.path.stat().st_ino == inode


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links")
def test_a_state_file_that_is_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "dotfiles").mkdir()
    link = tmp_path / "home" / "state.json"
    link.symlink_to(tmp_path / "dotfiles" / "b24.json")
    State.open(tmp_path / "home").save_portal(a_portal())
    assert link.is_symlink()
    assert State.open(tmp_path / "home").portal("work") == a_portal()


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_write_permission_is_named(tmp_path: Path) -> None:
    state = State.open(tmp_path)
    state.save_portal(a_portal())
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutsideFailure, match="cannot be written"):
            state.save_portal(a_portal("another"))
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX")
def test_a_full_disk_keeps_the_old_state_and_leaves_no_scrap(tmp_path: Path) -> None:
    State.open(tmp_path).save_portal(a_portal())
    code = """
import resource, signal, sys
from pathlib import Path
from b24tunnel.portal.state import Portal, State
from b24tunnel.portal.storage import StateUnusable
state = State.open(Path(sys.argv[1]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    state.save_portal(Portal("big", "https://x.example/rest/", scope="x" * 5000))
except StateUnusable as error:
    print(error)
"""
    assert "cannot be written (File too large)" in finish(python(code, tmp_path))
    assert State.open(tmp_path).portals() == [a_portal()]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["state.json", "state.lock"]


def test_the_ledger_is_filtered_by_portal_and_owner(tmp_path: Path) -> None:
    state = State.open(tmp_path)
    rows = [a_row("A"), a_row("B", owner="run-2"), a_row("A", portal="other")]
    for row in rows:
        assert state.put_row(row) is None
    assert state.ledger() == rows
    assert state.ledger("work") == rows[:2]
    assert state.ledger("work", "run-2") == [rows[1]]
    assert state.ledger(owner="run-1") == [rows[0], rows[2]]


def test_a_ledger_row_is_replaced_by_its_portal_event_and_handler(tmp_path: Path) -> None:
    state = State.open(tmp_path)
    state.put_row(a_row())
    assert state.put_row(a_row(state="bound", owner="run-2")) == a_row()
    assert state.ledger() == [a_row(state="bound", owner="run-2")]
    assert state.drop_row(a_row()) is True
    assert state.drop_row(a_row()) is False
    assert state.ledger() == []


def test_a_rotated_pair_is_kept_out_where_somebody_logged_in_meanwhile(tmp_path: Path) -> None:
    state = State.open(tmp_path)
    state.save_portal(a_portal(access_token="a1", refresh_token="r1"))
    rotated = a_portal(access_token="a2", refresh_token="r2")
    assert state.save_rotated(rotated, spent="r1") == rotated
    late = a_portal(access_token="a3", refresh_token="r3")
    assert state.save_rotated(late, spent="r1") == rotated
    assert state.portal("work") == rotated


def test_two_processes_never_lose_one_anothers_change(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from b24tunnel.portal.state import LedgerRow, Portal, State
state = State.open(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for number in range(40):
    name = f"{sys.argv[2]}-{number}"
    state.save_portal(Portal(name, "https://x.example/rest/"))
    state.put_row(LedgerRow(name, "E", "h", "o", 1, "", ""))
    with state.transaction() as transaction:
        shared = transaction.db.table("count")
        value = shared.get(doc_id=1)
        if value is None:
            shared.insert({"n": 1})
        else:
            shared.update({"n": value["n"] + 1}, doc_ids=[1])
"""
    racers = [python(code, tmp_path, name) for name in ("a", "b", "c")]
    for racer in racers:
        assert read_line(racer) == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        finish(racer)
    expected = {f"{name}-{number}" for name in "abc" for number in range(40)}
    state = State.open(tmp_path)
    assert {portal.name for portal in state.portals()} == expected
    assert {row.portal for row in state.ledger()} == expected
    with state.transaction() as transaction:
        assert transaction.db.table("count").all() == [{"n": 120}]


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9")
def test_a_kill_in_the_middle_of_a_write_leaves_a_whole_file_and_a_free_lock(tmp_path: Path) -> None:
    code = """
import itertools, sys
from pathlib import Path
from b24tunnel.portal.state import Portal, State
state = State.open(Path(sys.argv[1]))
for number in itertools.count():
    state.save_portal(Portal("work", "https://x.example/rest/", scope=str(number), domain="x" * 200_000))
    print(number, flush=True)
"""
    state = State.open(tmp_path)
    for _ in range(8):
        writer = python(code, tmp_path)
        seen = 0
        for _ in range(3):
            seen = int(read_line(writer))
        writer.send_signal(signal.SIGKILL)
        rest, _ = writer.communicate(timeout=30)
        seen = max([seen, *map(int, rest.split())])
        assert int(state.portal("work").scope) >= seen
        state.save_portal(a_portal("after"))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["state.json", "state.lock"]


def test_a_lock_that_is_not_let_go_ends_in_an_error_that_names_it(tmp_path: Path) -> None:
    state = State(State.open(tmp_path).home, lock_timeout=0.05)
    holder = FileLock(tmp_path / "state.lock")
    holder.acquire(1)
    with pytest.raises(LockTimeout, match=r"state\.lock") as caught:
        state.save_portal(a_portal())
    assert caught.value.exit_code == 3
    holder.release()
    state.save_portal(a_portal())


async def test_tasks_of_one_process_exclude_each_other_without_blocking_the_loop(tmp_path: Path) -> None:
    state = State.open(tmp_path)
    async with state.exclusive("refresh", "work"):
        with pytest.raises(LockTimeout):
            async with state.exclusive("refresh", "work", timeout=0.05):
                pass
        async with state.exclusive("refresh", "other", timeout=0.05), state.exclusive("bindings", "work"):
            state.save_portal(a_portal())


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from b24tunnel.portal.lock import FileLock
lock = FileLock(Path(sys.argv[1]))
lock.acquire(5)
print("held", flush=True)
sys.stdin.readline()
"""
    path = tmp_path / "some.lock"
    holder = python(code, path)
    assert read_line(holder) == "held\n"
    assert FileLock(path).try_acquire() is False
    holder.kill()
    holder.communicate(timeout=30)
    ours = FileLock(path)
    ours.acquire(5)
    ours.release()


def test_a_process_is_told_from_a_later_one_with_its_pid() -> None:
    child = python("import sys; print('up', flush=True); sys.stdin.readline()")
    assert read_line(child) == "up\n"
    mark = start_mark(child.pid)
    assert is_running(child.pid, mark)
    assert is_running(child.pid)
    if mark:
        assert not is_running(child.pid, mark + "0")
    child.communicate("\n", timeout=30)
    assert not is_running(child.pid, mark)
    assert not is_running(0)
    assert is_running(os.getpid(), start_mark(os.getpid()))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_process_that_has_ended_unnoticed_counts_as_ended() -> None:
    child = python("")
    assert child.stdout is not None
    child.stdout.read()
    # WNOWAIT leaves it a zombie.
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not is_running(child.pid, start_mark(child.pid))
    child.communicate(timeout=30)


def test_reading_portals_loads_no_http_client() -> None:
    code = """
import sys
import b24tunnel.portal
from b24tunnel.portal import Portal, State, LedgerRow, PortalError
import b24tunnel.portal.state
assert "aiohttp" not in sys.modules
from b24tunnel.portal import *
assert Bindings and RestClient and "aiohttp" in sys.modules
try:
    b24tunnel.portal.nonsense
except AttributeError:
    print("fine")
"""
    assert finish(python(code)) == "fine\n"


def test_an_error_of_the_state_is_one_a_user_can_put_right() -> None:
    assert issubclass(StateDamaged, UserError)
    assert issubclass(StateFromNewerVersion, UserError)
    assert issubclass(LockTimeout, UserError)
