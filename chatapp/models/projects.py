"""Projects: what several people work on together, and who may do what in it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, String, Text, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from chatapp.database import Base, utcnow
from chatapp.models._columns import Created, Id
from chatapp.models.accounts import User

OWNER = "owner"
EDITOR = "editor"
READER = "reader"
ROLES = (OWNER, EDITOR, READER)


class Project(Base):
    """`instructions` and `schema` are told to the model at the head of each of the project's conversations."""

    __tablename__ = "projects"

    id: Mapped[Id]
    name: Mapped[str] = mapped_column(String(200))
    description: Mapped[str] = mapped_column(Text, default="")
    instructions: Mapped[str] = mapped_column(Text, default="")
    schema: Mapped[str] = mapped_column(Text, default="")
    archived: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[Created]
    updated_at: Mapped[datetime] = mapped_column(default=utcnow)


class Membership(Base):
    """One person in one project; `role` is owner, editor or reader."""

    __tablename__ = "project_members"

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True)
    role: Mapped[str] = mapped_column(String(20))
    created_at: Mapped[Created]


def of_member(session: Session, project_id: str, user_id: str) -> tuple[Project, str] | None:
    """Return the project and what this user is in it, as both are now; None for who is no member."""
    row = session.execute(
        select(Project, Membership.role)
        .join(Membership, Membership.project_id == Project.id)
        .where(Project.id == project_id, Membership.user_id == user_id),
        execution_options={"populate_existing": True},
    ).first()
    return (row[0], row[1]) if row is not None else None


def page(
    session: Session, user_id: str, *, archived: bool, offset: int, limit: int
) -> tuple[list[tuple[Project, str]], int]:
    """Return one page of the user's projects by name, each with what they are in it, and how many there are in all."""
    mine = select(Project, Membership.role).join(Membership, Membership.project_id == Project.id)
    mine = mine.where(Membership.user_id == user_id, Project.archived == archived)
    total = session.scalar(select(func.count()).select_from(mine.subquery())) or 0
    rows = session.execute(mine.order_by(func.lower(Project.name), Project.id).offset(offset).limit(limit))
    return [(row[0], row[1]) for row in rows], total


def members(session: Session, project_id: str) -> list[tuple[User, Membership]]:
    """Return who is in the project, in the order of coming."""
    rows = session.execute(
        select(User, Membership)
        .join(Membership, Membership.user_id == User.id)
        .where(Membership.project_id == project_id)
        .order_by(Membership.created_at, User.id)
    )
    return [(row[0], row[1]) for row in rows]


def membership(session: Session, project_id: str, user_id: str) -> Membership | None:
    return session.get(Membership, (project_id, user_id), populate_existing=True)


def owners(session: Session, project_id: str) -> int:
    """Return how many owners the project has."""
    where = (Membership.project_id == project_id, Membership.role == OWNER)
    return session.scalar(select(func.count()).select_from(Membership).where(*where)) or 0
