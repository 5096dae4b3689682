"""No secret is shown: not under its name, not where a handler repeats it, in whatever spelling."""

import base64
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_cases import RAW_CASES, RawCase

from b24tunnel import form
from b24tunnel.recording import Recording
from b24tunnel.redact import MASK, Masker, is_secret_field, secret_values, shown_url

# What Bitrix24's documentation calls a token, a secret or a key; written down apart from the module's own list.
SECRET_KEYS = {
    *("access_token", "refresh_token", "application_token", "event_token", "auth_id", "refresh_id", "app_sid"),
    *("client_secret", "token"),
}
PUBLIC_KEYS = ("member_id", "domain", "user_id", "client_id", "expires", "scope", "ID", "TITLE", "token_type_id")
APP_SID = "078b138d7c98fc0c30a1646e236b8761"

by_name = pytest.mark.parametrize("case", RAW_CASES, ids=lambda case: case.name)


def recording(body: bytes, target: str = "/b24/x", headers: tuple[tuple[str, str], ...] = ()) -> Recording:
    return Recording("1-1", datetime(2026, 11, 25, tzinfo=UTC), "POST", target, headers, body)


def of_case(case: RawCase) -> Recording:
    return recording(case.body, f"/b24/x?DOMAIN=demo.bitrix24.com&APP_SID={APP_SID}")


