"""Who is connected, under which key, and how all of them are told something.

`Connections` knows those of its own process. A site puts something in its place that reaches all its processes
(`use_connections`); the functions below speak to that where there is an application context, and always once one was put.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import RLock
from typing import Any

from flask import Flask, current_app, has_app_context

from chatapp.sse._frames import single_line
from chatapp.sse._stream import StreamClosed, encoded, text_of

logger = logging.getLogger(__name__)

MAX_KEY_BYTES = 200
MAX_BROADCAST_BYTES = 100_000  # what is larger would not fit into one datagram between two workers
EXTENSION = "chatapp.sse"

Missed = Callable[[], object]


class BroadcastTooLarge(ValueError):
    """Nothing was sent to anybody: it would not reach other processes. Send where to find it instead."""


class Connections:
    """Streams by key. A connection is a stream, or a function that is called as `send` of one is."""

    def __init__(self) -> None:
        self._by_key: dict[str, dict[Any, Missed | None]] = {}
        self._keys_of: dict[Any, set[str]] = {}
        self._lock = RLock()  # a stream that ends while it is sent to lets itself go

    def register(self, key: str, connection: Any, *, missed: Missed | None = None) -> None:
        """Send *connection* what is broadcast to *key*, until it ends. A second time changes nothing.

        *missed* is called when something was broadcast elsewhere, maybe to this key, and did not arrive here.
        """
        with self._lock:
            self._by_key.setdefault(checked(key), {})[connection] = missed
            self._keys_of.setdefault(connection, set()).add(key)
        on_close = getattr(connection, "on_close", None)
        if on_close is not None:
            on_close(self.drop)

    def unregister(self, key: str, connection: Any) -> None:
        """Send *connection* no more of *key*; nothing happens if it gets none."""
        with self._lock:
            if connection not in self._by_key.get(key, ()):
                return
            del self._by_key[key][connection]
            self._keys_of[connection].remove(key)
            if not self._by_key[key]:
                del self._by_key[key]
            if not self._keys_of[connection]:
                del self._keys_of[connection]

    def drop(self, connection: Any) -> None:
        """Unregister *connection* wherever it is."""
        with self._lock:
            for key in list(self._keys_of.get(connection, ())):
                self.unregister(key, connection)

    def broadcast(self, key: str, event: str, data: Any) -> None:
        """Send an event to every connection of *key*, in the order of the calls. Never waits.

        One that is closed, or too slow, hurts no other. Raises ValueError, TypeError for what cannot be sent, to nobody then.
        """
        self.deliver(checked(key), *sendable(event, data))

    def count(self, key: str) -> int:
        """Return how many connections *key* has."""
        return len(self._by_key.get(key, ()))

    def keys(self) -> list[str]:
        """Return the keys that have connections, sorted."""
        return sorted(self._by_key)

    def deliver(self, key: str, event: str, text: str) -> None:
        """Send to the connections of *key* in this process."""
        with self._lock:
            those = list(self._by_key.get(key, ()))
        for connection in those:
            try:
                getattr(connection, "send", connection)(event=event, data=text)
            except StreamClosed:
                self.unregister(key, connection)
            except Exception:
                logger.exception("what is registered under %s failed", key)


def checked(key: str) -> str:
    if not isinstance(key, str) or not 0 < len(key.encode()) <= MAX_KEY_BYTES:
        raise ValueError(f"a key is text of 1 to {MAX_KEY_BYTES} bytes")
    return key


def sendable(event: str, data: Any) -> tuple[str, str]:
    """Return the event's name and its data as text. Raises ValueError, TypeError for what no stream could send."""
    text = text_of(data)
    encoded(event=single_line(event), data=text)
    # within JSON, as it travels between processes, a character takes up to six bytes
    if 6 * len(event + text) > MAX_BROADCAST_BYTES and len(text_of([event, text]).encode()) > MAX_BROADCAST_BYTES:
        raise BroadcastTooLarge(f"at most {MAX_BROADCAST_BYTES} bytes can be broadcast")
    return event, text


_connections = Connections()


def use_connections(app: Flask, connections: Connections) -> None:
    """Let the functions below speak to *connections*: in the context of *app*, and where there is none at all."""
    global _connections
    app.extensions[EXTENSION] = _connections = connections


def current() -> Connections:
    found: Connections = current_app.extensions.get(EXTENSION, _connections) if has_app_context() else _connections
    return found


def register_connection(key: str, stream: Any) -> None:
    """Send *stream* what is broadcast to *key*, until it ends or is unregistered."""
    current().register(key, stream)


def unregister_connection(key: str, stream: Any) -> None:
    """Send *stream* no more of *key*."""
    current().unregister(key, stream)


def broadcast(key: str, event: str, data: Any) -> None:
    """Send an event to every stream of *key*, in all processes of the site. Never waits.

    Raises ValueError, TypeError for what cannot be sent, and BroadcastTooLarge; then nobody gets it.
    """
    current().broadcast(key, event, data)


def get_connection_count(key: str) -> int:
    """Return how many streams *key* has in all processes; of others it may be some tenths of a second old."""
    return current().count(key)


def get_connection_keys() -> list[str]:
    """Return all keys that have streams, in all processes, sorted."""
    return current().keys()
