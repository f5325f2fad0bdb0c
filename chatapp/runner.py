"""provider -> log, to one terminal event. A greenlet per generation; never flask.

A runner loads its job from the database, so that starting an answer and taking one over are the same act and no model is
asked before the question is committed. What readers see is stored: pieces gather while the last batch is being committed,
and are the next one.

It never asks a model twice for one answer, but to go on from what is there. The log tells what it may do: an empty one was
never asked for; one with text is gone on with, where the provider can do that; else the answer ends `interrupted`.

The model is waited for in one of two ways. A stream that can be polled is read by a callback of the event loop, which costs
no greenlet switch a token; its runner sleeps until something happens that needs it. Any other is read in the greenlet. Either
way an order (to stop, to hand back) is obeyed only between two steps, so that a commit is never torn, and a silent model is
left at once.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import gevent
from gevent.event import Event as Signal
from greenlet import greenlet
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from chatapp import failpoints, metrics
from chatapp.answer import INTERRUPTED, Answer, fold
from chatapp.errors import AnswerTooLarge, Interrupted, Overloaded, ProviderError, ProviderTimeout
from chatapp.eventlog import EventLog, LeaseLost
from chatapp.eventlog.memory import Logs
from chatapp.events import Entry, Event, Failed, Finished, Reasoning, Sources, Started, Status, Token, Usage
from chatapp.models import generations
from chatapp.models.usage import Spent
from chatapp.providers import ChatRequest, End, Piece, Provider, Turn
from chatapp.schemas.conversations import Message as MessageSchema
from chatapp.settings import Settings

logger = logging.getLogger(__name__)

STORAGE_SECONDS = 30.0  # a database that is away for longer ends the answer
MESSAGE = MessageSchema()  # once: to make one takes longer than to use it
CHARS_PER_TOKEN = 4  # a rule of thumb for English, used where an API counts nothing; the usage is marked as estimated
MAX_EVENTS = 500_000  # an answer cut into single bytes may be short and still too much
MAX_EVENT_CHARS = 64 * 1024  # of pieces that are joined: a reader's own parser may have a limit
ADRIFT_SECONDS = 3.0  # the same for an answer that need not be stored: then it goes on in memory
ADRIFT = "adrift"  # what readers are told then
SPARE_SECONDS = 60.0  # how long it is kept in memory after its end, for slow readers
FULL_SECONDS = 3.0  # the same for a full disk, which is no matter of waiting
MAX_GATHERED = 4096  # pieces; a model that is faster than the database is read no further until they are stored
MAX_TAKEN = 2  # how often an answer is gone on with by itself
LEAST_TOKENS = 16
OWN_FAULTS = ("storage", "internal_error")  # no model API's
CACHED = "cached"
INTERRUPTED_MESSAGE = "The server stopped before the end. What was written is kept."
BROKEN_MESSAGE = "Something went wrong while the answer was written. What came is kept. Try again."
STORAGE_MESSAGE = "The answer could not be stored. What is shown is kept. Try again in a moment."
SEARCHING = "Searching documents…"
GENERATING = "Generating response…"
GOING_ON = "Going on where the answer broke off…"
GO_ON = "Go on exactly where your last message breaks off. Repeat nothing of it and add no remark."


Load = Callable[[str], "Job"]
Result = TypeVar("Result")
Steps = Generator[float, None, Result]  # what may wait in the event loop: it yields for how many seconds at most


@dataclass(frozen=True)
class Script:
    """An answer that is known already: no model is asked. Whoever takes it over says the rest of it."""

    text: str
    finish_reason: str = "stop"


class StopRequested(Exception):
    """A person ended the answer."""


class HandedBack(Exception):
    """This process leaves: another one goes on with the answer."""


@dataclass(frozen=True)
class Job:
    """What a runner needs, loaded once."""

    conversation_id: str
    message: dict[str, Any]  # the answer's row as it was made
    model: str  # provider/name
    params: dict[str, Any]
    turns: tuple[Turn, ...]
    user_id: str = ""  # who asked
    script: Script | None = None
    seams: tuple[int, ...] = ()  # where in the text, in characters, it was gone on with
    new: bool = False  # just made: there is nothing in its log
    orphan: bool = False  # another runner began it

    @property
    def lenient(self) -> bool:
        """Say whether its readers are told what cannot be stored: their client has the history itself."""
        return "turns" in self.params

    @property
    def provider(self) -> str:
        return self.model.partition("/")[0]


@dataclass
class Times:
    """When things happened, on the monotonic clock."""

    begun: float = field(default_factory=time.monotonic)
    first_token: float | None = None
    last_piece: float = field(default_factory=time.monotonic)
    pieces: bool = False


@dataclass(frozen=True)
class Adrift:
    """Where an answer left its log to go on in memory."""

    log: EventLog
    seq: int
    unsure: Sequence[Event]  # the batch that may be stored, or not
    spare: Logs


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
        spare: Logs | None = None,
    ) -> None:
        self.generation_id = generation_id
        self._load = load
        self._log = log
        self._providers = providers
        self._owner = owner
        self._settings = settings
        self._spare = spare  # in memory
        self._adrift: Adrift | None = None
        self.job: Job
        self._seq = 0
        self._folded = Answer()
        self._unfolded: list[Event] = []
        self._usage: Usage | None = None
        self.terminal: Event | None = None  # once it is stored
        self._taken = 0  # how often its runner died
        self._prefix = ""
        self._times = Times()
        # between the model and the log
        self._gathered: list[Token | Reasoning] = []
        self._in_flight: Sequence[Event] = ()
        self._trouble: Exception | None = None  # why the last batch is not stored
        self._polled: Any = None  # the stream that the event loop reads
        self._watcher: Any = None  # of its socket
        self._settling = False  # the greenlet waits for the log
        self._outcome: End | BaseException | None = None  # how it ended
        # orders
        self._greenlet: greenlet | None = None
        self._waiting = False
        self._order: Exception | None = None
        self._wake = Signal()
        self._rouse: Callable[[], object] | None = None  # while no greenlet makes it go on
        self._timer: Any = None  # then, of the deadline
        self._steps = self._make()

    # orders from outside; none waits

    def stop(self) -> None:
        """End the answer here, in whatever phase it is; what came is kept."""
        self._obey(StopRequested())

    def hand_back(self) -> None:
        """Leave the model and the log as they are."""
        self._obey(HandedBack())

    def lose(self) -> None:
        """Leave at once: the lease is lost. An answer that goes on in memory needs none."""
        if self._adrift is None:
            self._obey(LeaseLost(self.generation_id))

    def _obey(self, order: Exception) -> None:
        self._order = order
        self._notify()
        gevent.get_hub().loop.run_callback(self._interrupt)

    def _interrupt(self) -> None:
        if self._waiting and self._greenlet is not None and self._order is not None:
            self._greenlet.throw(self._order)

    # making the answer

    def run(self) -> None:
        """Ask the model and write what it says. Raises what the database raises when it stays away."""
        while (seconds := self.advance()) is not None:
            self._wake.wait(seconds)

    def advance(self) -> float | None:
        """Go on until the answer is made (None), or as far as can be without waiting for a model that the loop polls.

        Then it returns for how many seconds nothing is to be done at most; before that, *rouse* may be called.
        """
        self._greenlet = gevent.getcurrent()
        return next(self._steps, None)

    def park(self, seconds: float, rouse: Callable[[], object]) -> bool:
        """Let *rouse* be called, once, when there is something to do or *seconds* are over; False if there is already."""
        if self._wake.is_set():
            return False
        self._rouse = rouse
        self._timer = gevent.get_hub().loop.timer(seconds)
        self._timer.start(self._notify)
        return True

    def _notify(self) -> None:
        """Let the answer go on; whoever makes it may be waiting here, or have left it to the event loop."""
        self._wake.set()
        if self._rouse is not None:
            rouse, self._rouse = self._rouse, None
            self._timer.close()
            rouse()

    def _make(self) -> Steps[None]:
        try:
            self.job = self._load(self.generation_id)
            if not self.job.orphan:
                metrics.answer_started(self.job.model)
            self._end(self._recall() or (yield from self._relay()))
        except LeaseLost:
            logger.warning("generation %s: the lease is lost, what was not stored is dropped", self.generation_id)
        except HandedBack:
            logger.info("generation %s: handed back after %d events", self.generation_id, self._seq)

    @property
    def _answer(self) -> Answer:
        """What is stored."""
        if self._unfolded:
            self._folded, self._unfolded = fold(self._unfolded, onto=self._folded), []
        return self._folded

    def _recall(self) -> Event | None:
        """Find out what is in the log and begin it, or go on; return the terminal event if that may not be."""
        job = self.job
        head = None if job.new else self._log.head(self.generation_id)
        self._taken = head.taken if head else 0
        entries = [] if job.new else self._log.read_all(self.generation_id)
        self._unfolded = [entry.event for entry in entries]
        self._seq = entries[-1].seq if entries else 0
        self._log.store.adopt(self.generation_id, self._seq)
        self._prefix = self._answer.text
        if self._taken > MAX_TAKEN or (job.orphan and entries and not self._can_go_on()):
            self._begin_log(entries)
            return self._failed(INTERRUPTED, INTERRUPTED_MESSAGE, retryable=True)
        self._begin_log(entries)
        if job.orphan and entries:
            self._sew(len(self._prefix))
        return None

    def _begin_log(self, entries: Sequence[Entry]) -> None:
        """Store that the model is about to be asked, if nobody has: an empty log was never asked for."""
        if not entries:
            begin = Started(self.generation_id, self.job.conversation_id, self.job.message["id"], self.job.model)
            self._append([begin, *opening(self.job.params)])

    def _can_go_on(self) -> bool:
        if self.job.script is not None:
            return True
        provider = self._providers.get(self.job.provider)
        return bool(self._prefix) and provider is not None and provider.can_continue

    def _sew(self, seam: int) -> None:
        """Note where the runner goes on."""
        seams = [*self.job.seams, seam]
        self.job = replace(self.job, seams=tuple(seams))

        def within(connection: Connection | None) -> None:
            if connection is not None:
                generations.sew(connection, self.generation_id, seams)

        self._append([Status(GOING_ON)], within=within)
        logger.info("generation %s: goes on after %d characters", self.generation_id, seam)

    def _relay(self) -> Steps[Event]:
        """Bring the model's tokens into the log; return the terminal event, which is not in it yet."""
        if self.job.script is not None:
            return self._recite(self.job.script)
        name = self.job.provider
        provider = self._providers.get(name)
        if provider is None:
            return self._failed(
                "provider_unavailable", f"The provider {name} is not set up on this server.", retryable=False
            )
        failpoints.reach("before-asking")
        stream = provider.stream(self._request(provider))
        try:
            return (yield from self._relayed(stream))
        except StopRequested:
            return self._stored_first(self._finished, "stopped")
        except ProviderError as error:
            return self._stored_first(self._failed, error.code, error.message, error.retryable)
        except (LeaseLost, HandedBack):
            raise
        except (DBAPIError, Overloaded):
            return self._not_stored()
        except Exception:
            logger.exception("generation %s: the provider failed in an unforeseen way", self.generation_id)
            return self._stored_first(self._failed, "internal_error", BROKEN_MESSAGE, True)
        finally:
            close(stream)

    def _recite(self, script: Script) -> Event:
        """Say what is left of *script*."""
        self._usage = Usage(0, 0, 0, estimated=False)
        rest = script.text[len(self._prefix) :]
        self._take([Token(rest)] if rest else [])
        return self._stored_first(self._finished, script.finish_reason)

    def _stored_first(self, end: Callable[..., Event], *arguments: Any) -> Event:
        """Return the terminal event that *end* makes, after all that came was stored."""
        try:
            self._settle()
        except (DBAPIError, Overloaded):
            return self._not_stored()
        return end(*arguments)

    def _not_stored(self) -> Failed:
        logger.exception("generation %s: the answer could not be stored", self.generation_id)
        self._gathered, self._in_flight, self._trouble = [], (), None
        failed = self._failed("storage", STORAGE_MESSAGE, retryable=True)
        self._log.warn(self.generation_id, failed)  # it may be long before it can be stored
        return failed

    def _relayed(self, stream: Iterator[list[Piece]]) -> Steps[Event]:
        """Read *stream* to its end and store all of it; return the good end."""
        end = self._take(self._next(stream))
        descriptor = poll_descriptor(stream)
        if end is None and descriptor is not None:
            end = yield from self._poll_to_end(stream, descriptor)
        while end is None:
            if self._trouble or len(self._gathered) > MAX_GATHERED:
                self._settle()
            end = self._take(self._next(stream))
        self._settle()
        return self._finished(end.finish_reason)

    # reading in the greenlet

    def _next(self, stream: Iterator[list[Piece]]) -> list[Piece]:
        """Wait for the next pieces, within the deadlines. Raises the order that came, ProviderError."""
        if self._order:
            raise self._order
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

    # reading in a callback of the event loop

    def _poll_to_end(self, stream: Any, descriptor: int) -> Steps[End]:
        """Let the event loop read *stream*; return its end. Raises the order that came, ProviderError."""
        self._polled, self._watcher = stream, gevent.get_hub().loop.io(descriptor, 1)
        try:
            self._poll()  # what came with the first read may be all there is
            while self._outcome is None:
                self._watch()
                seconds, sentence = self._deadline()
                if seconds <= 0:
                    raise ProviderTimeout(sentence)
                if not self._order:  # one that came while something was stored woke nobody
                    yield seconds
                self._obey_and_settle()
        finally:
            self._watcher.stop()
            self._watcher.close()
            self._polled = self._watcher = None
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        return self._outcome

    def _obey_and_settle(self) -> None:
        """Do what there is to do. Raises the order that came."""
        self._wake.clear()
        if self._order:
            raise self._order
        if self._trouble:
            self._watcher.stop()
            self._settle()

    def _watch(self) -> None:
        """Go on reading, unless there is enough to store."""
        if self._watcher is None or self._watcher.active or self._outcome or self._trouble:
            return
        if len(self._gathered) <= MAX_GATHERED:
            self._watcher.start(self._poll)

    def _poll(self) -> None:
        """Take what one read brings. Runs in the event loop: it never waits, and what goes wrong is the runner's."""
        try:
            end: End | BaseException | None = self._take(self._polled.poll())
            while end is None and self._polled.more:
                end = self._take(self._polled.poll())
        except StopIteration:
            end = Interrupted()
        except BaseException as error:
            end = error
        if end is not None:
            self._outcome = end
            self._watcher.stop()
            self._notify()
        elif len(self._gathered) > MAX_GATHERED:
            self._watcher.stop()  # until the batch on its way is stored

    # deadlines

    def _deadline(self) -> tuple[float, str]:
        """Return how many seconds the model has for its next step, and what to say then. Raises ProviderTimeout for none."""
        settings, times, name = self._settings, self._times, self.job.model
        now = time.monotonic()
        left = times.begun + settings.total_seconds - now
        too_long = f"{name} took longer than {settings.total_seconds:g} s. What it wrote is kept."
        if left <= 0:  # a stream that never has to wait is never timed out
            raise ProviderTimeout(too_long)
        first = self.job.params.get("first_event_seconds", settings.first_event_seconds)
        patience = settings.idle_seconds if times.pieces else first
        due = times.last_piece + patience - now
        if left < due:
            return left, too_long
        if times.pieces:
            return due, f"{name} sent nothing for {patience:g} s. What it wrote is kept."
        return due, f"{name} did not begin to answer within {patience:g} s. Try again, or pick another model."

    def _request(self, provider: Provider) -> ChatRequest:
        job, params, turns, prefix = self.job, self.job.params, self.job.turns, self._prefix
        max_tokens = params.get("max_tokens")
        if prefix and not provider.can_continue:
            turns, prefix = (*turns, Turn("assistant", prefix), Turn("user", GO_ON)), ""
        if max_tokens and job.orphan:
            max_tokens = max(LEAST_TOKENS, max_tokens - len(self._prefix) // CHARS_PER_TOKEN)
        return ChatRequest(
            model=job.model.partition("/")[2],
            messages=turns,
            temperature=params.get("temperature"),
            max_tokens=max_tokens,
            prefix=prefix,
        )

    # writing it down

    def _take(self, pieces: Sequence[Piece]) -> End | None:
        """Gather what is for the log, and begin to store it; return the end if it came. Never waits."""
        end = None
        for piece in pieces:
            if type(piece) is Token or type(piece) is Reasoning:
                self._gathered.append(piece)
            elif isinstance(piece, End):
                end = piece
            elif isinstance(piece, Usage):
                self._usage = piece
        if pieces and self._gathered:
            self._note_time()
            if self._seq > MAX_EVENTS:
                raise AnswerTooLarge
            self._flush()
        return end

    def _note_time(self) -> None:
        times = self._times
        times.last_piece, times.pieces = time.monotonic(), True
        if times.first_token is None and any(type(piece) is Token for piece in self._gathered):
            failpoints.reach("first-token")
            times.first_token = times.last_piece

    def _flush(self) -> None:
        """Hand over what gathered, unless a batch is on its way."""
        if not self._gathered or self._in_flight or self._trouble:
            return
        self._in_flight, self._gathered = joined(self._gathered), []
        self._log.append_soon(
            self.generation_id, self._in_flight, after=self._seq, owner=self._owner, done=self._stored
        )

    def _stored(self, entries: Sequence[Entry] | None, error: Exception | None) -> None:
        """Hear what became of the batch; in the log's greenlet."""
        if error is not None:
            self._trouble = error
            self._notify()
            return
        self._remember(self._in_flight)
        self._in_flight = ()
        self._flush()
        if self._polled is None or self._outcome is not None or self._settling:
            self._notify()  # it may be waiting for this; a runner whose model is polled is not woken for each batch
        else:
            self._watch()

    def _settle(self) -> None:
        """Wait until all that gathered is stored. Raises LeaseLost, and the database's error when it stays away."""
        self._settling = True
        try:
            self._store_all()
        finally:
            self._settling = False
        self._times.last_piece = time.monotonic()  # the model is not to blame for a wait

    def _store_all(self) -> None:
        while self._in_flight or self._gathered:
            if self._trouble:
                error, events = self._trouble, self._in_flight
                self._trouble, self._in_flight = None, ()
                if isinstance(error, LeaseLost):
                    raise error
                self._append(events)
            self._flush()
            if self._in_flight and not self._trouble:
                self._wake.clear()
                self._wake.wait()

    def _append(
        self,
        events: Sequence[Event],
        within: Callable[[Connection | None], None] | None = None,
        *,
        seconds: float | None = None,
    ) -> None:
        """Commit *events*; a database that is away is waited for. Raises LeaseLost, and its error after *seconds*."""
        begun, patience = time.monotonic(), STORAGE_SECONDS if seconds is None else seconds
        pause = 0.05
        while True:
            try:
                self._log.append(self.generation_id, events, after=self._seq, owner=self._owner, within=within)
                break
            except (DBAPIError, Overloaded) as error:
                if self._spare is not None and self.job.lenient and time.monotonic() - begun > ADRIFT_SECONDS:
                    self._go_adrift(events, self._spare)
                    self._spare = None  # once
                    continue
                if time.monotonic() - begun > (FULL_SECONDS if is_full(error) and seconds is None else patience):
                    raise
                self._wait(pause)
                pause = min(2 * pause, 1.0)
        self._remember(events)

    def _go_adrift(self, unsure: Sequence[Event], spare: Logs) -> None:
        """Go on in memory, and take the readers of this process along: what is not stored does not keep them waiting.

        They see what may never be stored, so nobody else does. It is not known whether the batch *unsure* is.
        """
        logger.exception("generation %s: it goes on in memory, since it cannot be stored now", self.generation_id)
        self._adrift = Adrift(self._log, self._seq, unsure, spare)
        spare.memory.take_up(self.generation_id, owner=self._owner, last_seq=self._seq)
        self._log.warn(self.generation_id, Failed(ADRIFT, STORAGE_MESSAGE, retryable=True))
        self._log = spare

    def _come_ashore(self, within: Callable[[Connection | None], None]) -> None:
        """Store what went on in memory and has ended. Raises LeaseLost, and the database's error when it stays away."""
        adrift, seconds = self._adrift, self._settings.total_seconds
        if adrift is None:
            return
        events = [entry.event for entry in self._log.read_all(self.generation_id)]
        self._log, self._seq = adrift.log, adrift.seq
        try:
            first, rest = adrift.unsure, events[len(adrift.unsure) :]
            self._append(first, within=None if rest else within, seconds=seconds)  # again as it was: it may be there
            if rest:
                self._append(rest, within=within, seconds=seconds)
        finally:
            gevent.spawn_later(SPARE_SECONDS, adrift.spare.memory.drop, self.generation_id)

    def _wait(self, seconds: float) -> None:
        gevent.sleep(seconds)
        if isinstance(self._order, LeaseLost | HandedBack):
            raise self._order

    def _remember(self, events: Sequence[Event]) -> None:
        self._seq += len(events)
        self._unfolded += events
        if len(self._unfolded) > 64 + len(self._folded.text) // 64:  # folding copies the text
            self._folded, self._unfolded = fold(self._unfolded, onto=self._folded), []

    def _end(self, terminal: Event) -> None:
        """Write the last entries and the message's row, in one transaction."""
        events: list[Event] = [self._usage_event(), terminal] if self._answer.message else [terminal]
        values = self._values(fold(events, onto=self._answer))
        if type(terminal) is Finished:
            events[-1] = Finished(
                MESSAGE.dump({**self.job.message, **values}), terminal.finish_reason, terminal.metadata
            )
        message_id, spent = self.job.message["id"], self.spent()
        counted = spent if self.job.script is None or self.job.script.finish_reason == CACHED else None

        def within(connection: Connection | None) -> None:
            if connection is not None:
                generations.finish(connection, self.generation_id, message_id, values, counted)

        self._append(events, within=within, seconds=self._settings.total_seconds)
        self._come_ashore(within)
        self.terminal = events[-1]
        self._count(values["status"], spent, self.terminal)
        logger.info("generation %s: %s after %d events", self.generation_id, values["status"], self._seq)

    def spent(self) -> Spent:
        """Return the tokens that the answer cost so far: nothing if no model said anything, and not what was there before."""
        answer, before = self._answer, self._prefix
        if not self.job.orphan and len(answer.text) <= len(before) and not answer.reasoning and self._usage is None:
            return Spent()
        if self.job.script is not None:
            return Spent()
        used, paid = self._usage_event(), self.job.message.get("usage") or {}
        return Spent(used.prompt_tokens, max(0, used.completion_tokens - paid.get("completion_tokens", 0)))

    def _count(self, status: str, spent: Spent, terminal: Event) -> None:
        if not isinstance(terminal, Finished | Failed):
            return
        failed = isinstance(terminal, Failed)
        reason = terminal.code if isinstance(terminal, Failed) else terminal.finish_reason
        metrics.answer_ended(
            self.job.model,
            status=status,
            reason=reason,
            tokens=spent,
            metadata=terminal.metadata,
            failed=failed and reason not in OWN_FAULTS and terminal.message != INTERRUPTED_MESSAGE,
        )

    def _values(self, answer: Answer) -> dict[str, Any]:
        """Return the columns of the message's row."""
        return {
            "content": answer.text,
            "reasoning": answer.reasoning,
            "status": answer.status,
            "model": self.job.model,
            "finish_reason": answer.finish_reason,
            "error": answer.error,
            "usage": answer.usage,
            "sources": answer.sources,
            "details": answer.metadata or None,
        }

    def _finished(self, reason: str) -> Finished:
        return Finished({}, reason, self._metadata())

    def _failed(self, code: str, message: str, retryable: bool) -> Failed:
        return Failed(code, message, retryable, self._metadata())

    def _usage_event(self) -> Usage:
        """Return what the API counted, or an estimate that is marked as one. What was gone on from was not counted."""
        told, answer = self._usage, self._answer
        if told is not None and (not self._prefix or self.job.script is not None):
            return told
        prompt = told.prompt_tokens if told else sum(len(turn.content) for turn in self.job.turns) // CHARS_PER_TOKEN
        written = len(self._prefix) if told else len(answer.text + answer.reasoning)
        completion = -(-written // CHARS_PER_TOKEN) + (told.completion_tokens if told else 0)
        return Usage(prompt, completion, prompt + completion, estimated=True)

    def _metadata(self) -> dict[str, Any]:
        now, times = time.monotonic(), self._times
        first = times.first_token
        tokens = self._usage_event().completion_tokens
        writing = now - first if first is not None else 0.0
        return {
            "model": self.job.model,
            "provider": self.job.provider,
            "confidence": None,
            "hallucination": None,
            "search_mode": self.job.params.get("search_mode", "none"),
            "cached": self.job.script is not None and self.job.script.finish_reason == "cached",
            "duration_ms": round(1000 * (now - times.begun)),
            "time_to_first_token_ms": round(1000 * (first - times.begun)) if first is not None else None,
            "tokens_per_second": round(tokens / writing, 1) if writing > 0 else None,
            "seams": list(self.job.seams),
        }


def opening(params: Mapping[str, Any]) -> list[Event]:
    """Return what readers are told before the model is asked; where documents are to be searched, what was found too."""
    if params.get("search_mode", "none") == "none":
        return [Status(GENERATING)]
    return [Status(SEARCHING), Sources([], 0), Status(GENERATING)]


def joined(pieces: Sequence[Token | Reasoning]) -> list[Event]:
    """Return *pieces* with those of a kind that follow each other joined: they came at once, and are read at once.

    NUL is shown as U+FFFD: PostgreSQL stores no NUL, and what is streamed is what is stored.
    """
    if len(pieces) == 1 and "\0" not in pieces[0].content:  # nearly always
        return [pieces[0]]
    if all(type(piece) is Token for piece in pieces):
        text = "".join([piece.content for piece in pieces])
        if len(text) <= MAX_EVENT_CHARS:
            return [Token(text.replace("\0", "\ufffd"))]
    events: list[Event] = []
    kind: type[Token | Reasoning] = type(pieces[0])
    texts: list[str] = []
    size = 0
    for piece in pieces:
        if texts and (type(piece) is not kind or size + len(piece.content) > MAX_EVENT_CHARS):
            events.append(kind("".join(texts).replace("\0", "\ufffd")))
            texts, size = [], 0
        kind = type(piece)
        texts.append(piece.content)
        size += len(piece.content)
    events.append(kind("".join(texts).replace("\0", "\ufffd")))
    return events


def is_full(error: Exception) -> bool:
    """Say whether *error* is a full disk, as SQLite or PostgreSQL tell it."""
    cause = getattr(error, "orig", None)
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR) or getattr(cause, "sqlstate", None) == "53100"


def poll_descriptor(stream: Any) -> int | None:
    """Return the file descriptor by which *stream* says that it can be polled; None if it cannot."""
    tell = getattr(stream, "poll_descriptor", None)
    found: int | None = tell() if tell else None
    return found


def close(stream: Iterator[list[Piece]]) -> None:
    """Close the provider's generator, and with it the connection to the model."""
    closing = getattr(stream, "close", None)
    if closing is not None:
        closing()
