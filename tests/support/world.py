"""A database with people, questions and answers to be made, without any server."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from chatapp.database import Base, connected, engine_for, migrate, session_of, utcnow
from chatapp.eventlog.sql import Store
from chatapp.events import Event
from chatapp.models.accounts import User
from chatapp.models.conversations import Conversation, Message, add_message
from chatapp.models.generations import Generation
from chatapp.settings import Settings


@dataclass
class World:
    """One user's database."""

    settings: Settings
    engine: Engine
    user_id: str

    def conversation(self) -> str:
        with session_of(self.engine, writes=True) as session:
            conversation = Conversation(user_id=self.user_id, title="Talk")
            session.add(conversation)
            session.flush()
            return conversation.id

    def generation(
        self,
        question: str = "Hello?",
        model: str = "fake/words",
        *,
        store: Store | None = None,
        owner: str = "",
        events: Sequence[Event] = (),
        **params: Any,
    ) -> str:
        """Store a question and the place for its answer; return the generation's id. Its log begins if *store* is given,
        as *owner*'s, who must have a lease.
        """
        conversation_id, generation_id = self.conversation(), str(uuid.uuid4())
        with session_of(self.engine, writes=True) as session:
            conversation = session.get_one(Conversation, conversation_id)
            asked = add_message(session, conversation, Message(role="user", content=question))
            place = Message(role="assistant", parent_id=asked.id, status="running", generation_id=generation_id)
            add_message(session, conversation, place)
            generation = Generation(
                id=generation_id,
                user_id=self.user_id,
                conversation_id=conversation_id,
                question_id=asked.id,
                message_id=place.id,
                model=model,
                params={"system_prompt": "Be brief.", **params},
                expires_at=utcnow(),
            )
            session.add(generation)
            if store is not None:
                store.create(generation_id, owner=owner, session=session, events=events)
        return generation_id

    def message(self, generation_id: str) -> Message:
        """Return the answer's row as it is stored now."""
        with session_of(self.engine) as session:
            generation = session.get_one(Generation, generation_id)
            return session.get_one(Message, generation.message_id)

    def close(self) -> None:
        self.engine.dispose()


def make(folder: Path, database_url: str = "") -> World:
    """Return a new, migrated database in *folder*, or at *database_url*, with one user."""
    settings = Settings(data_dir=folder, secret_key="x" * 64, database_url=database_url).completed()
    migrate(settings)
    engine = engine_for(settings)
    with session_of(engine, writes=True) as session:
        user = User(email="ada@example.org", name="Ada", password_hash="")
        session.add(user)
        session.flush()
        user_id = user.id
    return World(settings, engine, user_id)


def tables(engine: Engine) -> set[str]:
    """Return the names of the tables that there are."""
    from sqlalchemy import inspect

    with connected(engine) as connection:
        return set(inspect(connection).get_table_names())


def declared() -> set[str]:
    return set(Base.metadata.tables)
