"""Who reads which answer now: how many may, whether they still may, and the end of them all when the process leaves.

Readers are counted over all processes: each tells the others its own counts by the bell. The numbers of others may be some
tenths of a second old, which a limit can bear. Who only listens to events of their own (`watch`) is asked the same, and not
counted.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gevent
from gevent import Greenlet
from sqlalchemy import Engine

from chatapp import metrics
from chatapp.bells import Bell
from chatapp.database import session_of
from chatapp.errors import Overloaded, RateLimited
from chatapp.models import accounts, generations
from chatapp.settings import Settings

logger = logging.getLogger(__name__)

RIGHTS_SECONDS = 4.0  # how long ago a reader was asked for at most; somebody without rights is out within a second more
STEP_SECONDS = 0.25
TELL_SECONDS = 2.0  # how often the counts are told although they did not change
FORGET_SECONDS = 3 * TELL_SECONDS  # another process that said nothing for this long is gone
AT_ONCE = 500  # readers asked for in one query
LEFT = "left"  # by the reader


@dataclass(eq=False)
class Reader:
    """One open stream, for the eyes of one user. *wake* is called when `allowed` or the readers' `closing` changes."""

    user_id: str
    sign_in_id: str | None  # None where nobody signs in
    generation_id: str | None  # None where it is nothing that is stored
    wake: Callable[[], None]
    asked_at: float
    allowed: bool = True
    ended: str = LEFT  # why, for the metrics
    counted: bool = True


class Readers:
    """The readers of this process, and how many there are elsewhere."""

    def __init__(self, engine: Engine, bell: Bell, settings: Settings) -> None:
        self.closing = False
        self._engine = engine
        self._bell = bell
        self._settings = settings
        self._name = str(uuid.uuid4())
        self._readers: dict[Reader, None] = {}
        self._mine: Counter[str] = Counter()  # by user
        self._elsewhere: dict[str, tuple[float, Counter[str]]] = {}  # by process: when it told, and what
        self._changed, self._told_at = False, 0.0
        self._greenlet: Greenlet[..., None] | None = None
        bell.on("readers", self._hear)

    def join(self, user_id: str, sign_in_id: str | None, generation_id: str | None, wake: Callable[[], None]) -> Reader:
        """Let one more in; *generation_id* is None for an answer that is stored nowhere.

        Raises RateLimited, Overloaded, as `check_room`.
        """
        self.check_room(user_id)
        self._mine[user_id] += 1
        self._changed = True
        metrics.stream_opened()
        return self._add(Reader(user_id, sign_in_id, generation_id, wake, time.monotonic()))

    def check_room(self, user_id: str) -> None:
        """Raise RateLimited where there is one too many of this user, Overloaded for one too many in all."""
        if self.count(user_id) >= self._settings.streams_per_user:
            raise RateLimited(
                f"You follow {self._settings.streams_per_user} answers at once already. Close a tab or wait for one to end.",
                retry_after=5,
            )
        if self.count() >= self._settings.max_streams:
            raise Overloaded("Too many answers are being read at once. Try again in a moment.", retry_after=5)

    def watch(self, user_id: str, sign_in_id: str | None, wake: Callable[[], None]) -> Reader:
        """Ask from now on whether this sign-in is still good, for a stream that is no answer's and counts nowhere here."""
        return self._add(Reader(user_id, sign_in_id, None, wake, time.monotonic(), counted=False))

    def _add(self, reader: Reader) -> Reader:
        self._readers[reader] = None
        if self._greenlet is None or self._greenlet.dead:
            self._greenlet = gevent.spawn(self._look_after_all)
        return reader

    def leave(self, reader: Reader) -> None:
        """Let *reader* go; a second time does nothing."""
        if reader in self._readers:
            del self._readers[reader]
            if not reader.counted:
                return
            metrics.stream_closed(reader.ended)
            self._mine[reader.user_id] -= 1
            if not self._mine[reader.user_id]:
                del self._mine[reader.user_id]
            self._changed = True

    def count(self, user_id: str | None = None) -> int:
        """Return how many read now, in all processes: this user's, or all."""
        now = time.monotonic()
        told = [counts for at, counts in self._elsewhere.values() if now - at < FORGET_SECONDS]
        if user_id is None:
            return sum(self._mine.values()) + sum(sum(counts.values()) for counts in told)
        return self._mine[user_id] + sum(counts[user_id] for counts in told)

    def close(self) -> None:
        """Let all go, for good: they are told to come again, and find another process or the next one."""
        self.closing = True
        for reader in list(self._readers):
            reader.wake()
        if self._greenlet is not None:
            self._greenlet.kill(block=False)
        self._bell.tell("readers", {"process": self._name, "counts": {}})

    def _look_after_all(self) -> None:
        while self._readers or self._changed:
            try:
                self._tell()
                self._ask()
            except Exception:  # the top of a greenlet: rights are asked for again in a moment
                logger.exception("the readers' rights could not be looked up; trying again")
            gevent.sleep(STEP_SECONDS)

    def _tell(self) -> None:
        now = time.monotonic()
        if self._changed or now - self._told_at > TELL_SECONDS:
            self._changed, self._told_at = False, now
            self._bell.tell("readers", {"process": self._name, "counts": dict(self._mine)})

    def _hear(self, message: dict[str, Any]) -> None:
        process, counts = message.get("process"), message.get("counts")
        if not isinstance(process, str) or not isinstance(counts, dict) or process == self._name:
            return
        self._elsewhere[process] = (time.monotonic(), Counter(counts))
        if not counts:
            del self._elsewhere[process]

    def _ask(self) -> None:
        """Look up whether those still may read who were not asked for lately."""
        before = time.monotonic() - RIGHTS_SECONDS
        due = [reader for reader in self._readers if reader.asked_at < before][:AT_ONCE]
        if not due:
            return
        allowed = self._allowed(due)
        for reader in due:
            reader.asked_at = time.monotonic()
            reader.allowed = reader in allowed
            if not reader.allowed:
                reader.wake()

    def _allowed(self, readers: Sequence[Reader]) -> set[Reader]:
        with session_of(self._engine) as session:
            signed_in = accounts.still_signed_in(session, {one.sign_in_id for one in readers if one.sign_in_id})
            owners = generations.owners(session, {one.generation_id for one in readers if one.generation_id})
        return {
            one
            for one in readers
            if (one.generation_id is None or owners.get(one.generation_id) == one.user_id)
            and (one.sign_in_id is None or signed_in.get(one.sign_in_id) == one.user_id)
        }
