"""The log: append, read, follow. A generation's log is append-only, dense from 1, and has one terminal entry, its last.

Invariants, and who keeps them:

- An entry is committed before any follower sees it: followers read the store, or hear a bell that is rung after the commit.
- Only a log's owner appends, as long as it holds its lease: each appending transaction checks that, and an owner that lost
  it gets LeaseLost; what it had is dropped.
- Nothing is appended after a terminal entry.
- A follower holds a cursor and no queue: it takes what is next from the shared tail of its process (`_channel`), or from the
  store if the tail no longer reaches back that far. A slow one costs nothing and slows nobody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import gevent
from gevent.event import AsyncResult
from sqlalchemy import Connection

from chatapp.bells import Bell
from chatapp.errors import Overloaded
from chatapp.eventlog._channel import Batch as Batch
from chatapp.eventlog._channel import Channel, Channels, Tap
from chatapp.events import Entry, Event, Failed

PAGE = 2000  # entries read from the store at once: some 200 kB
SILENCE_SECONDS = 1.0  # a follower that heard nothing for this long looks into the store itself
APPEND_SECONDS = 90.0  # longer than the longest wait for a lock: only a writer that is gone takes this long

Done = Callable[[Sequence[Entry] | None, Exception | None], None]  # the entries, or why there are none
Within = Callable[[Connection | None], None]  # given the connection of the appending transaction


class LeaseLost(Exception):
    """Another runner owns the log now, or it has ended or is gone: this one must stop and drop what it has."""


class LogGone(Exception):
    """There is no such log: its conversation was deleted, or it never was."""


class LogTroubled(Exception):
    """The log's writer cannot store what comes next, and says so in `event`, which is in no log."""

    def __init__(self, event: Failed) -> None:
        self.event = event
        super().__init__(event.message)


class LogExpired(Exception):
    """Entries past the cursor are gone: the log is kept for a while after its end, the message for ever."""


class Head(NamedTuple):
    """What is known of a log without reading it; `expired` says that its entries are gone.

    `taken` counts how often its owner was presumed dead and another took it over.
    """

    last_seq: int
    ended: bool
    expired: bool = False
    taken: int = 0


class Store(Protocol):
    """What a backend does; see `EventLog` for what the calls mean."""

    def create(self, generation_id: str, *, owner: str, session: Any = None, events: Sequence[Event] = ()) -> None: ...

    def append_soon(
        self,
        generation_id: str,
        events: Sequence[Event],
        *,
        after: int,
        owner: str,
        done: Done,
        within: Within | None = None,
    ) -> None: ...

    def writes(self, generation_id: str) -> bool:
        """Say whether this process is the one that writes the log, as far as it knows."""
        ...

    def read(self, generation_id: str, after: int = 0, limit: int = PAGE) -> list[Entry]: ...
    def head(self, generation_id: str) -> Head | None: ...

    def enter(self, owner: str, *, lease_seconds: float) -> None:
        """Give *owner*, who is new, a lease, without which it may write nothing."""
        ...

    def hold(self, owner: str, *, lease_seconds: float) -> bool:
        """Renew the lease; False if it was taken away: the owner was presumed dead."""
        ...

    def leave(self, owner: str) -> None:
        """Give the lease back; the logs that have not ended are orphans at once, though nobody died."""
        ...

    def adopt(self, generation_id: str, last_seq: int) -> None:
        """Note that this process writes the log now, which ends at *last_seq*."""
        ...

    def forget(self, owner: str) -> None:
        """Take it that this process writes no log any more: as *owner* it was presumed dead."""
        ...

    def release(self, generation_ids: Sequence[str], *, owner: str) -> None:
        """Make orphans of *owner*'s logs, whose runners failed."""
        ...

    def has_orphans(self) -> bool:
        """Say whether there is a lease that ran out, or a log without one. Costs no write lock."""
        ...

    def take_orphans(self, owner: str) -> list[str]:
        """Make *owner* the owner of all logs whose own one has no lease, and return their names. Raises LeaseLost.

        Takes nothing where the database was not prompt: others may have had no chance to renew their leases.
        """
        ...

    def erase(self, generation_ids: Collection[str], *, session: Any = None) -> None:
        """Delete what is not deleted with the generations' own rows, within *session*'s transaction."""
        ...

    def request_stop(self, generation_id: str) -> None: ...
    def stop_requests(self, owner: str) -> list[str]: ...
    def sweep(self, ended_before_seconds: float) -> int: ...


