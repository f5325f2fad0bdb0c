"""What a user may take along: one conversation or all of them, as a file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import gevent
from sqlalchemy import Engine

import chatapp.exports
from chatapp import registry
from chatapp.database import db, glance, utcnow
from chatapp.exports import UNTITLED, Format, Talk
from chatapp.models import conversations, reactions
from chatapp.models.accounts import User
from chatapp.models.conversations import Conversation
from chatapp.models.reactions import Reaction
from chatapp.schemas import rfc3339
from chatapp.schemas.conversations import Conversation as ConversationShape
from chatapp.schemas.conversations import Message as MessageShape
from chatapp.services import conversations as talks
from chatapp.services import site

FORMATS = cast("dict[str, Format]", registry.load(chatapp.exports))
HEAD, MESSAGE = ConversationShape(exclude=["running"]), MessageShape()
PAGE = 20  # messages, after which others have their turn
NAME_CHARS = 80
BLOCK_BYTES = 32 * 1024
NOT_IN_NAMES = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*\u2028\u2029]+')  # what one system or another forbids


@dataclass(frozen=True)
class File:
    """Something to be saved: `blocks` raises what a request can end in before the first one, and must be gone through."""

    name: str
    media_type: str
    blocks: Iterator[bytes]


def one(user: User, conversation_id: str, *, format: str, reasoning: bool) -> File:
    """Return the conversation as a file in *format*, one of FORMATS; of those that people read, with *reasoning* or not.

    Raises NotFound.
    """
    conversation = talks.owned(db.session(), user, conversation_id)
    return file(user, [conversation], named=conversation.title or UNTITLED, format=format, reasoning=reasoning)


def everything(user: User, *, format: str, reasoning: bool) -> File:
    """Return all conversations of the user as one file, the oldest first, archived ones too."""
    found = conversations.all_of(db.session(), user.id)
    return file(user, found, named=f"Conversations {utcnow():%Y-%m-%d}", format=format, reasoning=reasoning)


def file(user: User, found: Sequence[Conversation], *, named: str, format: str, reasoning: bool) -> File:
    """What each conversation says is read when it is written: all of them may be more than a memory holds."""
    member, engine = FORMATS[format], site().engine
    opinions = reactions.all_of_user(db.session(), user.id)
    db.session.commit()  # no connection is held meanwhile
    talks_of = (
        Talk(
            {**HEAD.dump(one), "system_prompt": one.system_prompt},
            messages(engine, one, opinions, whole=member.WHOLE_TREE, reasoning=reasoning or member.WHOLE_TREE),
        )
        for one in found
    )
    blocks = gathered(member.dump(talks_of, rfc3339(utcnow())))
    return File(f"{safe(named)}.{member.SUFFIX}", member.MEDIA_TYPE, blocks)


def gathered(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield what *pieces* yields in fewer, larger blocks: each costs a way through the server."""
    block = bytearray()
    for piece in pieces:
        block += piece
        if len(block) >= BLOCK_BYTES:
            yield bytes(block)
            block.clear()
    if block:
        yield bytes(block)


def messages(
    engine: Engine, conversation: Conversation, opinions: dict[str, Reaction], *, whole: bool, reasoning: bool
) -> Iterator[dict[str, Any]]:
    """Yield the messages as JSON has them, the *whole* tree or the branch shown, page by page."""
    shown = None if whole else branch(engine, conversation)
    after = 0
    while True:
        with glance(engine) as connection:
            rows = conversations.after(connection, conversation.id, position=after, limit=PAGE)
        for row in rows:
            if shown is None or row["id"] in shown:
                dumped = MESSAGE.dump({**row, "reaction": opinions.get(row["id"])})
                yield dumped if reasoning else {**dumped, "reasoning": ""}
        if len(rows) < PAGE:
            return
        after = rows[-1]["position"]
        gevent.sleep(0)


def branch(engine: Engine, conversation: Conversation) -> set[str]:
    """Return the ids of the messages from the root to the leaf that is shown."""
    with glance(engine) as connection:
        parents = conversations.parents(connection, conversation.id)
    ids, at = set(), conversation.leaf_id
    while at is not None and at in parents:
        ids.add(at)
        at = parents[at]
    return ids


def safe(title: str) -> str:
    """Return *title* as a file can be called, whatever the system."""
    name = " ".join(NOT_IN_NAMES.sub(" ", title).split())[:NAME_CHARS]
    return name.strip(" .") or UNTITLED
