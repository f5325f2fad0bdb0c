"""The database under the tables: engine, transactions, time.

SQLite is opened in WAL mode, and says itself what kind of transaction begins: a reading one is deferred and cannot write
(`query_only`), a writing one is `BEGIN IMMEDIATE`, for which it waits without blocking the event loop. A deferred
transaction that turns to writing fails at once under contention whatever the busy timeout says, and a busy timeout
freezes every other greenlet of the process: hence neither is used.

Rule: nothing that waits (hashing, a model, a reader) stands inside a writing transaction.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import gevent
from flask_sqlalchemy import SQLAlchemy
from gevent.lock import RLock
from sqlalchemy import JSON, URL, Connection, DateTime, Engine, Float, MetaData, create_engine, event, make_url, text
from sqlalchemy.dialects.sqlite import pysqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Session, registry
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

from chatapp.errors import Overloaded
from chatapp.settings import Settings

MIGRATIONS = Path(__file__).parent / "migrations"
REQUEST_CONNECTIONS, LOG_CONNECTIONS = 6, 4  # of a worker; PostgreSQL has a hundred for all
IDLE_SECONDS = 5.0  # PostgreSQL ends a transaction idle for so long: a frozen worker must not keep its locks
LOCK_SECONDS = 30.0  # a lock held longer is a fault of its own; the asker is told
SHORT_BUSY_SECONDS = 0.02  # what a statement may block the loop for, where SQLite alone can wait (recovery of the WAL)

WAL_BYTES = 16 * 1024 * 1024  # pages that are written again and again go into the database once

BUSY = "The database is busy. Try again in a moment."
# by SQLite's primary result code
UNUSABLE = {
    sqlite3.SQLITE_READONLY: "cannot be written. Look whether its file, its folder or the whole disk is read-only.",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened. Look whether its folder is there and may be written.",
    sqlite3.SQLITE_PERM: "may not be opened. Look who owns its file.",
    sqlite3.SQLITE_CORRUPT: "is damaged. Put a backup in its place; the file was left as it is.",
    sqlite3.SQLITE_NOTADB: "is no SQLite database, or is damaged. The file was left as it is.",
    sqlite3.SQLITE_FULL: "is on a disk that is full. Make room.",
    sqlite3.SQLITE_IOERR: "cannot be read or written: its disk fails, or is full.",
    sqlite3.SQLITE_BUSY: "is locked by another program. End that one first.",
}
WRITES = {"chatapp_writes": True}


class Unusable(Exception):
    """The database cannot be used as it is; the text says why, and what to do."""


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time; SQLite keeps it without its zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


NAMES = {
    "ix": "ix_%(column_0_N_label)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


JSON_OR_NULL = JSON(none_as_null=True)  # what is not there is no JSON either


class Base(DeclarativeBase):
    """All tables of the site are in its metadata."""

    registry = registry(
        metadata=MetaData(naming_convention=NAMES),
        type_annotation_map={datetime: UtcDateTime, dict[str, Any]: JSON_OR_NULL, list[dict[str, Any]]: JSON_OR_NULL},
    )


db = SQLAlchemy(model_class=Base, session_options={"expire_on_commit": False})


class now_seconds(FunctionElement[float]):
    """The database's own clock, in seconds since 1970: leases must not depend on whose clock is right."""

    type = Float()
    inherit_cache = True


@compiles(now_seconds, "sqlite")
def _sqlite_now(element: Any, compiler: Any, **options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now_seconds, "postgresql")
def _postgresql_now(element: Any, compiler: Any, **options: Any) -> str:
    return "extract(epoch from clock_timestamp())"


class lease_clock(FunctionElement[float]):
    """The clock that leases are by, in seconds: one for all who share the database, whatever their own clocks say.

    On SQLite they share a machine, whose monotonic clock nobody can set. On PostgreSQL it is the server's clock.
    """

    type = Float()
    inherit_cache = True


@compiles(lease_clock, "sqlite")
def _sqlite_lease_clock(element: Any, compiler: Any, **options: Any) -> str:
    return "monotonic()"  # see `_open_sqlite`


@compiles(lease_clock, "postgresql")
def _postgresql_lease_clock(element: Any, compiler: Any, **options: Any) -> str:
    return "extract(epoch from clock_timestamp())"


