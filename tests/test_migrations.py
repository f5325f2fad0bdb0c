"""A database of an older version keeps all it has when it is brought up to date, and on the way back."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, inspect, text

from chatapp.database import MIGRATIONS, WRITES, connected, engine_for, migrate
from chatapp.settings import ROOT, Settings
from tests.support import world

TABLES = ("users", "conversations", "messages", "generations", "log_heads", "log_batches")
NOW = "2026-01-01 00:00:00"


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    url = request.getfixturevalue("new_database")() if request.param == "postgresql" else ""
    return Settings(data_dir=tmp_path, secret_key="x" * 64, database_url=url).completed()


def move(engine: Engine, act: Callable[[Config, str], None], revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.connect().execution_options(**WRITES) as connection:
        config.attributes["connection"] = connection
        act(config, revision)


def add(connection: Connection, table: str, **values: object) -> None:
    names = ", ".join(values)
    connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({', '.join(f':{n}' for n in values)})"), values)


def fill(engine: Engine) -> None:
    """Store one answer that runs, as revision 0001 has it."""
    with connected(engine, writes=True) as c:
        add(c, "users", id="u", email="a@b", name="A", role="admin", password_hash="", created_at=NOW)
        talk = {"id": "c", "user_id": "u", "title": "T", "pinned": False, "archived": False}
        add(c, "conversations", **talk, created_at=NOW, updated_at=NOW)
        for n, role in enumerate(("user", "assistant"), 1):
            rest = {"content": "", "reasoning": "", "status": "running", "created_at": NOW, "generation_id": "g"}
            add(c, "messages", id=role, conversation_id="c", position=n, role=role, **rest)
        made = {"user_id": "u", "conversation_id": "c", "question_id": "user", "message_id": "assistant"}
        add(c, "generations", id="g", **made, model="m", params="{}", openings=0, created_at=NOW, expires_at=NOW)
        head = {"generation_id": "g", "last_seq": 1, "expired": False, "stop_requested": False}
        add(c, "log_heads", **head, owner="dead", lease_until=0.0)
        add(c, "log_batches", generation_id="g", last_seq=1, events=b'[["token",{"content":"a"}]]')


def counts(engine: Engine) -> dict[str, int]:
    with connected(engine) as connection:
        return {table: connection.scalar(text(f"SELECT count(*) FROM {table}")) or 0 for table in TABLES}


def test_nothing_is_lost_on_the_way_up_and_down(settings: Settings) -> None:
    engine = engine_for(settings)
    move(engine, command.upgrade, "0001")
    fill(engine)
    before = counts(engine)
    assert all(before.values())
    assert migrate(settings)
    assert counts(engine) == before
    with connected(engine, writes=True) as c:  # the answer was gone on with
        made = {"user_id": "u", "conversation_id": "c", "question_id": "user", "message_id": "assistant"}
        rest = {"model": "m", "params": "{}", "openings": 0, "created_at": NOW, "expires_at": NOW}
        add(c, "generations", id="old", **made, **rest)
    move(engine, command.downgrade, "0001")
    assert counts(engine) == before
    engine.dispose()


DYING = """
import os, signal, sys
from chatapp import failpoints
from chatapp.database import migrate
from chatapp.settings import Settings
if sys.argv[3]:
    failpoints.reach = lambda name: os.kill(os.getpid(), signal.SIGKILL) if name == "migrating" else None
migrate(Settings(data_dir=sys.argv[1], secret_key="x" * 64, database_url=sys.argv[2]))
"""


def test_who_is_killed_in_a_migration_has_changed_nothing(settings: Settings) -> None:
    engine = engine_for(settings)
    move(engine, command.upgrade, "0001")
    fill(engine)
    before = counts(engine)
    for kill, status in (("kill", -signal.SIGKILL), ("", 0)):
        child = [sys.executable, "-c", DYING, str(settings.data_dir), settings.database_url, kill]
        assert subprocess.run(child, cwd=ROOT, timeout=60, check=False).returncode == status
        assert counts(engine) == before
        assert ("log_owners" in world.tables(engine)) == (not kill)
    engine.dispose()


def test_an_answer_that_ran_during_the_upgrade_is_an_orphan(settings: Settings) -> None:
    from chatapp.eventlog import Head
    from chatapp.eventlog.sql import Store

    engine = engine_for(settings)
    move(engine, command.upgrade, "0001")
    fill(engine)
    migrate(settings)
    store = Store(engine)
    store.enter("new", lease_seconds=60)
    assert store.take_orphans("new") == ["g"]
    assert store.head("g") == Head(1, ended=False, taken=1)
    engine.dispose()


def test_what_migrations_make_is_what_the_models_say(settings: Settings) -> None:
    migrate(settings)
    engine = engine_for(settings)
    assert world.tables(engine) - {"alembic_version"} == world.declared()
    assert "seams" in {column["name"] for column in inspect(engine).get_columns("generations")}
    with connected(engine) as connection:
        if engine.dialect.name == "sqlite":
            assert connection.scalar(text("PRAGMA foreign_keys")) == 1
    engine.dispose()
