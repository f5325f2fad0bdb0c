"""The runner's laws, with a provider that does what the test says, on a real database."""

from __future__ import annotations

import contextlib
import gc
import itertools
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from socket import socketpair
from typing import Any

import gevent
import pytest
from gevent import Greenlet
from gevent.event import Event as Signal
from sqlalchemy import delete
from sqlalchemy.exc import OperationalError

import chatapp.database
import chatapp.runner
import chatapp.runners
from chatapp.answer import FAILED, FINISHED, INTERRUPTED, STOPPED, fold
from chatapp.bells.local import Bell
from chatapp.database import connected, session_of
from chatapp.errors import Overloaded, ProviderRateLimited
from chatapp.eventlog import EventLog, LogTroubled, sql
from chatapp.events import Entry, Event, Failed, Finished, Reasoning, Started, Status, Token, Usage
from chatapp.models.conversations import Conversation, Message
from chatapp.models.generations import Generation
from chatapp.providers import ChatRequest, End, Piece, Turn
from chatapp.runners import Runners, turns
from tests.support import world
from tests.support.world import World

DEAD = "a dead process"
Script = Callable[["FakeProvider"], Iterator[list[Piece]]]


class FakeProvider:
    """A provider whose stream is the test's own generator."""

    name = "fake"

    def __init__(self) -> None:
        self.can_continue = True
        self.requests: list[ChatRequest] = []
        self.script: Script = words("Hello", " there")
        self.closed = 0
        self.release = Signal()

    def models(self) -> list[object]:
        return []

    def stream(self, request: ChatRequest) -> Iterator[list[Piece]]:
        self.requests.append(request)
        try:
            yield from self.script(self)
        finally:
            self.closed += 1


def words(*texts: str, end: bool = True, pause: float = 0) -> Script:
    def script(provider: FakeProvider) -> Iterator[list[Piece]]:
        for text in texts:
            yield [Token(text)]
            gevent.sleep(pause)
        if end:
            yield [End("stop")]

    return script


def silent(provider: FakeProvider) -> Iterator[list[Piece]]:
    provider.release.wait(30)
    yield [Token("late"), End("stop")]


def silent_after_two(provider: FakeProvider) -> Iterator[list[Piece]]:
    yield [Token("one"), Token(" two")]
    yield from silent(provider)


class Stage:
    """A database, a log, a provider and the runners of one process."""

    def __init__(self, made: World, **settings: float) -> None:
        self.world = made
        self.settings = replace(made.settings, **settings)
        self.provider = FakeProvider()
        self.store = sql.Store(made.engine)
        bell = Bell()
        self.log = EventLog(self.store, bell)
        providers = {"fake": self.provider}
        self.runners = Runners(made.engine, self.log, bell, providers, self.settings)  # type: ignore[arg-type]

    def generation(self, **options: Any) -> str:
        return self.world.generation(store=self.store, owner=self.runners.enter(), **options)

    def orphan(self, *events: Event, died: int = 1, **options: Any) -> str:
        """Return a generation whose runner, in another process, wrote *events* and died; so *died* - 1 others before."""
        self.store.enter(DEAD, lease_seconds=60)
        name = self.world.generation(store=self.store, owner=DEAD, **options)
        if events:
            self.log.append(name, events, after=0, owner=DEAD)
        with connected(self.world.engine, writes=True) as connection:
            connection.execute(sql.HEADS.update().values(taken=died - 1))
        self.store.forget(DEAD)
        self.store.hold(DEAD, lease_seconds=-1)
        return name

    def start(self, name: str) -> None:
        self.runners.start(name, owner=self.runners.owner)

    def run(self, name: str) -> list[Entry]:
        self.start(name)
        return self.wait(name)

    def wait(self, name: str) -> list[Entry]:
        with gevent.Timeout(20):
            entries = [entry for batch in self.log.follow(name) for entry in batch]
            while len(self.runners):
                gevent.sleep(0.001)
        return entries

    def text(self, name: str) -> str:
        return "".join(entry.event.content for entry in self.log.read_all(name) if isinstance(entry.event, Token))

    def until(self, condition: Callable[[], object]) -> None:
        with gevent.Timeout(20):
            while not condition():
                gevent.sleep(0.001)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[World]:
    fresh = world.make(tmp_path)
    yield fresh
    fresh.close()


