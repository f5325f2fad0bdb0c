"""What a user may do with answers: start, open, wait for, stop, ask again."""

from __future__ import annotations

import logging
import sqlite3
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any

import gevent
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.orm import Session

from chatapp import failpoints, responses
from chatapp.answer import FAILED, FINISHED, INTERRUPTED, RUNNING, STOPPED
from chatapp.commands import unescaped
from chatapp.database import db, exclusively, glance, utcnow, writing
from chatapp.errors import Conflict, NotFound, Overloaded, RateLimited, SessionExpired, of_answer
from chatapp.eventlog import LeaseLost, LogExpired, LogGone, LogTroubled
from chatapp.events import Event, Reasoning, Started, Status, Token
from chatapp.models import conversations, generations
from chatapp.models._columns import new_id
from chatapp.models._rows import change_row, insert_row
from chatapp.models.accounts import User
from chatapp.models.conversations import ASSISTANT, USER, Conversation, Message
from chatapp.models.generations import Generation
from chatapp.runner import GOING_ON, Job
from chatapp.runners import new_job
from chatapp.services import commands, projects, site, usage
from chatapp.services import conversations as talks
from chatapp.services.commands import Order

logger = logging.getLogger(__name__)

MAX_OPENINGS = 10
STOP_SECONDS = 5.0
GONE = "There is no such answer."
Find = Callable[[Session], tuple[Conversation, Message]]


def start(
    user: User,
    prompt: str,
    *,
    reference: str | None,
    model: str | None,
    key: str | None,
    field: str,
    project_id: str | None = None,
    task_id: str | None = None,
    site_url: str = "",
) -> tuple[Generation, str]:
    """Store the question in the conversation that *reference* names, and begin its answer; or carry a command out.

    Returns it, and what the client calls the conversation. The same *key* of the same user gives the same generation.
    *field* names the prompt in errors, *project_id* the project of a new conversation, *task_id* what the client has both
    messages for. Raises ValidationFailed, and NotFound for a project that is not the user's.
    """
    resolved: Conversation | None = None
    new = {"conversation_id": new_id(), "project_id": project_id}

    def question(session: Session) -> tuple[Conversation, Message]:
        nonlocal resolved
        resolved = talks.resolve(session, user, reference, **new)
        return resolved, typed(session, resolved, prompt, order, after=resolved.leaf_id, task_id=task_id)

    prompt = talks.checked(prompt, field=field)
    if project_id is not None:
        projects.allowed(db.session(), user, project_id, projects.ASK)
    known = talks.find(db.session(), user, reference) if reference and (not model or prompt[0] == "/") else None
    after = known.leaf_id if known else None
    order = commands.order(user, prompt, known, after=after, conversation_id=new["conversation_id"], site_url=site_url)
    generation = begin(user, question, model=model, key=key, usual=known.model if known else None, order=order)
    if resolved is None or resolved.id != generation.conversation_id:  # begun before, with the same key
        return generation, reference_of(user, generation, reference)
    return generation, reference or resolved.id


def regenerate(user: User, message_id: str, *, model: str | None, key: str | None, site_url: str = "") -> Generation:
    """Answer the question of this answer anew; the old answer stays, beside the new one. A command is carried out again.

    Raises NotFound.
    """

    def question(session: Session) -> tuple[Conversation, Message]:
        message = mine(session, user, message_id)
        asked = message if message.role == USER else session.get(Message, message.parent_id or "")
        if asked is None or asked.role != USER:
            raise Conflict("There is no question to answer here.")
        conversation = talks.owned(session, user, message.conversation_id)
        if order is not None:
            order.carry_out(session, conversation, parent_id=asked.parent_id)
        return conversation, asked

    order = given_again(user, message_id, site_url=site_url)
    usual = model_around(user, message_id)
    return begin(user, question, model=model, key=key, usual=usual, order=order, remembered=False)


def edit(
    user: User, message_id: str, content: str, *, model: str | None, key: str | None, site_url: str = ""
) -> Generation:
    """Ask another question in place of this one, or give a command; the old branch stays.

    Raises NotFound, ValidationFailed.
    """

    def question(session: Session) -> tuple[Conversation, Message]:
        message = mine(session, user, message_id)
        if message.role != USER:
            raise Conflict("Only a question can be edited.")
        conversation = talks.owned(session, user, message.conversation_id)
        return conversation, typed(
            session, conversation, content, order, after=message.parent_id, task_id=message.task_id
        )

    content = talks.checked(content, field="content")
    old = mine(db.session(), user, message_id)
    around = talks.owned(db.session(), user, old.conversation_id)
    order = commands.order(user, content, around, after=old.parent_id, site_url=site_url)
    return begin(user, question, model=model, key=key, usual=around.model, order=order)


