"""The body of a response as its socket brings it, in whole reads, waited for or not.

requests asks, and reads the head; from there on the socket is read here. http.client would read a chunked body line by line,
which at some thousand tokens a second is a third of a worker's time, and it cannot be asked what is there already.

This holds for a plain socket and a body that is not compressed. For any other, `of` gives None, and `_http.blocks` reads it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Protocol

import requests
from gevent.socket import socket as GeventSocket

READ_BYTES = 64 * 1024
MAX_SIZE_LINE_BYTES = 4096  # of a chunk, with its extensions
HEX = re.compile(rb"[0-9A-Fa-f]{1,15}")
# sizes of a few tokens as servers write them: found faster than read
SIZES = {form % size: size for size in range(1, 4096) for form in (b"%x", b"%X")}


class Broken(Exception):
    """The body ended before its end, or is not framed as HTTP says."""


class Framing(Protocol):
    """Bytes of the connection in, bytes of the body out; `ended` says that no more belong to it."""

    ended: bool

    def feed(self, data: bytes) -> bytes:
        """Return what *data* holds of the body; it is empty where the connection was closed. Raises Broken."""
        ...


class Chunked:
    """RFC 9112 7.1. Trailers are not looked at: the connection is closed after the body."""

    def __init__(self) -> None:
        self.ended = False
        self._left = 0  # bytes of the chunk that are still to come
        self._closes = False  # the newline after a chunk is still to come
        self._rest = b""  # of a line that was cut

    def feed(self, data: bytes) -> bytes:
        if not data:
            raise Broken
        if self._rest:
            data, self._rest = self._rest + data, b""
        parts, at = whole_chunks(data) if not (self._left or self._closes) else ([], 0)
        size = len(data)
        while at < size and not self.ended:
            if self._left:
                part = data[at : at + self._left]
                parts.append(part)
                at += len(part)
                self._left -= len(part)
                self._closes = not self._left
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                if size - at > MAX_SIZE_LINE_BYTES:
                    raise Broken
                self._rest = data[at:]
                break
            self._line(data[at:end])
            at = end + 2
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _line(self, line: bytes) -> None:
        if self._closes:
            if line:
                raise Broken
            self._closes = False
            return
        if not HEX.fullmatch(line):  # int takes signs, underscores and prefixes too
            line = line.partition(b";")[0].strip()
            if not HEX.fullmatch(line):
                raise Broken
        self._left = int(line, 16)
        self.ended = not self._left


def whole_chunks(data: bytes) -> tuple[list[bytes], int]:
    """Return the contents of the chunks at the beginning of *data* that are whole and small, and where they end.

    Nearly all reads hold nothing else. What is odd is left to who reads line by line.
    """
    parts: list[bytes] = []
    at, length = 0, len(data)
    while at < length:
        end = data.find(b"\r\n", at, at + 5)
        size = SIZES.get(data[at:end]) if end > 0 else None
        if size is None or data[end + 2 + size : end + 4 + size] != b"\r\n":
            break
        parts.append(data[end + 2 : end + 2 + size])
        at = end + 4 + size
    return parts, at


class Sized:
    """RFC 9112 6.3: Content-Length."""

    def __init__(self, length: int) -> None:
        self.ended = not length
        self._left = length

    def feed(self, data: bytes) -> bytes:
        if not data:
            raise Broken
        data = data[: self._left]
        self._left -= len(data)
        self.ended = not self._left
        return data


class UntilClosed:
    """RFC 9112 6.3: the end of the connection is the end of the body."""

    ended = False

    def feed(self, data: bytes) -> bytes:
        self.ended = not data
        return data


class Body:
    """A body whose head was read by requests."""

    def __init__(self, client: Any, framing: Framing, before: bytes) -> None:
        self._socket = client
        self._framing = framing
        self._before = before  # came with the head
        self._recv_now = client._sock.recv  # without gevent's waiting

    def fileno(self) -> int:
        descriptor: int = self._socket.fileno()
        return descriptor

    def wait(self) -> bytes | None:
        """Wait for what one read brings, and return it; None at the end. Raises Broken, OSError."""
        return self._read(self._socket.recv)

    def poll(self) -> bytes | None:
        """Return what one read brings now, b"" where nothing is there, None at the end. Raises Broken, OSError."""
        try:
            return self._read(self._recv_now)
        except BlockingIOError:
            return b""

    def _read(self, recv: Callable[[int], bytes]) -> bytes | None:
        framing = self._framing
        while not framing.ended:
            data, self._before = self._before or recv(READ_BYTES), b""
            if found := framing.feed(data):
                return found
        return None


def of(response: requests.Response) -> Body | None:
    """Return the body of *response*, of which nothing was read yet; None where it must be read in the plain way."""
    try:
        head: Any = response.raw._fp
        client = head.fp.raw.client
    except AttributeError:  # another version of urllib3
        return None
    if type(client) is not GeventSocket or response.headers.get("Content-Encoding", "identity") != "identity":
        return None
    if head.chunked:
        framing: Framing = Chunked()
    else:
        framing = UntilClosed() if head.length is None else Sized(head.length)
    seconds = client.gettimeout()
    client.settimeout(0.0)  # what was read with the head, without waiting for more
    try:
        before = bytes(head.fp.read1()) if head.fp.peek() else b""
    finally:
        client.settimeout(seconds)
    head.fp = head.fp.detach()  # to be closed; its buffer is 8 KiB that are of no more use
    return Body(client, framing, before)
