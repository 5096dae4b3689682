"""What a user reads when a portal refuses: one sentence with the call, the code, its meaning and a way out."""

import pytest

from b24tunnel.errors import OutsideFailure
from b24tunnel.portal.errors import _MEANINGS, PortalError, PortalUnreachable, without_secrets

SECRETS = ("SECRET-access", "SECRET-access-and-more", "SECRET-client", "SECRET-refresh")


@pytest.mark.parametrize("code", sorted(_MEANINGS))
def test_every_known_code_becomes_one_sentence_with_a_way_out(code: str) -> None:
    error = PortalError(portal="work", method="event.bind", code=code, description="Words", status=400)
    text = str(error)
    assert text.startswith("event.bind on the portal work was answered with ")
    assert '"Words"' in text
    assert ": " in text
    assert "; " in text
    assert "{" not in text
    assert "\n" not in text
    assert error.exit_code == 3


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("expired_token", "store fresh tokens for the portal work"),
        ("NO_AUTH_FOUND", "store fresh tokens for the portal work"),
        ("invalid_grant", "refresh token"),
        ("invalid_client", "client_secret"),
        ("insufficient_scope", "scope"),
        ("ERROR_EVENT_NOT_FOUND", "lacks the scope"),
        ("ERROR_WRONG_HANDLER_URL", "localhost"),
        ("ERROR_UNSUPPORTED_PROTOCOL", "https://"),
        ("WRONG_AUTH_TYPE", "incoming webhook"),
        ("ACCESS_DENIED", "administrator"),
        ("QUERY_LIMIT_EXCEEDED", "too many calls"),
        ("OPERATION_TIME_LIMIT", "ten minutes"),
        ("OVERLOAD_LIMIT", "overload"),
        ("PAYMENT_REQUIRED", "subscription"),
        ("ERROR_METHOD_NOT_FOUND", "no such method"),
        ("HTTP_502", "try again"),
        ("HTTP_404", "client_endpoint"),
        ("SOMETHING_NEW", "documentation"),
    ],
)
def test_the_sentence_says_what_the_code_means(code: str, words: str) -> None:
    status = int(code[5:]) if code.startswith("HTTP_") else 400
    assert words in str(PortalError(portal="work", method="event.bind", code=code, status=status))


def test_a_refusal_is_told_as_it_came() -> None:
    error = PortalError(
        portal="work", method="event.bind", code="ERROR_EVENT_NOT_FOUND", description="Event not found", status=400
    )
    assert str(error) == (
        'event.bind on the portal work was answered with ERROR_EVENT_NOT_FOUND "Event not found": there is no '
        "such event, or the application lacks the scope that the event belongs to; see `b24tunnel events` for the "
        "scope, and add it in the application's settings on the portal"
    )
    assert (error.code, error.description, error.status) == ("ERROR_EVENT_NOT_FOUND", "Event not found", 400)
    assert (error.method, error.portal, error.outcome_unknown) == ("event.bind", "work", False)


def test_a_refresh_that_cannot_be_tried_was_not_answered() -> None:
    error = PortalError(portal="work", method="oauth/token", code="NO_REFRESH")
    assert "was not made" in str(error)
    assert isinstance(error, OutsideFailure)


def test_no_secret_survives_in_a_message() -> None:
    echo = " ".join(SECRETS)
    for error in (
        PortalError(portal="p", method="m", code="SECRET-client", description=echo, status=400, secrets=SECRETS),
        PortalUnreachable(
            portal="p", method="m", address="h:1", reason=echo, secrets=SECRETS, outcome_unknown=True
        ),
    ):
        everything = " ".join(map(str, (error, repr(error), error.args, vars(error))))
        assert "SECRET" not in everything
        assert "and-more" not in everything
        assert "[secret]" in everything


def test_a_strangers_text_cannot_write_on_the_terminal() -> None:
    error = PortalError(
        portal="p", method="m", code="X\x1b[2J", description="a\r\n\tb\x1b]0;title\x07\u202e", status=400
    )
    assert str(error).isprintable()
    assert "a b" in str(error)
    long = PortalError(portal="p", method="m", code="X", description="x" * 10_000_000, status=400)
    assert len(str(long)) < 600


def test_an_unreachable_portal_is_named_by_host_and_port() -> None:
    error = PortalUnreachable(
        portal="work", method="app.info", address="x.example:443", reason="refused", outcome_unknown=False
    )
    assert str(error) == (
        "app.info on the portal work got no answer from x.example:443: refused; check the network and the "
        "portal's address, and try again"
    )
    assert error.exit_code == 3


def test_an_empty_secret_hides_nothing() -> None:
    assert without_secrets("text", ["", "t"]) == "[secret]ex[secret]"
