"""A proxy in front of a site that can do what proxies do to streams: cut them, and answer 502 while a site restarts."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self


def page(status: int, *headers: str) -> bytes:
    """Return an answer such as proxies give by themselves."""
    head = [f"HTTP/1.1 {status} No", "Content-Type: text/html", "Content-Length: 3", "Connection: close", *headers]
    return ("\r\n".join(head) + f"\r\n\r\n{status}").encode()


class Proxy:
    def __init__(self, port: int) -> None:
        self.upstream = ("127.0.0.1", port)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.broken_paths: tuple[bytes, ...] = ()  # what a path must hold to be answered by itself
        self.answer = page(502)
        self.refused = 0
        self._live: set[socket.socket] = set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.listener.close()
        self.cut()

    def cut(self) -> None:
        """Reset all connections there are."""
        for sock in list(self._live):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                threading.Thread(target=self._connection, args=(sock,), daemon=True).start()

    def _connection(self, client: socket.socket) -> None:
        """One request a connection, so that each is seen."""
        with client, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                data = client.recv(65536)
                if not data:
                    return
                head += data
            path = head.split(b" ", 2)[1]
            if any(part in path for part in self.broken_paths):
                self.refused += 1
                client.sendall(self.answer)
                return
            with socket.create_connection(self.upstream, timeout=30) as server:
                server.settimeout(None)
                self._live |= {client, server}
                lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
                server.sendall(b"\r\n".join([lines[0], b"Connection: close", *lines[1:]]))
                threading.Thread(target=pump, args=(client, server), daemon=True).start()
                pump(server, client)
            self._live -= {client, server}


def pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
