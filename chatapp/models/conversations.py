"""Conversations and their messages. Messages form a tree: regenerate and edit add a sibling, the old branch stays."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    ForeignKey,
    Index,
    Integer,
    Select,
    String,
    Text,
    UniqueConstraint,
    bindparam,
    func,
    or_,
    select,
)
from sqlalchemy.orm import Mapped, Session, mapped_column

from chatapp.database import Base, Prepared, exclusively, utcnow
from chatapp.models._columns import Created, Id
from chatapp.models._rows import change_row, insert_row, made_of

USER = "user"
ASSISTANT = "assistant"


class Conversation(Base):
    """`key` is the user's own name for it (a `chatId` of theirs); `leaf_id` is the last message of the branch shown.

    `system_prompt` is told to the model in place of the site's own, where there is one.
    """

    __tablename__ = "conversations"
    __table_args__ = (UniqueConstraint("user_id", "key"), Index(None, "user_id", "updated_at"))

    id: Mapped[Id]
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    project_id: Mapped[str | None] = mapped_column(ForeignKey("projects.id", ondelete="SET NULL"), index=True)
    key: Mapped[str | None] = mapped_column(String(64))
    title: Mapped[str] = mapped_column(String(200), default="")
    model: Mapped[str | None] = mapped_column(String(300))
    pinned: Mapped[bool] = mapped_column(default=False)
    archived: Mapped[bool] = mapped_column(default=False)
    system_prompt: Mapped[str | None] = mapped_column(Text)
    leaf_id: Mapped[str | None] = mapped_column(String(36))
    created_at: Mapped[Created]
    updated_at: Mapped[datetime] = mapped_column(default=utcnow)


class Message(Base):
    """A question or an answer. `position` counts from 1 in its conversation, in the order of making.

    `key` is the client's own id for it, `task_id` the client's name for what it belongs to. `command` names the slash command
    that a question is, and its answer: models are not told of either.

    `status` is `stored` for a question, and for an answer `running` or how it ended (`chatapp.answer`).
    """

    __tablename__ = "messages"
    __table_args__ = (UniqueConstraint("conversation_id", "position"), UniqueConstraint("conversation_id", "key"))

    id: Mapped[Id]
    conversation_id: Mapped[str] = mapped_column(ForeignKey("conversations.id", ondelete="CASCADE"))
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("messages.id", ondelete="CASCADE"), index=True)
    position: Mapped[int]
    role: Mapped[str] = mapped_column(String(20))
    content: Mapped[str] = mapped_column(Text, default="")
    reasoning: Mapped[str] = mapped_column(Text, default="")
    status: Mapped[str] = mapped_column(String(20), default="stored")
    model: Mapped[str | None] = mapped_column(String(300))
    finish_reason: Mapped[str | None] = mapped_column(String(20))
    error: Mapped[dict[str, Any] | None]
    usage: Mapped[dict[str, Any] | None]
    sources: Mapped[list[dict[str, Any]] | None]
    details: Mapped[dict[str, Any] | None]  # the contract's `metadata`, a name that SQLAlchemy keeps for itself
    generation_id: Mapped[str | None] = mapped_column(String(36))
    key: Mapped[str | None] = mapped_column(String(200))
    task_id: Mapped[str | None] = mapped_column(String(64))
    command: Mapped[str | None] = mapped_column(String(20))
    created_at: Mapped[Created]


def owned(session: Session, conversation_id: str, user_id: str) -> Conversation | None:
    """Return the conversation if it is this user's, as it is now: a transaction may have begun since it was last read."""
    return session.scalar(OWNED, {"of": conversation_id, "whose": user_id}, execution_options=AS_IT_IS)


def as_it_is(connection: Connection | sqlite3.Connection, conversation_id: str) -> Conversation | None:
    """Return the conversation, whosever it is."""
    return made_of(Conversation, BY_ID.first(connection, of=conversation_id))


def by_key(session: Session, key: str, user_id: str) -> Conversation | None:
    return session.scalar(BY_KEY, {"named": key, "whose": user_id}, execution_options=AS_IT_IS)