@pytest.fixture
def stage(made: World) -> Iterator[Stage]:
    fresh = Stage(made)
    yield fresh
    gevent.killall([one for one in (fresh.runners._keeper, fresh.runners._sweeper) if one is not None])


def test_an_answer_is_made_and_stored_as_it_was_streamed(stage: Stage) -> None:
    name = stage.generation()
    entries = stage.run(name)
    kinds = [type(entry.event) for entry in entries]
    assert kinds == [Started, Status, Token, Token, Usage, Finished]
    message = stage.world.message(name)
    assert (message.content, message.status, message.finish_reason) == ("Hello there", FINISHED, "stop")
    assert message.content == stage.text(name)
    last = entries[-1].event
    assert isinstance(last, Finished)
    assert (last.message["content"], last.message["id"]) == ("Hello there", message.id)
    assert message.details == last.metadata


@pytest.mark.parametrize(
    ("script", "status"),
    [
        (words("a", "b"), FINISHED),
        (words("a", "b", end=False), INTERRUPTED),
        (words(), FINISHED),
    ],
)
def test_the_stored_message_is_the_fold_of_the_log(stage: Stage, script: Script, status: str) -> None:
    stage.provider.script = script
    name = stage.generation()
    folded = fold(entry.event for entry in stage.run(name))
    message = stage.world.message(name)
    assert folded.status == message.status == status
    assert (message.content, message.reasoning, message.error) == (folded.text, folded.reasoning, folded.error)
    assert (message.usage, message.details or {}) == (folded.usage, folded.metadata)


def test_there_is_one_terminal_entry_and_it_is_the_last(stage: Stage) -> None:
    for script in (words("a"), words("a", end=False), silent):
        stage.provider.script = script
        stage.provider.release.set()
        entries = stage.run(stage.generation())
        assert [entry.event.terminal for entry in entries] == [False] * (len(entries) - 1) + [True]
        assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))


def test_the_question_is_committed_before_the_model_is_asked(stage: Stage) -> None:
    seen: list[str] = []

    def look(provider: FakeProvider) -> Iterator[list[Piece]]:
        other = world.engine_for(stage.world.settings)
        with session_of(other) as session:
            seen.extend(session.scalars(world.Message.__table__.select().with_only_columns(Message.content)))
        other.dispose()
        yield [End("stop")]

    stage.provider.script = look
    stage.run(stage.generation(question="Where is it?"))
    assert "Where is it?" in seen


def test_a_model_is_asked_once(stage: Stage) -> None:
    name = stage.generation(question="Hi")
    stage.run(name)
    assert [request.messages for request in stage.provider.requests] == [
        (Turn("system", "Be brief."), Turn("user", "Hi"))
    ]
    assert stage.provider.closed == 1


def test_what_is_read_while_a_model_is_silent_is_what_it_said_before(stage: Stage) -> None:
    stage.provider.script = silent_after_two
    name = stage.generation()
    stage.start(name)
    stage.until(lambda: stage.text(name) == "one two")
    assert stage.world.message(name).status == "running"
    stage.provider.release.set()
    stage.wait(name)
    assert stage.world.message(name).content == "one twolate"


@pytest.mark.parametrize(("script", "text"), [(silent, ""), (silent_after_two, "one two")])
def test_stop_ends_a_silent_model_at_once_and_keeps_what_came(stage: Stage, script: Script, text: str) -> None:
    stage.provider.script = script
    name = stage.generation()
    stage.start(name)
    stage.until(lambda: stage.provider.requests and stage.text(name) == text)
    stage.runners.stop(name)
    entries = stage.wait(name)
    assert stage.provider.closed == 1
    assert not stage.provider.release.is_set()
    message = stage.world.message(name)
    assert (message.content, message.status, message.finish_reason) == (text, STOPPED, "stopped")
    assert isinstance(entries[-1].event, Finished)


def test_stop_before_the_model_is_asked_asks_nobody(stage: Stage) -> None:
    name = stage.generation()
    stage.start(name)
    stage.runners.stop(name)
    stage.wait(name)
    assert stage.provider.requests == []
    assert stage.world.message(name).status == STOPPED