def checkpoint(engine: Engine) -> bool:
    """Move what SQLite's write-ahead log has gathered into the database, if it is much; return whether it was.

    In a thread, since it waits for the disk: SQLite by itself does this within some unlucky commit, and every stream of
    the process would wait along. Call it now and then; what is in the log is safe and can be read all the same.
    """
    file = engine.url.database
    if engine.dialect.name != "sqlite" or not file:
        return False
    try:
        if Path(f"{file}-wal").stat().st_size < WAL_BYTES:
            return False
    except FileNotFoundError:
        return False
    gevent.get_hub().threadpool.apply(_checkpoint, (file,))
    return True


def _checkpoint(file: str) -> None:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")


def utcnow() -> datetime:
    return datetime.now(UTC)


def configure(engine: Engine) -> None:
    """Make *engine* begin its transactions as this module says."""
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _open_sqlite)
        event.listen(engine, "begin", _begin_sqlite)


def _open_sqlite(connection: sqlite3.Connection, record: Any) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself
    connection.create_function("monotonic", 0, time.monotonic)
    connection.execute(f"PRAGMA busy_timeout = {int(SHORT_BUSY_SECONDS * 1000)}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA wal_autocheckpoint = 0")  # see `checkpoint`
    connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES // 4}")  # what was moved is cut off


def _begin_sqlite(connection: Connection) -> None:
    raw = connection.connection.dbapi_connection
    assert isinstance(raw, sqlite3.Connection)
    if connection.get_execution_options().get("chatapp_writes"):
        raw.execute("PRAGMA query_only = OFF")
        _begin_immediate(raw)
    else:
        raw.execute("PRAGMA query_only = ON")
        raw.execute("BEGIN")


def _begin_immediate(raw: sqlite3.Connection) -> None:
    """Take SQLite's one write lock; wait for it without blocking the loop. Raises Overloaded after LOCK_SECONDS."""
    raw.execute("PRAGMA busy_timeout = 0")
    try:
        _begin_when_free(raw)
    finally:
        raw.execute(f"PRAGMA busy_timeout = {int(SHORT_BUSY_SECONDS * 1000)}")


def _begin_when_free(raw: sqlite3.Connection) -> None:
    deadline = time.monotonic() + _lock_seconds()
    pause = 0.001
    while True:
        try:
            raw.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            if time.monotonic() > deadline:
                raise Overloaded(BUSY) from error
        gevent.sleep(pause)
        pause = min(pause * 2, 0.05)


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Wait for SQLite's write lock, in this greenlet, for *seconds* at most."""
    before = _patience.set(seconds)
    try:
        yield
    finally:
        _patience.reset(before)


_patience: ContextVar[float | None] = ContextVar("patience", default=None)


def _lock_seconds() -> float:
    seconds = _patience.get()
    return LOCK_SECONDS if seconds is None else seconds


@contextmanager
def writing() -> Iterator[Session]:
    """The request's session in one writing transaction: committed at the end, rolled back on any exception.

    What was loaded before stays loaded but may be stale: read again inside what the decision rests on.
    """
    session = db.session()
    session.commit()  # ends a reading transaction, which could not be turned into a writing one
    with _turn_to_write(session.get_bind().dialect.name):
        try:
            session.connection(execution_options=WRITES)
            yield session
            session.commit()
        except BaseException:
            session.rollback()
            raise


_writers = RLock()


@contextmanager
def _turn_to_write(dialect: str) -> Iterator[None]:
    """Let the writers of this process queue for SQLite's one write lock before they take a connection.

    Otherwise each would wait with a connection in its hand, and readers, who need no lock, would find none left.
    """
    if dialect != "sqlite":
        yield
        return
    if not _writers.acquire(timeout=_lock_seconds()):
        raise Overloaded(BUSY)
    try:
        yield
    finally:
        _writers.release()


@contextmanager
def connected(engine: Engine, *, writes: bool = False) -> Iterator[Connection]:
    """A connection in one transaction, outside any request; committed at the end, rolled back on any exception."""
    with _turn_to_write(engine.dialect.name) if writes else nullcontext(), _connect(engine) as connection:
        if writes:
            connection.execution_options(**WRITES)
        with connection.begin():
            yield connection