class EventLog:
    """All logs, in one store. The bell is rung after each commit, and what it brings from elsewhere is heard."""

    def __init__(self, store: Store, bell: Bell) -> None:
        self.store = store
        self.appended = 0  # batches, by this process
        self._bell = bell
        self._channels = Channels(bell)
        bell.listen(self._channels.publish)

    def create(self, generation_id: str, *, owner: str, session: Any = None, events: Sequence[Event] = ()) -> None:
        """Begin a log, owned by *owner*, with *events*, within *session*'s transaction. Raises LeaseLost."""
        self.store.create(generation_id, owner=owner, session=session, events=events)

    def append_soon(
        self,
        generation_id: str,
        events: Sequence[Event],
        *,
        after: int,
        owner: str,
        done: Done,
        within: Within | None = None,
    ) -> None:
        """Commit *events* as the entries after seq *after*, then ring, then call *done*, all in another greenlet.

        *within* is called with the connection of the same transaction: what it writes is committed with the events or
        not at all. Appending the same batch again after an error that hid whether it was committed is safe. *done* gets
        the entries, or LeaseLost, or what the database raised; it must not wait.
        """

        def stored(entries: Sequence[Entry] | None, error: Exception | None) -> None:
            if entries:
                self._bell.ring(generation_id, entries)
            done(entries, error)

        self.appended += 1
        self.store.append_soon(generation_id, events, after=after, owner=owner, done=stored, within=within)

    def append(
        self, generation_id: str, events: Sequence[Event], *, after: int, owner: str, within: Within | None = None
    ) -> Sequence[Entry]:
        """As `append_soon`, but wait for it and return the entries. Raises LeaseLost, and what the database raises."""
        result: AsyncResult[Sequence[Entry]] = AsyncResult()

        def done(entries: Sequence[Entry] | None, error: Exception | None) -> None:
            if error is not None:
                result.set_exception(error)
            else:
                result.set(entries)

        self.append_soon(generation_id, events, after=after, owner=owner, done=done, within=within)
        try:
            return result.get(timeout=APPEND_SECONDS) or ()
        except gevent.Timeout as error:
            raise Overloaded from error

    def warn(self, generation_id: str, event: Failed) -> None:
        """Tell who follows the log in this process that nothing can be stored now: they get LogTroubled."""
        self._channels.warn(generation_id, event)

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

    def follow(
        self, generation_id: str, after: int = 0, *, heartbeat_seconds: float = 15.0, tap: Tap | None = None
    ) -> Iterator[list[Entry]]:
        """Yield the entries past seq *after*, in order, in batches of what is there at once; wait for more.

        0 is the beginning. Yields an empty list per *heartbeat_seconds* of silence and returns after the terminal
        entry. No database connection is held between two steps. Raises LogGone, LogTroubled, and LogExpired if an entry
        past *after* is gone; a gap is never skipped.

        While nothing is behind, a *tap* is given the batches instead, by whoever publishes them; the terminal entry,
        and what the tap did not take, is yielded, and an empty list each time that the tap was woken.
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
                if channel.warning is not None:
                    raise LogTroubled(channel.warning)
                due = silent_since + heartbeat_seconds - time.monotonic()
                if due <= 0:
                    silent_since = time.monotonic()
                    yield []
                    continue
                mine = self.store.writes(generation_id)  # then no bell can be lost
                seconds = due if mine else min(SILENCE_SECONDS, due)
                if tap is None:
                    channel.wait(seconds)
                else:
                    woken = channel.wait_tapped(tap, cursor, seconds)
                    cursor, silent_since = tap.cursor, max(silent_since, tap.sent_at)
                    if woken:
                        yield []
                if not mine and channel.silent_for(SILENCE_SECONDS):
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
