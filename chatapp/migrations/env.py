"""Alembic's entry: with a connection that `chatapp.database.migrate` made, or with the application's for `flask db`."""

from typing import Any, Literal

from alembic import context
from sqlalchemy import Connection, text

import chatapp.eventlog.sql
import chatapp.models  # noqa: F401
from chatapp import failpoints
from chatapp.database import WRITES, Base, UtcDateTime


def render_item(kind: str, item: Any, autogen: Any) -> str | Literal[False]:
    """Write our time column as the plain one that it is in the database."""
    return "sa.DateTime(timezone=True)" if isinstance(item, UtcDateTime) else False


def run(connection: Connection) -> None:
    """Migrate on a connection without a transaction.

    SQLite alters a table by making it anew: with foreign keys on, the old one's end would delete all that refers to it.
    """
    if connection.dialect.name != "sqlite":
        migrate(connection)
        return
    raw: Any = connection.connection.dbapi_connection
    raw.execute("PRAGMA foreign_keys = OFF")
    try:
        migrate(connection)
    finally:
        raw.execute("PRAGMA foreign_keys = ON")


def migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=connection.dialect.name == "sqlite",  # SQLite cannot alter a column in place
        transactional_ddl=True,  # a migration that fails half-way leaves nothing behind
        compare_type=True,
        render_item=render_item,
    )
    with context.begin_transaction():
        if (
            connection.dialect.name == "postgresql"
        ):  # of two that start at once, one migrates, and the other finds it done
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('migrations'))"))
        context.run_migrations()
        failpoints.reach("migrating")
        if connection.dialect.name == "sqlite" and connection.execute(text("PRAGMA foreign_key_check")).first():
            raise RuntimeError("the migration would leave rows that refer to nothing")


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    from flask import current_app

    with current_app.extensions["chatapp"].engine.connect().execution_options(**WRITES) as made:
        run(made)
