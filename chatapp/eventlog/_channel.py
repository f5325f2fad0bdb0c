"""The tail of one log as this process heard it, shared by all its followers here."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from gevent.event import Event as Signal

from chatapp.events import Entry

TAIL_ENTRIES = 2048  # a follower that is further behind reads the store


class Channel:
    """A run of entries without gaps, ending with the newest one heard."""

    __slots__ = ("_entries", "_heard_at", "_signal", "followers")

    def __init__(self) -> None:
        self.followers = 0
        self._entries: list[Entry] = []
        self._signal = Signal()
        self._heard_at = time.monotonic()

    def publish(self, entries: Sequence[Entry]) -> None:
        """Take in a batch and wake the followers. A batch after a gap begins a new run; an old one changes nothing."""
        if not entries:
            return
        newest = self._entries[-1].seq if self._entries else 0
        if self._entries and entries[0].seq > newest + 1:
            self._entries = list(entries)
        else:
            self._entries += [entry for entry in entries if entry.seq > newest]
        if len(self._entries) > 2 * TAIL_ENTRIES:
            self._entries = self._entries[-TAIL_ENTRIES:]
        self._heard_at = time.monotonic()
        signal, self._signal = self._signal, Signal()
        signal.set()

    def after(self, cursor: int) -> list[Entry] | None:
        """Return the entries past *cursor*; None if the run does not reach back to it."""
        if not self._entries or self._entries[-1].seq <= cursor:
            return []
        start = cursor + 1 - self._entries[0].seq
        return self._entries[start:] if start >= 0 else None

    def wait(self, seconds: float) -> None:
        """Return when something was published after this call, or after *seconds*."""
        self._signal.wait(seconds)

    def silent_for(self, seconds: float) -> bool:
        """Say, once per *seconds* for all followers together, that nothing was heard for that long."""
        if time.monotonic() - self._heard_at < seconds:
            return False
        self._heard_at = time.monotonic()
        return True


class Channels:
    """The open channels of this process, by generation; a channel lives while it has followers."""

    def __init__(self) -> None:
        self._open: dict[str, Channel] = {}

    @contextmanager
    def open(self, generation_id: str) -> Iterator[Channel]:
        """Join the generation's channel. Open first and read the store then, so that nothing falls in between."""
        channel = self._open.setdefault(generation_id, Channel())
        channel.followers += 1
        try:
            yield channel
        finally:
            channel.followers -= 1
            if not channel.followers:
                self._open.pop(generation_id, None)

    def publish(self, generation_id: str, entries: Sequence[Entry]) -> None:
        channel = self._open.get(generation_id)
        if channel is not None:
            channel.publish(entries)

    def __len__(self) -> int:
        return len(self._open)
