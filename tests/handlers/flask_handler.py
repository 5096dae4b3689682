"""An application on b24pysdk's Flask integration: notes each event that it gets as a line of a JSON file.

    python flask_handler.py SEEN_FILE

It takes a free port and prints its address as JSON.
"""

import json
import sys
from pathlib import Path

from b24pysdk.integrations.flask.decorators import event_required
from b24pysdk.integrations.flask.dependencies import get_oauth_event_data
from flask import Flask, request
from werkzeug.serving import make_server

app = Flask(__name__)
seen = Path(sys.argv[1])


@app.before_request
def keep_the_bytes() -> None:
    """Read the body before the form's parser does, which would leave nothing of it."""
    request.get_data(cache=True)


@app.post("/handler")
@event_required
def handle() -> dict[str, str]:
    """The event as the SDK understands it, beside the bytes that came."""
    event = get_oauth_event_data()
    view = {
        "body": request.get_data().hex(),
        "event": event.event,
        "deal": event.data["FIELDS"]["ID"],
        "ts": int(event.ts.timestamp()),
        "handler_id": event.event_handler_id,
        "member_id": event.auth.member_id,
    }
    with seen.open("a") as file:
        file.write(json.dumps(view) + "\n")
    return {"handled": event.event}


if __name__ == "__main__":
    server = make_server("127.0.0.1", 0, app, threaded=True)
    print(json.dumps({"url": f"http://127.0.0.1:{server.server_port}/handler"}), flush=True)
    server.serve_forever()