# made once: to build a statement takes longer than to run it
AS_IT_IS = {"populate_existing": True}
OWNED = select(Conversation).where(Conversation.id == bindparam("of"), Conversation.user_id == bindparam("whose"))
BY_KEY = select(Conversation).where(Conversation.key == bindparam("named"), Conversation.user_id == bindparam("whose"))
AFTER = Prepared(
    select(Message.__table__)
    .where(Message.conversation_id == bindparam("of"), Message.position > bindparam("position"))
    .order_by(Message.position)
    .limit(bindparam("most", type_=Integer))
)
PARENTS = Prepared(select(Message.id, Message.parent_id).where(Message.conversation_id == bindparam("of")))
BY_ID = Prepared(select(Conversation.__table__).where(Conversation.id == bindparam("of")))
LAST_POSITION = Prepared(select(func.max(Message.position)).where(Message.conversation_id == bindparam("of")))


def page(
    session: Session,
    user_id: str,
    *,
    q: str = "",
    archived: bool = False,
    project_id: str | None = None,
    offset: int = 0,
    limit: int = 50,
) -> tuple[list[Conversation], int]:
    """Return one page of the user's conversations, pinned and newest first, and how many there are in all."""
    where = [Conversation.user_id == user_id, Conversation.archived == archived]
    if project_id is not None:
        where.append(Conversation.project_id == project_id)
    if q:
        said = select(Message.id).where(Message.conversation_id == Conversation.id, says(session, Message.content, q))
        where.append(or_(says(session, Conversation.title, q), said.exists()))
    total = session.scalar(select(func.count()).select_from(Conversation).where(*where)) or 0
    order = (Conversation.pinned.desc(), Conversation.updated_at.desc(), Conversation.id)
    rows = session.scalars(select(Conversation).where(*where).order_by(*order).offset(offset).limit(limit))
    return list(rows), total


def says(session: Session, column: Any, text: str) -> ColumnElement[bool]:
    """Return whether *column* has *text* in it, in capitals or not.

    SQLite runs in our own event loop, and its LIKE begins anew at each character: with text that nearly matches everywhere
    it takes forty times as long.
    """
    if session.get_bind().dialect.name == "sqlite":
        return func.instr(func.lower(column), func.lower(text)) > 0
    found: ColumnElement[bool] = column.icontains(text, autoescape=True)
    return found


def messages(session: Session, conversation_id: str) -> list[Message]:
    """Return all messages of the tree, in the order of making."""
    return list(
        session.scalars(select(Message).where(Message.conversation_id == conversation_id).order_by(Message.position))
    )


def after(
    connection: Connection | sqlite3.Connection, conversation_id: str, *, position: int, limit: int
) -> list[dict[str, Any]]:
    """Return at most *limit* messages of the tree past *position*, in the order of making, as columns by name."""
    names = [column.name for column in Message.__table__.columns]
    rows = AFTER.each(connection, of=conversation_id, position=position, most=limit)
    return [dict(zip(names, row, strict=True)) for row in rows]


def parents(connection: Connection | sqlite3.Connection, conversation_id: str) -> dict[str, str | None]:
    """Return what each message of the tree hangs on."""
    return dict(PARENTS.rows(connection, of=conversation_id))


def all_of(session: Session, user_id: str) -> list[Conversation]:
    """Return all conversations of the user, oldest first."""
    order = (Conversation.created_at, Conversation.id)
    return list(session.scalars(select(Conversation).where(Conversation.user_id == user_id).order_by(*order)))


def message_of(session: Session, message_id: str, user_id: str) -> Message | None:
    """Return the message if it is in a conversation of this user's, as it is now."""
    return session.scalar(
        select(Message)
        .join(Conversation, Conversation.id == Message.conversation_id)
        .where(Message.id == message_id, Conversation.user_id == user_id),
        execution_options={"populate_existing": True},
    )


