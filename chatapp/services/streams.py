"""What a user may do with a history that their client keeps: have its last question answered, stored or not."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.orm import Session

from chatapp.answer import RUNNING
from chatapp.database import db, patience, utcnow
from chatapp.errors import NotFound, Overloaded, ValidationFailed
from chatapp.models import conversations
from chatapp.models._columns import new_id
from chatapp.models.accounts import User
from chatapp.models.conversations import ASSISTANT, USER, Conversation, Message, Said
from chatapp.models.generations import Generation
from chatapp.runner import Job
from chatapp.runners import turns
from chatapp.services import conversations as talks
from chatapp.services import generations, site, usage

logger = logging.getLogger(__name__)

STORAGE_SECONDS = 5.0  # so long the storage is waited for before an answer begins that can do without


@dataclass(frozen=True)
class Line:
    """One message of the history that a client sent; `id` is the client's own name for it, or the site's."""

    id: str
    role: str
    content: str


@dataclass(frozen=True)
class Talk:
    """What a client asks: the model is told *lines*, and they are all that it is told."""

    lines: tuple[Line, ...]
    model: str
    system_prompt: str | None

    @property
    def question(self) -> Line:
        return self.lines[-1]

    def said(self) -> list[Said]:
        return [Said(line.role, line.content) for line in self.lines if line.content]


def checked(talk: Talk) -> Talk:
    """Return *talk* if it can be asked. Raises ValidationFailed.

    What an assistant said may be of any length: the site itself wrote it.
    """
    limit = site().settings.max_message_chars
    if talk.question.role != USER:
        raise ValidationFailed(fields={"messages": ["The last message must be one of the user."]})
    talks.checked(talk.question.content, field="messages")
    if any(len(line.content) > limit for line in talk.lines if line.role != ASSISTANT):
        raise ValidationFailed(fields={"messages": [f"A message may have at most {limit} characters."]})
    if len(talk.system_prompt or "") > limit:
        raise ValidationFailed(fields={"systemPrompt": [f"It may have at most {limit} characters."]})
    return talk


def begin(user: User, talk: Talk, *, reference: str, key: str | None, seen: str | None) -> Generation | None:
    """Store what is new in *talk* in the conversation that *reference* names, and begin the answer to its last question.

    A question that is stored already is answered anew, beside its old answer. The same *key* gives the same generation;
    so does having *seen* the beginning of one that answers this question. Returns None where nothing can be stored now,
    which is logged. Raises ValidationFailed.
    """
    talk = checked(talk)
    params: dict[str, Any] = {"turns": [list(said) for said in talk.said()]}
    if talk.system_prompt:
        params["system_prompt"] = talk.system_prompt

    def question(session: Session) -> tuple[Conversation, Message]:
        conversation = talks.resolve(session, user, reference)
        return conversation, last_question(session, conversation, talk.lines)

    try:
        with patience(STORAGE_SECONDS):
            return seen_before(user, talk, reference, seen) or generations.begin(
                user, question, model=talk.model, key=key, model_field="model", remembered=False, **params
            )
    except (DBAPIError, NoConnection, Overloaded):
        if site().runners.draining:
            raise
        logger.exception("user %s: a question could not be stored; it is answered all the same", user.id)
        db.session.rollback()
        return None


def seen_before(user: User, talk: Talk, reference: str, seen: str | None) -> Generation | None:
    """Return the generation that a reader has *seen* the beginning of, if it answers this question in this conversation."""
    if seen is None:
        return None
    try:
        generation = generations.owned(user, seen)
    except NotFound:
        return None
    session = db.session()
    asked = session.get(Message, generation.question_id)
    conversation = talks.find(session, user, reference)
    here = conversation is not None and conversation.id == generation.conversation_id
    return generation if here and asked is not None and talk.question.id in (asked.id, asked.key) else None


def last_question(session: Session, conversation: Conversation, lines: Sequence[Line]) -> Message:
    """Return the question that *lines* end with, stored before or not stored yet; new ones before it are stored now.

    What is new comes after what is shown of the conversation, question by question: the answers between them are not the
    site's own.
    """
    asked = {line.id: line for line in lines if line.role == USER and line.content.strip()}  # of one id, the last
    known = conversations.questions_named(session, conversation.id, list(asked))
    fresh = [Message(role=USER, content=line.content, key=line.id) for line in asked.values() if line.id not in known]
    parent_id = conversation.leaf_id
    for message in fresh:
        message.conversation_id, message.parent_id = conversation.id, parent_id
        message.id = parent_id = new_id()
    last = known.get(lines[-1].id)
    if last is None:
        *fresh, last = fresh
        last.id = None  # type: ignore[assignment]  # not stored yet: that comes with its answer
    if fresh:
        title = talks.title_after(conversation, fresh[0])
        conversations.add_messages(session, conversation, fresh, title=title)
    return last


def begin_passing(user: User, talk: Talk, *, key: str | None) -> Generation:
    """Begin the answer to the last question of *talk*, of which nothing is stored; the caller is its reader.

    The same *key* gives the same one for as long as somebody in this process reads it. Raises ValidationFailed, Overloaded.
    """
    parts, talk = site(), checked(talk)
    held = parts.passing.join(user.id, key)
    if held is not None:
        return held
    model_id = usage.model_for(user, talk.model, field="model")
    held = parts.passing.join(user.id, key)  # who came meanwhile
    if held is not None:
        return held
    generation = Generation(id=str(uuid.uuid4()), user_id=user.id, message_id=new_id(), model=model_id)
    parts.passing.begin(generation, passing_job(generation, talk), key=key)
    return generation


def passing_job(generation: Generation, talk: Talk) -> Job:
    place = Message(
        id=generation.message_id, role=ASSISTANT, status=RUNNING, generation_id=generation.id, created_at=utcnow()
    )
    settings = site().settings
    return Job(
        conversation_id="",
        message={column.name: getattr(place, column.name) for column in Message.__table__.columns},
        model=generation.model,
        params={"max_tokens": settings.max_answer_tokens},
        turns=turns(talk.system_prompt or settings.system_prompt, talk.said()),
        user_id=generation.user_id,
        new=True,
    )