def quick_connection(engine: Engine) -> sqlite3.Connection | None:
    """Return a connection of its own to SQLite's file, for `quick_transaction`; None where the database is another.

    For the one thing that is done for every token: SQLAlchemy takes longer over a statement than SQLite.
    """
    if engine.dialect.name != "sqlite" or not engine.url.database or engine.url.query:
        return None
    raw = sqlite3.connect(engine.url.database, check_same_thread=False)  # who collects garbage may be another
    _open_sqlite(raw, None)
    raw.execute("PRAGMA busy_timeout = 0")
    return raw


@contextmanager
def quick_transaction(raw: sqlite3.Connection) -> Iterator[None]:
    """One writing transaction on *raw*, which waits for its turn and for the lock as all others do."""
    with _turn_to_write("sqlite"):
        _begin_when_free(raw)
        try:
            yield
            raw.execute("COMMIT")
        except BaseException:
            if raw.in_transaction:
                raw.execute("ROLLBACK")
            raise


class Prepared:
    """A statement with named parameters, made once; for what each question does.

    SQLite runs it without SQLAlchemy, which takes longer over a statement than SQLite: by its text, with SQLAlchemy's own
    conversions of values. Errors are SQLAlchemy's.
    """

    def __init__(self, statement: Any) -> None:
        self.statement = statement

    def each(self, connection: Connection | sqlite3.Connection, **values: Any) -> Iterator[tuple[Any, ...]]:
        """Yield what is found, row by row; nothing that waits may stand between two of them."""
        raw = sqlite_under(connection)
        if raw is None:
            yield from map(tuple, connection.execute(self.statement, values))
            return
        converters = self._sqlite[2]
        for row in self._run(raw, values):
            yield tuple(
                [value if convert is None else convert(value) for convert, value in zip(converters, row, strict=True)]
            )

    def rows(self, connection: Connection | sqlite3.Connection, **values: Any) -> list[tuple[Any, ...]]:
        """Return what is found."""
        return list(self.each(connection, **values))

    def first(self, connection: Connection | sqlite3.Connection, **values: Any) -> tuple[Any, ...] | None:
        """Return the first of what is found, None for nothing."""
        return next(self.each(connection, **values), None)

    def change(self, connection: Connection, **values: Any) -> int:
        """Return how many rows were written."""
        raw = sqlite_under(connection)
        return connection.execute(self.statement, values).rowcount if raw is None else self._run(raw, values).rowcount

    def _run(self, raw: sqlite3.Connection, values: dict[str, Any]) -> sqlite3.Cursor:
        text, parameters, _ = self._sqlite
        given = []
        for name, fixed, convert in parameters:
            value = values[name] if fixed is None else fixed
            given.append(value if value is None or convert is None else convert(value))
        try:
            return raw.execute(text, given)
        except sqlite3.Error as error:
            raise of_sqlalchemy(error, text) from error

    @cached_property
    def _sqlite(self) -> tuple[str, list[tuple[str, Any, Convert]], list[Convert]]:
        """The text, the parameters by their place (with what is fixed in the statement), what each column is read by."""
        compiled = self.statement.compile(dialect=SQLITE)
        binds = [(name, compiled.binds[name]) for name in compiled.positiontup or ()]
        parameters = [(name, bind.value, bind.type.dialect_impl(SQLITE).bind_processor(SQLITE)) for name, bind in binds]
        columns = self.statement.selected_columns if self.statement.is_select else ()
        return (
            str(compiled),
            parameters,
            [column.type.dialect_impl(SQLITE).result_processor(SQLITE, None) for column in columns],
        )


def of_sqlalchemy(error: sqlite3.Error, text: str = "") -> Exception:
    """Return *error* as SQLAlchemy would raise it."""
    made: Exception = DBAPIError.instance(text, None, error, sqlite3.Error, hide_parameters=True)
    return made


Convert = Callable[[Any], Any] | None
SQLITE = pysqlite.dialect()
_glances: WeakKeyDictionary[Engine, sqlite3.Connection] = WeakKeyDictionary()


def sqlite_under(connection: Connection | sqlite3.Connection) -> sqlite3.Connection | None:
    """Return SQLite's connection under *connection*, None where the database is another."""
    if isinstance(connection, Connection):
        connection = connection.connection.dbapi_connection  # type: ignore[assignment]
    return connection if isinstance(connection, sqlite3.Connection) else None


