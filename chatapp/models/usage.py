"""What each person used, by day (UTC) and model."""

from __future__ import annotations

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from chatapp.database import Base


class Usage(Base):
    """Written in the transaction that ends an answer, so that an answer counts exactly once. `day` is YYYY-MM-DD."""

    __tablename__ = "usage"

    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    day: Mapped[str] = mapped_column(String(10), primary_key=True)
    model: Mapped[str] = mapped_column(String(300), primary_key=True)
    answers: Mapped[int]
    prompt_tokens: Mapped[int]
    completion_tokens: Mapped[int]
