"""Streams as bytes on a socket, cut off anywhere."""

from __future__ import annotations

import random
import socket
from contextlib import closing
from urllib.parse import urlsplit

from chatapp import sse
from chatapp.sse import Frame
from tests.support.site import Client


def open_socket(
    client: Client, path: str, last_event_id: str = "", *, method: str = "GET", body: bytes = b""
) -> socket.socket:
    """Return a socket on which *path* was asked for, as any client in any language would."""
    address = urlsplit(client.url)
    raw = socket.create_connection((address.hostname, address.port), timeout=20)
    head = f"{method} {path} HTTP/1.1\r\nHost: {address.netloc}\r\n"
    head += f"Authorization: {client.http.headers['Authorization']}\r\n"
    head += f"Last-Event-ID: {last_event_id}\r\n" if last_event_id else ""
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
    raw.sendall(f"{head}Connection: close\r\n\r\n".encode() + body)
    return raw


def read_in_pieces(
    client: Client, path: str, *, seed: int = 7, method: str = "GET", body: bytes = b""
) -> tuple[list[Frame], int]:
    """Read a stream over as many connections as it takes, each cut off at some byte; return its frames, and how many."""
    dice, heard, last_id, cuts = random.Random(seed), list[Frame](), "", 0
    while True:
        cuts += 1
        budget = dice.randrange(1, 200 + 50 * cuts)  # it grows, since the last event is as long as the answer
        with closing(open_socket(client, path, last_id, method=method, body=body)) as raw:
            head, data = b"", b""
            while b"\r\n\r\n" not in head:
                head += raw.recv(1)
            while len(data) < budget and (came := raw.recv(min(budget - len(data), 4096))):
                data += came
        if head.startswith(b"HTTP/1.1 204 "):
            return heard, cuts
        assert head.startswith(b"HTTP/1.1 200 "), head + data
        parser = sse.Parser()
        heard += parser.feed(dechunked(data))
        last_id = parser.last_id or last_id


def dechunked(body: bytes) -> bytes:
    """Return what is whole of a chunked body that may be cut anywhere."""
    out = b""
    while b"\r\n" in body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        out += body[:length]
        body = body[length + 2 :]
    return out
