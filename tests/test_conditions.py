"""Conditions as text: what they hold for, and what is said of one that cannot be."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from journal_files import write
from tinydb import TinyDB, where
from tinydb.storages import MemoryStorage

from b24tunnel import form
from b24tunnel.conditions import KEYS, Condition
from b24tunnel.errors import WrongUsage
from b24tunnel.journal import Journal, scan
from b24tunnel.journal.document import Document
from b24tunnel.moments import parse_moment
from b24tunnel.recording import Recording, from_line

NOW = datetime(2026, 11, 25, 14, 15, 3, 123456, tzinfo=UTC)
BODY = {
    "event": "ONCRMDEALADD",
    "data": {
        "FIELDS": {"ID": "7405", "NAME": "Сделка 7", "ZERO": "007", "HASH": "0e12", "BIG": "9007199254740993"},
        "LIST": ["a", {"b": "c"}],
        "a.b": "dotted",
        "a=b": "signed",
        "!": "bang",
        "EMPTY": "",
    },
    "ts": "1700000000",
    "auth": {"member_id": "abc"},
}
ONE = Recording(
    "12-345",
    NOW,
    "POST",
    "/b24/x?q=1",
    (("Host", "h"), ("user-agent", "Bitrix24 Webhook Engine"), ("X-Two", "1"), ("x-two", "2")),
    form.encode(BODY),
    code="ONCRMDEALADD",
    remote="203.0.113.7",
    portal="mine",
)


def document(recording: Recording = ONE) -> Document:
    return Document(b"", None, lambda line: recording)


def holds(text: str, recording: Recording = ONE) -> bool:
    return Condition.parse(text)(document(recording))


@pytest.mark.parametrize(
    "text",
    [
        "data.FIELDS.ID=7405",
        "data.FIELDS.ID = 7405",
        "data.FIELDS.ID>=7405.0",
        "data.FIELDS.ID<10000",  # as text it would not be
        "data.FIELDS.ID!=740",
        "data.FIELDS.ZERO=7",
        "data.FIELDS.BIG>9007199254740992",  # as a float it would be the same
        "data.FIELDS.BIG!=9007199254740992",
        "data.FIELDS.BIG<9007199254740993.1",
        "data.FIELDS.HASH!=0",
        "data.FIELDS.HASH!=0e99",
        "data.FIELDS.NAME=Сделка 7",
        "data.FIELDS.NAME~^Сдел.*[0-9]$",
        "data.FIELDS.NAME!~^7",
        "data.FIELDS.ID<9x",  # one side is no number: text
        "data.LIST.0=a",
        "data.LIST.1.b=c",
        r"data.a\.b=dotted",
        r"data.a\=b=signed",
        r"data.\!=bang",
        "data.FIELDS",
        "data.EMPTY",
        "data.EMPTY=",
        "!data.FIELDS.TITLE",
        "!data.LIST.2",
        "!data.LIST.01",
        "!data.LIST.-1",
        "!data.FIELDS.ID.0",
        "fields.event=ONCRMDEALADD",
        "auth.member_id=abc",
        "id=12-345",
        "id>12-99",  # as text it would not be
        "id<13-1",
        "id~^12-",
        "session=12",
        "session>9",
        "code=OnCrmDealAdd",
        "code!=ONCRMLEADADD",
        "code~^ONCRM",
        "code!~^oncrm",
        "method=POST",
        "target~q=1",
        "source=tunnel",
        "verdict=unverified",
        "portal=mine",
        "remote~^203",
        "type=event",
        "request_type=event",
        "headers.User-Agent~Webhook",
        "headers.x-TWO=1, 2",
        "!headers.X-Three",
        "!headers.Host.more",
        "headers",
        "body~FIELDS%5D%5BID%5D=7405",
        "body",
        "received_at>2026-11-25T14:15:03Z",
        "received_at<2026-11-25T17:15:04+03:00",
        "received_at=2026-11-25T14:15:03.123456Z",
        "received_at~^2026-11-25T14",
        "ts=2023-11-14T22:13:20Z",
        "ts<1h",
        "!received_at.year",
    ],
)
def test_it_holds_and_its_opposite_does_not(text: str) -> None:
    assert holds(text)
    condition = Condition.parse(text)
    pairs = (("=", "!="), ("<", ">="), (">", "<="), ("~", "!~"), ("", "!"))
    opposite = {**dict(pairs), **{other: one for one, other in pairs}}
    assert not Condition(condition.path, opposite[condition.operator], condition.value)(document())


@pytest.mark.parametrize(
    "path", ["data.NO", "data.FIELDS", "data.LIST", "data.FIELDS.ID.0", "auth.no", "data.LIST.9"]
)
@pytest.mark.parametrize("value", ["1", "x", ""])
def test_what_is_not_there_and_an_array_is_unequal_to_everything_and_in_no_order(path: str, value: str) -> None:
    held = [sign for sign in ("=", "!=", "<", "<=", ">", ">=", "~", "!~") if holds(f"{path}{sign}{value}")]
    assert held == ["!=", "!~"]


def test_a_delivery_without_event_has_no_code_and_no_ts() -> None:
    bare = Recording("1-1", NOW, "GET", "/", (), b"", type="other")
    assert holds("!code", bare)
    assert holds("code!=X", bare)
    assert not holds("ts<1h", bare)
    assert holds("ts!=1h", bare)
    assert holds("!body", bare)
    assert holds("!headers", bare)
    assert holds("!portal", bare)
    assert holds("type=other", bare)


def test_bytes_that_are_no_text_are_looked_at_all_the_same() -> None:
    assert holds("body~^.a$", Recording("1-1", NOW, "POST", "/", (), b"\xffa"))
    assert holds(r"data~^\udcff$", Recording("1-1", NOW, "POST", "/", (), b"data=%FF"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dta.FIELDS.ID=1", "did you mean data?"),
        ("Header.X", "did you mean headers?"),
        ("recieved_at>1h", "did you mean received_at?"),
        ("zzz=1", "it is one of id, session, code"),
        ("", "is no condition"),
        ("=5", "is no condition"),
        ("!", "is no condition"),
        ("!data.X=5", "is no condition"),
        ("data.X~(", "is no regular expression"),
        ("data.X!~*", "is no regular expression"),
        ("ts>soon", "is no time"),
        ("received_at=7", "is no time"),
        ("data.X=" + "x" * 10_000, "at most 10,000 characters"),
        ("q" * 9000, "it is one of"),
    ],
)
def test_what_cannot_be_is_told_in_one_sentence(text: str, said: str) -> None:
    with pytest.raises(WrongUsage) as raised:
        Condition.parse(text)
    assert said in str(raised.value)
    assert len(str(raised.value)) < 400
    assert "\n" not in str(raised.value)


def test_an_unknown_operator_is_told() -> None:
    with pytest.raises(WrongUsage, match="is no operator"):
        Condition(("data",), "==", "1")
    with pytest.raises(WrongUsage, match="No recording has ''"):
        Condition((), "=", "1")


_SIGNS = st.sampled_from(["=", "!=", "<", "<=", ">", ">=", "~", "!~"])


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=3), _SIGNS, st.integers())
def test_any_keys_can_be_written(keys: list[str], sign: str, value: int) -> None:
    path = ("data", *keys)
    text = form.join_path(path)
    for character in "=<>~!":
        text = text.replace(character, "\\" + character)
    if text != text.strip():
        return  # spaces around the operator do not count
    assert Condition.parse(f"{text}{sign}{value}") == Condition(path, sign, str(value))


@given(st.text(max_size=30))
def test_no_text_is_more_than_refused(text: str) -> None:
    try:
        condition = Condition.parse(text)
    except WrongUsage:
        return
    assert condition(document()) in (True, False)


_NUMBERS = st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**20), max_value=10**20)


@given(_NUMBERS, _NUMBERS, _SIGNS.filter(lambda sign: "~" not in sign))
def test_numbers_are_compared_exactly(left: Any, right: Any, sign: str) -> None:
    compared = {
        **{"=": left == right, "!=": left != right, "<": left < right, "<=": left <= right},
        **{">": left > right, ">=": left >= right},
    }
    one = Recording("1-1", NOW, "POST", "/", (), f"data={left:f}".encode())
    assert holds(f"data{sign}{right:f}", one) == compared[sign]


class TestInAJournal:
    @pytest.fixture
    def parsed(self, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
        seen: list[bytes] = []

        def noted(line: bytes) -> Any:
            seen.append(line)
            return from_line(line)

        monkeypatch.setattr(scan, "from_line", noted)
        return seen

    @pytest.fixture
    def journal(self, tmp_path: Path) -> Journal:
        records = [
            Recording(f"3-{n}", NOW + timedelta(n), "POST", "/", (), f"data={n}".encode(), code=f"ON{n % 3}")
            for n in range(1, 10)
        ]
        write(tmp_path, 3, *records)
        return Journal.open(tmp_path)

    def test_it_searches_as_a_query_of_tinydb_does(self, journal: Journal) -> None:
        assert [one.id for one in journal.search(Condition.parse("data>=8"))] == ["3-8", "3-9"]
        both = [one.id for one in journal.search(where("code") == "ON1")]
        assert both == [one.id for one in journal.search(Condition.parse("code=ON1"))] == ["3-1", "3-4", "3-7"]

    @pytest.mark.parametrize(
        ("text", "found"),
        [("code=on1", 3), ("id>=3-8", 2), ("session=3", 9), ("received_at<2026-11-28T00:00Z", 2)],
    )
    def test_only_what_is_found_is_parsed(
        self, journal: Journal, parsed: list[bytes], text: str, found: int
    ) -> None:
        assert len(list(journal.search(Condition.parse(text)))) == len(parsed) == found

    def test_a_code_that_it_refused_is_not_asked_again(
        self, journal: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[Any] = []
        condition = Condition.parse("code=ON1")
        really: Callable[[Any], bool] = condition._holds
        object.__setattr__(condition, "_holds", lambda found: asked.append(found) or really(found))
        assert len(list(journal.search(condition))) == 3
        assert asked == ["ON1", "ON2", "ON0", "ON1", "ON1"]

    def test_spoiled_lines_are_no_recordings(self, tmp_path: Path) -> None:
        write(tmp_path, 1, b'{"v":1,"kind":"recording","id":"1-1","received_at":"2026-11-25T14:15:03.123456Z",'
              b'"code":"ONX","request":{}}\n')  # fmt: skip
        journal = Journal.open(tmp_path)
        for text in ("code=ONX", "data!=1", "!data", "type!=x", "body!~x", "!headers.Host", "headers.Host!=x"):
            assert list(journal.search(Condition.parse(text))) == []


def test_a_table_of_tinydb_takes_it() -> None:
    table = TinyDB(storage=MemoryStorage).table("t")
    table.insert_multiple({"code": "ONX", "data": {"n": n, "f": n / 2}, "headers": [["A", "b"]]} for n in range(5))
    assert len(table.search(Condition.parse("data.n>2"))) == 2
    assert len(table.search(Condition.parse("data.f=1.5"))) == 1
    assert len(table.search(Condition.parse("headers.a=b"))) == 5


def test_every_key_of_a_document_can_be_asked_for() -> None:
    assert set(document()) < set(KEYS)
    assert all(Condition((key,))(document()) for key in KEYS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-25T14:00:00Z", datetime(2026, 11, 25, 14, tzinfo=UTC)),
        ("2026-11-25 14:00:00.5+03:00", datetime(2026, 11, 25, 11, 0, 0, 500_000, tzinfo=UTC)),
        ("2026-11-25T14:00", datetime(2026, 11, 25, 14).astimezone(UTC)),
        ("2026-11-25", datetime(2026, 11, 25).astimezone(UTC)),
        (" 30s ", NOW - timedelta(seconds=30)),
        ("10m", NOW - timedelta(minutes=10)),
        ("2h", NOW - timedelta(hours=2)),
        ("3d", NOW - timedelta(days=3)),
        ("1w", NOW - timedelta(weeks=1)),
        ("0s", NOW),
        ("999999999w", datetime(1970, 1, 1, tzinfo=UTC)),
        ("1795618050", datetime.fromtimestamp(1795618050, UTC)),
    ],
)
def test_moments_as_users_write_them(text: str, expected: datetime) -> None:
    assert parse_moment(text, NOW) == expected
    assert parse_moment(text, NOW).utcoffset() == timedelta(0)


def test_a_time_of_today_is_one_on_the_users_clock() -> None:
    now = datetime(2026, 11, 25, 23, 30, tzinfo=timezone(timedelta(hours=5)))
    today = now.astimezone().date()
    assert parse_moment("9:05", now) == datetime(today.year, today.month, today.day, 9, 5).astimezone()
    assert parse_moment("23:59:58", now).astimezone().second == 58


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "25:00", "12:60", "2026-13-01", "0001-01-01", "1969-12-31", "9999-12-31T00:00Z", "5", "-5m",
     "1e3s", "9999999999m", "5 m", "٣d", "x" * 10_000, "2026-11-25T14:00+99:00"],
)  # fmt: skip
def test_what_is_no_moment_is_told_in_one_sentence(text: str) -> None:
    with pytest.raises(WrongUsage, match="is no time: give ISO 8601") as raised:
        parse_moment(text, NOW)
    assert len(str(raised.value)) < 400
