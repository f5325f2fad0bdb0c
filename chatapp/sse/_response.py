"""The Flask response of a stream."""

from __future__ import annotations

from collections.abc import Iterator

from flask import Response, has_request_context, request

from chatapp.sse import _client
from chatapp.sse._stream import SSEStream

SEND_TIMEOUT_SECONDS = 20.0
# nginx buffers unless told not to. Connection is not for an application to set (PEP 3333): servers send it themselves
HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}


def sse_response(stream: SSEStream, *, send_timeout_seconds: float = SEND_TIMEOUT_SECONDS) -> Response:
    """Return *stream* as a response. When the reader leaves, or takes nothing for so long, the stream ends."""
    client = request.environ.get("gunicorn.socket") if has_request_context() else None
    if client is not None:
        _client.prepare(client, send_timeout_seconds=send_timeout_seconds)
    response = Response(pieces(stream), mimetype="text/event-stream", headers=HEADERS)
    if client is not None:
        response.call_on_close(_client.watch(client, stream.leave))
    response.call_on_close(stream.leave)  # also of one that nobody began to read, as with HEAD
    return response


def pieces(stream: SSEStream) -> Iterator[bytes]:
    for block in stream:
        yield from _client.in_pieces(block)
