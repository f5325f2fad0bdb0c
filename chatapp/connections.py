"""The connections of all processes of a site (`chatapp.sse.Connections`), told of each other by the bell.

A bell may lose a message or bring it twice. So each broadcast carries its sender's next number: what was heard is dropped,
and a gap is told to those who asked to be told of one, since nothing of it is kept. A sender repeats its last number with its
counts, so that the loss of the last one is seen too. A process that says nothing more is forgotten.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import gevent
from gevent import Greenlet
from gevent.event import Event as Signal

from chatapp import sse
from chatapp.bells import Bell
from chatapp.sse._connections import Missed, checked, sendable

logger = logging.getLogger(__name__)

STEP_SECONDS = 0.1  # at most so often are changed counts told
TELL_SECONDS = 2.0  # how often the counts are told although they did not change
FORGET_SECONDS = 3 * TELL_SECONDS  # another process that said nothing for this long is gone
REMEMBER_SECONDS = 600.0  # how long its number is known: it may only have been unheard
KEYS_AT_ONCE = 400  # with the longest keys they fit into one datagram


@dataclass
class Process:
    """What is known of another process."""

    counts: Counter[str] = field(default_factory=Counter)
    coming: Counter[str] = field(default_factory=Counter)  # the next ones, of which the rest is on its way
    page: int = 0  # the last of those that came
    number: int | None = None  # of its last broadcast
    heard_at: float = 0.0


class Connections(sse.Connections):
    """The connections of this process, and of all others that hear the same bell."""

    def __init__(self, bell: Bell) -> None:
        super().__init__()
        self._bell = bell
        self._name = secrets.token_hex(8)
        self._number = 0
        self._sent_at = float("-inf")
        self._closing = False
        self._changed = Signal()
        self._others: dict[str, Process] = {}
        self._greenlet: Greenlet[..., None] | None = None
        bell.on("broadcast", self._hear)
        bell.on("connections", self._hear_counts)

    def register(self, key: str, connection: Any, *, missed: Missed | None = None) -> None:
        super().register(key, connection, missed=missed)
        self._tell_soon()

    def unregister(self, key: str, connection: Any) -> None:
        super().unregister(key, connection)
        self._tell_soon()

    def broadcast(self, key: str, event: str, data: Any) -> None:
        event, text = sendable(event, data)
        self._number += 1
        message = {"process": self._name, "number": self._number, "key": checked(key), "event": event, "data": text}
        self._bell.tell("broadcast", message)
        self._sent_at = time.monotonic()
        self._keep()
        self.deliver(key, event, text)

    def count(self, key: str) -> int:
        return super().count(key) + sum(other.counts[key] for other in self._heard_lately())

    def keys(self) -> list[str]:
        return sorted({*super().keys(), *(key for other in self._heard_lately() for key in other.counts)})

    def close(self) -> None:
        """End all streams of this process: their readers come again, to another one or the next."""
        self._closing = True
        if self._greenlet is not None:
            self._greenlet.kill(block=False)
        for connection in list(self._keys_of):
            self.drop(connection)
            end = getattr(connection, "close", None)
            if end is not None:
                end()
        self._tell()

    # what is said

    def _tell_soon(self) -> None:
        self._changed.set()
        self._keep()

    def _keep(self) -> None:
        if not self._closing and (self._greenlet is None or self._greenlet.dead):
            self._greenlet = gevent.spawn(self._tell_while_needed)

    def _tell_while_needed(self) -> None:
        while self._by_key or self._changed.is_set() or time.monotonic() - self._sent_at < FORGET_SECONDS:
            self._changed.clear()
            self._tell()
            self._forget()
            gevent.sleep(STEP_SECONDS)
            self._changed.wait(TELL_SECONDS)

    def _tell(self) -> None:
        counts = [(key, len(those)) for key, those in self._by_key.items()]
        pages = [counts[start : start + KEYS_AT_ONCE] for start in range(0, max(1, len(counts)), KEYS_AT_ONCE)]
        for number, page in enumerate(pages):
            last = number == len(pages) - 1
            message = {
                "process": self._name,
                "page": number,
                "last": last,
                "counts": dict(page),
                "number": self._number,
            }
            self._bell.tell("connections", message)

    # what is heard

    def _heard_lately(self) -> list[Process]:
        since = time.monotonic() - FORGET_SECONDS
        return [other for other in self._others.values() if other.heard_at > since]

    def _forget(self) -> None:
        before = time.monotonic() - REMEMBER_SECONDS
        self._others = {name: other for name, other in self._others.items() if other.heard_at > before}

    def _hear(self, message: dict[str, Any]) -> None:
        process, key, event, text = (message.get(word) for word in ("process", "key", "event", "data"))
        if not all(isinstance(word, str) for word in (process, key, event, text)) or process == self._name:
            return
        if self._is_next(str(process), message.get("number"), broadcast=True):
            self.deliver(str(key), str(event), str(text))

    def _hear_counts(self, message: dict[str, Any]) -> None:
        name, counts, page = message.get("process"), message.get("counts"), message.get("page")
        if not isinstance(name, str) or not isinstance(counts, dict) or name == self._name:
            return
        self._is_next(name, message.get("number"))
        other = self._others.setdefault(name, Process())
        if page != 0 and page != other.page + 1:
            return  # one between them was lost: all are told again
        other.page = page
        other.coming = Counter(counts) if page == 0 else other.coming + Counter(counts)
        if message.get("last"):
            other.counts = other.coming

    def _is_next(self, process: str, number: Any, *, broadcast: bool = False) -> bool:
        """Note that *process* has sent *number* broadcasts; say whether this one was not heard before."""
        if type(number) is not int:
            return False
        other = self._others.setdefault(process, Process())
        other.heard_at = time.monotonic()
        known = other.number
        if known is not None and number <= known:
            return False
        other.number = number
        if known is not None and number - known > (1 if broadcast else 0):
            self._tell_missed(process, number - known)
        return True

    def _tell_missed(self, process: str, number: int) -> None:
        logger.warning("up to %d broadcasts of process %s did not arrive here", number, process)
        for missed in {missed for those in list(self._by_key.values()) for missed in those.values() if missed}:
            try:
                missed()
            except Exception:
                logger.exception("what is told of a gap failed")
