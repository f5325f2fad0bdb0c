"""Rows read and written without the session's unit of work, which takes five times as long over each.

For what every question does. Statements are made once: to build one takes longer than to run it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from sqlalchemy import bindparam, insert, update
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from chatapp.database import Base, Prepared

Kind = TypeVar("Kind", bound=Base)


def insert_row(session: Session, row: Kind) -> Kind:
    """Insert *row*, completed with its columns' defaults. The session does not know it; `change_row` changes it later."""
    statement, columns = insertion(type(row))
    given, values = vars(row), {}
    for name, default in columns:
        value = given.get(name)
        if value is None and default is not None:
            value = default()
            setattr(row, name, value)
        values[name] = value
    statement.change(session.connection(), **values)
    return row


def change_row(session: Session, row: Base, **values: Any) -> None:
    """Set columns of a row that is stored, and of the object, whether the session knows it or not."""
    statement = setting(type(row).__table__, *values)
    statement.change(session.connection(), of=row.id, **values)  # type: ignore[attr-defined]
    for name, value in values.items():
        set_committed_value(row, name, value)


def made_of(kind: type[Kind], row: tuple[Any, ...] | None) -> Kind | None:
    """Return the object that *row*, all columns of *kind*'s table, tells of; no session knows it."""
    return kind(**dict(zip(names(kind), row, strict=True))) if row is not None else None


@cache
def names(kind: type[Base]) -> list[str]:
    return [column.name for column in kind.__table__.columns]


@cache
def setting(table: Any, *columns: str) -> Prepared:
    """Return an update of the one row with the id `of`."""
    return Prepared(
        update(table).where(table.c.id == bindparam("of")).values({name: bindparam(name) for name in columns})
    )


@cache
def insertion(kind: type[Base]) -> tuple[Prepared, list[tuple[str, Callable[[], Any] | None]]]:
    """Return the insert of a whole row of *kind*, and its columns, each with what makes its default."""
    table: Any = kind.__table__
    return Prepared(insert(table)), [(column.name, maker(column.default)) for column in table.columns]


def maker(default: Any) -> Callable[[], Any] | None:
    if default is None:
        return None
    return (lambda: default.arg(None)) if default.is_callable else (lambda: default.arg)