@contextmanager
def glance(engine: Engine) -> Iterator[Connection | sqlite3.Connection]:
    """What to run a `Prepared` on that only reads, by itself. On SQLite such a one needs neither a transaction nor a pool."""
    raw = _glances.get(engine) or quick_connection(engine)
    if raw is None:
        with connected(engine) as connection:
            yield connection
        return
    if engine not in _glances:
        raw.execute(f"PRAGMA busy_timeout = {int(SHORT_BUSY_SECONDS * 1000)}")
        raw.execute("PRAGMA query_only = ON")
        _glances[engine] = raw
    yield raw


def _connect(engine: Engine) -> Connection:
    try:
        return engine.connect()
    except PoolTimeout as error:  # which is no DBAPIError
        raise Overloaded(BUSY) from error


@contextmanager
def session_of(engine: Engine, *, writes: bool = False) -> Iterator[Session]:
    """A session in one transaction, outside any request; its objects stay usable afterwards."""
    with connected(engine, writes=writes) as connection, Session(connection, expire_on_commit=False) as session:
        yield session
        session.flush()


def url(settings: Settings) -> URL:
    """Return where the database is; PostgreSQL is spoken to by psycopg 3, which waits without blocking the loop."""
    made = make_url(settings.database_url)
    return made.set(drivername="postgresql+psycopg") if made.drivername in ("postgres", "postgresql") else made


def exclusively(session: Session, what: str) -> None:
    """Keep others from doing *what* until the end of this writing transaction, which on SQLite they cannot anyway."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(hashtext(:what))"), {"what": what})


def engine_for(settings: Settings) -> Engine:
    """Return an engine with a pool of its own: for commands, and for what requests wait for.

    A request that holds a connection may ask the log, which needs one too. In one pool ten such requests at once would
    hold all and wait for each other.
    """
    engine = create_engine(url(settings), **engine_options(settings, LOG_CONNECTIONS))
    configure(engine)
    return engine


def engine_options(settings: Settings, connections: int = REQUEST_CONNECTIONS) -> dict[str, Any]:
    """Pool sizes: a connection is held for a query, never for a stream, so that few serve many."""
    made, connect_args = url(settings), {}
    if made.get_backend_name() == "postgresql":
        idle = f"-c idle_in_transaction_session_timeout={IDLE_SECONDS * 1000:.0f}"
        connect_args["options"] = f"{idle} {made.query.get('options', '')}"
    return {
        "connect_args": connect_args,
        "pool_size": connections,
        "max_overflow": 0,
        "pool_timeout": 10,
        "hide_parameters": True,  # an error's text goes into the log, what people wrote does not
        "pool_pre_ping": "sqlite" not in settings.database_url,
    }


def migrate(settings: Settings) -> bool:
    """Bring the database to the newest revision; return whether anything was to do.

    Raises Unusable where it cannot be read or written, or is of a revision that this version does not know.
    """
    try:
        return _migrate(settings)
    except DBAPIError as error:
        raise Unusable(f"The database {shown(settings)} {trouble(error)}") from error


def shown(settings: Settings) -> str:
    """Return where the database is, without its password."""
    made = url(settings)
    return str(made.database) if made.drivername == "sqlite" else made.render_as_string(hide_password=True)


def trouble(error: DBAPIError) -> str:
    """Return what the driver's error means, as the end of a sentence."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return UNUSABLE.get(code & 0xFF, f"cannot be used: {error.orig}.")
    return f"cannot be used: {str(error.orig).strip().splitlines()[0]}"


def _migrate(settings: Settings) -> bool:
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    script = ScriptDirectory.from_config(config)
    engine = engine_for(settings)
    try:
        with connected(engine) as connection:
            current = MigrationContext.configure(connection).get_current_heads()
        if set(current) == set(script.get_heads()):
            return False
        unknown = set(current) - {revision.revision for revision in script.walk_revisions()}
        if unknown:
            raise Unusable(
                f"The database {shown(settings)} is of revision {', '.join(sorted(unknown))}, which this version does not "
                "know: a newer one made it. Start that one, or put a backup in its place; nothing was changed."
            )
        from alembic import command

        with engine.connect().execution_options(**WRITES) as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        return True
    finally:
        engine.dispose()
