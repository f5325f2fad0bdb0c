"""The doors: who is shown a form, and who is told that there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask

from app import create_app
from chatapp.database import migrate
from chatapp.settings import Settings
from tests.support.site import PASSWORD

FORM = 'name="password"'


@pytest.fixture
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Flask]:
    settings = Settings(data_dir=tmp_path, secret_key="x" * 64, registration=request.param).completed()
    migrate(settings)
    made = create_app(settings)
    yield made
    made.extensions["chatapp"].engine.dispose()


@pytest.mark.parametrize(
    ("app", "stranger", "invited"),
    [("invite", False, True), ("open", True, True), ("closed", False, False)],
    indirect=["app"],
)
def test_who_is_not_admitted_is_told_before_filling_in_a_form(app: Flask, stranger: bool, invited: bool) -> None:
    client = app.test_client()
    assert FORM in client.get("/sign-up").get_data(as_text=True)  # the first one is always admitted
    body = {"email": "ada@example.org", "password": PASSWORD}
    assert client.post("/api/auth/register", json=body).status_code == 201
    visitor = app.test_client()
    assert (FORM in visitor.get("/sign-up").get_data(as_text=True)) is stranger
    assert (FORM in visitor.get("/sign-up?invite=abc").get_data(as_text=True)) is invited
    assert FORM in visitor.get("/sign-in").get_data(as_text=True)
