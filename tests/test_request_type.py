"""What a request is: told by its fields wherever they stand, and never at the price of a hostile body."""

from __future__ import annotations

import pytest
from b24pysdk.credentials import OAuthPlacementData, OAuthWorkflowData
from bitrix_requests import AUTH, PAGE, PAGE_QUERY, ROBOT
from raw_cases import RAW_CASES

from b24tunnel import form
from b24tunnel.recording import Headers, RequestType
from b24tunnel.request_type import is_hidden, may_be_form, request_type

FORM: Headers = (("Content-Type", "application/x-www-form-urlencoded"),)


def of(fields: dict[str, object], target: str = "/", headers: Headers = FORM) -> RequestType:
    return request_type(target, headers, form.encode(fields))


# The cases that are bodies of requests, and what Bitrix24 wanted with each.
WANTED: dict[str, RequestType] = {
    "07-raw-bizproc-no-event-key": "robot",
    "09-http-placement-query-and-body": "page",
    "53-http-multipart-form": "other",
}


@pytest.mark.parametrize(
    "case",
    [case for case in RAW_CASES if "-raw-" in case.name or "-http-" in case.name],
    ids=lambda case: case.name,
)
def test_real_requests_are_what_they_are(case) -> None:  # type: ignore[no-untyped-def]
    headers = FORM
    if case.name == "53-http-multipart-form":
        headers = (("Content-Type", "multipart/form-data; boundary=x"),)
    wanted = WANTED.get(case.name, "event" if case.event and case.event[:1] != "(" else "other")
    if case.name == "13-raw-php-corner-cases":
        wanted = request_type("/", FORM, case.body)  # made up: whatever it is, it does no harm
    assert request_type("/hook", headers, case.body) == wanted


def test_a_delivery_by_get_is_an_event() -> None:
    assert request_type("/bitrix24.php?event=ONTASKUPDATE&data[FIELDS_AFTER][ID]=226", (), b"") == "event"


@pytest.mark.parametrize(
    "code",
    ["ONCRMDEALADD", "onCrmRequisiteAdd", "OnAppInstall", "CATALOG.PRICE.ON.ADD", "CATALOG.PRICE.TYPE.ON.ADD"],
)
def test_every_spelling_of_a_code_is_an_event(code: str) -> None:
    assert of({"event": code, "data": {"ID": "1"}, "auth": AUTH}) == "event"
    assert of({"event": code}) == "event"


@pytest.mark.parametrize("name", ["onbuttonclick", "onButtonClick", "OnSubmit", "SomethingNew", "a.b"])
def test_what_is_no_code_by_its_looks_is_an_event_of_a_portal(name: str) -> None:
    assert of({"event": name, "auth": AUTH}) == "event"
    assert of({"event": name}) == "other"
    assert of({"event": name, "auth": {"user": "x"}}) == "other"


@pytest.mark.parametrize(
    "fields",
    [
        {"event": "Anna's birthday", "date": "2026-12-01", "auth": AUTH},
        {"event": ["ONCRMDEALADD"]},
        {"event": "on"},
        {"event": "online"},
        {"event": "E" * 300, "auth": AUTH},
        {"event": "", "auth": AUTH},
        {"AUTH_ID": "1"},
        {"AUTH_ID": ["1"], "DOMAIN": "x"},
        {"auth_id": "1", "domain": "x"},
        {"PLACEMENT": "CRM_DEAL_DETAIL_TAB"},
        {"document_id": "7"},
        {"document_id": ["1", "2", "3"]},
        {"document_id": ["crm", "x"]},
        {"document_id": ["crm", "x", ["y"]]},
        {"event_token": "1"},
        {"saveform": "Y", "data": {"name": "x"}},
        {"name": "x", "password": "y"},
    ],
    ids=str,
)
def test_an_application_s_own_forms_are_nothing_of_bitrix24(fields: dict[str, object]) -> None:
    assert of(fields) == "other"


def test_a_robot_is_told_by_its_token_and_document() -> None:
    assert of(ROBOT) == "robot"
    assert of({**ROBOT, "properties": {"text": "y" * 1_000_000}}) == "robot"
    assert of({key: value for key, value in ROBOT.items() if key not in ("workflow_id", "ts", "auth")}) == "robot"
    assert of({"event_token": "x", "workflow_id": "y"}) == "robot"
    assert of({**ROBOT, "event": "ONCRMDEALADD"}) == "event"


def test_the_official_sdk_takes_for_a_robot_or_a_page_what_is_one_here() -> None:
    assert OAuthWorkflowData.from_dict(form.parse(form.encode(ROBOT))).code == "test_activity"  # type: ignore[arg-type]
    asked = form.parse(PAGE_QUERY.partition("?")[2].encode())
    for placement, wanted in (("DEFAULT", "page"), ("CRM_DEAL_DETAIL_TAB", "placement")):
        body = form.encode({**PAGE, "PLACEMENT": placement, "PLACEMENT_OPTIONS": '{"ID":"7"}'})
        assert request_type(PAGE_QUERY, FORM, body) == wanted
        read = OAuthPlacementData.from_dict({**asked, **form.parse(body)})  # type: ignore[dict-item]
        assert read.placement == placement


def test_a_page_is_a_placement_where_it_names_one() -> None:
    assert of(PAGE, PAGE_QUERY) == "page"
    assert of({**PAGE, "PLACEMENT": "CRM_LEAD_LIST_MENU"}, PAGE_QUERY) == "placement"
    assert of({key: value for key, value in PAGE.items() if key != "PLACEMENT"}, PAGE_QUERY) == "page"


