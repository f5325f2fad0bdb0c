"""Values in this process, bounded by bytes: who was not asked for longest goes first."""

from __future__ import annotations

import time
from collections import OrderedDict

ENTRY_BYTES = 250  # what an entry takes besides its key and value: two tuples, a float, two headers, its place
VALUES_BYTES = 32 * 1024 * 1024
COUNTERS_BYTES = 8 * 1024 * 1024  # on a shelf of their own: who fills the other must not reset them


class Shelf:
    """Values with an end; the end is looked at when one is asked for."""

    def __init__(self, limit_bytes: int) -> None:
        self.bytes = 0
        self._limit_bytes = limit_bytes
        self._entries: OrderedDict[str, tuple[bytes | int, float]] = OrderedDict()

    def get(self, key: str) -> bytes | int | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry[1] <= time.monotonic():
            self.drop(key)
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: str, value: bytes | int, seconds: float) -> None:
        self.drop(key)
        if seconds <= 0 or size_of(key, value) > self._limit_bytes:
            return
        self._entries[key] = value, time.monotonic() + seconds
        self.bytes += size_of(key, value)
        while self.bytes > self._limit_bytes:
            self.drop(next(iter(self._entries)))

    def add(self, key: str, within_seconds: float) -> int:
        """Return the counter *key* after adding one."""
        entry = self._entries.get(key)
        if entry is None or entry[1] <= time.monotonic():
            self.put(key, 1, within_seconds)
            return 1
        number = int(entry[0]) + 1
        self._entries[key] = number, entry[1]
        self._entries.move_to_end(key)
        return number

    def drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= size_of(key, entry[0])


def size_of(key: str, value: bytes | int) -> int:
    return ENTRY_BYTES + 4 * len(key) + (len(value) if isinstance(value, bytes) else 0)


class Shelves:
    """Values and counters of this process."""

    def __init__(self, values_bytes: int = VALUES_BYTES, counters_bytes: int = COUNTERS_BYTES) -> None:
        self.values = Shelf(values_bytes)
        self.counters = Shelf(counters_bytes)

    def get(self, key: str) -> bytes | None:
        value = self.values.get(key)
        return value if isinstance(value, bytes) else None

    def put(self, key: str, value: bytes, *, seconds: float) -> None:
        self.values.put(key, value, seconds)

    def delete(self, key: str) -> None:
        self.values.drop(key)

    def count(self, key: str, *, within_seconds: float) -> int:
        return self.counters.add(key, within_seconds)
