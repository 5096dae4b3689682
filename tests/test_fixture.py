"""Fixtures: found by name or path, and told apart from files that are none."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from raw_cases import RAW_CASES, RawCase

import b24tunnel
from b24tunnel.errors import WrongUsage
from b24tunnel.formats import fixture
from b24tunnel.formats.fixture import FixtureNotFound, FixtureUnreadable, load
from b24tunnel.recording import Attempt, Recording

NOW = datetime(2026, 11, 25, 14, 15, 3, tzinfo=UTC)
SAMPLES = sorted(Path(__file__).parent.with_name("recordings").rglob("*.json"))


def recording(body: bytes = b"event=ONCRMDEALADD", **changes: Any) -> Recording:
    return Recording("12-345", NOW, "POST", "/b24/x", (("Host", "h"),), body, code="ONCRMDEALADD", **changes)


def save(path: Path, one: Recording | Attempt) -> Path:
    path.write_text(json.dumps(one.to_json(), indent=2, ensure_ascii=False), "utf-8")
    return path


@pytest.mark.parametrize("name", ["deal", "DEAL", "Deal", "deal.json"])
def test_a_fixture_is_found_by_its_name(tmp_path: Path, name: str) -> None:
    save(tmp_path / "deal.json", recording())
    assert load(name, tmp_path).body == b"event=ONCRMDEALADD"


def test_a_name_as_it_is_spelled_comes_first(tmp_path: Path) -> None:
    save(tmp_path / "Deal.json", recording(b"upper"))
    save(tmp_path / "deal.json", recording(b"lower"))
    assert load("Deal", tmp_path).body == b"upper"


@pytest.mark.parametrize("as_text", [True, False])
def test_a_fixture_is_found_by_its_path(tmp_path: Path, as_text: bool) -> None:
    path = save(tmp_path / "deal.json", recording())
    assert load(str(path) if as_text else path).name == "deal"  # type: ignore[arg-type]


def test_a_path_relative_to_here_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recordings").mkdir()
    save(tmp_path / "recordings" / "deal.json", recording())
    assert load("recordings/deal.json").id == "deal"
    assert load("deal").id == "deal"


def test_its_name_is_its_id(tmp_path: Path) -> None:
    save(tmp_path / "Новый лид.json", recording(name="something else"))
    found = load("Новый лид", tmp_path)
    assert (found.id, found.name, found.session) == ("Новый лид", "Новый лид", 0)


@pytest.mark.parametrize("case", RAW_CASES, ids=lambda case: case.name)
def test_a_real_delivery_comes_back_byte_for_byte(tmp_path: Path, case: RawCase) -> None:
    original = recording(case.body)
    save(tmp_path / "case.json", original)
    found = load("case", tmp_path)
    assert found == replace(original, id="case", name="case")
    assert found.event.fields == case.expect


def test_the_package_offers_it(tmp_path: Path) -> None:
    save(tmp_path / "deal.json", recording())
    assert b24tunnel.load("deal", tmp_path).event.code == "ONCRMDEALADD"


@pytest.mark.parametrize(
    "name",
    [
        "nothing",
        "nothing.json",
        "",
        ".",
        "..",
        ".json",
        "*",
        "a\0b",
        "A" * 300,
        "A" * 5000 + ".json",
        "no/such.json",
    ],
    ids=lambda name: name[:8].replace("\0", "NUL") or "empty",
)
def test_a_name_that_nothing_has_is_not_found(tmp_path: Path, name: str) -> None:
    with pytest.raises(FixtureNotFound, match="no fixture"):
        load(name, tmp_path)


def test_a_name_does_not_lead_out_of_its_directory(tmp_path: Path) -> None:
    save(tmp_path / "secret.json", recording())
    (tmp_path / "inner").mkdir()
    with pytest.raises(FixtureNotFound):
        load("../secret", tmp_path / "inner")


def test_a_directory_of_that_name_is_no_fixture(tmp_path: Path) -> None:
    (tmp_path / "deal.json").mkdir()
    with pytest.raises(FixtureNotFound):
        load("deal", tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"v":1}',
        b'{"v":2,"kind":"recording"}',
        b'{"v":1,"kind":"recording","id":1e999}',
    ],
)
def test_a_file_that_is_no_fixture_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "deal.json").write_bytes(content)
    with pytest.raises(FixtureUnreadable, match=r"deal\.json is no fixture"):
        load("deal", tmp_path)


def test_an_attempt_is_no_fixture(tmp_path: Path) -> None:
    save(tmp_path / "deal.json", Attempt("1-1", "replay", "http://h/", NOW, 1.0, status=200))
    with pytest.raises(FixtureUnreadable):
        load("deal", tmp_path)


def test_a_file_of_another_format_says_which(tmp_path: Path) -> None:
    record = {**recording().to_json(), "v": 2}
    (tmp_path / "deal.json").write_text(json.dumps(record))
    with pytest.raises(FixtureUnreadable, match="use a newer b24tunnel"):
        load("deal", tmp_path)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "deal.json", recording())
    monkeypatch.setattr(fixture, "_LARGEST", path.stat().st_size)
    load("deal", tmp_path)
    monkeypatch.setattr(fixture, "_LARGEST", path.stat().st_size - 1)
    with pytest.raises(FixtureUnreadable, match="larger than"):
        load("deal", tmp_path)


def test_both_refusals_are_wrong_usage() -> None:
    assert issubclass(FixtureNotFound, WrongUsage)
    assert issubclass(FixtureUnreadable, WrongUsage)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_of_this_project_is_a_fixture(path: Path) -> None:
    found = load(str(path))
    assert found.event.code == found.code
    assert found.body
