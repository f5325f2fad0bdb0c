"""The tail of one log as this process heard it, shared by all its followers here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from gevent.event import Event as Signal

from chatapp.bells import Bell
from chatapp.events import Entry, Failed

TAIL_ENTRIES = 512  # a follower that is further behind reads the store


class Batch:
    """What was published at once, and its bytes in each form that some tap wants: made once for all of them."""

    __slots__ = ("_forms", "entries", "first", "last")

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = entries
        self.first = entries[0].seq
        self.last = entries[-1].seq
        self._forms: dict[object, bytes] = {}

    def form(self, key: object, make: Callable[[Sequence[Entry]], bytes]) -> bytes:
        """Return the batch in the form *key*, which *make* makes."""
        found = self._forms.get(key)
        if found is None:
            found = self._forms[key] = make(self.entries)
        return found


class Tap(Protocol):
    """A follower that takes batches where they are published, without waking up."""

    cursor: int
    sent_at: float  # when it last took something, monotonic

    def offer(self, batch: Batch) -> bool:
        """Take *batch*, which follows the cursor; False if that is not possible now. Never waits, never raises."""
        ...

    def wake(self) -> None:
        """End `wait`."""
        ...

    def wait(self, seconds: float) -> bool:
        """Wait until somebody wakes it, and say whether somebody did within *seconds*."""
        ...


class Channel:
    """A run of entries without gaps, ending with the newest one heard."""

    __slots__ = ("_entries", "_heard_at", "_signal", "_taps", "_waiting", "followers", "warning")

    def __init__(self) -> None:
        self.followers = 0
        self.warning: Failed | None = None
        self._entries: list[Entry] = []
        self._signal = Signal()
        self._waiting = 0
        self._taps: dict[Tap, None] = {}
        self._heard_at = time.monotonic()

    def publish(self, entries: Sequence[Entry]) -> None:
        """Take in a batch and wake the followers. A batch after a gap begins a new run; an old one changes nothing."""
        if not entries:
            return
        kept = self._entries
        newest = kept[-1].seq if kept else 0
        if kept and entries[0].seq > newest + 1:
            self._entries = list(entries)
        elif entries[0].seq > newest:
            kept += entries
        else:
            entries = [entry for entry in entries if entry.seq > newest]
            kept += entries
        if len(self._entries) > 2 * TAIL_ENTRIES:
            self._entries = self._entries[-TAIL_ENTRIES:]
        self._heard_at = time.monotonic()
        self.warning = None
        if self._taps and entries:
            self._offer(Batch(entries))
        if self._waiting:
            self._wake_waiting()

    def warn(self, event: Failed) -> None:
        """Let those who follow now know of *event*, which is in no log."""
        self.warning = event
        for tap in list(self._taps):
            tap.wake()
        self._wake_waiting()

    def _wake_waiting(self) -> None:
        signal, self._signal = self._signal, Signal()
        signal.set()

    def _offer(self, batch: Batch) -> None:
        terminal = batch.entries[-1].event.terminal
        for tap in list(self._taps):
            if not terminal and tap.cursor + 1 == batch.first and tap.offer(batch):
                tap.cursor = batch.last
            else:
                tap.wake()

    def after(self, cursor: int) -> list[Entry] | None:
        """Return the entries past *cursor*; None if the run does not reach back to it."""
        if not self._entries or self._entries[-1].seq <= cursor:
            return []
        start = cursor + 1 - self._entries[0].seq
        return self._entries[start:] if start >= 0 else None

    def wait(self, seconds: float) -> None:
        """Return when something was published after this call, or after *seconds*."""
        self._waiting += 1
        try:
            self._signal.wait(seconds)
        finally:
            self._waiting -= 1

    def wait_tapped(self, tap: Tap, cursor: int, seconds: float) -> bool:
        """Let *tap* take what is published from *cursor* on, until it is woken (True) or for *seconds*."""
        tap.cursor = cursor
        self._taps[tap] = None
        try:
            return tap.wait(seconds)
        finally:
            del self._taps[tap]

    def silent_for(self, seconds: float) -> bool:
        """Say, once per *seconds* for all followers together, that nothing was heard for that long."""
        if time.monotonic() - self._heard_at < seconds:
            return False
        self._heard_at = time.monotonic()
        return True


class Channels:
    """The open channels of this process, by generation; a channel lives while it has followers."""

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._open: dict[str, Channel] = {}

    @contextmanager
    def open(self, generation_id: str) -> Iterator[Channel]:
        """Join the generation's channel. Open first and read the store then, so that nothing falls in between."""
        channel = self._open.get(generation_id)
        if channel is None:
            channel = self._open[generation_id] = Channel()
            self._bell.want(generation_id)
        channel.followers += 1
        try:
            yield channel
        finally:
            channel.followers -= 1
            if not channel.followers:
                self._open.pop(generation_id, None)
                self._bell.unwant(generation_id)

    def publish(self, generation_id: str, entries: Sequence[Entry]) -> None:
        channel = self._open.get(generation_id)
        if channel is not None:
            channel.publish(entries)

    def warn(self, generation_id: str, event: Failed) -> None:
        channel = self._open.get(generation_id)
        if channel is not None:
            channel.warn(event)

    def __len__(self) -> int:
        return len(self._open)
