"""What a user may do with opinions of answers: have one each, change it, take it back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlalchemy.orm import Session

from chatapp.database import writing
from chatapp.errors import Conflict, NotFound
from chatapp.models import conversations, reactions
from chatapp.models.accounts import User
from chatapp.models.conversations import ASSISTANT, Message
from chatapp.models.reactions import Reaction

GONE = "There is no such message."


def put(user: User, message_id: str, *, kind: str, note: str) -> Message:
    """Store what the user thinks of an answer, in place of what they thought before; return the answer.

    Raises NotFound, and Conflict for a question.
    """
    with writing() as session:
        message = answer(session, user, message_id)
        reaction = reactions.put(session, message.id, user.id, kind=kind, note=note)
    show([message], {message.id: reaction})
    return message


def remove(user: User, message_id: str) -> None:
    """Take back what the user thinks of an answer, if they do. Raises NotFound, and Conflict for a question."""
    with writing() as session:
        reactions.remove(session, answer(session, user, message_id).id, user.id)


def answer(session: Session, user: User, message_id: str) -> Message:
    message = conversations.message_of(session, message_id, user.id)
    if message is None:
        raise NotFound(GONE)
    if message.role != ASSISTANT:
        raise Conflict("Only an answer can be liked or disliked.")
    return message


def show(messages: Iterable[Message], known: Mapping[str, Reaction]) -> None:
    """Let *messages* have a `reaction` each, which is no column of theirs: it is of the one who asks."""
    for message in messages:
        vars(message)["reaction"] = known.get(message.id)
