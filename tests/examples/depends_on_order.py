"""A handler with a fault: it relies on a deal's addition arriving before its changes.

Bitrix24 promises no order: each kind of event has a queue of its own, and a slow delivery is overtaken.
"""

import sys

from aiohttp import web

stages: dict[str, str] = {}


async def handle(request: web.Request) -> web.Response:
    form = await request.post()
    deal = str(form["data[FIELDS][ID]"])
    if form["event"] == "ONCRMDEALADD":
        stages.setdefault(deal, "new")
    elif form["event"] == "ONCRMDEALUPDATE":
        # The fault: the deal may not be known yet. Whoever asks the portal for it depends on no order.
        assert stages[deal]
        stages[deal] = "changed"
    return web.Response(text="taken")


app = web.Application()
app.router.add_post("/", handle)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
