"""`b24tunnel demo`: the whole walk, and that it would notice."""

from __future__ import annotations

from pathlib import Path

import pytest
from programs import Programs

from b24tunnel import forward
from b24tunnel.demo import demo
from b24tunnel.errors import CheckFailed
from b24tunnel.receiver import Receiver


def test_the_demo_walks_through_everything_and_says_each_step(programs: Programs, home: Path) -> None:
    program = programs.b24tunnel("demo")
    assert program.wait() == 0, str(program)
    steps = [line for line in program.lines if line.startswith("✓")]
    for number, word in enumerate(
        ("portal", "handler", "Bound", "Changed", "Recorded 1-1", "Forwarded", "unbound", "Replayed")
    ):
        assert word in steps[number]
    assert program.errors == []
    assert list(home.iterdir()) == [], "the demo leaves the user's own state alone"
    assert list(programs.directory.iterdir()) == []


async def test_the_demo_fails_when_the_handler_gets_other_bytes_than_the_portal_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "_payload", lambda body: body + b"&x=1")
    with pytest.raises(CheckFailed, match="the handler got the bytes that were recorded"):
        await demo(tmp_path, lambda step: None)


async def test_the_demo_fails_when_the_recording_holds_other_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Receiver._read_body

    async def cut(self: Receiver, request: object) -> bytes:
        return (await read(self, request))[:-1]  # type: ignore[arg-type]

    monkeypatch.setattr(Receiver, "_read_body", cut)
    with pytest.raises(CheckFailed, match="the recording holds the bytes that the portal sent"):
        await demo(tmp_path, lambda step: None)
