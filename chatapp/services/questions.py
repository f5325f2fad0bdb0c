"""What a user may ask in a session: a conversation that the client has its own name for, made on first use."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from chatapp.database import db
from chatapp.errors import Conflict, NotFound
from chatapp.models import generations
from chatapp.models.accounts import User
from chatapp.models.conversations import Conversation, Message
from chatapp.models.generations import Generation
from chatapp.services import conversations as talks
from chatapp.services import generations as answers


def ask(
    user: User, session_id: str, question: str, *, seen: str | None, model: str | None, key: str | None, **params: Any
) -> Generation:
    """Store *question* in the session, and begin its answer; once per *key*.

    A reader who has *seen* the beginning of an answer to this very question comes back to that. Raises ValidationFailed.
    """

    def asked(session: Session) -> tuple[Conversation, Message]:
        conversation = talks.resolve(session, user, session_id)
        return conversation, talks.asked(conversation, question, parent_id=conversation.leaf_id)

    question = talks.checked(question, field="question")
    known = talks.find(db.session(), user, session_id)
    if seen and known is not None:
        begun = generations.of_question(db.session(), seen, user.id, question)
        if begun is not None and begun.conversation_id == known.id:
            return begun
    usual = known.model if known else None
    return answers.begin(user, asked, model=model, key=key, usual=usual, model_field="model", **params)


def latest(user: User, session_id: str, *, seen: str | None) -> Generation:
    """Return the session's running or latest answer; to a reader who has *seen* the beginning of another one, that.

    Raises NotFound for no such session, Conflict if nothing was answered in it.
    """
    session = db.session()
    conversation = talks.find(session, user, session_id)
    if conversation is None:
        raise NotFound(talks.GONE)
    begun = session.get(Generation, seen) if seen else None
    if begun is not None and begun.conversation_id == conversation.id:
        return begun
    newest = generations.latest(session, conversation.id) or answers.swept(session, conversation)
    if newest is None:
        raise Conflict("Nothing was answered in this session yet. Ask a question.")
    return newest
