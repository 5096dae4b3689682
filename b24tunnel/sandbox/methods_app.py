"""app.info, profile, scope, method.get and feature.get. Pages of the same names in the REST documentation."""

from collections.abc import Callable
from typing import Any

from .answers import Refusal, access_denied
from .calls import Call, Method
from .store import all_scopes


def info(call: Call) -> dict[str, Any]:
    """The application: its code, version, whether its installation is finished, the portal's plan."""
    if call.token is None:
        raise access_denied("Application context required")
    return {
        "ID": call.app.number,
        "CODE": call.app.client_id,
        "VERSION": 1,
        "STATUS": "L",
        "INSTALLED": call.portal.installed,
        "PAYMENT_EXPIRED": "N",
        "DAYS": None,
        "LANGUAGE_ID": "en",
        "LICENSE": "en_sandbox",
        "LICENSE_TYPE": "sandbox",
        "LICENSE_FAMILY": "sandbox",
    }


def profile(call: Call) -> dict[str, Any]:
    """The user on whose behalf the call is made."""
    return {
        "ID": str(call.user_id),
        "ADMIN": call.portal.admin,
        "NAME": "Sandbox",
        "LAST_NAME": "User",
        "PERSONAL_GENDER": "",
        "TIME_ZONE": "",
    }


def scope(call: Call) -> list[str]:
    """The application's scopes; with ``full`` all that the portal has."""
    return list(all_scopes() if call.yes("full") else call.portal.scopes)


def feature(call: Call) -> dict[str, str]:
    """Whether the portal's plan has a feature."""
    code = call.text("code")
    if not code:
        raise Refusal("CODE_EMPTY", "CODE can't be empty")
    features = {
        "rest_offline_extended": call.portal.offline_extended,
        "rest_auth_connector": call.portal.auth_connectors,
    }
    return {"value": "Y" if features.get(code) else "N"}


def method_get(find: Callable[[str], Method | None]) -> Callable[[Call], dict[str, bool]]:
    """``method.get`` over the table of methods that ``find`` looks into."""

    def run(call: Call) -> dict[str, bool]:
        method = find(call.text("name"))
        available = method is not None and call.portal.has_scope(method.scope)
        return {"isExisting": method is not None, "isAvailable": available}

    return run


METHODS = {
    "app.info": Method(info),
    "profile": Method(profile),
    "scope": Method(scope),
    "feature.get": Method(feature),
}
