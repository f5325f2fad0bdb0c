"""The site with streams of somebody's own beside its own, made with nothing but `chatapp.sse`."""

from __future__ import annotations

import os
from typing import Any

from wsgi import app  # first: it patches

from flask import Response, request  # isort: skip
from chatapp import auth, sse  # isort: skip

__all__ = ["app"]

left: list[str] = []  # the keys of streams that ended here


@app.get("/mounted/<key>")
@auth.public
def stream(key: str) -> Response:
    made = sse.create_sse_stream(
        heartbeat_seconds=float(request.args.get("heartbeat", "15")), max_queued=int(request.args.get("room", "1000"))
    )
    sse.register_connection(key, made)
    made.on_close(lambda ended: left.append(f"{key}: {ended.reason}"))
    made.send(event="hello", data={"worker": os.getpid()})
    return sse.sse_response(made)


@app.post("/mounted/<key>")
@auth.public
def told(key: str) -> dict[str, Any]:
    """Broadcast each of a list, as it is."""
    try:
        for data in request.json or []:
            sse.broadcast(key, "news", data)
    except ValueError as error:
        return {"worker": os.getpid(), "error": type(error).__name__}
    return {"worker": os.getpid(), "error": None}


@app.get("/mounted")
@auth.public
def looked() -> dict[str, Any]:
    keys = sse.get_connection_keys()
    return {"worker": os.getpid(), "counts": {key: sse.get_connection_count(key) for key in keys}, "left": left}