def go_on(user: User, message_id: str, *, model: str | None, key: str | None) -> Generation:
    """Go on with an answer that is not whole: it grows from where it broke off, and keeps its place.

    Raises NotFound, and Conflict where the answer is being made, is whole, or has no text to go on from.
    """

    def question(session: Session) -> tuple[Conversation, Message]:
        exclusively(session, f"answer {message_id}")
        message = mine(session, user, message_id)
        if message.status == RUNNING:
            raise Conflict("This answer is still being written.")
        if message.role != ASSISTANT or not broke_off(message):
            raise Conflict("There is nothing to go on with: this answer is whole.")
        if not message.content:
            raise Conflict("Nothing was written yet. Ask again instead.")
        return talks.owned(session, user, message.conversation_id), message

    order = given_again(user, message_id)
    return begin(user, question, model=model, key=key, usual=mine(db.session(), user, message_id).model, order=order)


def broke_off(message: Message) -> bool:
    """Say whether the answer ended before the model had said all."""
    return message.status in (STOPPED, INTERRUPTED, FAILED) or (
        message.status == FINISHED and message.finish_reason == "length"
    )


def of_conversation(user: User, conversation_id: str, *, seen: str | None = None) -> Generation:
    """Return the generation that answers the conversation's last question; it begins now if there is none.

    A reader who has *seen* the beginning of another one in this conversation comes back to that.

    Raises NotFound for no such conversation, and Conflict if nothing was asked in it.
    """

    def question(session: Session) -> tuple[Conversation, Message]:
        conversation = talks.kept(session, user, conversation_id)
        last = session.get(Message, conversation.leaf_id or "")
        if last is None or last.role != USER:
            raise Conflict("Nothing was asked in this conversation yet.")
        return conversation, last

    session = db.session()
    conversation = talks.owned(session, user, conversation_id)
    known = session.get(Generation, seen) if seen else None
    if known is not None and known.conversation_id == conversation.id:
        return known
    last = session.get(Message, conversation.leaf_id or "")
    generation = None
    if last is not None and last.role == ASSISTANT:
        generation = generations.of_message(session, last.id) or swept(session, conversation)
    # two readers that come at once mean the same answer, hence a key made of the question; no client's key has a blank
    key = f"answer {last.id}" if last else None
    return generation or begin(user, question, model=None, key=key, usual=conversation.model)


def swept(session: Session, conversation: Conversation) -> Generation | None:
    """Return, in place of the generation of the last answer that was deleted long ago, one by which a stream tells it."""
    last = session.get(Message, conversation.leaf_id or "")
    if last is None or last.role != ASSISTANT or last.status == RUNNING or not last.generation_id:
        return None
    return Generation(
        id=last.generation_id,
        user_id=conversation.user_id,
        conversation_id=conversation.id,
        question_id=last.parent_id,
        message_id=last.id,
        model=last.model or "",
    )


def open_session(user: User, session_id: str, *, seen: int) -> Generation:
    """Return the generation of a session that is opened, or come back to by a reader who has *seen* that seq of it.

    Raises NotFound, SessionExpired, RateLimited.
    """
    generation = owned(user, session_id)
    head = site().log.head(generation.id)
    if head is not None and 0 < seen <= head.last_seq:
        return generation
    if generation.expires_at < utcnow():
        raise SessionExpired
    with writing() as session:
        if not generations.open_once_more(session, generation.id, at_most=MAX_OPENINGS):
            raise RateLimited(
                f"This session was opened {MAX_OPENINGS} times. Ask again to get a new one.", retry_after=60
            )
    return generation


def owned(user: User, generation_id: str) -> Generation:
    """Return the user's generation. Raises NotFound."""
    name = generation_id.lower()
    if not talks.is_uuid(name):
        raise NotFound(GONE)
    with glance(db.engine) as connection:
        generation = generations.owned(connection, name, user.id)
    if generation is None:
        raise NotFound(GONE)
    return generation


def answer(generation: Generation) -> Message:
    """Wait until the generation has ended and return its message; the time is bounded by the runner's deadlines.

    An answer that failed before its first word is raised as its error.
    """
    wait(generation.id, seconds=site().settings.total_seconds + 60)
    message = stored(generation.message_id)
    if message.error and not message.content:
        raise of_answer(message.error["code"], message.error["message"])
    return message


def stop(user: User, conversation_id: str) -> Message | None:
    """End the running answers of the conversation; return the newest as it was stored, or the last answer, or None."""
    session = db.session()
    conversation = talks.owned(session, user, conversation_id)
    running = generations.running(session, conversation.id)
    leaf = session.get(Message, conversation.leaf_id or "")
    last = leaf.id if leaf is not None and leaf.role == ASSISTANT else None
    session.commit()
    for generation in running:
        site().runners.stop(generation.id)
    deadline = time.monotonic() + STOP_SECONDS
    for generation in running:
        wait(generation.id, seconds=max(0.1, deadline - time.monotonic()))
    shown = running[-1].message_id if running else last
    return stored(shown) if shown else None