def test_stop_twice_or_too_late_changes_nothing(stage: Stage) -> None:
    stage.provider.script = silent_after_two
    name = stage.generation()
    stage.start(name)
    stage.until(lambda: stage.text(name))
    stage.runners.stop(name)
    stage.runners.stop(name)
    first = stage.wait(name)
    stage.runners.stop(name)
    gevent.sleep(0.02)
    assert stage.log.read_all(name) == first


def test_stop_never_tears_a_commit(stage: Stage) -> None:
    """Stops that come at any moment: the log and the message always agree, and the log always ends."""

    def chatter(provider: FakeProvider) -> Iterator[list[Piece]]:
        for n in itertools.count():
            gevent.sleep(0)
            yield [Token(f" {n}")]

    stage.provider.script = chatter
    for delay in range(20):
        name = stage.generation()
        stage.start(name)
        for _ in range(delay):
            gevent.sleep(0.0005)
        stage.runners.stop(name)
        stage.wait(name)
        message = stage.world.message(name)
        assert (message.status, message.content) == (STOPPED, stage.text(name))


def test_a_stop_for_another_process_is_found_by_its_keeper(made: World, stage: Stage) -> None:
    other = Stage(made)
    stage.provider.script = silent_after_two
    name = stage.generation()
    stage.start(name)
    stage.until(lambda: stage.text(name))
    other.runners.stop(name)
    stage.wait(name)
    assert stage.world.message(name).status == STOPPED


@pytest.mark.parametrize(
    ("script", "settings", "code"),
    [
        (silent, {"first_event_seconds": 0.1}, "provider_timeout"),
        (silent_after_two, {"idle_seconds": 0.1}, "provider_timeout"),
        (silent_after_two, {"total_seconds": 0.6}, "provider_timeout"),
    ],
)
def test_a_silent_model_is_given_up_at_its_deadline(
    made: World, script: Script, settings: dict[str, float], code: str
) -> None:
    stage = Stage(made, **settings)
    stage.provider.script = script
    name = stage.generation()
    last = stage.run(name)[-1].event
    assert isinstance(last, Failed)
    assert (last.code, last.retryable) == (code, True)
    assert "fake/words" in last.message
    assert stage.provider.closed == 1
    assert stage.world.message(name).content == stage.text(name)


def test_a_providers_error_is_told_as_it_is(stage: Stage) -> None:
    def limited(provider: FakeProvider) -> Iterator[list[Piece]]:
        yield [Token("a")]
        raise ProviderRateLimited("Too much.")

    stage.provider.script = limited
    name = stage.generation()
    last = stage.run(name)[-1].event
    assert isinstance(last, Failed)
    assert (last.code, last.message, last.retryable) == ("rate_limited", "Too much.", True)
    assert stage.world.message(name).status == FAILED
    assert stage.world.message(name).content == "a"


def test_a_providers_bug_ends_the_answer_and_says_nothing_of_itself(stage: Stage) -> None:
    def broken(provider: FakeProvider) -> Iterator[list[Piece]]:
        yield [Token("a")]
        raise KeyError("sk-secret at /home/me")

    stage.provider.script = broken
    last = stage.run(stage.generation())[-1].event
    assert isinstance(last, Failed)
    assert last.code == "internal_error"
    assert "secret" not in last.message


def test_a_provider_that_is_not_set_up_is_named(stage: Stage) -> None:
    last = stage.run(stage.generation(model="nowhere/x"))[-1].event
    assert isinstance(last, Failed)
    assert "nowhere" in last.message


def test_usage_is_the_apis_or_an_estimate_that_says_so(stage: Stage) -> None:
    counted = Usage(7, 8, 15, estimated=False)

    def counting(provider: FakeProvider) -> Iterator[list[Piece]]:
        yield [Token("x" * 40), counted, End("length")]

    estimated = stage.run(stage.generation())[-2].event
    stage.provider.script = counting
    name = stage.generation()
    entries = stage.run(name)
    assert isinstance(estimated, Usage)
    assert estimated.estimated
    assert entries[-2].event == counted
    assert stage.world.message(name).finish_reason == "length"


