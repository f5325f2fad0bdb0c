"""What each person used, by day (UTC) and model."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, ForeignKey, String, bindparam, func, select, text
from sqlalchemy.orm import Mapped, Session, mapped_column

from chatapp.database import Base, Prepared, utcnow
from chatapp.models.accounts import User


class Usage(Base):
    """Written in the transaction that ends an answer, so that an answer counts exactly once. `day` is YYYY-MM-DD."""

    __tablename__ = "usage"

    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    day: Mapped[str] = mapped_column(String(10), primary_key=True)
    model: Mapped[str] = mapped_column(String(300), primary_key=True)
    answers: Mapped[int]
    prompt_tokens: Mapped[int]
    completion_tokens: Mapped[int]


class Spent(NamedTuple):
    """The tokens that one answer cost."""

    prompt: int = 0
    completion: int = 0


INTO = "INSERT INTO usage (user_id, day, model, answers, prompt_tokens, completion_tokens) "
OR_MORE = (
    " ON CONFLICT (user_id, day, model) DO UPDATE SET answers = usage.answers + 1, "
    "prompt_tokens = usage.prompt_tokens + excluded.prompt_tokens, "
    "completion_tokens = usage.completion_tokens + excluded.completion_tokens"
)
ADD = Prepared(
    text(f"{INTO}SELECT user_id, :day, model, 1, :prompt, :completion FROM generations WHERE id = :of{OR_MORE}")
)
ADD_PASSING = Prepared(text(f"{INTO}VALUES (:whose, :day, :model, 1, :prompt, :completion){OR_MORE}"))
OF_DAY = Prepared(
    select(func.coalesce(func.sum(Usage.prompt_tokens + Usage.completion_tokens), 0)).where(
        Usage.user_id == bindparam("whose"), Usage.day == bindparam("on")
    )
)


def today() -> str:
    return utcnow().date().isoformat()


def add(connection: Connection, generation_id: str, spent: Spent) -> None:
    """Count an answer that has just ended, for the person who asked."""
    ADD.change(connection, of=generation_id, day=today(), prompt=spent.prompt, completion=spent.completion)


def add_passing(connection: Connection, user_id: str, model: str, spent: Spent) -> None:
    """Count an answer of which nothing else is stored."""
    ADD_PASSING.change(
        connection, whose=user_id, model=model, day=today(), prompt=spent.prompt, completion=spent.completion
    )


def of_day(connection: Connection | sqlite3.Connection, user_id: str, day: str) -> int:
    """Return how many tokens the user has used on *day*."""
    row = OF_DAY.first(connection, whose=user_id, on=day)
    return int(row[0]) if row else 0


COLUMNS = {"day": Usage.day, "user": Usage.user_id, "model": Usage.model}
ORDER = {"day": Usage.day.desc(), "user": Usage.user_id, "model": Usage.model}


def summed(
    session: Session,
    *,
    by: Sequence[str],
    user_id: str | None = None,
    model: str | None = None,
    first: str | None = None,
    last: str | None = None,
    offset: int = 0,
    limit: int = 50,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return what was used from the day *first* to *last*, one page of rows for each of *by*, and all of it in one row."""
    where = [column == value for column, value in ((Usage.user_id, user_id), (Usage.model, model)) if value is not None]
    where += [Usage.day >= first] if first else []
    where += [Usage.day <= last] if last else []
    sums = [
        func.coalesce(func.sum(column), 0).label(column.key)
        for column in (Usage.answers, Usage.prompt_tokens, Usage.completion_tokens)
    ]
    groups = select(*(COLUMNS[name].label(name) for name in by), *sums).where(*where)
    groups = groups.group_by(*(COLUMNS[name] for name in by)).order_by(*(ORDER[name] for name in by))
    rows = [told(row) for row in session.execute(groups.offset(offset).limit(limit)).mappings()]
    total = told(session.execute(select(*sums).where(*where)).mappings().one())
    total["rows"] = session.scalar(select(func.count()).select_from(groups.order_by(None).subquery())) or 0
    return rows, total


def told(row: Any) -> dict[str, Any]:
    """Return a row with numbers that JSON has: PostgreSQL sums up to decimals."""
    values: dict[str, Any] = {name: value if isinstance(value, str) else int(value) for name, value in row.items()}
    return {**values, "total_tokens": values["prompt_tokens"] + values["completion_tokens"]}


def emails(session: Session, user_ids: set[str]) -> dict[str, str]:
    """Return the e-mails of people by id."""
    return dict(session.execute(select(User.id, User.email).where(User.id.in_(user_ids))).tuples().all())