def questions_named(session: Session, conversation_id: str, names: Sequence[str]) -> dict[str, Message]:
    """Return the questions of the conversation that a client calls by one of *names*, or by their id, by that name."""
    rows = session.scalars(
        select(Message).where(
            Message.conversation_id == conversation_id,
            Message.role == USER,
            or_(Message.key.in_(names), Message.id.in_(names)),
        )
    )
    found = list(rows)
    return {**{row.id: row for row in found}, **{row.key: row for row in found if row.key is not None}}


def add_message(session: Session, conversation: Conversation, message: Message) -> Message:
    """Store *message* as the newest of *conversation*, which then shows its branch."""
    add_messages(session, conversation, [message])
    return message


def add_messages(session: Session, conversation: Conversation, messages: Sequence[Message], **values: Any) -> None:
    """Store *messages* as the newest of *conversation*, which then shows their branch, and has *values* too."""
    exclusively(session, f"conversation {conversation.id}")  # two at once would take the same position
    last = LAST_POSITION.rows(session.connection(), of=conversation.id)[0][0]
    for position, message in enumerate(messages, (last or 0) + 1):
        message.conversation_id, message.position = conversation.id, position
        insert_row(session, message)
    change_row(session, conversation, leaf_id=messages[-1].id, updated_at=utcnow(), **values)


def branch(session: Session, leaf_id: str | None, *, limit: int = 10_000) -> list[Message]:
    """Return the messages from the root to *leaf_id*, oldest first; at most the last *limit*."""
    if leaf_id is None:
        return []
    return list(session.scalars(BRANCH, {"leaf": leaf_id, "most": limit}))[::-1]


class Said(NamedTuple):
    """What a model is told of a message."""

    role: str
    content: str


def said(session: Session, leaf_id: str | None, *, limit: int) -> list[Said]:
    """Return what models are told of what was said from the root to *leaf_id*, oldest first; at most the last *limit*."""
    if leaf_id is None or limit < 1:
        return []
    return [Said(*row) for row in SAID.rows(session.connection(), leaf=leaf_id, most=limit)][::-1]


def _branch(*shown: Any) -> Select[Any]:
    messages = Message.__table__
    path = (
        select(messages.c.id, messages.c.parent_id)
        .where(messages.c.id == bindparam("leaf"))
        .cte("path", recursive=True)
    )
    above = messages.alias()
    path = path.union_all(select(above.c.id, above.c.parent_id).join(path, above.c.id == path.c.parent_id))
    rows = select(*shown).join(path, path.c.id == Message.id)
    return rows.order_by(Message.position.desc()).limit(bindparam("most", type_=Integer))


BRANCH = _branch(Message)
SAID = Prepared(_branch(Message.role, Message.content).where(Message.command.is_(None)))


def deepest(session: Session, message_id: str) -> str:
    """Return the newest leaf under *message_id*, itself included: what to show when a reader turns to this branch."""
    conversation_id = select(Message.conversation_id).where(Message.id == message_id).scalar_subquery()
    links = select(Message.parent_id, Message.id).where(Message.conversation_id == conversation_id)
    # of a parent, the last child stays
    newest = dict(session.execute(links.order_by(Message.position)).all())
    while message_id in newest:
        message_id = newest[message_id]
    return message_id


def latest(
    session: Session,
    user_id: str,
    *,
    project_id: str | None = None,
    task_id: str | None = None,
    offset: int,
    limit: int,
) -> tuple[list[Message], int]:
    """Return a page of the user's latest messages over all conversations, newest first, and how many there are.

    With *project_id* of that project's conversations only, with *task_id* those that were kept for that.
    """
    mine = select(Conversation.id).where(Conversation.user_id == user_id)
    if project_id is not None:
        mine = mine.where(Conversation.project_id == project_id)
    where: list[ColumnElement[bool]] = [Message.conversation_id.in_(mine)]
    if task_id is not None:
        where.append(Message.task_id == task_id)
    total = session.scalar(select(func.count()).select_from(Message).where(*where)) or 0
    order = (Message.created_at.desc(), Message.position.desc(), Message.id)
    return list(session.scalars(select(Message).where(*where).order_by(*order).offset(offset).limit(limit))), total
