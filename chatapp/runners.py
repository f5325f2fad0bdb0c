"""The runners of this process, the lease under which they write, and the orphans of others that they take over."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import gevent
from gevent import Greenlet
from gevent.event import Event as Signal
from gevent.lock import BoundedSemaphore
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from chatapp import failpoints
from chatapp.bells import Bell
from chatapp.database import checkpoint, session_of, utcnow
from chatapp.errors import Overloaded
from chatapp.eventlog import EventLog, LeaseLost
from chatapp.eventlog.memory import Logs
from chatapp.events import Event
from chatapp.models import accounts, conversations, generations
from chatapp.models.conversations import Said
from chatapp.providers import Provider, Turn
from chatapp.runner import Job, Load, Runner, Script
from chatapp.settings import Settings

logger = logging.getLogger(__name__)

Ended = Callable[[Job, Event], None]

MAX_TURNS = 200
SWEPT_AT_ONCE = 50
SWEEP_SECONDS = 60.0  # between two sweepings of logs
SESSION_SWEEP_SECONDS = 300.0  # and of all else
SESSION_KEPT = timedelta(days=1)  # after its end: until then a client is told that it expired, later that there is none
LEAVING_SECONDS = 1.0  # for runners that were told to leave
IDLE_SECONDS = 30.0  # without an answer, after which the lease is given back
RESTART_SECONDS = 2  # when to come again
RESTARTING = "The site is being restarted. Try again in a moment."


class Runners:
    """Makes the answers of this process, under one lease."""

    def __init__(
        self, engine: Engine, log: EventLog, bell: Bell, providers: Mapping[str, Provider], settings: Settings
    ) -> None:
        self.owner = str(uuid.uuid4())
        self.draining = False
        self.adopts = True  # orphans; a command of the shell, which lives for one answer, leaves them to the site
        self.on_end: list[
            Ended
        ] = []  # called with each answer that ended here and its terminal event, once it is stored
        self.spare = Logs()  # for answers that go on although they cannot be stored
        self._engine = engine
        self._log = log
        self._bell = bell
        self._providers = providers
        self._settings = settings
        self._running: dict[str, Runner] = {}
        self._fallen: set[str] = set()  # whose runner failed: they have to be somebody else's
        self._entering = BoundedSemaphore()
        self._patient_until = 0.0  # before that no orphans are taken
        self._entered_at: float | None = None  # when the lease was last needed; None without a lease
        self._hurry = Signal()  # the keeper has something to do now
        self._keeper: Greenlet[..., None] | None = None
        self._sweeper: Greenlet[..., None] | None = None
        bell.on("stop", self._hear_stop)
        bell.on("orphans", lambda message: self._hurry.set())

    def enter(self) -> str:
        """Return the owner under whose lease a log can be begun. Raises Overloaded where no new answer is begun."""
        if self.draining:
            raise Overloaded(RESTARTING, retry_after=RESTART_SECONDS)
        with self._entering:  # of many who come at once, one enters, and the others wait until it has
            if self._entered_at is None:
                self._log.store.enter(self.owner, lease_seconds=self._settings.lease_seconds)
                self._entered_at = time.monotonic()
        self._entered_at = time.monotonic()
        self.keep()
        return self.owner

    def start(self, generation_id: str, job: Job | None = None, *, owner: str) -> None:
        """Make the answer of a generation whose log this process began as *owner*. Returns at once."""
        self._spawn(generation_id, (lambda _: job) if job else partial(load_job, self._engine), owner)

    def stop(self, generation_id: str) -> None:
        """End the answer, wherever it is made. Returns at once; the log tells when it has ended."""
        runner = self._running.get(generation_id)
        if runner is not None:
            runner.stop()
        else:
            self._bell.tell("stop", {"generation": generation_id})
            self._log.store.request_stop(generation_id)

    def drop(self, generation_id: str) -> None:
        """Leave the model at once: the answer's conversation is gone. A runner elsewhere learns it when it appends."""
        self._bell.tell("stop", {"generation": generation_id})

    def _hear_stop(self, message: dict[str, Any]) -> None:
        runner = self._running.get(str(message.get("generation")))
        if runner is not None:
            runner.stop()

    def keep(self) -> None:
        """Keep the lease of this process, and look after logs whose runner died, from now on."""
        if self.draining:
            return
        if self._keeper is None or self._keeper.dead:
            self._keeper = gevent.spawn(self._keep_for_ever)
        if self._sweeper is None or self._sweeper.dead:  # apart, since it waits for the disk and for locks
            self._sweeper = gevent.spawn(self._sweep_for_ever)

    def drain(self, seconds: float) -> None:
        """Begin no more answers, give those that run *seconds*, and hand back the rest."""
        self.draining = True
        self._wait_until_idle(seconds)
        failpoints.reach("draining")
        for runner in list(self._running.values()):
            runner.hand_back()
        self._wait_until_idle(LEAVING_SECONDS)
        gevent.killall([one for one in (self._keeper, self._sweeper) if one is not None], timeout=LEAVING_SECONDS)
        if self._entered_at is not None:
            with gevent.Timeout(LEAVING_SECONDS, False):  # type: ignore[arg-type]  # else the lease runs out by itself
                self._log.store.leave(self.owner)
            self._bell.tell("orphans", {})

    def _wait_until_idle(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._running and time.monotonic() < deadline:
            gevent.sleep(0.02)

    def __len__(self) -> int:
        return len(self._running)

    def _spawn(self, generation_id: str, load: Load, owner: str) -> None:
        self.keep()
        runner = Runner(
            generation_id,
            load=load,
            log=self._log,
            providers=self._providers,
            owner=owner,
            settings=self._settings,
            spare=self.spare,
        )
        self._running[generation_id] = runner
        gevent.spawn(self._run, runner)

    def _run(self, runner: Runner) -> None:
        over = True
        try:
            over = self._advance(runner)
            if over and runner.terminal is not None:
                self._tell_end(runner.job, runner.terminal)
        except Exception:  # the top of a greenlet: the log has no runner now, and whoever starts next goes on with it
            logger.exception("generation %s: the runner failed", runner.generation_id)
            self._fallen.add(runner.generation_id)
        finally:
            if over and self._running.get(runner.generation_id) is runner:
                del self._running[runner.generation_id]

    def _advance(self, runner: Runner) -> bool:
        """Let *runner* go on; False if it will, in a greenlet of its own: one that only waits takes 16 KiB for its stack."""
        while (seconds := runner.advance()) is not None:
            if runner.park(seconds, partial(gevent.spawn, self._run, runner)):
                return False
        return True

    def _tell_end(self, job: Job, terminal: Event) -> None:
        for ended in self.on_end:
            try:
                ended(job, terminal)
            except Exception:
                logger.exception("generation %s: what follows its end failed", job.message["generation_id"])

    def _keep_for_ever(self) -> None:
        while True:
            begun = time.monotonic()
            try:
                self._keep_once()
            except Exception:  # whatever it is: without a lease no answer of this process would live on
                logger.exception("the lease could not be kept; trying again")
                self._be_patient()
            if time.monotonic() - begun > self._settings.lease_seconds / 4:
                self._be_patient()
            self._hurry.wait(self._settings.lease_seconds / 4)
            self._hurry.clear()

    def _be_patient(self) -> None:
        """Take no orphans for a while: where the database was slow, others may live and have had no chance to say so."""
        self._patient_until = time.monotonic() + self._settings.lease_seconds

    def _keep_once(self) -> None:
        store, begun = self._log.store, time.monotonic()
        if self._entered_at is not None and not store.hold(self.owner, lease_seconds=self._settings.lease_seconds):
            self._lost()
        if time.monotonic() - begun > self._settings.lease_seconds / 4:
            self._be_patient()
        self._release_fallen()
        if self._running:
            self._entered_at = time.monotonic()
            for generation_id in store.stop_requests(self.owner):
                if generation_id in self._running:
                    self._running[generation_id].stop()
        if self.draining:
            return
        if self.adopts and time.monotonic() >= self._patient_until and store.has_orphans():
            self._take_orphans()
        else:
            self._leave_if_idle()

    def _release_fallen(self) -> None:
        fallen = set(self._fallen)
        if fallen:
            self._log.store.release(list(fallen), owner=self.owner)
            self._fallen -= fallen

    def _take_orphans(self) -> None:
        owner = self.enter()
        for generation_id in self._log.store.take_orphans(owner):
            failpoints.reach("taken-over")
            self._spawn(generation_id, lambda name: replace(load_job(self._engine, name), orphan=True), owner)

    def _leave_if_idle(self) -> None:
        """Give the lease back where it was not needed for long, so that an idle site does not write twice a second."""
        if not self._idle():
            return
        with self._entering:
            if self._idle():
                self._entered_at = None
                self._log.store.leave(self.owner)

    def _idle(self) -> bool:
        return self._entered_at is not None and time.monotonic() > self._entered_at + IDLE_SECONDS

    def _lost(self) -> None:
        """Begin anew as someone else: this process was presumed dead, and what it did is taken over by others."""
        logger.warning("the lease was lost: %d answers go on elsewhere", len(self._running))
        for runner in list(self._running.values()):
            runner.lose()
        self._running.clear()
        self._log.store.forget(self.owner)
        self.owner, self._entered_at = str(uuid.uuid4()), None

    def _sweep_for_ever(self) -> None:
        logs_at = sessions_at = -SESSION_SWEEP_SECONDS
        while True:
            try:
                checkpoint(self._engine)
                now = time.monotonic()
                if now > logs_at + min(SWEEP_SECONDS, self._settings.stream_retention_seconds):
                    logs_at = now
                    self._log.store.sweep(self._settings.stream_retention_seconds)
                if now > sessions_at + min(SESSION_SWEEP_SECONDS, self._settings.session_seconds):
                    sessions_at = now
                    self.sweep()
            except Exception:
                logger.exception("the sweeping failed; trying again")
            gevent.sleep(1)

    def sweep(self) -> dict[str, int]:
        """Delete what nobody can ask for any longer, and return how much of what; any process may, and two at once.

        That is entries of logs that ended long ago, sessions that expired long ago, with their logs, and sign-ins that are
        over. Answers stay: their messages hold all.
        """
        retention = timedelta(seconds=self._settings.stream_retention_seconds)
        counts = {"logs": self._log.store.sweep(retention.total_seconds()), "sessions": 0}
        over = utcnow() - max(SESSION_KEPT, retention)
        while True:  # a transaction for a few: many at once would keep the loop and the lock
            with session_of(self._engine, writes=True) as session:
                deleted = generations.sweep(session, over_since=over, at_most=SWEPT_AT_ONCE)
            counts["sessions"] += deleted
            if deleted < SWEPT_AT_ONCE:
                break
            gevent.sleep(0)
        with session_of(self._engine, writes=True) as session:
            counts["sign-ins"] = accounts.sweep(session, before=utcnow() - timedelta(days=1))
        return counts


def load_job(engine: Engine, generation_id: str) -> Job:
    """Return what the generation is made from. Raises LeaseLost if it was deleted meanwhile."""
    with session_of(engine) as session:
        generation = session.get(generations.Generation, generation_id)
        message = session.get(conversations.Message, generation.message_id) if generation else None
        if generation is None or message is None:
            raise LeaseLost(generation_id)
        question = session.get(conversations.Message, generation.question_id)
        if question is None:
            raise LeaseLost(generation_id)
        return job_of(generation, message, said_until(session, question, most=most_of(generation)))


def new_job(
    session: Session,
    generation: generations.Generation,
    message: conversations.Message,
    question: conversations.Message,
) -> Job:
    """Return what the answer *message* to *question* is made from; all three were just stored in *session*'s transaction."""
    return job_of(generation, message, said_until(session, question, most=most_of(generation)), new=True)


def said_until(session: Session, question: conversations.Message, *, most: int) -> list[Said]:
    """Return what the model is told: at most *most* messages, the last of them *question*."""
    before = conversations.said(session, question.parent_id, limit=most - 1)
    return [*before, Said(question.role, question.content)]


def most_of(generation: generations.Generation) -> int:
    """Return how many messages the model is told at most."""
    most: int = generation.params.get("history", MAX_TURNS)
    return most


def job_of(
    generation: generations.Generation, message: conversations.Message, history: Sequence[Said], *, new: bool = False
) -> Job:
    """Return what the answer *message* is made from, after *history*."""
    columns = conversations.Message.__table__.columns
    params = generation.params
    if "turns" in params:  # the client's own account of what was said
        history = [Said(*turn) for turn in params["turns"]]
    if "asked" in params:  # what a command makes of the question
        history = [*history[:-1], Said(history[-1].role, params["asked"])]
    return Job(
        conversation_id=generation.conversation_id,
        message={column.name: getattr(message, column.name) for column in columns},
        model=generation.model,
        params=params,
        turns=turns(params.get("system_prompt"), history),
        user_id=generation.user_id,
        script=Script(**params["script"]) if "script" in params else None,
        seams=tuple(generation.seams or ()),
        new=new,
    )


def turns(system_prompt: str | None, history: Sequence[Said]) -> tuple[Turn, ...]:
    """Return the history as models take it: answers without text left out, questions then in a row joined.

    Many chat templates refuse two turns of one role in a row.
    """
    result = [Turn("system", system_prompt)] if system_prompt else []
    for message in history:
        if not message.content:
            continue
        if result and result[-1].role == message.role:
            result[-1] = Turn(message.role, f"{result[-1].content}\n\n{message.content}")
        else:
            result.append(Turn(message.role, message.content))
    return tuple(result)
