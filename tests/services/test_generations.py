"""What a question can rely on once it is stored, and a reader who never began to read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from flask import Flask
from werkzeug.test import create_environ

from app import create_app
from chatapp import responses
from chatapp.database import migrate
from chatapp.errors import Overloaded
from chatapp.models.generations import Generation
from chatapp.runner import Job, Script
from chatapp.services import generations
from chatapp.settings import Settings


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    """A site without sign-in that asks nobody."""
    settings = Settings(data_dir=tmp_path, auth="off", local_model="off", ollama_host="http://127.0.0.1:1").completed()
    migrate(settings)
    made = create_app(settings)
    yield made
    made.extensions["chatapp"].close(0)


def test_an_answer_that_is_known_already_has_a_runner_also_where_that_cannot_be_stored(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def locked() -> Iterator[None]:
        raise Overloaded
        yield

    monkeypatch.setattr(generations, "writing", locked)
    monkeypatch.setattr(responses, "find", lambda *_: Script("known", "cached"))
    job = Job("", {}, "openai/echo", {}, ())
    with app.app_context():
        assert generations.known_already(Generation(id="x", params={}), job).script == Script("known", "cached")


def test_a_reader_who_left_before_the_first_byte_keeps_no_place(app: Flask) -> None:
    client = app.test_client()
    started = client.post("/api/chat/start", json={"prompt": "/help"}, base_url="http://127.0.0.1").get_json()
    path, readers = f"/api/generations/{started['generationId']}/events", app.extensions["chatapp"].readers
    response = app.wsgi_app(create_environ(path, "http://127.0.0.1"), lambda status, headers, *_: print)
    assert readers.count() == 1
    response.close()  # type: ignore[attr-defined]
    assert readers.count() == 0
