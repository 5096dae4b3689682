"""The page "Developer resources": where a person sets up the local application and outgoing webhooks by hand.

Two forms stand for other pages of the portal: one finishes the installation, one runs a robot. Who asks for JSON
gets what a form led to as ``{"done": …}`` or ``{"refused": …}``. The page shows secrets, so it answers only under
the sandbox's own host, takes no form from another site and may be framed by none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from b24tunnel.catalogue.bindable import bindable_codes
from b24tunnel.errors import WrongUsage

from . import applications
from .answers import Refusal
from .calls import scalar
from .store import Portal

PATH = "/devops"
FINISH = """<form method="post"><input type="hidden" name="form" value="installation">
<button>Finish the installation, as BX24.installFinish does</button></form>"""
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; "
        "base-uri 'none'"
    ),
    # "no-referrer" would make browsers send "Origin: null" with the page's own forms.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back: HTTP status, content type, text."""

    status: int
    content_type: str
    text: str


def answer(
    portal: Portal, method: str, headers: Mapping[str, str], params: Callable[[], dict[str, Any]]
) -> Answer:
    """Shows the page or carries a form out. ``params``: gives the form's fields, or raises ``Refusal``."""
    host = headers.get("Host", "")
    if host not in (portal.domain, f"localhost:{portal.domain.rpartition(':')[2]}"):
        return _page(403, "<p>This page answers under the sandbox's own address only.</p>")
    if method != "POST":
        return _page(200, _body(portal))
    site = headers.get("Sec-Fetch-Site", "same-origin")
    if headers.get("Origin", f"http://{host}") != f"http://{host}" or site not in ("same-origin", "none"):
        return _page(403, "<p>Another site may not fill in these forms.</p>")
    try:
        status, word, told = 200, "done", _carry_out(portal, params())
    except (Refusal, WrongUsage) as error:
        status, word = 400, "refused"
        told = error.description if isinstance(error, Refusal) else str(error)
    if headers.get("Accept") == "application/json":
        return Answer(status, "application/json", json.dumps({word: told}))
    return _page(status, f'<p class="{word}">{escape(told)}</p>{_body(portal)}')


def _carry_out(portal: Portal, fields: dict[str, Any]) -> str:
    handler = scalar(fields.get("handler")).strip()
    match scalar(fields.get("form")):
        case "application":
            install = scalar(fields.get("install")).strip()
            api_only = bool(scalar(fields.get("api_only")))
            applications.save(portal, handler, install, api_only)
            if not api_only:
                return "Saved. The installation is finished once the application calls BX24.installFinish."
            return "Saved and installed." + (" ONAPPINSTALL is on its way." if install else "")
        case "webhook":
            codes = bindable_codes(scalar(fields.get("events")).replace(",", " ").split())
            if not codes:
                raise WrongUsage("An outgoing webhook needs at least one event.")
            webhook = applications.add_webhook(portal, handler, codes)
            return f"Saved. The webhook's application token is {webhook.application_token}"
        case "installation":
            if portal.installed:
                return "The installation was finished before."
            applications.finish_installation(portal)
            return "The installation is finished."
        case "robot":
            properties = fields.get("properties")
            run = portal.robots.run(
                portal, scalar(fields.get("code")).strip(), properties if isinstance(properties, dict) else {}
            )
            return (
                "The robot's request is on its way."
                if run
                else "Nothing is sent before the installation is finished."
            )
        case other:
            raise WrongUsage(f"There is no form {other!r}: use application, webhook, installation or robot.")


def _body(portal: Portal) -> str:
    shown = {
        "Domain": portal.domain,
        "member_id": portal.member_id,
        "Application ID (client_id)": portal.own.client_id,
        "Application key (client_secret)": portal.own.client_secret,
        "Scope": portal.scope,
        "Installation": "finished" if portal.installed else "not finished: nothing is delivered",
    }
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in shown.items())
    return f"<h2>This portal</h2><dl>{facts}</dl>{_application(portal)}{_webhooks(portal)}{_robots(portal)}"


def _application(portal: Portal) -> str:
    return f"""<h2>Local application</h2><form method="post">
<input type="hidden" name="form" value="application">
<label>Your handler's address <input name="handler" value="{escape(portal.redirect_uri)}"></label>
<label>Initial installation path <input name="install" value="{escape(portal.install_url)}"></label>
<label><input type="checkbox" name="api_only" value="Y" checked> Uses the API only</label>
<button>Save</button></form>{"" if portal.installed else FINISH}"""


def _webhooks(portal: Portal) -> str:
    rows = ""
    for client_id, webhook in portal.webhooks.items():
        bound = [row for row in portal.bindings if row.client_id == client_id]
        handler = bound[0].handler if bound else ""
        cells = (handler, " ".join(row.event for row in bound), webhook.application_token)
        rows += "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
    heads = "<tr><th>Handler</th><th>Events</th><th>Application token</th></tr>"
    table = f"<table>{heads}{rows}</table>" if rows else ""
    return f"""<h2>Outgoing webhooks</h2>{table}<form method="post">
<input type="hidden" name="form" value="webhook">
<label>Your handler's address <input name="handler"></label>
<label>Events <input name="events" placeholder="ONCRMDEALADD ONCRMDEALUPDATE"></label>
<button>Add</button></form>"""


def _robots(portal: Portal) -> str:
    codes = [robot.code for robot in portal.robots.registered.values() if robot.client_id == portal.own.client_id]
    buttons = "".join(f'<button name="code" value="{escape(code)}">Run {escape(code)}</button>' for code in codes)
    if not buttons:
        return ""
    hidden = '<input type="hidden" name="form" value="robot">'
    return f'<h2>Robots and activities</h2><form method="post">{hidden}{buttons}</form>'


def _page(status: int, content: str) -> Answer:
    text = f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Developer resources</title>
<style>body{{font:16px/1.5 sans-serif;max-width:50em;margin:2em auto;padding:0 1em}}label{{display:block}}
input:not([type]){{width:100%}}dd,td{{overflow-wrap:anywhere}}td,th{{text-align:left;padding-right:1em}}
.done{{background:#dfd}}.refused{{background:#fdd}}</style></head>
<body><h1>Developer resources</h1>{content}</body></html>"""
    return Answer(status, "text/html", text)
