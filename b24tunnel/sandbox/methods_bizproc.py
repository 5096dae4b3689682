"""bizproc.robot.*, bizproc.activity.* and bizproc.event.send.

Pages of the same names in the Bitrix24 REST documentation; codes and texts as the portal's bizproc module has
them.
"""

import json
import re
from typing import Any
from urllib.parse import urlsplit

from .answers import ERROR_CORE, Refusal, access_denied
from .calls import Call, Method
from .methods_events import check_handler
from .robots import MAX_ROBOTS, Robot

SCOPE = "bizproc"
INVALID = "ERROR_ACTIVITY_VALIDATION_FAILURE"


def _methods(kind: str) -> dict[str, Method]:
    activity = kind == "activity"

    def add(call: Call) -> bool:
        _application_and_admin(call)
        code = _code(call)
        handler = call.text("handler")
        check_handler(handler)
        _check_host(call, handler)
        if not call.params.get("name"):
            raise Refusal(INVALID, "Empty activity NAME!")
        for name in ("properties", "return_properties"):
            _check_properties(call, name)
        robots = call.portal.robots.registered
        key = (call.app.client_id, code)
        if key in robots:
            raise Refusal("ERROR_ACTIVITY_ALREADY_INSTALLED", "Activity or Robot already installed!")
        if len(robots) >= MAX_ROBOTS:
            raise Refusal(ERROR_CORE, f"The sandbox keeps at most {MAX_ROBOTS} robots")
        user_id, waits = call.number("auth_user_id", 0), call.yes("use_subscription")
        robots[key] = Robot(call.app.client_id, code, handler, activity, user_id, waits)
        return True

    def listing(call: Call) -> list[str]:
        _application_and_admin(call)
        mine = call.app.client_id
        robots = call.portal.robots.registered.values()
        return [robot.code for robot in robots if robot.client_id == mine and robot.activity == activity]

    def delete(call: Call) -> bool:
        _application_and_admin(call)
        key = (call.app.client_id, _code(call))
        robot = call.portal.robots.registered.get(key)
        if robot is None or robot.activity != activity:
            raise Refusal("ERROR_ACTIVITY_NOT_FOUND", "Activity or Robot not found!")
        del call.portal.robots.registered[key]
        return True

    runs = {"add": add, "list": listing, "delete": delete}
    return {f"bizproc.{kind}.{name}": Method(run, SCOPE) for name, run in runs.items()}


def send(call: Call) -> bool:
    """Takes a robot's answer. Whoever has the ``event_token`` may give it."""
    values = call.table("return_values")
    log_message = call.text("log_message")
    size = len(json.dumps(values)) + len(log_message)
    if not call.portal.robots.take_answer(call.text("event_token"), values, log_message, size):
        raise access_denied("")
    return True


def _application_and_admin(call: Call) -> None:
    if call.token is None:
        raise access_denied("Application context required")
    if not call.portal.admin:
        raise access_denied("")


def _code(call: Call) -> str:
    code = call.text("code")
    if not code:
        raise Refusal(INVALID, "Empty activity code!")
    if not re.fullmatch(r"[A-Za-z0-9._-]+", code):
        raise Refusal(INVALID, "Wrong activity code!")
    return code


def _check_host(call: Call, handler: str) -> None:
    """The handler lives on a host of the application's own addresses, where these are known."""
    own = {urlsplit(url).hostname for url in (call.portal.redirect_uri, call.portal.install_url) if url}
    if own and urlsplit(handler).hostname not in own and "localhost" not in own:
        raise Refusal("ERROR_HANDLER_URL_MATCH", "Handler URL host doesn't match application url")


def _check_properties(call: Call, name: str) -> None:
    value: Any = call.params.get(name)
    if value in (None, "", []):
        return
    if not isinstance(value, dict):
        raise Refusal(INVALID, "Wrong properties array!")
    for key, described in value.items():
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", key):
            raise Refusal(INVALID, f"Wrong property key ({key})!")
        names = {inner.upper(): text for inner, text in described.items()} if isinstance(described, dict) else {}
        if not names.get("NAME"):
            raise Refusal(INVALID, f"Empty property NAME ({key})!")


METHODS = {
    **_methods("robot"),
    **_methods("activity"),
    "bizproc.event.send": Method(send, SCOPE),
}
