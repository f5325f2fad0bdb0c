"""On SQLite the newest batches of all logs share rows: nobody who reads may notice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import delete, text

from chatapp.bells.local import Bell
from chatapp.database import connected, engine_for
from chatapp.eventlog import EventLog, LeaseLost, _tail, sql
from chatapp.events import Event, Failed, Token
from tests.support import world
from tests.support.world import World

OWNER = "runner-1"
END = Failed("x", "The end.", retryable=False)


class Both:
    """The process that writes, and another one."""

    def __init__(self, made: World) -> None:
        self.world = made
        self.store = sql.Store(made.engine)
        self.log = EventLog(self.store, Bell())
        self.engine = engine_for(made.settings)
        self.other = sql.Store(self.engine)
        self.store.enter(OWNER, lease_seconds=60)
        self.said: dict[str, list[Event]] = {}

    def begin(self) -> str:
        name = self.world.generation(store=self.store, owner=OWNER)
        self.said[name] = []
        self.store.adopt(name, 0)
        return name

    def say(self, name: str, *events: Event) -> None:
        self.log.append(name, events, after=len(self.said[name]), owner=OWNER)
        self.said[name] += events

    def say_at_once(self, *names: str) -> None:
        """Append a word to each in one transaction."""
        gevent.joinall([gevent.spawn(self.say, name, Token("x")) for name in names], raise_error=True)

    def check(self) -> None:
        """Raise AssertionError unless each process reads each log as it was written, from any cursor."""
        for name, events in self.said.items():
            for store in (self.store, self.other):
                head = store.head(name)
                assert head is not None
                assert head.last_seq == len(events)
                for after in {0, 1, len(events) // 2, max(0, len(events) - 1), len(events)}:
                    read = store.read(name, after)
                    assert [entry.event for entry in read] == events[after:]
                    assert [entry.seq for entry in read] == list(range(after + 1, len(events) + 1))
                    assert store.read(name, after, limit=2) == read[:2]

    def rows(self, table: str) -> int:
        with connected(self.engine) as connection:
            return connection.scalar(text(f"SELECT count(*) FROM {table}")) or 0


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Both]:
    made = Both(world.make(tmp_path))
    yield made
    made.engine.dispose()
    made.world.close()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tail, "TAIL_ROWS", 5)
    monkeypatch.setattr(_tail, "DELETED_AT_ONCE", 3)


def test_the_batches_of_one_commit_share_a_row(both: Both) -> None:
    names = [both.begin() for _ in range(10)]
    both.say_at_once(*names)
    assert (both.rows("log_tail"), both.rows("log_batches")) == (1, 0)
    both.check()


WRITES = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3), st.booleans()), min_size=1, max_size=40)


@pytest.mark.usefixtures("short")
@hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(writes=WRITES)
def test_wherever_a_batch_stands_all_read_one_dense_log(both: Both, writes: list[tuple[int, int, bool]]) -> None:
    names = [both.begin() for _ in range(4)]
    for which, count, large in writes:
        both.say(names[which], *[Token("x" * (_tail.LARGE_BYTES if large else 1)) for _ in range(count)])
        assert both.rows("log_tail") <= _tail.TAIL_ROWS + _tail.DELETED_AT_ONCE
    both.check()
    both.said.clear()


@pytest.mark.usefixtures("short")
def test_what_is_old_is_merged_and_what_nobody_needs_deleted(both: Both) -> None:
    names = [both.begin() for _ in range(3)]
    quiet = both.begin()
    both.say(quiet, Token("once"))
    for _ in range(40):
        both.say_at_once(*names)
        both.check()
    assert both.rows("log_tail") <= _tail.TAIL_ROWS + _tail.DELETED_AT_ONCE
    assert both.rows("log_batches") < 40
    assert len(both.store.read(quiet)) == 1


def test_the_end_of_the_last_answer_leaves_nothing_in_the_tail(both: Both) -> None:
    one, two = both.begin(), both.begin()
    both.say_at_once(one, two)
    both.say(one, END)
    both.check()
    assert both.rows("log_tail") == 1
    both.say(two, Token("on"))
    both.say(two, END)
    both.check()
    assert both.rows("log_tail") == 0


def fail_over(both: Both) -> None:
    """Let the other process take the logs."""
    both.store.hold(OWNER, lease_seconds=-1)
    both.other.enter("runner-2", lease_seconds=60)
    assert set(both.other.take_orphans("runner-2")) == set(both.said)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("commits", range(12))
def test_who_takes_a_log_over_has_all_that_was_committed(both: Both, commits: int) -> None:
    names = [both.begin() for _ in range(2)]
    for n in range(commits):
        both.say_at_once(*names[: 1 + n % 2])
    fail_over(both)
    assert both.rows("log_tail") == 0
    log = EventLog(both.other, Bell())
    for name in names:
        with pytest.raises(LeaseLost):
            both.say(name, Token("late"))
        log.append(name, [Token("on")], after=len(both.said[name]), owner="runner-2")
        both.said[name].append(Token("on"))
    both.store.forget(OWNER)
    both.check()


def give_back(both: Both, name: str) -> None:
    both.store.leave(OWNER)


def release(both: Both, name: str) -> None:
    both.store.release([name], owner=OWNER)


@pytest.mark.parametrize("let_go", [give_back, release])
def test_a_log_that_is_let_go_stands_whole_in_its_batches(both: Both, let_go: Callable[[Both, str], None]) -> None:
    name = both.begin()
    both.say(name, Token("a"))
    both.say(name, Token("b"))
    let_go(both, name)
    assert (both.rows("log_tail"), both.rows("log_batches")) == (0, 1)
    both.check()


def test_what_was_deleted_does_not_stay_in_the_tail(both: Both) -> None:
    name, kept = both.begin(), both.begin()
    both.say_at_once(name, kept)
    with connected(both.engine, writes=True) as connection:
        connection.execute(delete(world.Generation.__table__).where(world.Generation.id == name))
    with pytest.raises(LeaseLost):
        both.say(name, Token("b"))
    both.store.sweep(3600)
    del both.said[name]
    assert (both.rows("log_tail"), both.rows("log_batches")) == (0, 1)
    both.check()


def test_what_the_dead_left_without_an_orphan_is_swept(both: Both) -> None:
    name = both.begin()
    both.say(name, Token("a"))
    with connected(both.engine, writes=True) as connection:
        connection.execute(text("DELETE FROM log_owners"))
    both.other.sweep(3600)
    assert (both.rows("log_tail"), both.rows("log_batches")) == (0, 1)


def test_a_lease_that_was_taken_is_noticed_though_it_was_found_a_moment_ago(both: Both) -> None:
    name = both.begin()
    both.say(name, Token("a"))
    with connected(both.engine, writes=True) as connection:
        connection.execute(text("DELETE FROM log_owners"))
    with pytest.raises(LeaseLost):
        both.say(name, Token("b"))
    both.check()


def test_a_transaction_that_failed_leaves_no_trace_in_memory(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    name = both.begin()
    both.say(name, Token("a"))

    def fail(point: str) -> None:
        raise RuntimeError(point)

    with monkeypatch.context() as patch:
        patch.setattr("chatapp.failpoints.reach", fail)
        with pytest.raises(RuntimeError):
            both.say(name, Token("b"))
    both.check()
    both.said[name].append(Token("c"))
    both.log.append(name, [Token("c")], after=1, owner=OWNER)
    both.check()
