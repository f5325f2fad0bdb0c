"""Plans: which models a person may ask, and how much in a day."""

from __future__ import annotations

import sqlite3

from sqlalchemy import Connection, String, delete, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from chatapp.database import Base, Prepared
from chatapp.models.accounts import Invite, User


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


PLANS = Prepared(select(Plan.__table__).order_by(Plan.position, Plan.name))
SAID = Prepared(select(PlanModel.__table__).order_by(PlanModel.plan, PlanModel.model))


def all_plans(connection: Connection | sqlite3.Connection) -> list[Plan]:
    """Return all plans, the lowest first."""
    return [
        Plan(name=name, position=position, tokens_per_day=tokens) for name, position, tokens in PLANS.rows(connection)
    ]


def all_said(connection: Connection | sqlite3.Connection) -> dict[str, dict[str, bool]]:
    """Return what admins have said: by plan, which models are allowed in it or not."""
    said: dict[str, dict[str, bool]] = {}
    for plan, model, allowed in SAID.rows(connection):
        said.setdefault(plan, {})[model] = bool(allowed)
    return said


def say(session: Session, plan: str, model: str, allowed: bool | None) -> None:
    """Allow a model in a plan, or not; None leaves it to the catalogue again."""
    if allowed is None:
        session.execute(delete(PlanModel).where(PlanModel.plan == plan, PlanModel.model == model))
    else:
        session.merge(PlanModel(plan=plan, model=model, allowed=allowed))


def remove(session: Session, plan: Plan) -> None:
    session.execute(delete(PlanModel).where(PlanModel.plan == plan.name))
    session.delete(plan)


def people(session: Session) -> dict[str | None, int]:
    """Return how many people have which plan; None stands for those who were given none."""
    return dict(session.execute(select(User.plan, func.count()).group_by(User.plan)).tuples().all())


def is_promised(session: Session, plan: str) -> bool:
    """Say whether an invite that nobody has used gives this plan."""
    return session.scalar(select(Invite.id).where(Invite.plan == plan, Invite.used_by.is_(None)).limit(1)) is not None
