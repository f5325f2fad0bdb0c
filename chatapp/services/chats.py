"""What a user may ask in a project's chat: a conversation that is named by a UUID, made on first use."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from chatapp.database import db, exclusively
from chatapp.errors import Conflict, NotFound
from chatapp.models import generations
from chatapp.models._rows import change_row
from chatapp.models.accounts import User
from chatapp.models.conversations import Conversation, Message
from chatapp.models.generations import Generation
from chatapp.services import conversations as talks
from chatapp.services import generations as answers
from chatapp.services import limits, projects, site

DEFAULTS = {"temperature": 0.7, "max_tokens": 1500, "history": 10}  # what clients of `/ai/chat` expect
ELSEWHERE = "This conversation belongs to another project."


def ask(
    user: User,
    message: str,
    *,
    conversation_id: str | None,
    project_id: str | None,
    model: str | None,
    key: str | None,
    **params: Any,
) -> Generation:
    """Store *message* in the conversation, and begin its answer; once per *key*.

    An unknown UUID becomes the new conversation's id. A conversation that is in no project comes into this one.

    Raises ValidationFailed, NotFound for a project or a conversation that is not the user's, and Conflict for a
    conversation of another project.
    """
    if project_id is not None:
        projects.allowed(db.session(), user, project_id, projects.ASK)
    return begin(user, message, conversation_id, project_id, model=model, key=key, limited=False, params=params)


def stream(
    user: User,
    message: str,
    *,
    conversation_id: str | None,
    project_id: str,
    model: str | None,
    key: str | None,
    seen: str | None,
) -> Generation:
    """As `ask`, and counted as a stream that was begun. Raises RateLimited too.

    A reader who has *seen* the beginning of an answer to this very message comes back to that.
    """
    projects.allowed(db.session(), user, project_id, projects.ASK)
    begun = generations.of_question(db.session(), seen, user.id, message) if seen else None
    if begun is not None and conversation_id in (None, begun.conversation_id):
        return begun
    stall = min(site().settings.idle_seconds, site().settings.first_event_seconds)  # from the first second on
    params = {"first_event_seconds": stall}
    return begin(user, message, conversation_id, project_id, model=model, key=key, limited=True, params=params)


def begin(
    user: User,
    message: str,
    conversation_id: str | None,
    project_id: str | None,
    *,
    model: str | None,
    key: str | None,
    limited: bool,
    params: dict[str, Any],
) -> Generation:
    def asked(session: Session) -> tuple[Conversation, Message]:
        if limited:
            limits.count_start(session, user)
        conversation = resolve(session, user, conversation_id, project_id)
        return conversation, talks.asked(conversation, message, parent_id=conversation.leaf_id)

    message = talks.checked(message, field="message")
    known = talks.find(db.session(), user, conversation_id) if conversation_id and not model else None
    usual = known.model if known else None
    return answers.begin(user, asked, model=model, key=key, usual=usual, model_field="model", **{**DEFAULTS, **params})


def resolve(session: Session, user: User, conversation_id: str | None, project_id: str | None) -> Conversation:
    """Return the conversation, made if there is none of that id; in the project if one is named."""
    if project_id is not None:
        projects.allowed(session, user, project_id, projects.ASK)
    if conversation_id:
        exclusively(session, f"conversation {conversation_id}")
    conversation = session.get(Conversation, conversation_id, populate_existing=True) if conversation_id else None
    if conversation is None:
        return talks.add(session, user, conversation_id=conversation_id, project_id=project_id)
    if conversation.user_id != user.id:
        raise NotFound(talks.GONE)
    if project_id is not None and conversation.project_id != project_id:
        if conversation.project_id is not None:
            raise Conflict(ELSEWHERE)
        change_row(session, conversation, project_id=project_id)
    return conversation
