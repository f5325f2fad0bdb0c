"""The runner's laws, with a provider that does what the test says, on a real database."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import gevent
import pytest
from gevent.event import Event as Signal
from sqlalchemy import delete
from sqlalchemy.exc import OperationalError

import chatapp.database
import chatapp.runner
from chatapp.answer import FAILED, FINISHED, INTERRUPTED, STOPPED, fold
from chatapp.bells.local import Bell
from chatapp.database import connected, session_of
from chatapp.errors import Overloaded, ProviderRateLimited
from chatapp.eventlog import EventLog, sql
from chatapp.events import Entry, Failed, Finished, Reasoning, Started, Status, Token, Usage
from chatapp.models.conversations import Conversation, Message
from chatapp.models.generations import Generation
from chatapp.providers import ChatRequest, End, Piece, Turn
from chatapp.runner import Runners, turns
from tests.support import world
from tests.support.world import World

Script = Callable[["FakeProvider"], Iterator[list[Piece]]]


class FakeProvider:
    """A provider whose stream is the test's own generator."""

    name = "fake"

    def __init__(self) -> None:
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


def words(*texts: str, end: bool = True) -> Script:
    def script(provider: FakeProvider) -> Iterator[list[Piece]]:
        for text in texts:
            yield [Token(text)]
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
        self.log = EventLog(self.store, bell.ring)
        bell.listen(self.log.hear)
        self.runners = Runners(made.engine, self.log, {"fake": self.provider}, self.settings)  # type: ignore[dict-item]

    def generation(self, owner: str | None = None, **options: str) -> str:
        return self.world.generation(store=self.store, owner=owner or self.runners.owner, **options)

    def run(self, name: str) -> list[Entry]:
        self.runners.start(name)
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
    stage.runners.start(name)
    stage.until(lambda: stage.text(name) == "one two")
    assert stage.world.message(name).status == "running"
    stage.provider.release.set()
    stage.wait(name)
    assert stage.world.message(name).content == "one twolate"


@pytest.mark.parametrize(("script", "text"), [(silent, ""), (silent_after_two, "one two")])
def test_stop_ends_a_silent_model_at_once_and_keeps_what_came(stage: Stage, script: Script, text: str) -> None:
    stage.provider.script = script
    name = stage.generation()
    stage.runners.start(name)
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
    stage.runners.start(name)
    stage.runners.stop(name)
    stage.wait(name)
    assert stage.provider.requests == []
    assert stage.world.message(name).status == STOPPED


def test_stop_twice_or_too_late_changes_nothing(stage: Stage) -> None:
    stage.provider.script = silent_after_two
    name = stage.generation()
    stage.runners.start(name)
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
        for n in range(10_000):
            gevent.sleep(0)
            yield [Token(f" {n}")]

    stage.provider.script = chatter
    for delay in range(20):
        name = stage.generation()
        stage.runners.start(name)
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
    stage.runners.start(name)
    stage.until(lambda: stage.text(name))
    other.runners.stop(name)
    stage.wait(name)
    assert stage.world.message(name).status == STOPPED


