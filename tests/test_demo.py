"""`b24tunnel demo`: the whole walk, and that it would notice."""

from __future__ import annotations

from pathlib import Path

import pytest
from programs import Programs

from b24tunnel import forward
from b24tunnel.bodies import Bodies
from b24tunnel.demo import demo
from b24tunnel.errors import CheckFailed


def test_the_demo_walks_through_everything_and_says_each_step(programs: Programs, home: Path) -> None:
    program = programs.b24tunnel("demo")
    assert program.wait() == 0, str(program)
    steps = [line for line in program.lines if line.startswith("✓")]
    for number, word in enumerate(
        ("portal", "handler", "Bound", "Changed", "Recorded 1-1", "Forwarded", "unbound", "Replayed")
    ):
        assert word in steps[number]
    assert program.errors == []
    names = [file.name for file in home.iterdir()]
    assert names == ["settings.toml"], "the demo leaves the user's own state alone"
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
    read = Bodies.at_once

    def cut(self: Bodies, request: object) -> bytes | None:
        body = read(self, request)  # type: ignore[arg-type]
        return body and body[:-1]

    monkeypatch.setattr(Bodies, "at_once", cut)
    with pytest.raises(CheckFailed, match="the recording holds the bytes that the portal sent"):
        await demo(tmp_path, lambda step: None)
