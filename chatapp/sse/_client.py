"""The socket of a reader: how long it may take nothing, and when it is gone. For gunicorn's gevent worker."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import gevent
from gevent.socket import socket as GeventSocket

# What a reader who takes nothing keeps of the machine's memory. On loopback, whose segments are 64 KiB, less than two of
# them would make each write wait for a delayed acknowledgement.
SEND_BUFFER_BYTES = 128 * 1024
PIECE_BYTES = 64 * 1024


def prepare(client: Any, *, send_timeout_seconds: float) -> None:
    """Make a client's socket let go of a reader that takes nothing, or whose network is gone."""
    client.settimeout(send_timeout_seconds)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(send_timeout_seconds * 1000))


def in_pieces(block: bytes) -> Iterator[bytes]:
    """Yield *block* in pieces, each of which a slow reader has the whole time-out for."""
    for start in range(0, len(block), PIECE_BYTES):
        yield block[start : start + PIECE_BYTES]


def watch(client: Any, gone: Callable[[], object]) -> Callable[[], None]:
    """Call *gone* once the reader has closed the connection, if that can be seen here; return what ends the watching.

    A generator learns it only when it writes for the second time.
    """
    if type(client) is not GeventSocket:
        return lambda: None
    watcher = gevent.get_hub().loop.io(client.fileno(), 1)
    receive = client._sock.recv  # type: ignore[attr-defined]  # gevent's own would wait

    def look() -> None:
        try:
            if receive(1, socket.MSG_PEEK):
                watcher.stop()  # the next request, too early: its end cannot be seen behind it
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        watcher.stop()
        gevent.spawn(gone)  # it may have to wait, which this callback of the event loop must not

    def end() -> None:
        watcher.stop()
        watcher.close()

    watcher.start(look)
    return end
