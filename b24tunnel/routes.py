"""Which events go to which handlers: ``[[routes]]`` in the settings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from b24tunnel.errors import WrongUsage
from b24tunnel.event import code_is_one_of

MOST_ROUTES = 100


@dataclass(frozen=True)
class Route:
    """Events whose code is one of ``events``, codes or globs in any case, go ``to`` a handler's URL.

    Raises `WrongUsage` where there are no events, or the URL is none.
    """

    events: tuple[str, ...]
    to: str

    def __post_init__(self) -> None:
        from b24tunnel.forward import check_handler_url

        if not self.events or not all(event.strip() for event in self.events):
            raise WrongUsage('a route without events gets nothing: name codes or globs, or events = ["*"].')
        object.__setattr__(self, "to", check_handler_url(self.to))

    def wants(self, code: str | None) -> bool:
        """Whether an event of this code goes there. What has no code goes where everything goes: to ``*``."""
        return code_is_one_of(code, self.events)


def read_routes(tables: Any, where: str) -> tuple[Route, ...]:
    """``[[routes]]`` as a file has them, a route for each URL. Raises `WrongUsage`, naming ``where``."""
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise WrongUsage(f"{where}: each of the routes is a table of its own, which begins with [[routes]].")
    routes: list[Route] = []
    for number, table in enumerate(tables, start=1):
        try:
            routes.extend(_routes(table))
        except WrongUsage as error:
            raise WrongUsage(f"[[routes]] number {number} in {where}: {error}") from error
    if len(routes) > MOST_ROUTES:
        raise WrongUsage(f"{where} has {len(routes)} routes, and {MOST_ROUTES} is the most: join some of them.")
    return tuple(routes)


def _routes(table: dict[str, Any]) -> Iterator[Route]:
    from b24tunnel.settings.tables import check_keys

    check_keys(table, ("events", "to"), "it")
    for key in ("events", "to"):
        if key not in table:
            raise WrongUsage(f"it lacks {key}.")
    events, to = table["events"], table["to"]
    if not isinstance(events, list) or not all(isinstance(event, str) for event in events):
        raise WrongUsage('events is a list of codes or globs, such as events = ["ONCRM*"].')
    urls = [to] if isinstance(to, str) else to
    if not isinstance(urls, list) or not urls or not all(isinstance(url, str) for url in urls):
        raise WrongUsage('to is the URL of a handler, or a list of such, as in to = "http://127.0.0.1:8000/crm".')
    for url in urls:
        yield Route(tuple(events), url)
