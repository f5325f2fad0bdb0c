"""What a user may do with conversations and their messages."""

from __future__ import annotations

import re
import sqlite3
import uuid
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session

from chatapp.connections import Connections
from chatapp.database import db, exclusively, glance, writing
from chatapp.errors import NotFound, ValidationFailed
from chatapp.events import Event
from chatapp.models import conversations, generations, reactions
from chatapp.models._rows import change_row, insert_row
from chatapp.models.accounts import User
from chatapp.models.conversations import USER, Conversation, Message
from chatapp.runner import Job
from chatapp.schemas.conversations import Conversation as Shape
from chatapp.services import events, projects, site
from chatapp.services import reactions as opinions

SHAPE = Shape()
TITLE_CHARS = 60
GONE = "There is no such conversation."


def page(
    user: User, *, q: str, archived: bool, page: int, page_size: int, project_id: str | None = None
) -> dict[str, Any]:
    """Return one page of the user's conversations and how many there are, in the shape of `ConversationPage`.

    With *project_id* of those in that project. Raises NotFound for a project that is not the user's.
    """
    session = db.session()
    if project_id is not None:
        projects.allowed(session, user, project_id, projects.SEE)
    rows, total = conversations.page(
        session,
        user.id,
        q=q,
        archived=archived,
        project_id=project_id,
        offset=(page - 1) * page_size,
        limit=page_size,
    )
    running = generations.running_in(session, [row.id for row in rows])
    return {
        "conversations": [described(row, row.id in running) for row in rows],
        "total": total,
        "page": page,
        "page_size": page_size,
    }


def described(conversation: Conversation, running: bool) -> dict[str, Any]:
    values = {column.name: getattr(conversation, column.name) for column in Conversation.__table__.columns}
    return {**values, "running": running}


def make(user: User, *, title: str, key: str | None, project_id: str | None = None) -> dict[str, Any]:
    """Return a new conversation; with *key*, the user's own of that name, made if there is none.

    Raises NotFound for a project that is not the user's.
    """
    with writing() as session:
        if project_id is not None:
            projects.allowed(session, user, project_id, projects.ASK)
        known = find(session, user, key) if key else None
        conversation = resolve(session, user, key, project_id=project_id)
        if title and not conversation.title:
            change_row(session, conversation, title=title)
        people = people_of(session.connection(), conversation)
    made = described(conversation, running=False)
    if known is None:
        tell(people, "made", made)
    return made


def with_messages(user: User, conversation_id: str) -> dict[str, Any]:
    """Return the conversation and the whole tree of its messages. Raises NotFound."""
    session = db.session()
    conversation = owned(session, user, conversation_id)
    running = bool(generations.running(session, conversation.id))
    messages = conversations.messages(session, conversation.id)
    opinions.show(messages, reactions.of_user_in(session, user.id, conversation.id))
    return {**described(conversation, running), "messages": messages}


def change(user: User, conversation_id: str, **values: Any) -> dict[str, Any]:
    """Set title, pinned, archived, `project_id`; `leaf_id` turns to the branch that goes through that message.

    Raises NotFound, also for a project that is not the user's.
    """
    with writing() as session:
        conversation = owned(session, user, conversation_id)
        if values.get("project_id") is not None:
            projects.allowed(session, user, values["project_id"], projects.ASK)
        if "leaf_id" in values:
            values["leaf_id"] = leaf(session, conversation, str(values["leaf_id"]))
        for name, value in values.items():
            setattr(conversation, name, value)
        running = bool(generations.running(session, conversation.id))
        people = people_of(session.connection(), conversation)
    changed = described(conversation, running)
    tell(people, "renamed" if "title" in values else "changed", changed)
    return changed


def leaf(session: Session, conversation: Conversation, message_id: str) -> str:
    message = session.get(Message, message_id)
    if message is None or message.conversation_id != conversation.id:
        raise ValidationFailed(fields={"leaf_id": ["There is no such message in this conversation."]})
    return conversations.deepest(session, message.id)


def delete(user: User, conversation_id: str) -> None:
    """Delete the conversation and all that hangs on it; answers being made in it are stopped. Raises NotFound."""
    with writing() as session:
        conversation = owned(session, user, conversation_id)
        running = [generation.id for generation in generations.running(session, conversation.id)]
        people, deleted = people_of(session.connection(), conversation), described(conversation, running=False)
        site().log.store.erase(generations.made_in(session, conversation.id), session=session)
        session.delete(conversation)
    for generation_id in running:
        site().runners.drop(generation_id)
    tell(people, "deleted", deleted)


def add_question(user: User, conversation_id: str, content: str) -> Message:
    """Store a question that nobody answers yet. Raises NotFound, ValidationFailed."""
    content = checked(content, field="content")
    with writing() as session:
        conversation = kept(session, user, conversation_id)
        question = asked(conversation, content, parent_id=conversation.leaf_id)
        conversations.add_messages(session, conversation, [question], title=title_after(conversation, question))
        people = people_of(session.connection(), conversation)
    tell(people, "changed", described(conversation, running=False))
    return question


