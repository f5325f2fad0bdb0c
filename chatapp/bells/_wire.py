"""What travels between processes: lines of JSON, the first word saying what it is, and a bounded place to wait in."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Generic, TypeVar

import orjson

from chatapp.events import Entry, dump, load

Item = TypeVar("Item")

RING, TELL = "ring", "tell"


def ring(generation_id: str, entries: Sequence[Entry], limit_bytes: int) -> list[bytes]:
    """Return lines of at most *limit_bytes* that carry *entries*, in order; what no line can hold is left out."""
    written = line(RING, generation_id, [[seq, event.name, dump(event)] for seq, event in entries])
    if len(written) <= limit_bytes:
        return [written] if written else []
    half = len(entries) // 2
    if not half:
        return []
    return ring(generation_id, entries[:half], limit_bytes) + ring(generation_id, entries[half:], limit_bytes)


def line(*words: Any) -> bytes:
    """Return *words* as one line; nothing if JSON has no words for them, such as half of a surrogate pair."""
    try:
        return orjson.dumps(words)
    except TypeError:
        return b""


def entries_of(written: Sequence[Any]) -> list[Entry]:
    """Return the entries of a ring. Raises KeyError, TypeError, ValueError for what is none."""
    return [Entry(int(seq), load(name, values)) for seq, name, values in written]


class Outbox(Generic[Item]):
    """What waits to be sent; the oldest is dropped when it grows over *limit_bytes*."""

    __slots__ = ("_bytes", "_items", "_limit_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self._items: deque[tuple[Item, int]] = deque()
        self._bytes = 0
        self._limit_bytes = limit_bytes

    def put(self, item: Item, size_bytes: int) -> None:
        self._items.append((item, size_bytes))
        self._bytes += size_bytes
        while self._bytes > self._limit_bytes:
            self._bytes -= self._items.popleft()[1]

    def take(self, limit_bytes: int) -> list[tuple[Item, int]]:
        """Return the oldest items with their sizes, as many as fit into *limit_bytes*, and one at least if there is any."""
        taken: list[tuple[Item, int]] = []
        size = 0
        while self._items and (not taken or size + self._items[0][1] <= limit_bytes):
            taken.append(self._items.popleft())
            size += taken[-1][1]
        self._bytes -= size
        return taken

    def give_back(self, taken: Iterable[tuple[Item, int]]) -> None:
        """Take back what could not be sent, as far as there is room."""
        for item, size in reversed(list(taken)):
            if self._bytes + size > self._limit_bytes:
                return
            self._items.appendleft((item, size))
            self._bytes += size

    def clear(self) -> None:
        self._items.clear()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._items)
