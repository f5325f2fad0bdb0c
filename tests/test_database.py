"""Transactions, locks and migrations, on a real SQLite file."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
from sqlalchemy import PrimaryKeyConstraint, UniqueConstraint, inspect, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from chatapp import database
from chatapp.database import LOG_CONNECTIONS, checkpoint, connected, engine_for, migrate, now_seconds, session_of
from chatapp.errors import Overloaded
from chatapp.models.accounts import User
from chatapp.models.conversations import Conversation
from chatapp.settings import Settings
from tests.support import world
from tests.support.world import World

UNIQUE = (PrimaryKeyConstraint, UniqueConstraint)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[World]:
    fresh = world.make(tmp_path)
    yield fresh
    fresh.close()


class Locked:
    """Another process's transaction, which keeps the database locked for a while."""

    def __init__(self, made: World, seconds: float) -> None:
        self._connection = sqlite3.connect(made.settings.data_dir / "chatapp.db", check_same_thread=False)
        self._connection.isolation_level = None
        self._connection.execute("BEGIN IMMEDIATE")
        self._held = True
        self._timer = threading.Timer(seconds, self.release)
        self._timer.start()

    def release(self) -> None:
        self._held = False
        self._connection.execute("COMMIT")
        self._connection.close()

    def holds(self) -> bool:
        return self._held

    def end(self) -> None:
        self._timer.cancel()
        self._timer.join()
        if self._held:
            self.release()

    def wait(self) -> None:
        self._timer.join()


def gaps(stop: list[bool]) -> list[float]:
    """Return how long the event loop kept an unrelated greenlet waiting, each time, until *stop* is filled."""
    found, last = [], time.monotonic()
    while not stop:
        gevent.sleep(0.001)
        now = time.monotonic()
        found.append(now - last)
        last = now
    return found


def rename(made: World, name: str) -> None:
    with session_of(made.engine, writes=True) as session:
        session.get_one(User, made.user_id).name = name


def test_a_locked_database_is_waited_for_without_blocking_the_loop(made: World) -> None:
    locked = Locked(made, 0.6)
    stop: list[bool] = []
    watcher = gevent.spawn(gaps, stop)
    gevent.sleep(0)
    writer = gevent.spawn(rename, made, "Grace")
    gevent.sleep(0.2)
    assert not writer.ready()
    writer.get(timeout=10)
    stop.append(True)
    pauses = watcher.get(timeout=10)
    locked.wait()
    assert len(pauses) > 20  # the loop turned all the while: a blocking wait would have let it turn once
    with session_of(made.engine) as session:
        assert session.get_one(User, made.user_id).name == "Grace"


