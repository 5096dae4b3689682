"""A handler without these faults: a delivery may come twice, and in any order."""

import sys

from aiohttp import web

stages: dict[str, str] = {}


async def handle(request: web.Request) -> web.Response:
    form = await request.post()
    deal = str(form["data[FIELDS][ID]"])
    if form["event"] == "ONCRMDEALUPDATE":
        stages[deal] = "changed"
    elif form["event"] == "ONCRMDEALADD":
        stages.setdefault(deal, "new")
    return web.Response(text="taken")


app = web.Application()
app.router.add_post("/", handle)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
