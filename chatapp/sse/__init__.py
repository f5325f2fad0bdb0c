"""Server-sent events: frames and bytes, streams that anybody can mount, and who is connected.

`_frames` is the wire form, both ways, without any input or output. The rest is a small library for streams that follow no
log: see docs/sse.md. It knows nothing of this site; what it shares between processes is put into it (`use_connections`).
"""

from chatapp.sse._connections import (
    BroadcastTooLarge,
    Connections,
    broadcast,
    get_connection_count,
    get_connection_keys,
    register_connection,
    unregister_connection,
    use_connections,
)
from chatapp.sse._frames import MAX_LINE_BYTES, Frame, LineTooLong, Parser, comment, retry
from chatapp.sse._response import sse_response
from chatapp.sse._stream import NOTHING, RETRY_MS, SSEStream, StreamClosed, create_sse_stream

__all__ = [
    "MAX_LINE_BYTES",
    "NOTHING",
    "RETRY_MS",
    "BroadcastTooLarge",
    "Connections",
    "Frame",
    "LineTooLong",
    "Parser",
    "SSEStream",
    "StreamClosed",
    "broadcast",
    "comment",
    "create_sse_stream",
    "get_connection_count",
    "get_connection_keys",
    "register_connection",
    "retry",
    "sse_response",
    "unregister_connection",
    "use_connections",
]
