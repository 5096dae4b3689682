"""Filling in a form of a running sandbox's page "Developer resources" from another process."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from b24tunnel import form
from b24tunnel.errors import OutsideFailure, WrongUsage
from b24tunnel.this_machine import leads_to_this_machine

from .devops import PATH

SECONDS = 30
MAX_ANSWER = 1024 * 1024


def fill_in(client_endpoint: str, fields: Mapping[str, Any]) -> str:
    """Sends a form to the sandbox whose REST address this is; gives what it led to, in words.

    Raises ``WrongUsage`` when the form is refused or the portal is no sandbox, ``OutsideFailure`` when it does
    not answer.
    """
    if not leads_to_this_machine(client_endpoint):
        raise WrongUsage("This portal is no sandbox on this machine: name one that 'b24tunnel sandbox' runs.")
    address = urlsplit(client_endpoint)
    connection = http.client.HTTPConnection(address.hostname or "", address.port or 80, timeout=SECONDS)
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
    try:
        connection.request("POST", f"{PATH}/", form.encode(dict(fields)), headers)
        answer = json.loads(connection.getresponse().read(MAX_ANSWER))
    except (OSError, http.client.HTTPException) as error:
        why = f"The sandbox at {address.netloc} does not answer ({error}): is 'b24tunnel sandbox' still running?"
        raise OutsideFailure(why) from error
    except ValueError:
        answer = None
    finally:
        connection.close()
    if isinstance(answer, dict) and "done" in answer:
        return str(answer["done"])
    if isinstance(answer, dict) and "refused" in answer:
        raise WrongUsage(str(answer["refused"]))
    raise WrongUsage(
        f"What runs at {address.netloc} is no sandbox of this version: start 'b24tunnel sandbox' anew."
    )