def secrets_in(value: Any, secret: bool = False) -> Iterator[str]:
    """The values below a secret key, by this test's own list."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from secrets_in(item, secret or key.lower() in SECRET_KEYS)
    elif isinstance(value, list):
        for item in value:
            yield from secrets_in(item, secret)
    elif secret and value:
        yield value


def shape(value: Any) -> Any:
    """A structure with its leaves left out."""
    if isinstance(value, Mapping):
        return {key: shape(item) for key, item in value.items()}
    return [shape(item) for item in value] if isinstance(value, list) else type(value)


def leaves(value: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    for key, item in items:
        path = (*above, str(key))
        if isinstance(item, str):
            yield path, item
        else:
            yield from leaves(item, path)


class TestRealDeliveries:
    def test_there_are_secrets_to_be_kept(self) -> None:
        assert sum(len(set(secrets_in(case.expect))) for case in RAW_CASES) > 20

    @by_name
    def test_no_secret_survives_anywhere(self, case: RawCase) -> None:
        masker = Masker.of(of_case(case))
        secrets = {*secrets_in(case.expect), APP_SID}
        shown = [
            masker.body(case.body),
            json.dumps(masker.value(case.expect)),
            masker.target(of_case(case).target),
            masker.text(f"{case.expect} {' '.join(secrets)}"),
            repr(masker.headers([("X-Debug", " ".join(secrets))])),
        ]
        assert [secret for secret in secrets for text in shown if secret in text] == []
        assert all(MASK in text for text in shown[2:])

    @by_name
    def test_the_structure_stays(self, case: RawCase) -> None:
        masker = Masker.of(of_case(case))
        masked = masker.value(case.expect)
        assert shape(masked) == shape(case.expect)
        reread = form.parse(masker.body(case.body).encode("utf-8", "surrogateescape"))
        assert shape(reread) == shape(case.expect)

    @by_name
    def test_what_is_no_secret_stays_as_it_is(self, case: RawCase) -> None:
        secrets = set(secrets_in(case.expect))
        masked = dict(leaves(Masker.of(of_case(case)).value(case.expect)))
        for path, value in leaves(case.expect):
            if not any(secret in value for secret in secrets):
                assert masked[path] == value, path

    @by_name
    def test_they_are_found_by_the_names_of_fields(self, case: RawCase) -> None:
        assert secret_values(case.expect) == set(secrets_in(case.expect))

    def test_names_that_hold_no_secret_are_told_apart(self) -> None:
        assert all(is_secret_field(name) and is_secret_field(name.upper()) for name in SECRET_KEYS)
        assert not any(is_secret_field(name) for name in PUBLIC_KEYS)


class TestByName:
    @pytest.mark.parametrize("key", sorted(SECRET_KEYS))
    @pytest.mark.parametrize("spelling", [str.lower, str.upper, str.title])
    @pytest.mark.parametrize("shape", ["{}=s3", "auth[{}]=s3", "auth%5B{}%5D=s3", "a[{}][]=s3", "a[{}][x][y]=s3"])
    def test_a_short_secret_is_masked_where_its_name_says_so(self, key: str, spelling: Any, shape: str) -> None:
        body = shape.format(spelling(key)).encode()
        masker = Masker.of(recording(body))
        assert masker.body(body) == body.decode().replace("s3", MASK)
        assert "s3" not in repr(masker.value(form.parse(body)))

    def test_every_byte_around_it_stays(self) -> None:
        body = b"&&a=%zz&auth[access_token]=abcdef&b=+%20&auth[access_token]=&=x&bare"
        assert Masker.of(recording(body)).body(body) == body.decode().replace("abcdef", MASK)

    def test_a_pair_that_php_ignores_is_masked_too(self) -> None:
        for body in (b"auth[access_token]=first-one&auth=x", b"x=1\0&access_token=hidden-one"):
            shown = Masker.of(recording(body)).body(body)
            assert "-one" not in shown

    def test_bytes_that_are_no_utf8_are_shown_escaped(self) -> None:
        assert Masker([]).body(b"a=\xcd&token=\xce") == f"a=\\xcd&token={MASK}"

    def test_headers_that_are_secret_by_name_are_masked(self) -> None:
        headers = [("Authorization", "Bearer abcdef123"), ("COOKIE", "a=1"), ("X-Api-Key", "k"), ("Host", "h")]
        masked = Masker.of(recording(b"", headers=tuple(headers))).headers(headers)
        assert masked == [("Authorization", MASK), ("COOKIE", MASK), ("X-Api-Key", MASK), ("Host", "h")]

    def test_the_query_of_a_target_is_masked_and_its_path_stays(self) -> None:
        target = "/install.php?DOMAIN=d&APP_SID=078b138d&AUTH_ID=%41bcdefgh&x=1"
        shown = Masker.of(recording(b"", target)).target(target)
        assert shown == f"/install.php?DOMAIN=d&APP_SID={MASK}&AUTH_ID={MASK}&x=1"

    def test_a_target_without_a_query_stays(self) -> None:
        assert Masker([]).target("/b24/token=x") == "/b24/token=x"

    def test_other_values_stay_what_they_are(self) -> None:
        assert Masker([]).value({"n": 5, "none": None, "token": 5}) == {"n": 5, "none": None, "token": 5}


# Values of the kinds that tokens are made of: hex, base64 in both alphabets, and anything at all.
tokens = (
    st.text("0123456789abcdef", min_size=6, max_size=40)
    | st.text("ABCxyz019+/=", min_size=6, max_size=40)
    | st.text("ABCxyz019-_.~", min_size=6, max_size=40)
    | st.text(st.characters(codec="utf-8", exclude_categories=("Cc",)), min_size=6, max_size=20)
)


class TestByValue:
    @given(tokens, st.text(" ,;\n", max_size=3), st.text(" ,;\n", max_size=3))
    def test_a_secret_that_a_handler_repeats_is_masked(self, secret: str, before: str, after: str) -> None:
        body = form.encode({"auth": {"access_token": secret}})
        masker = Masker.of(recording(body))
        spellings = {
            "as it is": secret,
            "in a query": quote_plus(secret),
            "in a path": quote(secret, safe=""),
            "in JSON": json.dumps(secret),
            "in JSON with Cyrillic readable": json.dumps(secret, ensure_ascii=False),
            "in JSON from PHP": json.dumps(secret).replace("/", "\\/"),
            "in JSON from PHP with Cyrillic readable": json.dumps(secret, ensure_ascii=False).replace("/", "\\/"),
        }
        for where, spelled in spellings.items():
            shown = masker.text(before + spelled + after)
            assert MASK in shown, where
            assert spelled.strip('"') not in shown, where

    @pytest.mark.parametrize("secret", ["ab/cd+ef==", "a&b<c>d\"e'f", "токен-на-русском", "100%-secret"])
    def test_a_secret_with_signs_in_it_is_masked_in_a_php_handlers_json(self, secret: str) -> None:
        masker = Masker([secret])
        escaped = json.dumps(secret).replace("/", "\\/")
        assert masker.text(f'{{"token":{escaped}}}') == f'{{"token":"{MASK}"}}'

    def test_percent_signs_in_small_letters_are_no_way_around(self) -> None:
        shown = Masker(["ab/cd+ef=="]).text("ab%2fcd%2bef%3d%3d")
        assert shown == MASK

    def test_the_longer_of_two_secrets_goes_first(self) -> None:
        assert Masker(["abcdef", "abcdef123"]).text("abcdef123 abcdef") == f"{MASK} {MASK}"

    def test_a_short_value_is_not_hunted_in_other_text(self) -> None:
        assert Masker(["12"]).text("2012") == "2012"

    def test_megabytes_under_a_secrets_name_are_masked_by_name_only_and_keep_no_token_from_being_masked(
        self,
    ) -> None:
        long = "0123456789" * 300_000
        body = f"key={long}&access_token=abcdef123".encode()
        masker = Masker.of(recording(body))
        assert masker.body(body) == f"key={MASK}&access_token={MASK}"
        assert masker.text(f"abcdef123 {long}") == f"{MASK} {long}"

    def test_a_token_of_a_hundred_thousand_characters_is_still_looked_for(self) -> None:
        token = "0123456789" * 10_000
        assert Masker([token]).text(f"got {token}") == f"got {MASK}"
        assert Masker([token, "abcdef"]).text(f"abcdef {token}") == f"{MASK} {token}"

    def test_without_secrets_text_stays(self) -> None:
        assert Masker([]).text("anything [masked] at all") == "anything [masked] at all"

    def test_a_secret_of_the_query_is_masked_in_the_body(self) -> None:
        one = recording(b"note=the+token+is+abcdef123", "/x?access_token=abcdef123")
        assert Masker.of(one).body(one.body) == f"note=the+token+is+{MASK}"

    def test_a_secret_header_is_masked_where_a_handler_repeats_it(self) -> None:
        one = recording(b"", headers=(("Authorization", "Bearer abcdef123456"),))
        assert "abcdef123456" not in Masker.of(one).text("got Bearer abcdef123456")

    def test_a_token_is_masked_without_the_scheme_that_it_came_with(self) -> None:
        one = recording(b"", headers=(("Authorization", "Bearer abcdef123456"),))
        assert Masker.of(one).text("got abcdef123456") == f"got {MASK}"

    @given(st.binary(max_size=200))
    def test_any_body_can_be_shown(self, body: bytes) -> None:
        masker = Masker.of(recording(body))
        assert isinstance(masker.body(body), str)
        masker.value(form.parse(body))


def test_a_body_beyond_the_codecs_bound_can_be_shown_too(monkeypatch: pytest.MonkeyPatch) -> None:
    body = b"a=1&b=2&c=3&access_token=abcdef123"
    monkeypatch.setattr(form, "MAX_PARAMETERS", 3)
    assert "abcdef123" not in Masker.of(recording(body)).body(body)


SHOWN = "s3cr3tvalue-of-it"


class TestWhatIsNoForm:
    """A handler's answer, or a delivery of another type: nothing of it is known beforehand."""

    @pytest.mark.parametrize(
        "text",
        [
            '{"auth":{"access_token":"%s","expires":"1"}}',
            '{"refresh_token" : "%s"}',
            '{"key": "%s"}',
            "Array\n(\n    [access_token] => %s\n    [expires] => 1\n)",
            "array (\n  'application_token' => '%s',\n)",
            "{'access_token': '%s', 'ID': '7'}",
            '["access_token"]=>\n  string(17) "%s"',
            's:12:"access_token";s:17:"%s";',
            "&quot;access_token&quot;:&quot;%s&quot;",
            "<td>access_token</td><td>%s</td>",
            "<access_token>%s</access_token>",
            '{\\"access_token\\":\\"%s\\"}',
            "https://h/?auth=%s&a=1",
            "https://p/rest/1/%s/crm.deal.get",
            "Authorization: Bearer %s",
            "auth%%255Baccess_token%%255D=%s",
            "event=A&auth%%5Baccess_token%%5D=%s&ID=7",
            "event=A&auth[access_token]=%s&ID=7",
        ],
    )
    def test_a_secret_that_nobody_knew_is_masked_by_its_name(self, text: str) -> None:
        shown = Masker(()).text(text % SHOWN)
        assert SHOWN not in shown
        assert shown.replace('"[masked]"', '"%s"').replace(MASK, "%s") == text.replace("%%", "%")

    def test_what_is_no_secret_stays(self) -> None:
        for text in ('{"ID":"7","monkey":"x","tokens":3}', "key: value", "[ID] => 7", "expires_in=3600"):
            assert Masker(()).text(text) == text

    def test_a_delivery_in_json_is_masked(self) -> None:
        body = json.dumps({"event": "A", "auth": {"access_token": SHOWN}, "data": {"ID": "7"}}).encode()
        shown = Masker.of(recording(body)).body(body)
        assert SHOWN not in shown
        assert '"ID": "7"' in shown

    def test_a_delivery_in_parts_is_masked(self) -> None:
        body = (
            b'--b\r\nContent-Disposition: form-data; name="auth[application_token]"\r\n\r\n354\r\n'
            b'--b\r\nContent-Disposition: form-data; name="data[ID]"\r\n\r\n7\r\n--b--\r\n'
        )
        shown = Masker.of(recording(body)).body(body)
        assert "354" not in shown
        assert shown == body.decode().replace("354", MASK)

    @pytest.mark.parametrize(
        "body",
        [
            '{"auth": {"access_token": "%s"}}',
            '\ufeff\r\n [{"auth": {"token": {"deeper": ["%s"]}}}]',
            '{"auth": {"key": "%s"}, "auth": {}}',
            '{"key": "%s", "key": ""}',
            '--b\r\nContent-Disposition: form-data; name="auth[key]"\r\nX: y\r\n\r\n%s\r\n--b--\r\n',
            '--b\nContent-Disposition: form-data; name="KEY"\n\n%s\n--b--\n',
        ],
    )
    def test_a_secret_of_a_delivery_that_is_no_form_is_masked_wherever_it_turns_up(self, body: str) -> None:
        masker = Masker.of(recording((body % SHOWN).encode()))
        assert masker.text(f"got {SHOWN}!") == f"got {MASK}!"
        assert SHOWN not in masker.body((body % SHOWN).encode())

    def test_a_secret_number_of_json_is_masked_wherever_it_turns_up(self) -> None:
        assert Masker.of(recording(b'{"password": 12345678}')).text("got 12345678") == f"got {MASK}"

    @pytest.mark.parametrize(
        "body",
        [
            b'{"ID": "%s"}',
            b'["%s"]',
            b'--b\r\nContent-Disposition: form-data; name="ID"\r\n\r\n%s\r\n--b--\r\n',
            b'{"key": "%s"',
            b'\xff{"key": "%s"}',
            b"--",
            b"[" * 100_000,
            b'{"key": ' + b"[" * 100_000,
        ],
    )
    def test_what_has_no_secret_or_cannot_be_read_makes_none(self, body: bytes) -> None:
        masker = Masker.of(recording(body.replace(b"%s", SHOWN.encode())))
        assert masker.text(f"got {SHOWN}") == f"got {SHOWN}"

    def test_an_address_is_shown_without_its_user_and_its_keys(self) -> None:
        assert shown_url(f"http://me:{SHOWN}@h:8000/p?api_key={SHOWN}&a=1") == (
            f"http://{MASK}@h:8000/p?api_key={MASK}&a=1"
        )

    @pytest.mark.parametrize("before", ["", "a", "ab", "event=A&auth[access_token]="])
    @pytest.mark.parametrize("after", ["", "&", "&ID=7"])
    def test_a_known_secret_is_masked_in_base64_too(self, before: str, after: str) -> None:
        answer = base64.b64encode(f"{before}{SHOWN}{after}".encode()).decode()
        assert MASK in Masker([SHOWN]).text(answer)

    def test_a_known_secret_is_masked_in_other_letters_and_where_an_answer_was_cut(self) -> None:
        masker = Masker([SHOWN])
        assert masker.text(SHOWN.upper()) == MASK
        assert masker.cut_text(f"got {SHOWN[:-1]}") == f"got {MASK}"
        assert masker.cut_text("got nothing") == "got nothing"
