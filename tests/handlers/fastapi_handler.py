"""An application on b24pysdk's FastAPI integration: notes each event that it gets as a line of a JSON file.

    python fastapi_handler.py SEEN_FILE

It takes a free port and prints its address as JSON.
"""

import json
import socket
import sys
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from b24pysdk.credentials import OAuthEventData
from b24pysdk.integrations.fastapi.dependencies.event_dependency import event_dependency
from fastapi import Depends, FastAPI, Request

app = FastAPI()
seen = Path(sys.argv[1])


def note(view: dict[str, Any]) -> None:
    """One line more in the file."""
    with seen.open("a") as file:
        file.write(json.dumps(view) + "\n")


@app.post("/handler")
async def handle(request: Request, event: Annotated[OAuthEventData, Depends(event_dependency)]) -> dict[str, str]:
    """The event as the SDK understands it, beside the bytes that came."""
    view = {
        "body": (await request.body()).hex(),
        "event": event.event,
        "deal": event.data["FIELDS"]["ID"],
        "ts": int(event.ts.timestamp()),
        "handler_id": event.event_handler_id,
        "member_id": event.auth.member_id,
    }
    note(view)
    return {"handled": event.event}


if __name__ == "__main__":
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    print(json.dumps({"url": f"http://127.0.0.1:{listener.getsockname()[1]}/handler"}), flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
