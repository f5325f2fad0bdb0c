"""Plans: which models a person may ask, and how much in a day."""

from __future__ import annotations

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from chatapp.database import Base


class Plan(Base):
    """`tokens_per_day` is the quota of each of its people; None means the site's own."""

    __tablename__ = "plans"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    position: Mapped[int]
    tokens_per_day: Mapped[int | None]


class PlanModel(Base):
    """What an admin has said about one model in one plan; where nothing was said, the shipped catalogue decides."""

    __tablename__ = "plan_models"

    plan: Mapped[str] = mapped_column(String(40), primary_key=True)
    model: Mapped[str] = mapped_column(String(300), primary_key=True)
    allowed: Mapped[bool]
