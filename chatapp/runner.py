"""provider -> log, to one terminal event. A greenlet per generation; never flask.

A runner loads its job from the database, so that starting an answer and taking one over are the same act and no model is
asked before the question is committed. It appends each read's tokens before it reads again: what readers see is stored.

How it is stopped: `stop` throws StopRequested into the greenlet, but only while it waits for the model, and decides so in
the event loop, when no other greenlet runs. Thus a commit is never torn, and a silent model is left at once.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Any

import gevent
from gevent import Greenlet
from greenlet import greenlet
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from chatapp.answer import INTERRUPTED, Answer, fold
from chatapp.database import checkpoint, session_of, utcnow
from chatapp.errors import AnswerTooLarge, Interrupted, Overloaded, ProviderError, ProviderTimeout
from chatapp.eventlog import EventLog, LeaseLost
from chatapp.events import Event, Failed, Finished, Reasoning, Started, Status, Token, Usage
from chatapp.models import accounts, conversations, generations
from chatapp.providers import ChatRequest, End, Piece, Provider, Turn
from chatapp.schemas.conversations import Message as MessageSchema
from chatapp.settings import Settings

logger = logging.getLogger(__name__)

STORAGE_SECONDS = 30.0  # a database that is away for longer ends the answer
CHARS_PER_TOKEN = 4  # a rule of thumb for English, used where an API counts nothing; the usage is marked as estimated
MAX_TURNS = 200
MAX_EVENTS = 500_000  # an answer cut into single bytes may be short and still too much
SWEEP_SECONDS = 60.0
INTERRUPTED_MESSAGE = "The server stopped before the end. What was written is kept."
BROKEN_MESSAGE = "Something went wrong while the answer was written. What came is kept. Try again."
STORAGE_MESSAGE = "The answer could not be stored. What is shown is kept. Try again in a moment."


Load = Callable[[str], "Job"]


class StopRequested(Exception):
    """A person ended the answer."""


@dataclass(frozen=True)
class Job:
    """What a runner needs, loaded once."""

    conversation_id: str
    message: dict[str, Any]  # the answer's row as it was made
    model: str  # provider/name
    params: dict[str, Any]
    turns: tuple[Turn, ...]


@dataclass
class Times:
    """When things happened, on the monotonic clock."""

    begun: float = field(default_factory=time.monotonic)
    first_token: float | None = None


class Runner:
    """Makes one answer. `run` returns when its log has a terminal entry, or belongs to someone else."""

    def __init__(
        self,
        generation_id: str,
        *,
        load: Load,
        log: EventLog,
        providers: Mapping[str, Provider],
        owner: str,
        settings: Settings,
    ) -> None:
        self.generation_id = generation_id
        self._load = load
        self._log = log
        self._providers = providers
        self._owner = owner
        self._settings = settings
        self._job: Job
        self._answer = Answer()
        self._seq = 0
        self._usage: Usage | None = None
        self._times = Times()
        self._greenlet: greenlet | None = None
        self._waiting = False
        self._stop = False

    # making the answer

    def run(self) -> None:
        """Ask the model and write what it says. Raises what the database raises when it stays away."""
        self._greenlet = gevent.getcurrent()
        try:
            self._job = self._load(self.generation_id)
            self._append(self._opening())
            self._end(self._relay())
        except LeaseLost:
            logger.warning("generation %s: the lease is lost, what was not stored is dropped", self.generation_id)

    def abandon(self) -> None:
        """End a log whose runner died: what it wrote is kept, and marked as not whole."""
        try:
            self._job = self._load(self.generation_id)
            entries = self._log.read_all(self.generation_id)
            self._answer = fold(entry.event for entry in entries)
            self._seq = entries[-1].seq if entries else 0
            if not entries:  # it died before its first word
                self._append(self._opening())
            self._end(Failed(INTERRUPTED, INTERRUPTED_MESSAGE, retryable=True))
        except LeaseLost:
            logger.info("generation %s: already taken over", self.generation_id)

    def stop(self) -> None:
        """End the answer here, in whatever phase it is; what came is kept. Never waits."""
        self._stop = True
        gevent.get_hub().loop.run_callback(self._interrupt)

    def _interrupt(self) -> None:
        if self._waiting and self._greenlet is not None:
            self._greenlet.throw(StopRequested())

    def _opening(self) -> list[Event]:
        job = self._job
        begin = Started(self.generation_id, job.conversation_id, job.message["id"], job.model)
        return [begin, Status("Generating response…")]

    def _relay(self) -> Event:
        """Bring the model's tokens into the log; return the terminal event, which is not in it yet."""
        name = self._job.model.partition("/")[0]
        provider = self._providers.get(name)
        if provider is None:
            return Failed("provider_unavailable", f"The provider {name} is not set up on this server.", retryable=False)
        stream = provider.stream(self._request())
        try:
            return self._relay_from(stream)
        except StopRequested:
            return self._finished("stopped")
        except ProviderError as error:
            return Failed(error.code, error.message, error.retryable)
        except LeaseLost:
            raise
        except (DBAPIError, Overloaded):
            logger.exception("generation %s: the answer could not be stored", self.generation_id)
            return Failed("storage", STORAGE_MESSAGE, retryable=True)
        except Exception:
            logger.exception("generation %s: the provider failed in an unforeseen way", self.generation_id)
            return Failed("internal_error", BROKEN_MESSAGE, retryable=True)
        finally:
            close(stream)

    def _relay_from(self, stream: Iterator[list[Piece]]) -> Event:
        while True:
            pieces = self._next(stream)
            events, end = self._sort(pieces)
            if self._seq > MAX_EVENTS:
                raise AnswerTooLarge
            if events:
                self._append(events)
            if end is not None:
                return self._finished(end.finish_reason)

    def _sort(self, pieces: Sequence[Piece]) -> tuple[list[Event], End | None]:
        """Part what goes into the log now from what ends it."""
        events: list[Event] = []
        end = None
        for piece in pieces:
            if isinstance(piece, End):
                end = piece
            elif isinstance(piece, Usage):
                self._usage = piece
            else:
                events.append(storable(piece))
                if self._times.first_token is None and type(piece) is Token:
                    self._times.first_token = time.monotonic()
        return events, end

    def _next(self, stream: Iterator[list[Piece]]) -> list[Piece]:
        """Wait for the next pieces, within the deadlines. Raises StopRequested, ProviderError."""
        if self._stop:
            raise StopRequested
        seconds, sentence = self._deadline()
        timeout = gevent.Timeout(seconds)
        timeout.start()
        self._waiting = True
        try:
            return next(stream)
        except StopIteration:
            raise Interrupted from None
        except gevent.Timeout as expired:
            if expired is not timeout:
                raise
            raise ProviderTimeout(sentence) from None
        finally:
            self._waiting = False
            timeout.close()

    def _deadline(self) -> tuple[float, str]:
        """Return how many seconds the model has for its next step, and what to say then. Raises ProviderTimeout for none."""
        settings, name = self._settings, self._job.model
        left = self._times.begun + settings.total_seconds - time.monotonic()
        too_long = f"{name} took longer than {settings.total_seconds:g} s. What it wrote is kept."
        if left <= 0:  # a stream that never has to wait is never timed out
            raise ProviderTimeout(too_long)
        begun = bool(self._answer.text or self._answer.reasoning)
        patience = settings.idle_seconds if begun else settings.first_event_seconds
        if left < patience:
            return left, too_long
        if begun:
            return patience, f"{name} sent nothing for {patience:g} s. What it wrote is kept."
        return patience, f"{name} did not begin to answer within {patience:g} s. Try again, or pick another model."

    def _request(self) -> ChatRequest:
        params = self._job.params
        return ChatRequest(
            model=self._job.model.partition("/")[2],
            messages=self._job.turns,
            temperature=params.get("temperature"),
            max_tokens=params.get("max_tokens"),
        )

    # writing it down

    def _append(self, events: Sequence[Event], within: Callable[[Session], None] | None = None) -> None:
        """Commit *events*; a database that is away is waited for. Raises LeaseLost, and its error after a while."""
        deadline = time.monotonic() + STORAGE_SECONDS
        pause = 0.05
        while True:
            try:
                self._log.append(self.generation_id, events, after=self._seq, owner=self._owner, within=within)
                break
            except (DBAPIError, Overloaded):
                if time.monotonic() > deadline:
                    raise
                gevent.sleep(pause)
                pause = min(2 * pause, 1.0)
        self._seq += len(events)
        self._answer = fold(events, onto=self._answer)

    def _end(self, terminal: Event) -> None:
        """Write the last entries and the message's row, in one transaction."""
        events: list[Event] = [self._usage_event(), terminal] if self._answer.message else [terminal]
        values = self._values(fold(events, onto=self._answer))
        if type(terminal) is Finished:
            events[-1] = Finished(
                MessageSchema().dump({**self._job.message, **values}), terminal.finish_reason, terminal.metadata
            )
        message_id = self._job.message["id"]
        self._append(events, within=lambda session: generations.finish(session, self.generation_id, message_id, values))
        logger.info("generation %s: %s after %d events", self.generation_id, values["status"], self._seq)

    def _values(self, answer: Answer) -> dict[str, Any]:
        """Return the columns of the message's row."""
        return {
            "content": answer.text,
            "reasoning": answer.reasoning,
            "status": answer.status,
            "model": self._job.model,
            "finish_reason": answer.finish_reason,
            "error": answer.error,
            "usage": answer.usage,
            "sources": answer.sources,
            "details": answer.metadata or None,
        }

    def _finished(self, reason: str) -> Finished:
        return Finished({}, reason, self._metadata())

    def _usage_event(self) -> Usage:
        """Return what the API counted, or an estimate that is marked as one."""
        if self._usage is not None:
            return self._usage
        prompt = sum(len(turn.content) for turn in self._job.turns) // CHARS_PER_TOKEN
        completion = -(-len(self._answer.text + self._answer.reasoning) // CHARS_PER_TOKEN)
        return Usage(prompt, completion, prompt + completion, estimated=True)

    def _metadata(self) -> dict[str, Any]:
        now, times = time.monotonic(), self._times
        first = times.first_token
        tokens = self._usage_event().completion_tokens
        writing = now - first if first is not None else 0.0
        return {
            "model": self._job.model,
            "provider": self._job.model.partition("/")[0],
            "confidence": None,
            "hallucination": None,
            "search_mode": self._job.params.get("search_mode", "none"),
            "cached": False,
            "duration_ms": round(1000 * (now - times.begun)),
            "time_to_first_token_ms": round(1000 * (first - times.begun)) if first is not None else None,
            "tokens_per_second": round(tokens / writing, 1) if writing > 0 else None,
        }


class Runners:
    """The runners of this process, and what keeps their leases."""

    def __init__(self, engine: Engine, log: EventLog, providers: Mapping[str, Provider], settings: Settings) -> None:
        self.owner = str(uuid.uuid4())
        self._engine = engine
        self._log = log
        self._providers = providers
        self._settings = settings
        self._running: dict[str, Runner] = {}
        self._keeper: Greenlet[..., None] | None = None
        self._sweeper: Greenlet[..., None] | None = None

    def start(self, generation_id: str) -> None:
        """Make the answer of a generation whose log this process owns. Returns at once."""
        self._spawn(generation_id, Runner.run)

    def stop(self, generation_id: str) -> None:
        """End the answer, wherever it is made. Returns at once; the log tells when it has ended."""
        runner = self._running.get(generation_id)
        if runner is not None:
            runner.stop()
        else:
            self._log.store.request_stop(generation_id)

    def drop(self, generation_id: str) -> None:
        """Leave the model at once: the answer's conversation is gone. A runner elsewhere learns it when it appends."""
        runner = self._running.get(generation_id)
        if runner is not None:
            runner.stop()

    def keep(self) -> None:
        """Keep the leases of this process, and look after logs whose runner died, from now on."""
        if self._keeper is None or self._keeper.dead:
            self._keeper = gevent.spawn(self._keep_for_ever)
        if self._sweeper is None or self._sweeper.dead:  # apart, since it waits for the disk and for locks
            self._sweeper = gevent.spawn(self._sweep_for_ever)

    def __len__(self) -> int:
        return len(self._running)

    def _spawn(self, generation_id: str, act: Callable[[Runner], None]) -> None:
        self.keep()
        load = partial(load_job, self._engine)
        runner = Runner(
            generation_id,
            load=load,
            log=self._log,
            providers=self._providers,
            owner=self.owner,
            settings=self._settings,
        )
        self._running[generation_id] = runner
        gevent.spawn(self._run, runner, act)

    def _run(self, runner: Runner, act: Callable[[Runner], None]) -> None:
        try:
            act(runner)
        except Exception:  # the top of a greenlet: the lease runs out now, and the keeper ends the log
            logger.exception("generation %s: the runner failed", runner.generation_id)
        finally:
            del self._running[runner.generation_id]

    def _keep_for_ever(self) -> None:
        while True:
            try:
                self._keep_once()
            except Exception:  # whatever it is: without leases no answer of this process would live on
                logger.exception("the leases could not be kept; trying again")
            gevent.sleep(self._settings.lease_seconds / 4)

    def _sweep_for_ever(self) -> None:
        swept_at = -SWEEP_SECONDS
        while True:
            try:
                checkpoint(self._engine)
                if time.monotonic() > swept_at + min(SWEEP_SECONDS, self._settings.stream_retention_seconds):
                    swept_at = time.monotonic()
                    self.sweep()
            except Exception:
                logger.exception("the sweeping failed; trying again")
            gevent.sleep(1)

    def sweep(self) -> None:
        """Delete what nobody can ask for any longer: entries of logs that ended long ago, sign-ins that are over."""
        self._log.store.sweep(self._settings.stream_retention_seconds)
        with session_of(self._engine, writes=True) as session:
            accounts.sweep(session, before=utcnow() - timedelta(days=1))

    def _keep_once(self) -> None:
        store, lease = self._log.store, self._settings.lease_seconds
        if self._running:
            store.renew(list(self._running), owner=self.owner, lease_seconds=lease)
            for generation_id in store.stop_requests(self.owner):
                if generation_id in self._running:
                    self._running[generation_id].stop()
        for generation_id in store.take_expired(owner=self.owner, lease_seconds=lease):
            if generation_id not in self._running:
                self._spawn(generation_id, Runner.abandon)


def load_job(engine: Engine, generation_id: str) -> Job:
    """Return what the generation is made from. Raises LeaseLost if it was deleted meanwhile."""
    with session_of(engine) as session:
        generation = session.get(generations.Generation, generation_id)
        message = session.get(conversations.Message, generation.message_id) if generation else None
        if generation is None or message is None:
            raise LeaseLost(generation_id)
        history = conversations.branch(
            session, generation.question_id, limit=generation.params.get("history", MAX_TURNS)
        )
        columns = conversations.Message.__table__.columns
        return Job(
            conversation_id=generation.conversation_id,
            message={column.name: getattr(message, column.name) for column in columns},
            model=generation.model,
            params=generation.params,
            turns=turns(generation.params.get("system_prompt"), history),
        )


def turns(system_prompt: str | None, history: Sequence[conversations.Message]) -> tuple[Turn, ...]:
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


def storable(piece: Token | Reasoning) -> Event:
    """Return *piece* with NUL shown as U+FFFD: PostgreSQL stores no NUL, and what is streamed is what is stored."""
    return replace(piece, content=piece.content.replace("\0", "\ufffd")) if "\0" in piece.content else piece


def close(stream: Iterator[list[Piece]]) -> None:
    """Close the provider's generator, and with it the connection to the model."""
    closing = getattr(stream, "close", None)
    if closing is not None:
        closing()
