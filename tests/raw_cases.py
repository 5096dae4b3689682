"""Real deliveries as raw bodies, each with the structure that PHP makes of it (tests/cases/)."""

import json
from pathlib import Path
from typing import Any, NamedTuple

CASES = Path(__file__).with_name("cases")


class RawCase(NamedTuple):
    """One body: `event` is its event code as sent, None where it has none."""

    name: str
    body: bytes
    event: str | None
    expect: Any
    why: str


def _load(description: Path) -> RawCase:
    case = json.loads(description.read_text("utf-8"))
    body = description.with_suffix(".txt").read_bytes()
    if "-http-" in description.stem:
        # The capture of a whole request: its body is what follows the empty line.
        body = body.partition(b"\r\n\r\n")[2]
    expect = case["expect"]
    for path, spelled in case.get("expect_bytes_hex", {}).items():
        *above, last = path.split(".")
        inner = expect
        for key in above:
            inner = inner[key]
        inner[last] = bytes.fromhex(spelled).decode("utf-8", "surrogateescape")
    return RawCase(description.stem, body, case["event"], expect, case["why"])


RAW_CASES: list[RawCase] = [_load(path) for path in sorted(CASES.glob("*.json"))]
