"""A handler with a fault: it takes a delivery that comes twice for a second deal.

Bitrix24 itself delivers once, but a `--catch-up`, a replay or a second binding of the same event bring it again.
"""

import sqlite3
import sys

from aiohttp import web

deals = sqlite3.connect(":memory:")
deals.execute("CREATE TABLE deals (id TEXT PRIMARY KEY)")


async def handle(request: web.Request) -> web.Response:
    form = await request.post()
    if form["event"] == "ONCRMDEALADD":
        # The fault: a deal that is there already is an error. "INSERT OR IGNORE" would take it.
        deals.execute("INSERT INTO deals VALUES (?)", (form["data[FIELDS][ID]"],))
    return web.Response(text="taken")


app = web.Application()
app.router.add_post("/", handle)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
