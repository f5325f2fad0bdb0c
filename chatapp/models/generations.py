"""Generations: one answer being made, and the session in which it can be opened; the logs are in `chatapp.eventlog`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from chatapp.database import Base, utcnow
from chatapp.models._columns import Created, Id
from chatapp.models.conversations import Conversation, Message


class Generation(Base):
    """`params` holds what the model is asked with besides the history, so that any worker can make the same call."""

    __tablename__ = "generations"
    __table_args__ = (UniqueConstraint("user_id", "idempotency_key"), Index(None, "conversation_id", "created_at"))

    id: Mapped[Id]
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    conversation_id: Mapped[str] = mapped_column(ForeignKey("conversations.id", ondelete="CASCADE"))
    question_id: Mapped[str] = mapped_column(ForeignKey("messages.id", ondelete="CASCADE"), index=True)
    message_id: Mapped[str] = mapped_column(ForeignKey("messages.id", ondelete="CASCADE"), unique=True)
    model: Mapped[str] = mapped_column(String(300))
    params: Mapped[dict[str, Any]]
    idempotency_key: Mapped[str | None] = mapped_column(String(200))
    openings: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[Created]
    expires_at: Mapped[datetime]
    ended_at: Mapped[datetime | None] = mapped_column(index=True)


def owned(session: Session, generation_id: str, user_id: str) -> Generation | None:
    """Return the generation if its conversation is this user's."""
    return session.scalar(
        select(Generation)
        .join(Conversation, Conversation.id == Generation.conversation_id)
        .where(Generation.id == generation_id, Conversation.user_id == user_id)
    )


def by_key(session: Session, user_id: str, key: str) -> Generation | None:
    return session.scalar(select(Generation).where(Generation.user_id == user_id, Generation.idempotency_key == key))


def running(session: Session, conversation_id: str) -> list[Generation]:
    """Return the conversation's running generations, oldest first."""
    return list(
        session.scalars(
            select(Generation)
            .where(Generation.conversation_id == conversation_id, Generation.ended_at.is_(None))
            .order_by(Generation.created_at, Generation.id)
        )
    )


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
    return session.scalar(select(Generation).where(Generation.message_id == message_id))


def open_once_more(session: Session, generation_id: str, *, at_most: int) -> bool:
    """Count an opening; False if there were *at_most* already. One statement, so that no race opens one too many."""
    opened = session.scalar(
        update(Generation)
        .where(Generation.id == generation_id, Generation.openings < at_most)
        .values(openings=Generation.openings + 1)
        .returning(Generation.openings)
    )
    return opened is not None


def finish(session: Session, generation_id: str, message_id: str, values: dict[str, Any]) -> None:
    """Store how an answer ended: its message's *values*, and that the generation is over."""
    session.execute(update(Message).where(Message.id == message_id).values(**values))
    session.execute(update(Generation).where(Generation.id == generation_id).values(ended_at=utcnow()))
