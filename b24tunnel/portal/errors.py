"""What a portal can answer instead of a result, in one sentence each; no token ever gets into one."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable

from b24tunnel.errors import OutsideFailure
from b24tunnel.portal.oauth import BY_CODE

_LOGIN = "store fresh tokens for the portal {portal} with `b24tunnel portal login {portal}`"

# Code → (what it means, what to do). From the documentation pages "System errors", "Error codes" (OAuth),
# "Limits" and "event.bind"; the keys are compared without regard to case.
_MEANINGS: dict[str, tuple[str, str]] = {
    "EXPIRED_TOKEN": ("the access token has expired and could not be renewed", _LOGIN),
    "NO_AUTH_FOUND": ("the portal does not know this access token", _LOGIN),
    "INVALID_TOKEN": ("the portal does not accept this access token", _LOGIN),
    "INVALID_GRANT": ("the refresh token is spent, expired (180 days) or of another application", _LOGIN),
    "INVALID_CLIENT": (
        "the client_id or client_secret is wrong",
        "compare them with the application's page on the portal and store the right ones with `b24tunnel portal "
        "add {portal} --replace`",
    ),
    "INVALID_REQUEST": (
        "the request lacks something, or came over http where https is required",
        "check that the portal's endpoints start with https://",
    ),
    "INVALID_SCOPE": (
        "the application asks for a scope that it does not have",
        "add the scope in the application's settings on the portal",
    ),
    "INSUFFICIENT_SCOPE": (
        "the application lacks the scope that this call needs",
        "add the scope in the application's settings on the portal, then " + _LOGIN,
    ),
    "INVALID_CREDENTIALS": (
        "the user of these credentials may not make this call",
        "use an administrator's authorisation: " + _LOGIN,
    ),
    "USER_ACCESS_ERROR": (
        "the user has no access to this application",
        "give the user access in the application's settings, or " + _LOGIN + " as another user",
    ),
    "ACCESS_DENIED": (
        "the user's rights or the portal's plan do not allow this call",
        "use an administrator's authorisation, and check that the portal's plan includes the REST API",
    ),
    "WRONG_AUTH_TYPE": (
        "this call needs an application's token, and an incoming webhook has none",
        "create a local application on the portal and store its credentials",
    ),
    "WRONG_LICENSE": (
        "the portal's plan does not include this feature",
        "do without the feature or change the plan",
    ),
    "PAYMENT_REQUIRED": (
        "the application's subscription or trial period has ended",
        "renew it on the portal",
    ),
    "APPLICATION_NOT_FOUND": (
        "the application is not installed on this portal",
        "install it there, then " + _LOGIN,
    ),
    "AUTHORIZATION_ERROR": ("the portal could not check the authorisation", _LOGIN),
    "CONNECTION_ERROR": (
        "the portal could not reach its authorisation server",
        "try again in a minute",
    ),
    "ERROR_EVENT_NOT_FOUND": (
        "there is no such event, or the application lacks the scope that the event belongs to",
        "see `b24tunnel events` for the scope, and add it in the application's settings on the portal",
    ),
    "ERROR_WRONG_HANDLER_URL": (
        "the handler's address has no host that Bitrix24 accepts: it must hold a dot, so localhost is out",
        "use the tunnel's public address",
    ),
    "ERROR_UNSUPPORTED_PROTOCOL": (
        "the handler's address is neither http:// nor https://",
        "use the tunnel's public address",
    ),
    "ERROR_CORE": ("the portal refused", "its own words say why"),
    "ERROR_ARGUMENT": ("a parameter is missing or wrong", "check the parameters of this call"),
    "ERROR_METHOD_NOT_FOUND": (
        "the portal has no such method, or the application lacks its scope",
        "check the method's name and the application's scopes",
    ),
    "ERROR_BATCH_METHOD_NOT_ALLOWED": ("this method cannot be part of a batch", "call it on its own"),
    "QUERY_LIMIT_EXCEEDED": (
        "too many calls to this portal from this address in a short time, also after waiting",
        "stop other programs that call it, and try again in a minute",
    ),
    "OVERLOAD_LIMIT": (
        "the portal has blocked REST calls because of overload",
        "write to Bitrix24's support if it does not pass",
    ),
    "OPERATION_TIME_LIMIT": (
        "the calls of this method have used up their time budget for ten minutes",
        "wait ten minutes",
    ),
    "INTERNAL_SERVER_ERROR": ("the portal failed inside", "try again in a minute"),
    # Answers that are none of Bitrix24's; the codes are this tool's own.
    "NOT_JSON": (
        "the answer is not the REST interface's",
        "check client_endpoint, and whether a proxy, a login page or a closed portal answers there",
    ),
    "ANSWER_TOO_LARGE": ("the answer is larger than this tool reads", "ask for less in one call"),
    "REDIRECTED": (
        "the answer leads elsewhere, and a token is not sent there unasked",
        "if the portal has a new address, store that one",
    ),
    "UNEXPECTED_ANSWER": ("the answer does not have the documented shape", "check client_endpoint"),
    "OTHER_APPLICATION": (
        "the tokens are another application's than that of the stored client_id",
        "compare the client_id of `b24tunnel portal show {portal}` with the application's page on the portal",
    ),
    "NO_REFRESH": (
        "the access token has expired, and refresh_token, client_id, client_secret or server_endpoint is not "
        "stored",
        _LOGIN,
    ),
}

# What is different where a sign-in's code is spent and not a refresh token.
_OF_CODES: dict[str, tuple[str, str]] = {
    "INVALID_GRANT": (
        "the code is spent, older than 30 seconds or of another application",
        "sign in anew with `b24tunnel portal login {portal}`",
    ),
    "INVALID_REQUEST": (
        "the authorisation server misses something in the request",
        "check the portal's client_id with `b24tunnel portal show {portal}`",
    ),
    "INSUFFICIENT_SCOPE": (
        "the application asks for more than it may",
        "compare the scopes in the application's settings on the portal, then sign in anew",
    ),
    "EXPIRED_TOKEN": (
        "the code is older than 30 seconds",
        "sign in anew with `b24tunnel portal login {portal}`",
    ),
}

_OWN_CODES = ("NOT_JSON", "ANSWER_TOO_LARGE", "REDIRECTED", "UNEXPECTED_ANSWER", "OTHER_APPLICATION", "NO_REFRESH")
_LONGEST_DESCRIPTION = 300
_LONGEST_CODE = 64


class _CallFailure(OutsideFailure):
    """A call that failed, in one sentence that names the call."""

    def __init__(self, portal: str, method: str, outcome_unknown: bool) -> None:
        self.portal = portal
        self.method = method
        self.outcome_unknown = outcome_unknown
        self.subject = ""
        super().__init__(self._sentence())

    def name_subject(self, subject: str) -> None:
        """Say in the sentence which event the call was about: ``event.bind of ONCRMDEALADD``."""
        self.subject = _clean(subject, (), _LONGEST_CODE)
        self.args = (self._sentence(),)

    @abstractmethod
    def _sentence(self) -> str: ...


class PortalError(_CallFailure):
    """A portal (or its authorisation server) answered a call with an error, or with no proper answer.

    ``code`` is Bitrix24's (``expired_token``), ``HTTP_502`` and the like for an answer without one, or one
    of ``NOT_JSON``, ``ANSWER_TOO_LARGE``, ``REDIRECTED``, ``UNEXPECTED_ANSWER``, ``OTHER_APPLICATION`` and
    ``NO_REFRESH``.
    ``description`` is the portal's own text without secrets, ``status`` the HTTP status (0: no answer),
    ``method`` the REST method (``oauth/token`` for a refresh, ``oauth/token (code)`` for a sign-in), ``portal``
    the portal's name.
    ``subject`` is the event that the call was about, if there was one. ``outcome_unknown`` says that the
    call may have taken effect all the same.
    """

    def __init__(
        self,
        *,
        portal: str,
        method: str,
        code: str,
        description: str = "",
        status: int = 0,
        secrets: Iterable[str] = (),
        outcome_unknown: bool = False,
    ) -> None:
        secrets = tuple(secrets)
        self.code = _clean(code, secrets, _LONGEST_CODE)
        self.description = _clean(description, secrets, _LONGEST_DESCRIPTION)
        self.status = status
        super().__init__(portal, method, outcome_unknown)

    def _sentence(self) -> str:
        meaning, advice = _meaning(self.code, self.status, self.method)
        own = self.code in _OWN_CODES or self.code.startswith("HTTP_")
        what = f"HTTP {self.status}" if own else self.code or "the error"
        answered = f"was answered with {what}" if self.status or not own else "was not made"
        quoted = f' "{self.description}"' if self.description else ""
        advice = advice.format(portal=self.portal)
        call = _call(self.method, self.subject)
        return f"{call} on the portal {self.portal} {answered}{quoted}: {meaning}; {advice}"

    def __repr__(self) -> str:
        return f"<PortalError {self.code} for {self.method} on {self.portal}>"


class PortalUnreachable(_CallFailure):
    """The network failed between here and a portal (or its authorisation server).

    ``address`` is ``host:port``, ``reason`` a few words, ``method`` and ``portal`` as in ``PortalError``.
    ``outcome_unknown`` says that the call may have reached the portal; it is false where the connection
    was never made. ``subject`` is as in ``PortalError``.
    """

    def __init__(
        self,
        *,
        portal: str,
        method: str,
        address: str,
        reason: str,
        secrets: Iterable[str] = (),
        outcome_unknown: bool,
    ) -> None:
        self.address = address
        self.reason = _clean(reason, tuple(secrets), _LONGEST_DESCRIPTION)
        super().__init__(portal, method, outcome_unknown)

    def _sentence(self) -> str:
        effect = "; the call may have taken effect all the same" if self.outcome_unknown else ""
        return (
            f"{_call(self.method, self.subject)} on the portal {self.portal} got no answer from {self.address}: "
            f"{self.reason}{effect}; check the network and the portal's address, and try again"
        )

    def __repr__(self) -> str:
        return f"<PortalUnreachable {self.address} for {self.method} on {self.portal}>"


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """``text`` with every one of ``secrets`` replaced by ``[secret]``."""
    # The longest first: one secret may be the beginning of another.
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "[secret]")
    return text


def _call(method: str, subject: str) -> str:
    return f"{method} of {subject}" if subject else method


def _clean(text: str, secrets: tuple[str, ...], longest: int) -> str:
    """A stranger's text made fit for one line of a terminal: no secrets, no control characters, not long."""
    text = without_secrets(text, secrets)
    text = re.sub(r"\s+", " ", text).strip()
    text = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _meaning(code: str, status: int, method: str) -> tuple[str, str]:
    if not code:
        return "the portal refused", "its own words say why"
    found = (_OF_CODES.get(code.upper()) if method == BY_CODE else None) or _MEANINGS.get(code.upper())
    if found is not None:
        return found
    if code.startswith("HTTP_") and status < 500:
        return _MEANINGS["NOT_JSON"]
    if status >= 500:
        return "the portal failed or is being maintained", "try again in a minute"
    return "this tool does not know the code", "look it up on the method's page in the Bitrix24 documentation"
