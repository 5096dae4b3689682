"""Robots and workflow activities that the application registered, and how one is run.

Pages "bizproc.robot.add", "bizproc.activity.add" and "bizproc.event.send"; what is posted follows a captured
request: it has neither ``event`` nor ``data``, and its ``auth`` has a refresh token.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from b24tunnel import form
from b24tunnel.errors import WrongUsage

from . import wire
from .logs import BoundedLog

if TYPE_CHECKING:
    from .store import Portal

MAX_ROBOTS = 1_000
MAX_EVENT_TOKENS = 10_000
MAX_ANSWERS = 1_000
MAX_ANSWERS_BYTES = 16 * 1024 * 1024
TIMEOUT_DURATION = "660"


@dataclass(frozen=True, slots=True)
class Robot:
    """A registered robot or, with ``activity``, a workflow activity; both share one set of codes.

    ``user_id``: whose tokens its deliveries carry, 0 for those of the user who caused the run. ``waits``: the
    workflow waits for ``bizproc.event.send``.
    """

    client_id: str
    code: str
    handler: str
    activity: bool
    user_id: int
    waits: bool


@dataclass(frozen=True, slots=True)
class RobotAnswer:
    """What ``bizproc.event.send`` brought, as ``Sandbox.robot_answers`` shows it. ``code``: the robot's."""

    code: str
    event_token: str
    return_values: Mapping[str, Any]
    log_message: str


class Robots:
    """All robots of the portal by application and code, and what they answered."""

    def __init__(self) -> None:
        self.registered: dict[tuple[str, str], Robot] = {}
        self._tokens: OrderedDict[str, str] = OrderedDict()
        self._answers: BoundedLog[RobotAnswer] = BoundedLog(MAX_ANSWERS, MAX_ANSWERS_BYTES)

    def answers(self) -> list[RobotAnswer]:
        """What robots answered, oldest first."""
        return self._answers.entries()

    def take_answer(self, event_token: str, return_values: Mapping[str, Any], log_message: str, size: int) -> bool:
        """Remembers an answer of about ``size`` bytes; False when nobody was sent this ``event_token``."""
        code = self._tokens.get(event_token)
        if code is None:
            return False
        self._answers.append(RobotAnswer(code, event_token, return_values, log_message), size)
        return True

    def run(self, portal: Portal, code: str, properties: Mapping[str, Any]) -> int:
        """Queues the delivery of one run on a deal; gives how many: 0 before the installation is finished.

        Raises ``WrongUsage`` for a robot that the application has not registered, or for too big properties.
        """
        robot = self.registered.get((portal.own.client_id, code))
        if robot is None:
            raise WrongUsage(f"No robot {code} is registered: register it with bizproc.robot.add first.")
        try:
            wire.check_size(properties)
        except wire.TooBig as error:
            raise WrongUsage(f"The robot {code} was not run: {error}.") from error
        if not portal.installed:
            return 0
        workflow_id = f"{secrets.token_hex(7)}.{secrets.randbelow(10**8):08d}"
        numbers = [str(secrets.randbelow(90_000) + 10_000) for _ in range(4)]
        event_token = f"{workflow_id}|A{'_'.join(numbers)}|{secrets.token_urlsafe(24)}.{secrets.token_hex(32)}"
        self._tokens[event_token] = robot.code
        if len(self._tokens) > MAX_EVENT_TOKENS:
            self._tokens.popitem(last=False)
        head = form.encode(
            {
                "workflow_id": workflow_id,
                "code": robot.code,
                "document_id": ["crm", "CCrmDocumentDeal", "DEAL_1"],
                "document_type": ["crm", "CCrmDocumentDeal", "DEAL"],
                "event_token": event_token,
                "properties": wire.as_wire(properties),
                "use_subscription": "Y" if robot.waits else "N",
                "timeout_duration": TIMEOUT_DURATION,
                "ts": str(int(time.time())),
            }
        )

        def tail() -> bytes:
            user_id = robot.user_id or portal.user_id
            pair = portal.tokens.travelling(portal.own, user_id, 1, with_refresh=True)
            return wire.tail(_ordered(wire.auth_of_user(pair, True, portal.tokens.life, portal.scope, system)))

        system = wire.auth_of_nobody(portal.own, portal.origin, portal.domain, portal.member_id)
        return int(portal.queue.put(robot.code, 0, robot.handler, head, tail))


def _ordered(auth: Mapping[str, str]) -> dict[str, str]:
    """The keys in the order of the captured request."""
    order = (
        *("access_token", "refresh_token", "expires", "expires_in", "server_endpoint", "client_endpoint"),
        *("scope", "status", "application_token", "domain", "member_id", "user_id"),
    )
    return {name: auth[name] for name in order}