def history(
    user: User, *, reference: str | None, project_id: str | None, task_id: str | None, page: int, page_size: int
) -> dict[str, Any]:
    """Return the branch shown of one chat, or a page of the user's latest messages; oldest first.

    Of them those in the project, and those kept for the task. Raises NotFound.
    """
    session = db.session()
    if project_id is not None:
        projects.allowed(session, user, project_id, projects.SEE)
    if reference is not None:
        conversation = find(session, user, reference)
        if conversation is None:
            raise NotFound(GONE)
        elsewhere = project_id is not None and project_id != conversation.project_id
        branch = [] if elsewhere else conversations.branch(session, conversation.leaf_id)
        kept = [message for message in branch if task_id is None or message.task_id == task_id]
        opinions.show(kept, reactions.of_user_in(session, user.id, conversation.id))
        return {"chatId": reference, "messages": kept}
    rows, total = conversations.latest(
        session, user.id, project_id=project_id, task_id=task_id, offset=(page - 1) * page_size, limit=page_size
    )
    opinions.show(rows, reactions.of_user(session, user.id, [row.id for row in rows]))
    return {"chatId": None, "messages": rows[::-1], "total": total, "page": page, "page_size": page_size}


# what others are told


def people_of(connection: Connection | sqlite3.Connection, conversation: Conversation) -> list[str]:
    """Return the ids of those who may see *conversation*."""
    return [conversation.user_id]


def tell(
    people: Iterable[str], action: str, conversation: dict[str, Any], *, connections: Connections | None = None
) -> None:
    """Tell *people* what became of a conversation, described as lists have it, after the commit."""
    events.tell(people, "conversation", {"action": action, **SHAPE.dump(conversation)}, connections=connections)


def tell_answered(engine: Engine, connections: Connections, job: Job, terminal: Event) -> None:
    """Tell those who see the conversation that an answer in it has ended. Outside any request."""
    with glance(engine) as connection:
        conversation = conversations.as_it_is(connection, job.conversation_id)
        if conversation is None:  # deleted since
            return
        people = people_of(connection, conversation)
        now = described(conversation, generations.is_running_in(connection, conversation.id))
    tell(people, "answered", now, connections=connections)


def tell_typing(user: User, conversation_id: str, is_typing: bool) -> None:
    """Tell the others who see the conversation whether *user* is writing in it. Raises NotFound."""
    session = db.session()
    conversation = owned(session, user, conversation_id)
    others = [one for one in people_of(session.connection(), conversation) if one != user.id]
    who = {"id": user.id, "name": user.name}
    events.tell(others, "typing", {"conversation": conversation.id, "user": who, "isTyping": is_typing})


# for the other services


def owned(session: Session, user: User, conversation_id: str) -> Conversation:
    conversation = conversations.owned(session, conversation_id, user.id)
    if conversation is None:
        raise NotFound(GONE)
    return conversation


def kept(session: Session, user: User, conversation_id: str) -> Conversation:
    """As `owned`, but nobody else adds to it before this writing transaction ends: `leaf_id` stays the last message."""
    exclusively(session, f"conversation {conversation_id}")
    return owned(session, user, conversation_id)


def find(session: Session, user: User, reference: str) -> Conversation | None:
    """Return the conversation that *reference* names: one of the user's by id, else by their own key."""
    if is_uuid(reference):
        conversation = conversations.owned(session, str(uuid.UUID(reference)), user.id)
        if conversation is not None:
            return conversation
    return conversations.by_key(session, reference, user.id)


def resolve(session: Session, user: User, reference: str | None, **new: str | None) -> Conversation:
    """Return the conversation that *reference* names, made on first use; None means a new one. *new* is as in `add`."""
    if reference is None:
        return add(session, user, **new)
    exclusively(session, f"conversation {reference} of {user.id}")
    found = find(session, user, reference)
    return kept(session, user, found.id) if found is not None else add(session, user, key=reference, **new)


def add(
    session: Session,
    user: User,
    *,
    key: str | None = None,
    conversation_id: str | None = None,
    project_id: str | None = None,
) -> Conversation:
    return insert_row(session, Conversation(id=conversation_id, user_id=user.id, key=key, project_id=project_id))


def asked(conversation: Conversation, content: str, *, parent_id: str | None, **values: str | None) -> Message:
    """Return a question, which is not stored yet; *values* are its `task_id` and `command`."""
    return Message(conversation_id=conversation.id, role=USER, content=content, parent_id=parent_id, **values)


def title_after(conversation: Conversation, question: Message) -> str:
    """Return the conversation's title after *question*: the first one gives it, unless it is a command."""
    return conversation.title or ("" if question.command else title_of(question.content))


def checked(content: str, *, field: str) -> str:
    """Return *content* if it can be a message. Raises ValidationFailed, which names *field*."""
    limit = site().settings.max_message_chars
    if not content.strip():
        raise ValidationFailed(fields={field: ["The message is empty."]})
    if len(content) > limit:
        raise ValidationFailed(
            fields={field: [f"The message has {len(content)} characters; at most {limit} are allowed."]}
        )
    return content


def title_of(content: str) -> str:
    """Return the beginning of *content*, at most TITLE_CHARS of it; what follows a code fence is no title."""
    words = re.sub(r"\s+", " ", content[: 10 * TITLE_CHARS]).strip()
    words = words.partition("```")[0].rstrip(" :") or words
    if len(words) <= TITLE_CHARS:
        return words
    cut = words[:TITLE_CHARS].rpartition(" ")[0] or words[: TITLE_CHARS - 1]
    return cut.rstrip(" ,;:.–-") + "…"


def is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False