def test_fields_may_stand_in_the_query_alone() -> None:
    query = form.encode({**PAGE, "PLACEMENT": "LEFT_MENU"}).decode()
    assert request_type(f"{PAGE_QUERY}&{query}", (), b"") == "placement"
    assert request_type(PAGE_QUERY, (), b"") == "other"


def test_the_body_s_fields_are_over_those_of_the_query() -> None:
    assert of({**PAGE, "PLACEMENT": "LEFT_MENU"}, "/?PLACEMENT=DEFAULT") == "placement"
    assert request_type("/?event=ONCRMDEALADD", FORM, b"event%5B%5D=1") == "other"


@pytest.mark.parametrize("code", ["OnAppSettingsInstall", "ONAPPSETTINGSCHANGE", "onappsettingsdisplay"])
def test_the_settings_wizard_is_no_event_though_it_looks_like_one(code: str) -> None:
    assert of({"event": code, "data": {"country": "DE"}, "auth": AUTH}) == "settings"
    assert of({"event": code}) == "settings"


def test_saved_settings_are_settings() -> None:
    assert of({"data": {"api-key": "x"}, "auth": AUTH, "saveform": "Y"}) == "settings"


def test_only_a_form_is_read() -> None:
    body = form.encode({"event": "ONCRMDEALADD", "auth": AUTH})
    assert request_type("/", (), body) == "event"
    assert (
        request_type("/", (("content-type", "Application/X-WWW-Form-URLencoded; charset=utf-8"),), body) == "event"
    )
    for kind in ("application/json", "multipart/form-data", "text/plain", "application/x-www-form-urlencoded2"):
        assert request_type("/", (("Content-Type", kind),), body) == "other"
    assert request_type("/", (*FORM, ("Content-Encoding", "gzip")), body) == "other"
    assert may_be_form((*FORM, ("Content-Encoding", "identity")))


@pytest.mark.parametrize("last", [b"event=x", b"%65vent=x", b"event%5B%5D=x", b" event=x", b"event[0]=x"])
def test_a_later_pair_that_php_prefers_is_not_overlooked(last: bytes) -> None:
    """The shortcut for the usual shape does not answer for another one."""
    assert request_type("/", FORM, b"event=ONCRMDEALADD&auth%5Bdomain%5D=x&ts=1&" + last) == "other"


def test_spellings_that_php_reads_are_read() -> None:
    assert request_type("/", FORM, b"x=1&%65vent=ONCRMDEALADD") == "event"
    assert request_type("/", FORM, b"event=ONCRMDEALADD\0&event=x") == "event"
    assert request_type("/", FORM, b"event[x]=1&event=ONCRMDEALADD") == "event"


@pytest.mark.parametrize(
    "body",
    [
        b"&" * 30_000_000,
        b"a=1&" * 1_000_000 + b"event=ONCRMDEALADD",
        b"event" + b"[" * 1_000_000 + b"=1",
        b"event=" + b"%41" * 3_000_000,
        b"[" * 5_000_000,
        b"auth" + b"%5B" * 1_000_000,
        b"a" * 30_000_000,
        b"DOMAIN=x&AUTH_ID=" + b"x" * 1_000_000,
        b"document_id[]=crm&" * 1500,
        b"%65" * 3_000_000,
    ],
    ids=lambda body: f"{body[:12]!r}",
)
def test_a_hostile_body_is_something_else(body: bytes) -> None:
    assert request_type("/", FORM, body) == "other"


PADDED = {
    "a long token": b"event=ONCRMDEALADD&event_token=" + b"x" * 17_000,
    "many pairs": b"event=ONCRMDEALADD" + b"&a=1" * 20_001,
    "many pairs before it": b"a=1&" * 20_001 + b"%65v%45nt=x&+e%76ent=ONCRMDEALADD",
    "other tricks": b"event=ONCRMDEALADD" + b"&event[x]=1" * 2_000,
    "a robot": b"AUTH.ID=1&DOMAIN=" + b"x" * 17_000,
}


@pytest.mark.parametrize("name", PADDED)
def test_what_padding_takes_out_of_the_bounds_is_told(name: str) -> None:
    assert request_type("/", FORM, PADDED[name]) == "other"
    assert is_hidden("/", FORM, PADDED[name])
    assert is_hidden("/?" + PADDED[name].decode(), (), b"")
    assert not is_hidden("/", (("Content-Type", "application/json"),), PADDED[name])


@pytest.mark.parametrize(
    "body",
    [b"a=1&" * 30_000, b"user.name=x&" * 3_000, b"events=1&my_event=1&x=event" + b"&a=1" * 20_001, b"event=x"],
)
def test_a_large_form_of_the_application_hides_nothing(body: bytes) -> None:
    assert not is_hidden("/", FORM, body)


@pytest.mark.parametrize("code", ["onButtonClick", "ONBUTTONCLICK"])
def test_an_application_s_own_event_in_a_query_is_its_own(code: str) -> None:
    assert request_type(f"/any?event={code}", (), b"") == "other"
    assert request_type(f"/any?event={code}&auth[domain]=x.bitrix24.com", (), b"") == "event"
    assert request_type("/any?event=onCrmDealAdd", (), b"") == "event"


def test_the_query_is_bounded_too() -> None:
    assert request_type("/?" + "a=1&" * 30_000 + "event=ONCRMDEALADD", (), b"") == "other"
    assert request_type("/?\udcff=1&event=ONCRMDEALADD", (), b"") == "event"
