"""Answers that are stored nowhere: made in this process, for those who read them now, and gone with the last of them.

The engine is the same as for all others, over a log in memory. Nobody can come back to such an answer once its last reader
has left, so the model is left at that moment.
"""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import gevent

from chatapp.errors import AppError, Overloaded
from chatapp.eventlog.memory import Logs
from chatapp.events import Failed
from chatapp.models.generations import Generation
from chatapp.models.usage import Spent
from chatapp.providers import Provider
from chatapp.runner import BROKEN_MESSAGE, Job, Runner
from chatapp.runners import RESTART_SECONDS, RESTARTING
from chatapp.settings import Settings

logger = logging.getLogger(__name__)

MAX_AT_ONCE = 200  # each keeps its whole text in memory: 8 MiB at the very most, some kilobytes in general


@dataclass
class Held:
    """An answer, and how many read it or are about to."""

    generation: Generation
    key: tuple[str, str | None]  # whose, and their name for the start
    runner: Runner
    readers: int = 1


class Passing:
    """The answers of this process that nobody keeps."""

    def __init__(self, providers: Mapping[str, Provider], settings: Settings) -> None:
        self.log = Logs()
        self.draining = False
        self.on_spent: list[Callable[[Job, Spent], None]] = []  # with what each cost, also one whose readers left
        self._providers = providers
        self._settings = settings
        self._owner = str(uuid.uuid4())
        self._held: dict[str, Held] = {}
        self.log.memory.enter(self._owner, lease_seconds=math.inf)

    def join(self, user_id: str, key: str | None) -> Generation | None:
        """Return the answer that *user_id* began with this *key* and somebody still reads; the caller holds it too."""
        if key is not None:
            for held in self._held.values():
                if held.key == (user_id, key):
                    held.readers += 1
                    return held.generation
        return None

    def begin(self, generation: Generation, job: Job, *, key: str | None) -> None:
        """Begin to make an answer, which the caller holds until `leave`. Returns at once. Raises Overloaded."""
        if self.draining:
            raise Overloaded(RESTARTING, retry_after=RESTART_SECONDS)
        if len(self._held) >= MAX_AT_ONCE:
            raise Overloaded("Too many answers are being made at once. Try again in a moment.", retry_after=5)
        runner = Runner(
            generation.id,
            load=lambda _: job,
            log=self.log,
            providers=self._providers,
            owner=self._owner,
            settings=self._settings,
        )
        self.log.create(generation.id, owner=self._owner)
        self._held[generation.id] = Held(generation, (generation.user_id, key), runner)
        gevent.spawn(self._run, runner)

    def leave(self, generation_id: str) -> None:
        """Let go of an answer. With the last one who held it go its model and all that it said."""
        held = self._held.get(generation_id)
        if held is None:
            return
        held.readers -= 1
        if not held.readers:
            del self._held[generation_id]
            held.runner.hand_back()
            self.log.memory.drop(generation_id)

    def drain(self, seconds: float) -> None:
        """Begin no more answers, and give those that run *seconds*: nobody else could go on with them."""
        self.draining = True
        deadline = time.monotonic() + seconds
        while self._held and time.monotonic() < deadline:
            gevent.sleep(0.02)

    def __len__(self) -> int:
        return len(self._held)

    def _run(self, runner: Runner) -> None:
        try:
            runner.run()
        except Exception:  # the top of a greenlet
            logger.exception("generation %s: the runner failed", runner.generation_id)
            self.log.warn(runner.generation_id, Failed(AppError.code, BROKEN_MESSAGE, retryable=True))
        finally:
            self._tell_spent(runner)

    def _tell_spent(self, runner: Runner) -> None:
        for spent in self.on_spent:
            try:
                spent(runner.job, runner.spent())
            except Exception:
                logger.exception("generation %s: what it cost could not be stored", runner.generation_id)
