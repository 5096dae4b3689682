"""Fixtures that all tests share: the command as a user runs it, a home of its own, and PHP's absence."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from held_disk import Disk
from programs import Programs

from b24tunnel.journal import writer

# How long something takes says nothing of whether it is right, and machines are busy.
hypothesis.settings.register_profile("timeless", deadline=None)
hypothesis.settings.load_profile("timeless")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without PHP its tests are skipped, but not in CI, which has to install it."""
    if shutil.which("php") or os.environ.get("CI"):
        return
    for item in items:
        if item.get_closest_marker("php"):
            item.add_marker(pytest.mark.skipif(True, reason="the php command is not installed"))


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for the tool's state, so that no test sees the user's own."""
    directory = tmp_path_factory.mktemp("home")
    # Without it `listen` would look for a way to the internet.
    (directory / "settings.toml").write_text('tunnel = "local"\n')
    monkeypatch.setenv("B24TUNNEL_HOME", str(directory))
    return directory


@pytest.fixture
def programs(tmp_path: Path, home: Path) -> Iterator[Programs]:
    """Starts programs in ``tmp_path`` and sees to it that none survives the test."""
    running = Programs(tmp_path)
    yield running
    running.end_all()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """Takes the place of the journal's sync, and lets go of whoever waits for it at the end."""
    held = Disk()
    monkeypatch.setattr(writer, "_sync", held.sync)
    yield held
    held.gate.set()
