"""What people think of answers."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ForeignKey, String, Text, delete, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from chatapp.database import Base, exclusively, utcnow
from chatapp.models._columns import Created
from chatapp.models.conversations import Message

MOST_IDS = 500  # in one statement
LIKE = "like"
DISLIKE = "dislike"


class Reaction(Base):
    """One person's opinion of one answer; `kind` is like or dislike."""

    __tablename__ = "reactions"

    message_id: Mapped[str] = mapped_column(ForeignKey("messages.id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True)
    kind: Mapped[str] = mapped_column(String(10))
    note: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[Created]


def of_user(session: Session, user_id: str, message_ids: Sequence[str]) -> dict[str, Reaction]:
    """Return what the user thinks of those messages, by their ids."""
    found: dict[str, Reaction] = {}
    for start in range(0, len(message_ids), MOST_IDS):
        some = message_ids[start : start + MOST_IDS]
        rows = session.scalars(select(Reaction).where(Reaction.user_id == user_id, Reaction.message_id.in_(some)))
        found.update((row.message_id, row) for row in rows)
    return found


def of_user_in(session: Session, user_id: str, conversation_id: str) -> dict[str, Reaction]:
    """Return what the user thinks of the messages of one conversation, by their ids."""
    rows = session.scalars(
        select(Reaction)
        .join(Message, Message.id == Reaction.message_id)
        .where(Message.conversation_id == conversation_id, Reaction.user_id == user_id)
    )
    return {row.message_id: row for row in rows}


def put(session: Session, message_id: str, user_id: str, *, kind: str, note: str) -> Reaction:
    """Store what the user thinks of the message, in place of what they thought before."""
    exclusively(session, f"reaction of {user_id} to {message_id}")
    return session.merge(Reaction(message_id=message_id, user_id=user_id, kind=kind, note=note, created_at=utcnow()))


def remove(session: Session, message_id: str, user_id: str) -> None:
    session.execute(delete(Reaction).where(Reaction.message_id == message_id, Reaction.user_id == user_id))


def all_of_user(session: Session, user_id: str) -> dict[str, Reaction]:
    """Return what the user thinks of all answers, by their ids."""
    return {row.message_id: row for row in session.scalars(select(Reaction).where(Reaction.user_id == user_id))}