def begin(
    user: User,
    question: Find,
    *,
    model: str | None,
    key: str | None,
    usual: str | None = None,
    model_field: str = "modelId",
    order: Order | None = None,
    remembered: bool = True,
    **params: Any,
) -> Generation:
    """Make a generation for the question that *question* finds or stores, and start its runner; once per *key*.

    Where no *model* is named, the one that is *usual* in the conversation is asked. *order* is the command that the
    question is. An answer that was given before to the same is given again if it may be *remembered*.
    """
    parts = site()
    if db.session.registry.has():
        db.session.commit()  # no connection is held while model servers are asked
    with glance(db.engine) as connection:
        existing = begun(connection, user, key)
    if existing is not None:
        return existing
    says = order is not None and order.says  # then no model is asked, and none need be there
    model_id = commands.MODEL if says else usage.model_for(user, model, usual=usual, field=model_field)
    params = {**params, **(order.params if order else {})}
    owner = parts.runners.enter()
    try:
        with writing() as session:
            if key:
                exclusively(session, f"start {user.id} {key}")
            existing = begun(session.connection(), user, key)
            if existing is not None:
                return existing
            conversation, asked = question(session)
            action = "changed" if conversation.leaf_id else "made"  # with its first question, if not before
            generation, job = add(session, user, conversation, asked, owner, model_id=model_id, key=key, params=params)
            people = talks.people_of(session.connection(), conversation)
    except IntegrityError:
        existing = begun(db.session.connection(), user, key)
        if existing is None:
            raise
        return existing
    except LeaseLost as error:  # this process was paused for so long that others took over
        raise Overloaded from error
    failpoints.reach("question-committed")
    if job is not None and remembered:
        job = known_already(generation, job)
    parts.runners.start(generation.id, job, owner=owner)
    talks.tell(people, action, talks.described(conversation, running=True))
    return generation


def begun(connection: Connection | sqlite3.Connection, user: User, key: str | None) -> Generation | None:
    """Return what the user began with this key."""
    return generations.by_key(connection, user.id, key) if key else None


def add(
    session: Session,
    user: User,
    conversation: Conversation,
    asked: Message,
    owner: str,
    *,
    model_id: str,
    key: str | None,
    params: dict[str, Any],
) -> tuple[Generation, Job | None]:
    """Store the generation, the place of its answer and its log: one transaction, or nothing.

    *asked* is the question, stored or not, or an answer that is gone on with: then the log begins with what it says, and
    there is no job, since the runner has to read that.
    """
    parts, generation_id = site(), str(uuid.uuid4())
    said: list[Event] = []
    place = asked
    seams: list[int] = []
    if asked.role == ASSISTANT:
        said = told_so_far(asked, generation_id, model_id)
        seams = [*(asked.details or {}).get("seams", []), len(asked.content)]
        asked.status, asked.generation_id, asked.model = RUNNING, generation_id, model_id
        asked.finish_reason = asked.error = None
        change_row(session, conversation, **used(model_id), updated_at=utcnow())
    else:
        place = place_after(session, conversation, asked, generation_id, model_id)
    settings = parts.settings
    system_prompt = told_first(session, user, conversation, params.get("system_prompt"))
    generation = Generation(
        id=generation_id,
        user_id=user.id,
        conversation_id=conversation.id,
        question_id=place.parent_id,
        message_id=place.id,
        model=model_id,
        params={"max_tokens": settings.max_answer_tokens, **params, "system_prompt": system_prompt},
        seams=seams,
        idempotency_key=key,
        expires_at=utcnow() + timedelta(seconds=settings.session_seconds),
    )
    insert_row(session, generation)
    parts.log.create(generation.id, owner=owner, session=session, events=said)
    if said:
        return generation, None
    return generation, new_job(session, generation, place, asked)


def place_after(
    session: Session, conversation: Conversation, asked: Message, generation_id: str, model_id: str
) -> Message:
    """Store the place of the answer to *asked*, and *asked* itself if it is not stored yet; return the place."""
    command = asked.command if model_id == commands.MODEL else None  # what a model says is told to models again
    place = Message(
        role=ASSISTANT,
        status=RUNNING,
        model=model_id,
        generation_id=generation_id,
        task_id=asked.task_id,
        command=command,
    )
    if asked.id is not None:
        place.parent_id = asked.id
        conversations.add_messages(session, conversation, [place], **used(model_id))
        return place
    asked.id = place.parent_id = new_id()
    title = talks.title_after(conversation, asked)
    conversations.add_messages(session, conversation, [asked, place], **used(model_id), title=title)
    return place


