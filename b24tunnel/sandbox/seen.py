"""What can be seen of a sandbox from Python: addresses, credentials, bindings, what was called and delivered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .calls import LoggedCall
from .credentials import Credentials
from .queue import Delivery, Queue
from .rest import Rest
from .robots import RobotAnswer
from .store import Binding, Portal


@dataclass(frozen=True, slots=True)
class Waiting:
    """One entry of the queue of offline events, as ``Sandbox.offline`` shows it.

    ``process_id``: the batch that reserved it, ``""`` while it is free. ``error``: it was marked as failed.
    """

    code: str
    data: Any
    process_id: str
    connector: str
    message_id: str
    error: bool


class Seen:
    """The readable side of the sandbox."""

    def __init__(self, portal: Portal, queue: Queue, rest: Rest) -> None:
        self._portal = portal
        self._queue = queue
        self._rest = rest

    @property
    def url(self) -> str:
        """``http://host:port``, without a slash at the end; ``""`` before the first start."""
        return self._portal.origin

    @property
    def webhook_url(self) -> str:
        """An incoming webhook's address, to be followed by a method's name."""
        return f"{self.url}/rest/{self._portal.user_id}/{self._portal.webhook_secret}/"

    @property
    def devops_url(self) -> str:
        """The page "Developer resources", where a person sets up the application and outgoing webhooks."""
        return f"{self.url}/devops/"

    @property
    def credentials(self) -> Credentials:
        """What our application holds: the pair of tokens that the token endpoint gave out last."""
        portal = self._portal
        return Credentials(
            client_endpoint=f"{portal.origin}/rest/",
            server_endpoint=f"{portal.origin}/rest/",
            access_token=portal.pair.access.value,
            refresh_token=portal.pair.refresh,
            client_id=portal.own.client_id,
            client_secret=portal.own.client_secret,
            application_token=portal.own.application_token,
            domain=portal.domain,
            member_id=portal.member_id,
            expires_in=portal.tokens.life,
            user_id=portal.user_id,
            scope=portal.scope,
        )

    @property
    def bindings(self) -> list[Binding]:
        """All handler rows of the portal, in the order in which they were bound; a new list each time."""
        return list(self._portal.bindings)

    @property
    def offline(self) -> list[Waiting]:
        """The queue of offline events, reserved ones too, oldest change first; a new list each time."""
        return [
            Waiting(event.code, event.data, event.process_id, event.connector, event.message_id, event.error)
            for event in self._portal.offline.select(lambda event: True)
        ]

    @property
    def deliveries(self) -> list[Delivery]:
        """The last deliveries, oldest first: queued, under way, done or dropped."""
        return self._queue.deliveries()

    @property
    def calls(self) -> list[LoggedCall]:
        """The last REST calls and requests for tokens (``oauth/token``), oldest first."""
        return self._rest.calls()

    @property
    def robot_answers(self) -> list[RobotAnswer]:
        """What ``bizproc.event.send`` brought, oldest first."""
        return self._portal.robots.answers()

    def pause(self, url: str) -> float:
        """Seconds that the queue now leaves between two calls to the host of ``url``; 0 for a quick one."""
        return self._queue.pause(url)