def test_the_control_a_busy_timeout_blocks_the_loop(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def blocking(raw: sqlite3.Connection) -> None:
        raw.execute("PRAGMA busy_timeout = 5000")
        raw.execute("BEGIN IMMEDIATE")

    monkeypatch.setattr(database, "_begin_immediate", blocking)
    locked = Locked(made, 0.6)
    turns = 0

    def count() -> None:
        nonlocal turns
        while True:
            gevent.sleep(0.001)
            turns += 1

    watcher = gevent.spawn(count)
    writer = gevent.spawn(rename, made, "Grace")
    writer.get(timeout=10)
    watcher.kill()
    locked.wait()
    assert turns < 20


def test_a_lock_that_stays_is_told_and_not_waited_for_for_ever(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LOCK_SECONDS", 0.05)
    locked = Locked(made, 0.5)
    with pytest.raises(Overloaded):
        rename(made, "Grace")
    locked.wait()
    rename(made, "Grace")


def test_a_reading_transaction_cannot_write(made: World) -> None:
    with pytest.raises(DBAPIError, match="readonly"), connected(made.engine) as connection:
        connection.execute(text("update users set name = 'x'"))
    with connected(made.engine, writes=True) as connection:
        connection.execute(text("update users set name = 'x'"))
    with pytest.raises(DBAPIError, match="readonly"), connected(made.engine) as connection:
        connection.execute(text("update users set name = 'y'"))


def test_readers_are_not_kept_waiting_by_a_writer(made: World) -> None:
    locked = Locked(made, 30)
    with session_of(made.engine) as session:
        assert session.scalar(select(User.name)) == "Ada"
    assert locked.holds()
    locked.end()


def test_writers_that_wait_leave_the_connections_to_readers(made: World) -> None:
    locked = Locked(made, 30)
    writers = [gevent.spawn(rename, made, f"Grace {n}") for n in range(30)]
    gevent.sleep(0.05)
    with session_of(made.engine) as session:
        assert session.scalar(select(User.name)) == "Ada"
    assert locked.holds()
    locked.end()
    gevent.joinall(writers, timeout=20, raise_error=True)
    locked.wait()


def test_a_pool_without_a_free_connection_is_told_as_what_it_is(made: World) -> None:
    made.engine.pool._timeout = 0.01  # type: ignore[attr-defined]
    held = [made.engine.connect() for _ in range(LOG_CONNECTIONS)]
    with pytest.raises(Overloaded):
        rename(made, "Grace")
    for connection in held:
        connection.close()
    rename(made, "Grace")


def test_an_error_of_the_database_does_not_repeat_what_people_wrote(made: World) -> None:
    with pytest.raises(DBAPIError) as caught, connected(made.engine) as connection:
        connection.execute(text("update users set name = :name"), {"name": "my secret question"})
    assert "secret" not in str(caught.value)


def test_every_foreign_key_has_an_index(made: World) -> None:
    """Without one, deleting a row looks through the whole other table, and keeps the loop meanwhile."""
    for table in database.Base.metadata.tables.values():
        keys = [index.columns.values() for index in table.indexes]
        keys += [list(constraint.columns) for constraint in table.constraints if isinstance(constraint, UNIQUE)]
        first = {columns[0].name for columns in keys}
        for column in table.columns:
            assert not column.foreign_keys or column.name in first, f"{table.name}.{column.name}"


def test_writers_side_by_side_lose_nothing(made: World) -> None:
    def add(number: int) -> None:
        for n in range(10):
            gevent.sleep(0)
            with session_of(made.engine, writes=True) as session:
                session.add(User(email=f"{number}-{n}@example.org", name="x", password_hash=""))

    gevent.joinall([gevent.spawn(add, number) for number in range(10)], raise_error=True)
    with session_of(made.engine) as session:
        assert len(session.scalars(select(User)).all()) == 101


def test_an_exception_leaves_nothing_half_done(made: World) -> None:
    def fail() -> None:
        with session_of(made.engine, writes=True) as session:
            session.add(User(email="b@example.org", name="Bob", password_hash=""))
            session.flush()
            raise RuntimeError("a planted failure")

    with pytest.raises(RuntimeError):
        fail()
    with session_of(made.engine) as session:
        assert session.scalars(select(User.name)).all() == ["Ada"]


def test_foreign_keys_are_kept_and_the_log_is_a_wal(made: World) -> None:
    with connected(made.engine) as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(text("PRAGMA synchronous")) == 1
    with pytest.raises(IntegrityError), session_of(made.engine, writes=True) as session:
        session.add(Conversation(user_id="nobody"))


def test_the_database_tells_the_time(made: World) -> None:
    with connected(made.engine) as connection:
        told = connection.scalar(select(now_seconds()))
    assert told is not None
    assert abs(told - time.time()) < 60


def test_migrating_brings_exactly_the_tables_that_are_declared(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, secret_key="x" * 64).completed()
    assert migrate(settings) is True
    assert migrate(settings) is False
    engine = engine_for(settings)
    assert world.tables(engine) == world.declared() | {"alembic_version"}
    with connected(engine) as connection:
        found = inspect(connection)
        for name, table in database.Base.metadata.tables.items():
            assert {column["name"] for column in found.get_columns(name)} == set(table.columns.keys())
            assert {index["name"] for index in found.get_indexes(name)} == {index.name for index in table.indexes}
    engine.dispose()


def test_a_migration_that_fails_half_way_leaves_the_database_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(data_dir=tmp_path, secret_key="x" * 64).completed()
    from alembic import op

    create, made = op.create_table, []

    def failing(name: str, *args: object, **options: object) -> object:
        made.append(name)
        if len(made) == 4:
            raise RuntimeError("a planted failure")
        return create(name, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(op, "create_table", failing)
    with pytest.raises(RuntimeError):
        migrate(settings)
    monkeypatch.undo()
    engine = engine_for(settings)
    assert world.tables(engine) == set()
    engine.dispose()
    assert migrate(settings) is True


def fill(made: World, rounds: int) -> None:
    for n in range(rounds):
        with connected(made.engine, writes=True) as connection:
            connection.execute(text("update users set name = :name"), {"name": f"{n:04}" * 25_000})


def wal_bytes(made: World) -> int:
    return (made.settings.data_dir / "chatapp.db-wal").stat().st_size


def test_no_commit_moves_the_write_ahead_log_but_a_thread_does(made: World) -> None:
    fill(made, 3 * database.WAL_BYTES // 200_000)
    assert wal_bytes(made) > database.WAL_BYTES  # SQLite by itself would have begun anew at that size
    assert checkpoint(made.engine) is True
    fill(made, 2)
    assert wal_bytes(made) < database.WAL_BYTES
    with session_of(made.engine) as session:
        assert session.get_one(User, made.user_id).name == "0001" * 25_000


def test_a_small_write_ahead_log_is_left_alone(made: World) -> None:
    assert checkpoint(made.engine) is False
