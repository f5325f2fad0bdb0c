"""What people did lately, where only so much of it is allowed in some time."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, delete, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from chatapp.database import Base
from chatapp.models._columns import Id


class Start(Base):
    """A stream that somebody began. Rows are kept for as long as they count, and then until that person's next start."""

    __tablename__ = "starts"
    __table_args__ = (Index(None, "user_id", "at"),)

    id: Mapped[Id]
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    at: Mapped[datetime]


def forget_starts(session: Session, user_id: str, *, until: datetime) -> None:
    session.execute(delete(Start).where(Start.user_id == user_id, Start.at <= until))


def nth_last_start(session: Session, user_id: str, number: int) -> datetime | None:
    """Return when this user began the *number*-th stream before now; None if there were fewer."""
    starts = select(Start.at).where(Start.user_id == user_id).order_by(Start.at.desc())
    return session.scalar(starts.offset(number - 1).limit(1))