def test_reasoning_is_stored_apart(stage: Stage) -> None:
    def thinking(provider: FakeProvider) -> Iterator[list[Piece]]:
        yield [Reasoning("hm"), Token("yes")]
        yield [End("stop")]

    stage.provider.script = thinking
    name = stage.generation()
    stage.run(name)
    assert (stage.world.message(name).reasoning, stage.world.message(name).content) == ("hm", "yes")


def test_a_nul_is_shown_as_what_can_be_stored(stage: Stage) -> None:
    stage.provider.script = words("a\0b")
    name = stage.generation()
    stage.run(name)
    assert stage.world.message(name).content == stage.text(name) == "a\ufffdb"


def lose_lease(stage: Stage) -> None:
    """Let another process take all over, and do nothing."""
    stage.store.hold(stage.runners.owner, lease_seconds=-1)
    stage.store.enter("somebody else", lease_seconds=60)
    stage.store.take_orphans("somebody else")


def test_a_runner_that_lost_its_lease_stops_and_what_it_had_is_dropped(stage: Stage) -> None:
    stage.provider.script = silent_after_two
    name = stage.generation()
    stage.start(name)
    stage.until(lambda: stage.text(name))
    lose_lease(stage)
    stage.provider.release.set()
    stage.until(lambda: not len(stage.runners))
    assert stage.text(name) == "one two"
    assert stage.provider.closed == 1
    assert stage.world.message(name).status == "running"


def test_the_control_without_the_fence_the_old_runner_writes_on(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "FENCE_SQLITE", "SELECT ?")
    monkeypatch.setattr(sql, "check_lease", lambda connection, owner: None)
    monkeypatch.setattr(sql, "END", sql.HEADS.update().values(last_seq=sql.bindparam("to")))
    gevent.killall([stage.runners._keeper] if stage.runners._keeper else [])
    stage.provider.script = silent_after_two
    name = stage.generation()
    stage.start(name)
    stage.until(lambda: stage.text(name))
    lose_lease(stage)
    stage.provider.release.set()
    stage.until(lambda: not len(stage.runners))
    assert stage.text(name) == "one twolate"


def test_who_was_presumed_dead_leaves_the_model_and_begins_anew(stage: Stage) -> None:
    stage.provider.script = silent_after_two
    name, before = stage.generation(), stage.runners.owner
    stage.start(name)
    stage.until(lambda: stage.text(name))
    lose_lease(stage)
    stage.runners._keep_once()
    stage.until(lambda: stage.provider.closed)  # though the model said nothing more
    assert stage.runners.owner != before
    stage.provider.script = words("new")
    assert isinstance(stage.run(stage.generation())[-1].event, Finished)


OPENING = (Started("g", "c", "m", "fake/words"), Status("Generating response…"))


def test_an_orphan_is_gone_on_with_from_what_was_shown(stage: Stage) -> None:
    name = stage.orphan(*OPENING, Token("Half"), Token(" an"))
    stage.provider.script = words(" answer", ".")
    stage.runners.keep()
    entries = stage.wait(name)
    message = stage.world.message(name)
    assert (message.content, message.status, message.finish_reason) == ("Half an answer.", FINISHED, "stop")
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    [request] = stage.provider.requests
    assert request.prefix == "Half an"
    assert [turn.role for turn in request.messages] == ["system", "user"]
    assert message.details is not None
    assert message.details["seams"] == [len("Half an")]
    assert fold(entry.event for entry in entries).text == "Half an answer."


def test_what_was_gone_on_with_twice_has_both_seams_and_then_it_is_enough(stage: Stage) -> None:
    name = stage.orphan(*OPENING, Token("a"), died=2)
    with session_of(stage.world.engine, writes=True) as session:
        session.get_one(Generation, name).seams = [0]
    stage.provider.script = words("b")
    stage.runners.keep()
    stage.wait(name)
    assert stage.world.message(name).details["seams"] == [0, 1]  # type: ignore[index]
    third = stage.orphan(*OPENING, Token("a"), died=3)
    stage.wait(third)
    assert (stage.world.message(third).content, stage.world.message(third).status) == ("a", INTERRUPTED)
    assert len(stage.provider.requests) == 1


