"""The log: append, read, follow. A generation's log is append-only, dense from 1, and has one terminal entry, its last.

Invariants, and who keeps them:

- An entry is committed before any follower sees it: followers read the store, or hear a bell that is rung after the commit.
- Only the holder of the lease appends: each append checks owner and expected seq in its own transaction, and a runner that
  lost the lease gets LeaseLost; what it had is dropped.
- Nothing is appended after a terminal entry.
- A follower holds a cursor and no queue: it takes what is next from the shared tail of its process (`_channel`), or from the
  store if the tail no longer reaches back that far. A slow one costs nothing and slows nobody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import gevent

from chatapp.eventlog._channel import Channel, Channels
from chatapp.events import Entry, Event

PAGE = 2000  # entries read from the store at once: some 200 kB
SILENCE_SECONDS = 1.0  # a follower that heard nothing for this long looks into the store itself

Ring = Callable[[str, Sequence[Entry]], None]
Within = Callable[[Any], None]  # given the session of the appending transaction


class LeaseLost(Exception):
    """Another runner owns the log now, or it has ended or is gone: this one must stop and drop what it has."""


class LogGone(Exception):
    """There is no such log: its conversation was deleted, or it never was."""


class LogExpired(Exception):
    """Entries past the cursor are gone: the log is kept for a while after its end, the message for ever."""


class Head(NamedTuple):
    """What is known of a log without reading it; `expired` says that its entries are gone."""

    last_seq: int
    ended: bool
    expired: bool = False


class Store(Protocol):
    """What a backend does; see `EventLog` for what the calls mean."""

    def create(self, generation_id: str, *, owner: str, lease_seconds: float, session: Any = None) -> None: ...
    def append(
        self, generation_id: str, events: Sequence[Event], *, after: int, owner: str, within: Within | None = None
    ) -> list[Entry]: ...
    def read(self, generation_id: str, after: int = 0, limit: int = PAGE) -> list[Entry]: ...
    def head(self, generation_id: str) -> Head | None: ...
    def renew(self, generation_ids: Sequence[str], *, owner: str, lease_seconds: float) -> None: ...
    def take_expired(self, *, owner: str, lease_seconds: float) -> list[str]: ...
    def request_stop(self, generation_id: str) -> None: ...
    def stop_requests(self, owner: str) -> list[str]: ...
    def sweep(self, ended_before_seconds: float) -> int: ...


class EventLog:
    """All logs, in one store. *ring* is called after each commit; whoever hears the bell calls `hear`."""

    def __init__(self, store: Store, ring: Ring) -> None:
        self.store = store
        self._ring = ring
        self._channels = Channels()
        self.hear: Ring = self._channels.publish

    def create(self, generation_id: str, *, owner: str, lease_seconds: float, session: Any = None) -> None:
        """Begin an empty log, owned by *owner*, within *session*'s transaction."""
        self.store.create(generation_id, owner=owner, lease_seconds=lease_seconds, session=session)

    def append(
        self, generation_id: str, events: Sequence[Event], *, after: int, owner: str, within: Within | None = None
    ) -> list[Entry]:
        """Commit *events* as the entries after seq *after*, then ring; return the entries.

        *within* is called with the session of the same transaction: what it writes is committed with the events or not
        at all. Appending the same batch again after an error that hid whether it was committed is safe. Raises LeaseLost,
        and what the database raises.
        """
        entries = self.store.append(generation_id, events, after=after, owner=owner, within=within)
        self._ring(generation_id, entries)
        return entries

    def read(self, generation_id: str, after: int = 0, limit: int = PAGE) -> list[Entry]:
        """Return at most *limit* entries past seq *after*, in order."""
        return self.store.read(generation_id, after, limit)

    def read_all(self, generation_id: str) -> list[Entry]:
        """Return the whole log, as far as it goes."""
        entries: list[Entry] = []
        while page := self.read(generation_id, entries[-1].seq if entries else 0):
            entries += page
            gevent.sleep(0)  # SQLite's reading keeps the loop
        return entries

    def head(self, generation_id: str) -> Head | None:
        """Return how far the log goes; None if there is none."""
        return self.store.head(generation_id)

    def follow(self, generation_id: str, after: int = 0, *, heartbeat_seconds: float = 15.0) -> Iterator[list[Entry]]:
        """Yield the entries past seq *after*, in order, in batches of what is there at once; wait for more.

        0 is the beginning. Yields an empty list per *heartbeat_seconds* of silence and returns after the terminal
        entry. No database connection is held between two steps. Raises LogGone, and LogExpired if an entry past *after*
        is gone; a gap is never skipped.
        """
        with self._channels.open(generation_id) as channel:
            cursor, behind, silent_since = after, True, time.monotonic()
            while True:
                heard = None if behind else channel.after(cursor)
                entries = self._look(generation_id, cursor, channel) if heard is None else heard
                behind = heard is None and len(entries) >= PAGE
                if entries:
                    yield entries
                    cursor, silent_since = entries[-1].seq, time.monotonic()
                    if entries[-1].event.terminal:
                        return
                    continue
                due = silent_since + heartbeat_seconds - time.monotonic()
                if due <= 0:
                    silent_since = time.monotonic()
                    yield []
                    continue
                channel.wait(min(SILENCE_SECONDS, due))
                if channel.silent_for(SILENCE_SECONDS):
                    self._look(generation_id, cursor, channel)

    def _look(self, generation_id: str, cursor: int, channel: Channel) -> list[Entry]:
        """Return what the store has past *cursor*, and let the other followers know how far it goes."""
        entries = self._next(generation_id, cursor)
        channel.publish(entries[-1:])
        return entries

    def _next(self, generation_id: str, cursor: int) -> list[Entry]:
        """Return what the store has past *cursor*; empty if there is nothing yet."""
        entries = self.read(generation_id, cursor)
        if entries:
            if entries[0].seq != cursor + 1:
                raise LogExpired(generation_id)
            return entries
        head = self.head(generation_id)
        if head is None:
            raise LogGone(generation_id)
        if head.expired or (head.ended and head.last_seq <= cursor):
            raise LogExpired(generation_id)
        return []
