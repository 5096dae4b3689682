"""One REST call to a portal, as any program makes it."""

from __future__ import annotations

import json
import urllib.request
from typing import Any


def rest(credentials: dict[str, Any], method: str, **params: Any) -> Any:
    """The ``result`` of a call with JSON parameters; ``credentials`` are those that the sandbox prints."""
    data = json.dumps({**params, "auth": credentials["access_token"]}).encode()
    request = urllib.request.Request(
        credentials["client_endpoint"] + method, data, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)["result"]