def used(model_id: str) -> dict[str, str]:
    """Return what a conversation notes of who answered: commands do not change the model that is asked in it."""
    return {} if model_id == commands.MODEL else {"model": model_id}


def typed(
    session: Session,
    conversation: Conversation,
    text: str,
    order: Order | None,
    *,
    after: str | None,
    task_id: str | None,
) -> Message:
    """Return what a person typed, not stored yet, as the question after the message *after*; a command is carried out."""
    if order is None:
        return talks.asked(conversation, unescaped(text), parent_id=after, task_id=task_id)
    parent_id = order.carry_out(session, conversation, parent_id=after)
    return talks.asked(conversation, text, parent_id=parent_id, task_id=task_id, command=order.name)


def given_again(user: User, message_id: str, *, site_url: str = "") -> Order | None:
    """Return the command that the message, or the question that it answers, was stored as; None for any other.

    Raises NotFound.
    """
    session = db.session()
    message = mine(session, user, message_id)
    asked = message if message.role == USER else session.get(Message, message.parent_id or "")
    if asked is None or not asked.command:
        return None
    conversation = talks.owned(session, user, asked.conversation_id)
    return commands.order(user, asked.content, conversation, after=asked.parent_id, site_url=site_url)


def known_already(generation: Generation, job: Job) -> Job:
    """Return *job* as the recital of an answer that was given before, where there is one.

    It is stored with the generation, so that whoever takes it over says the rest of it. Where it cannot be stored it is
    recited all the same: the question is stored, and has to have a runner.
    """
    parts = site()
    script = responses.find(parts.cache, parts.settings, job)
    if script is None:
        return job
    params = {**generation.params, "script": asdict(script)}
    try:
        with writing() as session:
            change_row(session, generation, params=params)
    except (DBAPIError, NoConnection, Overloaded):
        logger.exception("generation %s: that it is known already could not be stored", generation.id)
    return replace(job, script=script, params=params)


def told_first(session: Session, user: User, conversation: Conversation, given: str | None) -> str:
    """Return what the model is told first: what was *given* for this answer, else the conversation's own prompt, else the
    site's; and then of the project.
    """
    own = given or conversation.system_prompt or site().settings.system_prompt
    return "\n\n".join(part for part in (own, projects.told(session, user, conversation.project_id)) if part)


def told_so_far(message: Message, generation_id: str, model_id: str) -> list[Event]:
    """Return the beginning of a log that goes on with *message*."""
    said: list[Event] = [
        Started(generation_id, message.conversation_id, message.id, model_id),
        Status(GOING_ON),
    ]
    said += [Reasoning(message.reasoning)] if message.reasoning else []
    return [*said, Token(message.content)]


def wait(generation_id: str, *, seconds: float) -> None:
    """Return when the generation has ended.

    Raises NotFound if it was deleted meanwhile, Overloaded after *seconds* or if it cannot be stored now.
    """
    db.session.commit()  # no connection is held meanwhile
    log = site().log
    head = log.head(generation_id)
    if head is None:
        raise NotFound(GONE)
    if head.ended:
        return
    try:
        with gevent.Timeout(seconds, False):  # type: ignore[arg-type]  # False: leave the block silently
            for _ in log.follow(generation_id, head.last_seq):
                pass
            return
    except LogExpired:  # ended and read to its end
        return
    except LogTroubled as error:
        raise of_answer(error.event.code, error.event.message) from error
    except LogGone as error:
        raise NotFound(GONE) from error
    raise Overloaded("The answer has not ended yet. Look again in a moment.")


def stored(message_id: str) -> Message:
    """Return the message as it is in the database now. Raises NotFound."""
    session = db.session()
    session.commit()
    message = session.get(Message, message_id, populate_existing=True)
    session.commit()
    if message is None:
        raise NotFound(GONE)
    return message


def reference_of(user: User, generation: Generation, given: str | None) -> str:
    """Return what the client calls the conversation: as it was *given*, where that names the one it is in."""
    conversation = talks.find(db.session(), user, given) if given else None
    if given and conversation is not None and conversation.id == generation.conversation_id:
        return given
    kept = db.session.get(Conversation, generation.conversation_id)
    return (kept.key if kept is not None else None) or generation.conversation_id


def model_around(user: User, message_id: str) -> str | None:
    """Return the model that the message's conversation used last. Raises NotFound."""
    session = db.session()
    return talks.owned(session, user, mine(session, user, message_id).conversation_id).model


def mine(session: Session, user: User, message_id: str) -> Message:
    message = conversations.message_of(session, message_id, user.id)
    if message is None:
        raise NotFound("There is no such message.")
    return message
