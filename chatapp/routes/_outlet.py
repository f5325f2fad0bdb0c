"""A reader's socket, written to where the log's batches are published.

The plain way is a generator: it wakes for each batch, gunicorn frames what it yields, and gevent sends it. At some thousand
tokens a second that waking is most of the cost. So while a reader keeps up, its batches are sent in the greenlet that
committed them, framed as gunicorn would, without ever waiting: what the socket does not take at once is left to the
generator, which sends it and goes on in the plain way until it has caught up.

This holds for HTTP/1.1 on gunicorn's gevent worker without TLS of its own. For anything else `open` gives None, and the
generator does all.
"""

from __future__ import annotations

import socket
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gevent
from gevent.event import Event as Signal
from gevent.socket import socket as GeventSocket

from chatapp.eventlog import Batch
from chatapp.events import Entry
from chatapp.sse._client import in_pieces as in_pieces
from chatapp.sse._client import prepare as prepare

# a window of 4 KiB: enough for frames that are alike, 24 KiB of memory where zlib would take 256
GZIP_LEVEL, GZIP_WINDOW, GZIP_MEMORY = 1, 16 + 12, 4


def chunk(data: bytes) -> bytes:
    """Return *data* as a chunk (RFC 9112 7.1)."""
    return b"%x\r\n%s\r\n" % (len(data), data)


class Gzip:
    """Compresses blocks so that each can be read when it comes (RFC 1952, flushed)."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP_WINDOW, GZIP_MEMORY)

    def __call__(self, block: bytes) -> bytes:
        return self._deflate.compress(block) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        return self._deflate.flush()


class Outlet:
    """A tap (`chatapp.eventlog`). `gone` says that the reader has closed the connection."""

    def __init__(
        self,
        client: Any,
        *,
        form: object,
        make: Callable[[Sequence[Entry]], bytes],
        chunked: bool,
        pack: Callable[[bytes], bytes] | None,
    ) -> None:
        self.cursor = 0
        self.sent_at = time.monotonic()
        self.gone = False
        self._client = client
        self._send = client._sock.send  # gevent's own would wait
        self._make = make
        self._pack = pack
        self._chunked = chunked
        self._form = (form, chunked and pack is None)  # what all readers who get the same bytes share
        self._left = b""
        self._signal = Signal()
        self._watcher = gevent.get_hub().loop.io(client.fileno(), 1)
        self._watcher.start(self._look)

    # for the log

    def offer(self, batch: Batch) -> bool:
        if self._left or self.gone:
            return False
        data = batch.form(self._form, self._made)
        if not data:  # this dialect has no place for it
            return True
        if self._pack is not None:
            data = self._pack(data)
            if self._chunked:
                data = chunk(data)
        try:
            sent = self._send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._leave()
            return False
        self.sent_at = time.monotonic()
        if sent < len(data):
            self._left = data[sent:]
            self._signal.set()
        return True

    def wake(self) -> None:
        self._signal.set()

    def wait(self, seconds: float) -> bool:
        self._signal.wait(seconds)
        woken: bool = self._signal.is_set()  # also by who came just when the time was up
        self._signal.clear()
        return woken

    # for the stream

    def flush(self) -> None:
        """Send what the socket did not take; waits. Raises TimeoutError for a reader who takes nothing, OSError."""
        if self._left:
            for piece in in_pieces(self._left):
                self._client.sendall(piece)
            self._left = b""

    def close(self) -> None:
        self._watcher.stop()
        self._watcher.close()

    def _made(self, entries: Sequence[Entry]) -> bytes:
        data = self._make(entries)
        return chunk(data) if data and self._form[1] else data

    def _look(self) -> None:
        """Look at what the reader sends, which is nothing but its end. Runs in the event loop."""
        try:
            if self._client._sock.recv(1, socket.MSG_PEEK):
                self._watcher.stop()  # the next request, too early: its end cannot be seen behind it
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._leave()

    def _leave(self) -> None:
        self._watcher.stop()
        self.gone = True
        self._signal.set()


def open(
    environ: Mapping[str, Any],
    *,
    form: object,
    make: Callable[[Sequence[Entry]], bytes],
    pack: Callable[[bytes], bytes] | None = None,
) -> Outlet | None:
    """Return the outlet to the request's client; None where only the generator can reach it. *form* names the bytes that
    *make* makes of entries.
    """
    client = environ.get("gunicorn.socket")
    if type(client) is not GeventSocket or environ.get("SERVER_PROTOCOL") not in ("HTTP/1.0", "HTTP/1.1"):
        return None
    chunked = environ["SERVER_PROTOCOL"] == "HTTP/1.1"
    return Outlet(client, form=form, make=make, chunked=chunked, pack=pack)
