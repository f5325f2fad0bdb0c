"""Carrying out slash commands: what a command is told, and what becomes of its outcome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy.orm import Session

import chatapp.commands
from chatapp import registry
from chatapp.commands import Ask, Command, Say, View, listed, parse
from chatapp.database import db
from chatapp.models import conversations
from chatapp.models._columns import new_id
from chatapp.models._rows import change_row
from chatapp.models.accounts import User
from chatapp.models.conversations import Conversation
from chatapp.services import models, plans, site

MODEL = "site/command"  # who answers where no model is asked
NAME_CHARS = 20  # of the messages' column


@dataclass(frozen=True)
class Order:
    """A command that was typed, and what it comes to."""

    name: str
    outcome: Say | Ask

    @property
    def says(self) -> bool:
        """Whether the site itself answers."""
        return isinstance(self.outcome, Say)

    @property
    def params(self) -> dict[str, Any]:
        """Return the generation's, so that any worker can go on with the answer."""
        if isinstance(self.outcome, Say):
            return {"script": {"text": self.outcome.text, "finish_reason": "stop"}}
        return {"asked": self.outcome.prompt}

    def carry_out(self, session: Session, conversation: Conversation, *, parent_id: str | None) -> str | None:
        """Change what the command changes; return what the question hangs on, by default *parent_id*."""
        if not isinstance(self.outcome, Say):
            return parent_id
        changes = self.outcome.changes
        if changes.columns:
            change_row(session, conversation, **changes.columns)
        return None if changes.new_root else parent_id


def order(
    user: User,
    prompt: str,
    conversation: Conversation | None,
    *,
    after: str | None,
    conversation_id: str | None = None,
    site_url: str = "",
) -> Order | None:
    """Return the command in what *user* typed, with what it comes to; None where there is none.

    *after* is the message that it follows, *conversation_id* the one that a new conversation will have. It may ask model
    servers, so it stands outside any transaction, and changes nothing.
    """
    found = parse(prompt)
    if found is None:
        return None
    name, arguments = found
    parts, known = site(), members()
    help_lines = tuple(member.HELP for member in known.values())
    if name not in known:
        text = f"There is no command `/{name}`. There are:\n\n{listed(help_lines)}"
        return Order(name[:NAME_CHARS], Say(text))
    view = View(
        arguments=arguments,
        site_url=site_url.rstrip("/"),
        conversation_id=conversation.id if conversation else conversation_id or new_id(),
        title=conversation.title if conversation else "",
        model=conversation.model if conversation else None,
        system_prompt=conversation.system_prompt if conversation else None,
        usual_system_prompt=parts.settings.system_prompt,
        has_history=bool(conversations.said(db.session(), after, limit=1)),
        help=help_lines,
        models=lambda: [model.id for model in plans.usable(user, models.available(parts))],
        find_model=lambda wanted: plans.choose(user, wanted, field="model"),
    )
    return Order(name, known[name].run(view))


def members() -> dict[str, Command]:
    return cast(dict[str, Command], registry.load(chatapp.commands))
