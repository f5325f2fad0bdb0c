"""What of a token is remembered, and what is asked each time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from http.cookies import SimpleCookie
from pathlib import Path

import flask
import pytest
from flask.testing import FlaskClient
from sqlalchemy import update
from werkzeug.test import TestResponse

from app import create_app
from chatapp import auth
from chatapp.database import connected, migrate, utcnow
from chatapp.errors import Unauthorized
from chatapp.models.accounts import SignIn, User
from chatapp.settings import Settings

ME = "/api/auth/me"


@pytest.fixture
def app(tmp_path: Path) -> Iterator[flask.Flask]:
    settings = Settings(data_dir=tmp_path, secret_key="x" * 64).completed()
    migrate(settings)
    made = create_app(settings)
    auth.found_good.clear()
    yield made
    made.extensions["chatapp"].engine.dispose()


@pytest.fixture
def signed_in(app: flask.Flask) -> TestResponse:
    body = {"email": "ada@example.org", "password": "correct horse battery", "name": "Ada"}
    return app.test_client().post("/api/auth/register", json=body)


@pytest.fixture
def client(app: flask.Flask) -> FlaskClient:
    return app.test_client(use_cookies=False)


def bearer(signed_in: TestResponse) -> dict[str, str]:
    return {"Authorization": f"Bearer {signed_in.get_json()['access_token']}"}


def test_a_token_is_looked_into_once(
    client: FlaskClient, signed_in: TestResponse, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_into, verified = [], auth.verified
    monkeypatch.setattr(auth, "verified", lambda: looked_into.append(1) or verified())
    assert [client.get(ME, headers=bearer(signed_in)).status_code for _ in range(3)] == [200, 200, 200]
    assert len(looked_into) == 1
    assert client.get(ME, headers={"Authorization": "Bearer rubbish"}).status_code == 401
    assert client.get(ME, headers={"Authorization": "Bearer rubbish"}).status_code == 401
    assert len(looked_into) == 3, "what is no good is not remembered"


@pytest.mark.parametrize(("table", "column"), [(SignIn, "revoked_at"), (User, "disabled_at")])
def test_a_sign_in_that_was_ended_is_refused_at_once(
    app: flask.Flask, client: FlaskClient, signed_in: TestResponse, table: type[SignIn | User], column: str
) -> None:
    assert client.get(ME, headers=bearer(signed_in)).status_code == 200
    with connected(app.extensions["chatapp"].engine, writes=True) as connection:
        connection.execute(update(table).values({column: utcnow()}))
    assert client.get(ME, headers=bearer(signed_in)).status_code == 401


def test_a_token_is_remembered_no_longer_than_it_lasts(
    client: FlaskClient, signed_in: TestResponse, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.get(ME, headers=bearer(signed_in)).status_code == 200
    (claims,) = auth.found_good.values()
    claims["exp"] = time.time() - 1

    def expired() -> dict[str, object]:
        raise Unauthorized

    monkeypatch.setattr(auth, "verified", expired)
    assert client.get(ME, headers=bearer(signed_in)).status_code == 401


def test_what_was_read_with_a_cookie_lets_nobody_write_with_it(client: FlaskClient, signed_in: TestResponse) -> None:
    kept = {name: one.value for header in signed_in.headers.getlist("Set-Cookie")
            for name, one in SimpleCookie(header).items()}  # fmt: skip
    cookie = {"Cookie": f"access_token_cookie={kept['access_token_cookie']}"}
    csrf = {"X-CSRF-TOKEN": kept["csrf_access_token"]}
    path = "/api/chat/conversations"
    assert client.get(path, headers=cookie).status_code == 200
    assert client.post(path, json={}, headers=cookie).status_code == 403
    assert client.post(path, json={}, headers={**cookie, **csrf}).status_code == 201
    assert client.post(path, json={}, headers=cookie).status_code == 403
    assert client.post(path, json={}, headers={**cookie, "X-CSRF-TOKEN": "another"}).status_code == 403


def test_what_one_site_found_good_another_does_not_believe(
    client: FlaskClient, signed_in: TestResponse, tmp_path: Path
) -> None:
    assert client.get(ME, headers=bearer(signed_in)).status_code == 200
    settings = Settings(data_dir=tmp_path, secret_key="y" * 64).completed()
    other = create_app(settings)
    assert other.test_client().get(ME, headers=bearer(signed_in)).status_code == 401
    other.extensions["chatapp"].engine.dispose()


def test_little_is_remembered(client: FlaskClient, signed_in: TestResponse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "MAX_FOUND_GOOD", 3)
    for number in range(10):
        client.get(ME, headers={**bearer(signed_in), "Cookie": f"a={number}"})
        assert len(auth.found_good) <= 3