def test_an_orphan_whose_model_was_never_asked_is_begun(stage: Stage) -> None:
    name = stage.orphan()
    stage.runners.keep()
    assert [type(entry.event) for entry in stage.wait(name)] == [Started, Status, Token, Token, Usage, Finished]
    assert stage.provider.requests[0].prefix == ""


@pytest.mark.parametrize(
    ("events", "can_continue"),
    [
        ((*OPENING, Token("half a")), False),
        (OPENING, True),  # it may have been asked, and nobody knows what it would have said
        ((*OPENING, Reasoning("hm")), True),
    ],
    ids=["no way to go on", "no word yet", "only reasoning"],
)
def test_an_orphan_that_cannot_be_gone_on_with_ends_interrupted_and_nobody_is_asked(
    stage: Stage, events: tuple[Event, ...], can_continue: bool
) -> None:
    stage.provider.can_continue = can_continue
    name = stage.orphan(*events)
    stage.runners.keep()
    last = stage.wait(name)[-1].event
    message = stage.world.message(name)
    assert (message.content, message.status) == (stage.text(name), INTERRUPTED)
    assert isinstance(last, Failed)
    assert (last.code, last.retryable) == ("interrupted", True)
    assert stage.provider.requests == []


@pytest.mark.parametrize("can_continue", [True, False])
def test_a_person_can_go_on_with_any_model(stage: Stage, can_continue: bool) -> None:
    stage.provider.can_continue = can_continue
    name = stage.generation(events=(*OPENING, Token("Half")))
    stage.provider.script = words(" a loaf")
    stage.run(name)
    assert stage.world.message(name).content == "Half a loaf"
    [request] = stage.provider.requests
    told = [turn.role for turn in request.messages]
    assert (request.prefix, told) == (
        ("Half", ["system", "user"]) if can_continue else ("", ["system", "user", "assistant", "user"])
    )


def test_the_tokens_that_were_there_are_counted_and_taken_off_the_limit(stage: Stage) -> None:
    def counting(provider: FakeProvider) -> Iterator[list[Piece]]:
        yield [Token("b"), Usage(7, 8, 15, estimated=False), End("stop")]

    stage.provider.script = counting
    name = stage.orphan(*OPENING, Token("a" * 400), max_tokens=150)
    stage.runners.keep()
    usage = stage.wait(name)[-2].event
    assert usage == Usage(7, 108, 115, estimated=True)
    assert stage.provider.requests[0].max_tokens == 50


def test_what_was_handed_back_counts_as_no_death(made: World, stage: Stage) -> None:
    stage.provider.script = silent_after_two
    name = stage.generation()
    stage.start(name)
    stage.until(lambda: stage.text(name))
    stage.runners.drain(0)
    for round_ in range(chatapp.runner.MAX_TAKEN + 2):  # as many deploys as one likes
        next_one = Stage(made)
        next_one.provider.script = silent_after_two
        next_one.runners._keep_once()
        next_one.until(lambda text=next_one.text, n=round_: text(name) == "one two" * (n + 2))  # type: ignore[misc]
        next_one.runners.drain(0)
    last = Stage(made)
    last.provider.script = words(".")
    last.runners._keep_once()
    last.wait(name)
    assert last.world.message(name).status == FINISHED
    assert len(last.world.message(name).details["seams"]) == chatapp.runner.MAX_TAKEN + 3  # type: ignore[index]


