"""Rows read and written without the session's unit of work, which takes five times as long over each.

For what every question does. Statements are made once: to build one takes longer than to run it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from sqlalchemy import Insert, Row, Update, bindparam, insert, update
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from chatapp.database import Base

Kind = TypeVar("Kind", bound=Base)


def insert_row(session: Session, row: Kind) -> Kind:
    """Insert *row*, completed with its columns' defaults. The session does not know it; `change_row` changes it later."""
    statement, defaults = insertion(type(row))
    values = {name: value for name, value in vars(row).items() if value is not None and name[0] != "_"}
    for name, make in defaults:
        if name not in values:
            values[name] = make()
            setattr(row, name, values[name])
    session.connection().execute(statement, values)
    return row


def change_row(session: Session, row: Base, **values: Any) -> None:
    """Set columns of a row that is stored, and of the object, whether the session knows it or not."""
    statement = setting(type(row).__table__, *values)
    session.connection().execute(statement, {"of": row.id, **values})  # type: ignore[attr-defined]
    for name, value in values.items():
        set_committed_value(row, name, value)


def made_of(kind: type[Kind], row: Row[Any] | None) -> Kind | None:
    """Return the object that *row*, all columns of *kind*'s table, tells of; no session knows it."""
    return kind(**row._mapping) if row is not None else None


@cache
def setting(table: Any, *columns: str) -> Update:
    """Return an update of the one row with the id `of`."""
    return update(table).where(table.c.id == bindparam("of")).values({name: bindparam(name) for name in columns})


@cache
def insertion(kind: type[Base]) -> tuple[Insert, list[tuple[str, Callable[[], Any]]]]:
    """Return the insert of a row of *kind*, and what makes the defaults of its columns."""
    table: Any = kind.__table__
    return insert(table), [
        (column.name, maker(column.default)) for column in table.columns if column.default is not None
    ]


def maker(default: Any) -> Callable[[], Any]:
    return (lambda: default.arg(None)) if default.is_callable else (lambda: default.arg)
