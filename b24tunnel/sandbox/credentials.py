"""What an application holds of the simulated portal."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Credentials:
    """What an application holds of a portal. ``expires_in`` is in seconds; ``scope`` is comma-separated."""

    client_endpoint: str
    server_endpoint: str
    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    client_id: str
    client_secret: str = field(repr=False)
    application_token: str = field(repr=False)
    domain: str
    member_id: str
    expires_in: int
    user_id: int
    scope: str

    def as_dict(self) -> dict[str, Any]:
        """The same as a dict with these names as keys."""
        return asdict(self)