@pytest.mark.parametrize("fault", ["the model talks", "the model is silent"])
def test_a_commit_that_fails_once_leaves_the_runner_hearing(
    made: World, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """A batch fails while the next one gathers; then whoever reads by polling must still hear of stops and time-outs."""
    stage = Stage(made, idle_seconds=0.5)
    commit, failures = stage.store._commit, 0

    def failing(group: list[sql.Append]) -> None:
        nonlocal failures
        plain = [item for item in group if type(item.events[0]) is Token]
        if plain and not failures:
            failures += 1
            polled.say("b")  # gathers while the batch with "a" is in flight
            for item in group:
                item.done(None, OperationalError("insert", {}, sqlite3.OperationalError("busy")))
        else:
            commit(group)

    monkeypatch.setattr(stage.store, "_commit", failing)
    polled = Polled()
    monkeypatch.setattr(stage.provider, "stream", lambda request: polled)
    name = stage.generation()
    stage.start(name)
    stage.until(lambda: polled.asked)
    polled.say("a")
    if fault == "the model is silent":
        last = stage.wait(name)[-1].event
        assert isinstance(last, Failed)
        assert last.code == "provider_timeout"
    else:
        talk = gevent.spawn(polled.chatter)
        stage.until(lambda: len(stage.text(name)) > 4)
        stage.runners.stop(name)
        stage.wait(name)
        talk.kill()
        assert stage.world.message(name).status == STOPPED
    assert failures == 1
    text = stage.text(name)
    assert (text[0], text.count("a"), text.count("b")) == ("a", 1, 1)


def makers() -> int:
    """Return how many greenlets make an answer now."""
    alive = [one for one in gc.get_objects() if isinstance(one, Greenlet) and not one.dead]
    return sum(getattr(one._run, "__func__", None) is Runners._run for one in alive)


@pytest.mark.parametrize(
    ("order", "status"), [("stop", STOPPED), ("hand_back", "running"), ("lose", "running"), ("say", STOPPED)]
)
def test_who_waits_for_a_polled_model_takes_no_greenlet_and_hears_all_the_same(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, order: str, status: str
) -> None:
    polled = Polled()
    monkeypatch.setattr(stage.provider, "stream", lambda request: polled)
    name = stage.generation()
    stage.start(name)
    stage.until(lambda: polled.asked)
    polled.say("a")
    stage.until(lambda: stage.text(name) == "a")
    assert makers() == 0
    if order == "say":
        polled.say("b")
        stage.until(lambda: stage.text(name) == "ab")
        assert makers() == 0
        order = "stop"
    getattr(stage.runners._running[name], order)()
    stage.until(lambda: not len(stage.runners))
    assert polled.closed
    assert stage.world.message(name).status == status


class Polled:
    """A stream that can be polled, of what the test says."""

    more = False

    def __init__(self) -> None:
        self.asked = False
        self._reader, self._writer = socketpair()
        self._reader.setblocking(False)

    def __iter__(self) -> Polled:
        return self

    def __next__(self) -> list[Piece]:
        self.asked = True
        return []

    def poll_descriptor(self) -> int:
        return self._reader.fileno()

    def poll(self) -> list[Piece]:
        try:
            said = self._reader.recv(1000).decode()
        except BlockingIOError:
            return []
        return [Token(said)] if said else []

    def say(self, text: str) -> None:
        self._writer.sendall(text.encode())

    def chatter(self) -> None:
        with contextlib.suppress(OSError):  # until the runner leaves
            while True:
                self.say("x")
                gevent.sleep(0.002)

    @property
    def closed(self) -> bool:
        return self._reader.fileno() < 0

    def close(self) -> None:
        self._reader.close()
        self._writer.close()


def test_after_a_slow_round_others_get_time_to_renew(
    made: World, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All waited for one lock: who gets it first must not bury those behind."""
    other = Stage(made)
    other.runners.enter()
    gevent.killall([one for one in (other.runners._keeper, stage.runners._keeper) if one is not None])
    other.provider.script = silent_after_two
    name = other.generation()
    gevent.killall([other.runners._keeper] if other.runners._keeper else [])
    other.start(name)
    gevent.killall([other.runners._keeper] if other.runners._keeper else [])
    other.until(lambda: other.text(name))
    other.store.hold(other.runners.owner, lease_seconds=-1)  # the lock was held for longer than a lease
    stage.runners._be_patient()
    stage.runners._keep_once()
    assert len(stage.runners) == 0
    other.runners._keep_once()  # its turn
    monkeypatch.setattr(stage.runners, "_patient_until", 0.0)
    stage.runners._keep_once()
    assert len(stage.runners) == 0
    other.provider.release.set()
    other.wait(name)
    assert other.world.message(name).status == FINISHED


def test_a_runner_that_fails_leaves_an_orphan_and_not_a_log_without_end(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = 1
    relay = chatapp.runner.Runner._relay

    def failing(runner: chatapp.runner.Runner) -> Event:
        nonlocal failures
        if failures:
            failures -= 1
            raise RuntimeError("a planted failure")
        return relay(runner)

    monkeypatch.setattr(chatapp.runner.Runner, "_relay", failing)
    name = stage.generation(events=(*OPENING, Token("Half")))
    stage.start(name)
    stage.wait(name)
    assert stage.world.message(name).content == "HalfHello there"


def test_a_running_answer_is_nobodys_orphan(made: World, stage: Stage) -> None:
    other = Stage(made)
    stage.provider.script = silent_after_two
    name = stage.generation()
    stage.start(name)
    stage.until(lambda: stage.text(name))
    stage.store.hold(stage.runners.owner, lease_seconds=-1)
    stage.runners._keep_once()  # its keeper came in time
    other.runners._keep_once()
    assert len(other.runners) == 0
    assert stage.world.message(name).status == "running"
    stage.provider.release.set()
    stage.wait(name)
    assert stage.world.message(name).status == FINISHED


def test_an_idle_process_gives_its_lease_back_and_takes_one_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.run(stage.generation())
    with monkeypatch.context() as patch:
        patch.setattr(chatapp.runners, "IDLE_SECONDS", -1.0)
        stage.runners._keep_once()
    assert not stage.store.hold(stage.runners.owner, lease_seconds=1)
    assert isinstance(stage.run(stage.generation())[-1].event, Finished)


# leaving


def test_a_drain_lets_answers_end_and_begins_none(stage: Stage) -> None:
    stage.provider.script = silent_after_two
    name = stage.generation()
    stage.start(name)
    stage.until(lambda: stage.text(name))
    drain = gevent.spawn(stage.runners.drain, 20)
    stage.until(lambda: stage.runners.draining)
    with pytest.raises(Overloaded) as refusal:
        stage.runners.enter()
    assert refusal.value.retry_after
    stage.provider.release.set()
    drain.get(timeout=20)
    assert stage.world.message(name).status == FINISHED


def test_what_does_not_end_in_time_is_handed_back_and_gone_on_with_at_once(made: World, stage: Stage) -> None:
    stage.provider.script = silent_after_two
    name, unasked = stage.generation(), stage.generation()
    stage.start(name)
    stage.until(lambda: stage.text(name))
    stage.runners.drain(0)
    assert stage.provider.closed == 1
    assert stage.world.message(name).status == "running"
    other = Stage(made)
    other.provider.script = words(" three")
    other.runners._keep_once()
    other.wait(name)
    other.wait(unasked)
    assert other.world.message(name).content == "one two three"


def test_a_database_that_fails_for_a_while_loses_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, failures = stage.store._commit, 5

    def failing(group: list[sql.Append]) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            for item in group:
                item.done(None, OperationalError("insert", {}, sqlite3.OperationalError("database or disk is full")))
        else:
            commit(group)

    monkeypatch.setattr(stage.store, "_commit", failing)
    name = stage.generation()
    stage.run(name)
    assert failures == 0
    assert stage.world.message(name).content == "Hello there"
    assert stage.text(name) == "Hello there"


def test_a_database_that_stays_away_ends_the_answer_with_what_was_shown(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chatapp.runner, "STORAGE_SECONDS", 0.05)
    commit, calls = stage.store._commit, 0

    def failing(group: list[sql.Append]) -> None:
        nonlocal calls
        calls += 1
        if 2 < calls < 6:
            for item in group:
                item.done(None, OperationalError("insert", {}, sqlite3.OperationalError("disk full")))
        else:
            commit(group)

    monkeypatch.setattr(stage.store, "_commit", failing)
    stage.provider.script = words("Hello", " there", pause=0.01)
    name = stage.generation()
    with pytest.raises(LogTroubled) as told:  # who reads is told before it can be stored
        stage.run(name)
    assert told.value.event.code == "storage"
    last = stage.wait(name)[-1].event
    assert isinstance(last, Failed)
    assert last.code == "storage"
    assert stage.world.message(name).content == stage.text(name) == "Hello"


def test_a_model_that_never_pauses_is_still_out_of_time_in_the_end(made: World) -> None:
    def flood(provider: FakeProvider) -> Iterator[list[Piece]]:
        while True:
            yield [Token("x")]

    stage = Stage(made, total_seconds=0.2)
    stage.provider.script = flood
    last = stage.run(stage.generation())[-1].event
    assert isinstance(last, Failed)
    assert last.code == "provider_timeout"


def test_an_answer_in_too_many_pieces_is_ended(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chatapp.runner, "MAX_EVENTS", 50)

    def crumbs(provider: FakeProvider) -> Iterator[list[Piece]]:
        for _ in range(1000):
            gevent.sleep(0.001)  # one by one: what comes at once is one event
            yield [Token("x")]

    stage.provider.script = crumbs
    last = stage.run(stage.generation())[-1].event
    assert isinstance(last, Failed)
    assert last.code == "payload_too_large"


def test_a_keeper_survives_whatever_fails(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    keep, failures = stage.runners._keep_once, 2

    def failing() -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise RuntimeError("a planted failure")
        keep()

    monkeypatch.setattr(stage.runners, "_keep_once", failing)
    monkeypatch.setattr(stage.runners, "_settings", replace(stage.settings, lease_seconds=0.01))
    name = stage.orphan(*OPENING)
    stage.runners.keep()
    stage.wait(name)
    assert stage.world.message(name).status == INTERRUPTED


def test_a_writer_that_dies_is_replaced_and_nothing_is_lost(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    quickly, deaths = stage.store._quickly, 1

    def dying(group: list[sql.Append]) -> bool:
        nonlocal deaths
        if deaths:
            deaths -= 1
            raise gevent.GreenletExit
        return quickly(group)

    monkeypatch.setattr(stage.store, "_quickly", dying)
    name = stage.generation()
    stage.run(name)
    assert deaths == 0
    assert stage.world.message(name).content == stage.text(name) == "Hello there"


def test_a_long_lock_is_waited_for_once_by_all_together(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = 0

    def busy(raw: object) -> None:
        nonlocal tries
        tries += 1
        gevent.sleep(0.01)
        raise Overloaded

    names = [stage.generation() for _ in range(20)]
    monkeypatch.setattr(chatapp.database, "_begin_when_free", busy)
    owner = stage.runners.owner
    appends = [gevent.spawn(stage.log.append, name, [Token("a")], after=0, owner=owner) for name in names]
    gevent.joinall(appends, timeout=10)
    assert {type(one.exception) for one in appends} == {Overloaded}
    assert tries < 5


def test_a_conversation_that_is_deleted_takes_its_runner_along(stage: Stage) -> None:
    stage.provider.script = silent_after_two
    name = stage.generation()
    stage.start(name)
    stage.until(lambda: stage.text(name))
    with connected(stage.world.engine, writes=True) as connection:
        connection.execute(delete(Conversation))
    stage.runners.drop(name)
    stage.until(lambda: not len(stage.runners))
    assert stage.provider.closed == 1


def test_a_generation_that_is_gone_before_it_runs_is_no_error(stage: Stage) -> None:
    name = stage.generation()
    with connected(stage.world.engine, writes=True) as connection:
        connection.execute(delete(Generation))
    stage.start(name)
    stage.until(lambda: not len(stage.runners))
    assert stage.provider.requests == []


def test_no_connection_is_held_while_a_model_thinks(stage: Stage) -> None:
    stage.provider.script = silent_after_two
    names = [stage.generation() for _ in range(20)]
    for name in names:
        stage.start(name)
    stage.until(lambda: len(stage.provider.requests) == 20 and stage.text(names[-1]))
    assert stage.world.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    stage.provider.release.set()
    stage.wait(names[-1])


def test_the_history_is_told_as_models_take_it() -> None:
    def message(role: str, content: str) -> Message:
        return Message(role=role, content=content)

    history = [
        message("user", "a"),
        message("assistant", ""),
        message("user", "b"),
        message("assistant", "c"),
        message("user", "d"),
    ]
    assert turns("Be brief.", history) == (
        Turn("system", "Be brief."),
        Turn("user", "a\n\nb"),
        Turn("assistant", "c"),
        Turn("user", "d"),
    )
    assert turns(None, history[:1]) == (Turn("user", "a"),)
