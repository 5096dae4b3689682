"""The parameters of a request, from query, form or JSON body, as one table.

Page "How to call REST methods": names at the top level are the same in either case; a token travels as
``auth``, ``access_token`` or in the Authorization header.
"""

import json
from typing import Any
from urllib.parse import urlsplit

from b24tunnel import form

from .answers import Refusal

MAX_BODY_BYTES = 1024 * 1024
MAX_NESTING = 64
TOKEN_NAMES = ("auth", "access_token")


def read(target: str, content_type: str, body: bytes) -> dict[str, Any]:
    """All parameters by lower-case name; the body's win over the query's.

    ``target``: path and query as they came. A JSON body that is broken or no object counts as absent. Raises
    ``Refusal`` for what is nested too deep or has too many parameters.
    """
    query = urlsplit(target).query.encode("utf-8", "surrogateescape")
    table = _from_form(query)
    if content_type == "application/json" or content_type.endswith("+json"):
        table.update(_from_json(body))
    else:
        table.update(_from_form(body))
    return table


def take_token(params: dict[str, Any], authorization: str) -> str:
    """Takes the token out of the parameters, or out of the Authorization header; ``""`` when there is none."""
    found = ""
    for name in TOKEN_NAMES:
        value = params.pop(name, None)
        if isinstance(value, str) and not found:
            found = value
    scheme, _, value = authorization.partition(" ")
    if not found and scheme.lower() == "bearer":
        found = value.strip()
    return found


def _from_form(text: bytes) -> dict[str, Any]:
    try:
        parsed = form.parse(text)
    except form.FormError as error:
        raise Refusal("INVALID_REQUEST", str(error)) from error
    pairs = parsed.items() if isinstance(parsed, dict) else ((str(i), v) for i, v in enumerate(parsed))
    return {name.lower(): value for name, value in pairs}


def _from_json(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body)
        # A lone surrogate is no text: PHP refuses it too, and it could not be sent on.
        json.dumps(parsed, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return {}
    if not isinstance(parsed, dict):
        return {}
    if _depth(parsed) > MAX_NESTING:
        raise Refusal("INVALID_REQUEST", f"The body is nested deeper than {MAX_NESTING} levels")
    return {name.lower(): value for name, value in parsed.items()}


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return 1 + max((_depth(item) for item in value), default=0)
    return 0