@pytest.mark.parametrize(
    ("script", "settings", "code"),
    [
        (silent, {"first_event_seconds": 0.1}, "provider_timeout"),
        (silent_after_two, {"idle_seconds": 0.1}, "provider_timeout"),
        (silent_after_two, {"total_seconds": 0.1}, "provider_timeout"),
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
    assert stage.run(name)[-1].event == Failed("rate_limited", "Too much.", retryable=True)
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


def test_a_runner_that_lost_its_lease_stops_and_what_it_had_is_dropped(stage: Stage) -> None:
    stage.provider.script = silent_after_two
    name = stage.generation()
    stage.runners.start(name)
    stage.until(lambda: stage.text(name))
    with connected(stage.world.engine, writes=True) as connection:
        connection.execute(sql.HEADS.update().values(owner="somebody else"))
    stage.provider.release.set()
    stage.until(lambda: not len(stage.runners))
    assert stage.text(name) == "one two"
    assert stage.provider.closed == 1
    assert stage.world.message(name).status == "running"


def test_the_control_without_the_fence_the_old_runner_writes_on(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    fence = sql.ADVANCE.whereclause
    assert fence is not None
    loose = sql.HEADS.update().where(sql.HEADS.c.generation_id == sql.bindparam("of"))
    values = {"last_seq": sql.bindparam("to")}
    monkeypatch.setattr(sql, "ADVANCE", loose.values(**values))
    stage.provider.script = silent_after_two
    name = stage.generation()
    stage.runners.start(name)
    stage.until(lambda: stage.text(name))
    with connected(stage.world.engine, writes=True) as connection:
        connection.execute(sql.HEADS.update().values(owner="somebody else"))
    stage.provider.release.set()
    stage.until(lambda: not len(stage.runners))
    assert stage.text(name) == "one twolate"


def test_an_orphan_ends_interrupted_with_all_that_was_shown(made: World, stage: Stage) -> None:
    name = stage.generation(owner="a dead process")
    stage.log.append(name, [Started(name, "c", "m", "fake/words"), Token("half a")], after=0, owner="a dead process")
    stage.store.renew([name], owner="a dead process", lease_seconds=-1)
    stage.runners.keep()
    entries = stage.wait(name)
    message = stage.world.message(name)
    assert (message.content, message.status) == ("half a", INTERRUPTED)
    last = entries[-1].event
    assert isinstance(last, Failed)
    assert (last.code, last.retryable) == ("interrupted", True)
    assert stage.provider.requests == []


def test_a_running_answer_is_nobodys_orphan(made: World, stage: Stage) -> None:
    other = Stage(made)
    stage.provider.script = silent_after_two
    name = stage.generation()
    stage.runners.start(name)
    stage.until(lambda: stage.text(name))
    stage.store.renew([name], owner=stage.runners.owner, lease_seconds=-1)
    stage.runners._keep_once()  # its keeper came in time
    other.runners._keep_once()
    assert len(other.runners) == 0
    assert stage.world.message(name).status == "running"
    stage.provider.release.set()
    stage.wait(name)
    assert stage.world.message(name).status == FINISHED


def test_a_database_that_fails_for_a_while_loses_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, failures = stage.store._commit, 5

    def failing(group: list[sql.Append]) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            for item in group:
                item.done.set_exception(
                    OperationalError("insert", {}, sqlite3.OperationalError("database or disk is full"))
                )
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
                item.done.set_exception(OperationalError("insert", {}, sqlite3.OperationalError("disk full")))
        else:
            commit(group)

    monkeypatch.setattr(stage.store, "_commit", failing)
    name = stage.generation()
    last = stage.run(name)[-1].event
    assert isinstance(last, Failed)
    assert last.code == "storage"
    assert stage.world.message(name).content == stage.text(name) == "Hello"


def test_an_orphan_without_a_word_begins_before_it_ends(stage: Stage) -> None:
    name = stage.generation(owner="a dead process")
    stage.store.renew([name], owner="a dead process", lease_seconds=-1)
    stage.runners.keep()
    assert [type(entry.event) for entry in stage.wait(name)] == [Started, Status, Usage, Failed]


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
    stage.provider.script = words(*["x"] * 100)
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
    name = stage.generation(owner="a dead process")
    stage.store.renew([name], owner="a dead process", lease_seconds=-1)
    stage.runners.keep()
    stage.wait(name)
    assert stage.world.message(name).status == INTERRUPTED


def test_a_writer_that_dies_is_replaced_and_nothing_is_lost(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    append, deaths = sql.append, 1

    def dying(*args: object) -> list[Entry] | None:
        nonlocal deaths
        if deaths:
            deaths -= 1
            raise gevent.GreenletExit
        return append(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(sql, "append", dying)
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
    monkeypatch.setattr(chatapp.database, "_begin_immediate", busy)
    owner = stage.runners.owner
    appends = [gevent.spawn(stage.log.append, name, [Token("a")], after=0, owner=owner) for name in names]
    gevent.joinall(appends, timeout=10)
    assert {type(one.exception) for one in appends} == {Overloaded}
    assert tries < 5


def test_a_conversation_that_is_deleted_takes_its_runner_along(stage: Stage) -> None:
    stage.provider.script = silent_after_two
    name = stage.generation()
    stage.runners.start(name)
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
    stage.runners.start(name)
    stage.until(lambda: not len(stage.runners))
    assert stage.provider.requests == []


def test_no_connection_is_held_while_a_model_thinks(stage: Stage) -> None:
    stage.provider.script = silent_after_two
    names = [stage.generation() for _ in range(20)]
    for name in names:
        stage.runners.start(name)
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
