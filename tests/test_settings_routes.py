"""`[[routes]]` and `[origin]` of the settings: what they hold, and what is told where they hold something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from b24tunnel.errors import WrongUsage
from b24tunnel.routes import MOST_ROUTES, Route
from b24tunnel.settings import PROJECT_FILE, USER_FILE, OriginSettings, ProjectSettings, read_settings


@pytest.fixture
def project(tmp_path: Path) -> Path:
    directory = tmp_path / "project"
    directory.mkdir()
    return directory


def settle(project: Path, home: Path, in_project: str, of_user: str = "") -> ProjectSettings:
    (project / PROJECT_FILE).write_text(in_project)
    (home / USER_FILE).write_text(of_user)
    return read_settings(project, home)


ROUTES = """
[[routes]]
events = ["ONCRM*", "ONTASKADD"]
to = "http://127.0.0.1:8001/crm"
[[routes]]
events = ["*"]
to = ["http://127.0.0.1:8002/", "https://example.org/вход"]
"""


def test_each_url_of_a_table_is_a_route(project: Path, home: Path) -> None:
    assert settle(project, home, ROUTES).routes == (
        Route(("ONCRM*", "ONTASKADD"), "http://127.0.0.1:8001/crm"),
        Route(("*",), "http://127.0.0.1:8002/"),
        Route(("*",), "https://example.org/%D0%B2%D1%85%D0%BE%D0%B4"),
    )


def test_the_projects_routes_take_the_place_of_the_users(project: Path, home: Path) -> None:
    of_user = '[[routes]]\nevents = ["*"]\nto = "http://127.0.0.1:9/"\n'
    assert [route.to for route in settle(project, home, "", of_user).routes] == ["http://127.0.0.1:9/"]
    assert len(settle(project, home, ROUTES, of_user).routes) == 3
    assert settle(project, home, "routes = []", of_user).routes == ()


@pytest.mark.parametrize(
    ("events", "code", "wanted"),
    [
        (("ONCRM*",), "ONCRMDEALADD", True),
        (("oncrm*",), "ONCRMDEALADD", True),
        (("ONCRM*",), "oncrmdealadd", True),
        (("ONCRM*",), "ONTASKADD", False),
        (("ONTASK*", "ONCRMDEALADD"), "ONCRMDEALADD", True),
        (("ONCRMDEAL",), "ONCRMDEALADD", False),
        (("ONCRM????ADD",), "ONCRMDEALADD", True),
        (("*",), "ONCRMDEALADD", True),
        (("*",), None, True),
        (("ONCRM*", "*"), None, True),
        (("ONCRM*",), None, False),
        (("**",), None, False),
        (("*",), "", True),
    ],
)
def test_a_route_wants_codes_and_globs_in_any_case(
    events: tuple[str, ...], code: str | None, wanted: bool
) -> None:
    assert Route(events, "http://127.0.0.1:8000/").wants(code) is wanted


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("routes = 7", "begins with [[routes]]"),
        ("[routes]\nevents = ['*']", "begins with [[routes]]"),
        ("routes = [7]", "begins with [[routes]]"),
        ("[[routes]]\nevents = ['*']", "it lacks to."),
        ("[[routes]]\nto = 'http://h'", "it lacks events."),
        ("[[routes]]\nevent = ['*']\nto = 'http://h'", "knows no 'event': did you mean 'events'?"),
        ("[[routes]]\nevents = []\nto = 'http://h'", "a route without events gets nothing"),
        ("[[routes]]\nevents = ['A', ' ']\nto = 'http://h'", "a route without events gets nothing"),
        ("[[routes]]\nevents = '*'\nto = 'http://h'", "events is a list of codes or globs"),
        ("[[routes]]\nevents = [7]\nto = 'http://h'", "events is a list of codes or globs"),
        ("[[routes]]\nevents = ['*']\nto = 7", "to is the URL of a handler"),
        ("[[routes]]\nevents = ['*']\nto = []", "to is the URL of a handler"),
        ("[[routes]]\nevents = ['*']\nto = ['http://h', 7]", "to is the URL of a handler"),
        ("[[routes]]\nevents = ['*']\nto = 'localhost:8000'", "'localhost:8000' is no handler's URL"),
        ("[[routes]]\nevents = ['*']\nto = 'http://h'\n" * (MOST_ROUTES + 1), f"{MOST_ROUTES} is the most"),
        ("[origin]\nsenders = ['192.0.2.300']", "'192.0.2.300' is no address of a sender"),
        ("[origin]\nsenders = ['example.org']", "'example.org' is no address of a sender"),
        ("[origin]\nsenders = '192.0.2.1'", "senders cannot be '192.0.2.1'; it is a list of texts"),
        ("[origin]\nlists = ['http://example.org/l']", "is no address of a list of nodes"),
        ("[origin]\nlists = ['ftp://127.0.0.1/l']", "is no address of a list of nodes"),
        ("[origin]\nlist = ['https://example.org/l']", "knows no 'list': did you mean 'lists'?"),
        ("origin = 7", "origin is a table, which begins with [origin]"),
    ],
)
def test_what_does_not_fit_is_told_with_its_file(project: Path, home: Path, content: str, words: str) -> None:
    for in_project, of_user, file in ((content, "", project / PROJECT_FILE), ("", content, home / USER_FILE)):
        with pytest.raises(WrongUsage) as raised:
            settle(project, home, in_project, of_user)
        assert words in str(raised.value)
        assert str(file) in str(raised.value)


def test_the_number_of_a_wrong_route_is_told(project: Path, home: Path) -> None:
    with pytest.raises(WrongUsage, match=r"\[\[routes\]\] number 3 in "):
        settle(project, home, ROUTES + "[[routes]]\nevents = []\nto = 'http://h'\n")


def test_the_origin_is_merged_key_by_key(project: Path, home: Path) -> None:
    of_user = '[origin]\nsenders = ["198.51.100.7"]\nlists = ["https://example.org/mine"]\n'
    found = settle(project, home, '[origin]\nsenders = ["192.0.2.0/24", "2001:db8::/32"]\n', of_user)
    assert found.origin == OriginSettings(("192.0.2.0/24", "2001:db8::/32"), ("https://example.org/mine",))
    assert settle(project, home, "").origin == OriginSettings()


@pytest.mark.parametrize(
    "content",
    [
        '[[routes]]\nevents = ["*"]\nto = "http://me:very-secret@127.0.0.1:8000/"',
        '[[routes]]\nevents = ["*"]\nto = ["http://h/", "http://me:very-secret@h/"]',
        '[listen]\nforward = "http://me:very-secret@127.0.0.1:8000/"',
        '[listen]\nforward = "http://:very-secret@127.0.0.1:8000/"',
        '[origin]\nlists = ["https://me:very-secret@example.org/l"]',
        '[tunnels.ssh]\nhost = "h"\npublic_url = "https://me:very-secret@example.org"',
        "[tunnels.mine]\ncommand = 'mytunnel --proxy http://me:very-secret@h:3128 {port}'",
    ],
)
def test_an_address_with_a_password_is_refused_in_the_projects_file_and_not_repeated(
    project: Path, home: Path, content: str
) -> None:
    with pytest.raises(WrongUsage) as raised:
        settle(project, home, content)
    assert "holds a secret" in str(raised.value)
    assert str(home / USER_FILE) in str(raised.value)
    assert "very-secret" not in str(raised.value)
    settle(project, home, "", content)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000/a@b", "http://h:80/?a=b:c@d", "http://h/#:@", "http://[::1]:8000/"]
)
def test_an_address_without_a_password_is_not_taken_for_one(project: Path, home: Path, url: str) -> None:
    settle(project, home, f'[[routes]]\nevents = ["*"]\nto = "{url}"')
