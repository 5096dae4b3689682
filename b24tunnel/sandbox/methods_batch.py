"""batch: up to fifty commands in one call. Page "batch"; references such as ``$result[first]`` are not read."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from b24tunnel import form

from .answers import Refusal, timing
from .calls import Call, scalar
from .params import take_token
from .tokens import Token

NAME = "batch"
MAX_COMMANDS = 50

Run = Callable[[str, Mapping[str, Any], Token | None], tuple[object, Mapping[str, int]]]


def run(call: Call, run_one: Run) -> dict[str, Any]:
    """Runs the commands in order and collects what each gave.

    ``run_one``: runs one method and gives its result and ``next`` and ``total``. With ``halt`` the first
    refusal ends it. An empty table is shown as ``[]``, as PHP shows it.
    """
    commands = call.table("cmd")
    if len(commands) > MAX_COMMANDS:
        raise Refusal("ERROR_BATCH_LENGTH_EXCEEDED", "Max batch length exceeded")
    collected: dict[str, dict[str, Any]] = {
        name: {} for name in ("result", "result_error", "result_total", "result_next", "result_time")
    }
    for key, command in commands.items():
        started = time.time()
        try:
            result, extra = _one(scalar(command), call.token, run_one)
        except Refusal as refusal:
            collected["result_error"][key] = refusal.as_json()
            if call.yes("halt"):
                break
            continue
        collected["result"][key] = result
        collected["result_time"][key] = timing(started)
        for name, value in extra.items():
            collected[f"result_{name}"][key] = value
    listed = isinstance(call.params.get("cmd"), list)
    return {name: _shown(table, listed) for name, table in collected.items()}


def never(call: Call) -> object:
    """Stands in the table of methods; a batch is run with the table at hand."""
    raise Refusal("ERROR_BATCH_METHOD_NOT_ALLOWED", "Method is not allowed for batch usage", 405)


def _one(command: str, token: Token | None, run_one: Run) -> tuple[object, Mapping[str, int]]:
    name, _, query = command.partition("?")
    name = name.strip().lower()
    if name == NAME:
        raise Refusal("ERROR_BATCH_METHOD_NOT_ALLOWED", "Method is not allowed for batch usage", 405)
    try:
        parsed = form.parse(query.encode("utf-8", "surrogateescape"))
    except form.FormError as error:
        raise Refusal("INVALID_REQUEST", str(error)) from error
    params: dict[str, Any] = {}
    if isinstance(parsed, dict):
        params = {key.lower(): value for key, value in parsed.items()}
    take_token(params, "")
    return run_one(name, params, token)


def _shown(table: dict[str, Any], listed: bool) -> Any:
    """A table as PHP's JSON shows it: keys 0…n-1 in order are a list."""
    if not table or (listed and list(table) == [str(index) for index in range(len(table))]):
        return list(table.values())
    return table
