"""The event loop's pace: under load it turns at most some five hundred times a second.

Each turn with its commit costs some 110 microseconds, however little it finds to do. When a thousand tokens and more come in
a second, it pays to let them gather for up to TURN_SECONDS: then one turn reads many sockets, and one commit stores what they
brought. With little to do the loop is left alone, and a token waits for nothing.

libev has this built in (`ev_set_io_collect_interval`), but gevent does not hand it on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gevent
from gevent.monkey import get_original

TURN_SECONDS = 0.0017
SAMPLE_SECONDS = 0.02
BUSY_PER_SECOND = 800  # batches: less than that is cheap enough at once

LAST = -2  # after the callbacks that gevent runs before the same wait: they have work for this turn

really_sleep = get_original("time", "sleep")


class Pace:
    """Slows the loop of this thread while *count*, which only grows, grows by more than BUSY_PER_SECOND."""

    def __init__(self, count: Callable[[], int]) -> None:
        self.busy = False
        self._count = count
        self._sampled, self._sampled_at = 0, 0.0
        self._turned_at = 0.0
        self._watcher: Any = None

    def keep(self) -> None:
        """Begin."""
        if self._watcher is None:
            self._watcher = gevent.get_hub().loop.prepare(ref=False, priority=LAST)
            self._watcher.start(self._before_waiting)

    def stop(self) -> None:
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None

    def _before_waiting(self) -> None:
        """Let what is about to come gather. Runs in the event loop, before it asks for what is ready."""
        now = time.monotonic()
        if now - self._sampled_at >= SAMPLE_SECONDS:
            counted = self._count()
            self.busy = counted - self._sampled > BUSY_PER_SECOND * (now - self._sampled_at)
            self._sampled, self._sampled_at = counted, now
        if self.busy:
            left = self._turned_at + TURN_SECONDS - now
            if 0 < left <= TURN_SECONDS:
                really_sleep(left)
                now += left
        self._turned_at = now
