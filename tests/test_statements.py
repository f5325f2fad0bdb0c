"""Statements that are made once: what they write and read is what SQLAlchemy writes and reads, on each database."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import bindparam, column, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError

from chatapp.database import Base, Prepared, connected, glance, session_of, utcnow
from chatapp.models._rows import change_row, insert_row, made_of
from chatapp.models.accounts import User
from chatapp.models.conversations import Conversation, Message
from tests.support import world
from tests.support.world import World

USER = Prepared(select(User.__table__).where(User.id == bindparam("of")))


@pytest.fixture(params=["sqlite", "postgresql"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    fresh = world.make(tmp_path, request.getfixturevalue("new_database")() if request.param == "postgresql" else "")
    yield fresh
    fresh.close()


def values(row: Base) -> dict[str, Any]:
    return {column.name: getattr(row, column.name) for column in type(row).__table__.columns}


def test_a_row_that_is_inserted_at_once_is_as_the_session_would_have_it(made: World) -> None:
    with session_of(made.engine, writes=True) as session:
        talk = insert_row(session, Conversation(user_id=made.user_id, key="mine"))
        said = {"content": "ä\U0001f600'\"", "details": {"seams": [1, 2]}, "sources": [{"place": None}]}
        message = insert_row(session, Message(conversation_id=talk.id, position=1, role="user", **said))
    with session_of(made.engine) as session:
        stored = session.get_one(Message, message.id), session.get_one(Conversation, talk.id)
        assert [values(row) for row in stored] == [values(message), values(talk)]
        assert (stored[0].status, stored[0].created_at.utcoffset()) == ("stored", timedelta())
        assert session.scalar(select(Message.id).where(text("usage IS NULL"))) == message.id
        session.expunge_all()
        assert values(session.get_one(User, made.user_id)) == values(
            made_of(User, USER.first(session.connection(), of=made.user_id)) or User()
        )


def test_a_change_reaches_the_row_and_the_object_whether_the_session_knows_it_or_not(made: World) -> None:
    with session_of(made.engine, writes=True) as session:
        new = insert_row(session, Conversation(user_id=made.user_id))
        known = session.get_one(Conversation, made.conversation() if made.engine.dialect.name != "sqlite" else new.id)
        for row in (new, known):
            change_row(session, row, title="Changed", updated_at=utcnow())
            assert row.title == "Changed"
        assert not session.dirty
    with session_of(made.engine) as session:
        assert {session.get_one(Conversation, row.id).title for row in (new, known)} == {"Changed"}


def test_what_a_database_refuses_is_refused_as_everywhere(made: World) -> None:
    with pytest.raises(IntegrityError), session_of(made.engine, writes=True) as session:
        insert_row(session, Conversation(user_id="nobody"))
    with pytest.raises(DBAPIError) as told, glance(made.engine) as connection:
        Prepared(select(column("secret")).where(column("secret") == bindparam("of"))).rows(connection, of="private")
    assert "private" not in str(told.value)


def test_a_parameter_that_is_not_given_is_an_error(made: World) -> None:
    with pytest.raises((KeyError, StatementError)), glance(made.engine) as connection:
        USER.rows(connection)


def test_a_glance_sees_what_was_committed_and_holds_nothing(made: World) -> None:
    for name in ("One", "Two"):
        with session_of(made.engine, writes=True) as session:
            session.execute(update(User).values(name=name))
        with glance(made.engine) as connection:
            assert USER.first(connection, of=made.user_id)[2] == name  # type: ignore[index]


def test_a_glance_writes_nothing(tmp_path: Path) -> None:
    made = world.make(tmp_path)
    with glance(made.engine) as connection:
        assert isinstance(connection, sqlite3.Connection)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("UPDATE users SET name = ''")
    with connected(made.engine) as connection:
        assert connection.scalar(text("SELECT count(*) FROM users")) == 1
    made.close()
