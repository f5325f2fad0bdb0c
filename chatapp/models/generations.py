"""Generations: one answer being made, and the session in which it can be opened; the logs are in `chatapp.eventlog`."""

from __future__ import annotations

import sqlite3
from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    Connection,
    ForeignKey,
    Index,
    String,
    UniqueConstraint,
    bindparam,
    delete,
    select,
    update,
)
from sqlalchemy.orm import Mapped, Session, mapped_column

from chatapp.database import Base, Prepared, utcnow
from chatapp.models import usage
from chatapp.models._columns import Created, Id
from chatapp.models._rows import made_of, setting
from chatapp.models.conversations import Conversation, Message
from chatapp.models.usage import Spent


class Generation(Base):
    """`params` holds what the model is asked with besides the history, so that any worker can make the same call.

    A message has another generation for each time that a person asked to go on with it. `seams` are the places in its
    text, in characters, where a runner went on from what was there.
    """

    __tablename__ = "generations"
    __table_args__ = (UniqueConstraint("user_id", "idempotency_key"), Index(None, "conversation_id", "created_at"))

    id: Mapped[Id]
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    conversation_id: Mapped[str] = mapped_column(ForeignKey("conversations.id", ondelete="CASCADE"))
    question_id: Mapped[str] = mapped_column(ForeignKey("messages.id", ondelete="CASCADE"), index=True)
    message_id: Mapped[str] = mapped_column(ForeignKey("messages.id", ondelete="CASCADE"), index=True)
    model: Mapped[str] = mapped_column(String(300))
    params: Mapped[dict[str, Any]]
    seams: Mapped[list[int]] = mapped_column(JSON, default=list, server_default="[]")
    idempotency_key: Mapped[str | None] = mapped_column(String(200))
    openings: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[Created]
    expires_at: Mapped[datetime]
    ended_at: Mapped[datetime | None] = mapped_column(index=True)


def owned(connection: Connection | sqlite3.Connection, generation_id: str, user_id: str) -> Generation | None:
    """Return the generation if its conversation is this user's."""
    return made_of(Generation, OWNED.first(connection, of=generation_id, whose=user_id))


OWNED = Prepared(
    select(Generation.__table__)
    .join(Conversation, Conversation.id == Generation.conversation_id)
    .where(Generation.id == bindparam("of"), Conversation.user_id == bindparam("whose"))
)


def owners(session: Session, generation_ids: set[str]) -> dict[str, str]:
    """Return whose conversations those generations are in; what was deleted is left out."""
    rows = session.execute(
        select(Generation.id, Conversation.user_id)
        .join(Conversation, Conversation.id == Generation.conversation_id)
        .where(Generation.id.in_(generation_ids))
    )
    return {row.id: row.user_id for row in rows}


def by_key(connection: Connection | sqlite3.Connection, user_id: str, key: str) -> Generation | None:
    return made_of(Generation, BY_KEY.first(connection, whose=user_id, named=key))


BY_KEY = Prepared(
    select(Generation.__table__).where(
        Generation.user_id == bindparam("whose"), Generation.idempotency_key == bindparam("named")
    )
)


def running(session: Session, conversation_id: str) -> list[Generation]:
    """Return the conversation's running generations, oldest first."""
    return list(
        session.scalars(
            select(Generation)
            .where(Generation.conversation_id == conversation_id, Generation.ended_at.is_(None))
            .order_by(Generation.created_at, Generation.id)
        )
    )


def is_running_in(connection: Connection | sqlite3.Connection, conversation_id: str) -> bool:
    """Say whether an answer is being made in the conversation."""
    return RUNNING_IN.first(connection, of=conversation_id) is not None


RUNNING_IN = Prepared(
    select(Generation.id).where(Generation.conversation_id == bindparam("of"), Generation.ended_at.is_(None)).limit(1)
)


def made_in(session: Session, conversation_id: str) -> list[str]:
    """Return the ids of the conversation's generations."""
    return list(session.scalars(select(Generation.id).where(Generation.conversation_id == conversation_id)))


def running_in(session: Session, conversation_ids: list[str]) -> set[str]:
    """Return those of *conversation_ids* in which an answer is being made."""
    return set(
        session.scalars(
            select(Generation.conversation_id).where(
                Generation.conversation_id.in_(conversation_ids), Generation.ended_at.is_(None)
            )
        )
    )


def of_message(session: Session, message_id: str) -> Generation | None:
    """Return the newest generation of the answer *message_id*."""
    newest = (Generation.created_at.desc(), Generation.id)
    return session.scalar(select(Generation).where(Generation.message_id == message_id).order_by(*newest).limit(1))


def of_question(session: Session, generation_id: str, user_id: str, content: str) -> Generation | None:
    """Return the generation if it answers a question of this user's that says *content*, word for word."""
    return session.scalar(
        select(Generation)
        .join(Conversation, Conversation.id == Generation.conversation_id)
        .join(Message, Message.id == Generation.question_id)
        .where(Generation.id == generation_id, Conversation.user_id == user_id, Message.content == content)
    )


def latest(session: Session, conversation_id: str) -> Generation | None:
    """Return the conversation's newest generation, a running one before any other."""
    newest = (Generation.ended_at.is_not(None), Generation.created_at.desc(), Generation.id)
    where = Generation.conversation_id == conversation_id
    return session.scalar(select(Generation).where(where).order_by(*newest).limit(1))


def sweep(session: Session, *, over_since: datetime, at_most: int) -> int:
    """Delete generations that ended, and whose session expired, before *over_since*; return how many.

    Their logs go with them, their messages stay.
    """
    old = select(Generation.id).where(Generation.ended_at < over_since, Generation.expires_at < over_since)
    found = list(session.scalars(old.limit(at_most)))
    if found:
        session.execute(delete(Generation).where(Generation.id.in_(found)))
    return len(found)


def open_once_more(session: Session, generation_id: str, *, at_most: int) -> bool:
    """Count an opening; False if there were *at_most* already. One statement, so that no race opens one too many."""
    opened = session.scalar(
        update(Generation)
        .where(Generation.id == generation_id, Generation.openings < at_most)
        .values(openings=Generation.openings + 1)
        .returning(Generation.openings)
    )
    return opened is not None


def finish(
    connection: Connection, generation_id: str, message_id: str, values: dict[str, Any], spent: Spent | None
) -> None:
    """Store how an answer ended: its message's *values*, that the generation is over, and what it cost, if anything."""
    FINISH_MESSAGE.change(connection, of=message_id, **values)
    FINISH.change(connection, of=generation_id, ended_at=utcnow())
    if spent is not None:
        usage.add(connection, generation_id, spent)


def sew(connection: Connection, generation_id: str, seams: list[int]) -> None:
    """Store where an answer was gone on with."""
    SEW.change(connection, of=generation_id, seams=seams)


MESSAGES, GENERATIONS = Message.__table__, Generation.__table__
FINISH_MESSAGE = setting(
    MESSAGES,
    *("content", "reasoning", "status", "model", "finish_reason", "error", "usage", "sources", "details"),
)
FINISH = setting(GENERATIONS, "ended_at")
SEW = setting(GENERATIONS, "seams")
