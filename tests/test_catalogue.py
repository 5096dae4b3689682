"""The catalogue of events."""

import json
import subprocess
import sys

import pytest

from b24tunnel import catalogue


def test_holds_every_documented_event_with_a_meaning():
    entries = catalogue.events()
    assert len(entries) == 210
    assert list(entries) == sorted(entries)
    for code, entry in entries.items():
        assert entry.code == code
        assert entry.scope
        assert entry.meaning.endswith(".")


def test_is_read_only_and_read_once():
    assert catalogue.events() is catalogue.events()
    with pytest.raises(TypeError):
        catalogue.events()["X"] = None  # type: ignore[index]


def test_sample_data_can_be_written_as_json():
    assert json.loads(json.dumps(catalogue.events()["ONCRMDEALADD"].data)) == {"FIELDS": {"ID": "6641"}}


@pytest.mark.parametrize("code", ["ONCRMDEALADD", "onCrmDealAdd", "oncrmdealadd"])
def test_lookup_ignores_case(code):
    entry = catalogue.lookup(code)
    assert entry is not None
    assert entry.code == "ONCRMDEALADD"
    assert entry.scope == "crm"


@pytest.mark.parametrize("code", ["ONCRMDYNAMICITEMADD_128", "oncrmdynamicitemadd_7"])
def test_lookup_knows_a_code_of_a_family(code):
    entry = catalogue.lookup(code)
    assert entry is not None
    assert entry.code == "ONCRMDYNAMICITEMADD_{entityTypeId}"
    assert entry.pattern


@pytest.mark.parametrize(
    "code", ["ONCRMDYNAMICITEMADD_", "ONCRMDYNAMICITEMADD_X", "ONCRMDYNAMICITEMADD_1 ", "", "*"]
)
def test_lookup_gives_none_for_what_is_no_event(code):
    assert catalogue.lookup(code) is None


def test_every_code_looks_itself_up():
    for code, entry in catalogue.events().items():
        assert catalogue.lookup(code) is entry
        assert catalogue.lookup(code.lower()) is entry


def test_find_by_glob_and_by_part():
    assert [entry.code for entry in catalogue.find("oncrmdeal*add")] == [
        "ONCRMDEALADD",
        "ONCRMDEALRECURRINGADD",
        "ONCRMDEALUSERFIELDADD",
    ]
    assert {entry.code for entry in catalogue.find("taskcomment")} == {
        "ONTASKCOMMENTADD",
        "ONTASKCOMMENTDELETE",
        "ONTASKCOMMENTUPDATE",
    }
    assert catalogue.find("nothing like this") == []
    assert len(catalogue.find("")) == 210


def test_suggest_puts_the_closest_code_first():
    assert catalogue.suggest("ONCRMDEELADD")[0] == "ONCRMDEALADD"
    assert catalogue.suggest("crmdealupdate")[0] == "ONCRMDEALUPDATE"
    assert len(catalogue.suggest("ONCRM")) <= 3
    assert catalogue.suggest("zzzzzz") == []


def test_polled_and_wizard_events_are_marked_as_not_delivered():
    undelivered = {entry.code for entry in catalogue.events().values() if not entry.delivered}
    assert len(undelivered) == 8
    assert "ONIMV2MESSAGEADD" in undelivered
    assert "ONAPPSETTINGSINSTALL" in undelivered
    assert catalogue.events()["ONIMBOTV2MESSAGEADD"].delivered


def test_import_reads_no_data_and_no_aiohttp():
    program = (
        "import sys, b24tunnel.catalogue as c;"
        "assert 'aiohttp' not in sys.modules;"
        "assert c._table.cache_info().currsize == 0"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
