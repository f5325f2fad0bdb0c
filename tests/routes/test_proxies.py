"""Whose address counts, with and without a reverse proxy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flask import jsonify, request

from app import create_app
from chatapp import auth
from chatapp.database import migrate
from chatapp.settings import Settings


@pytest.mark.parametrize(("proxies", "address"), [(0, "127.0.0.1"), (1, "203.0.113.7"), (2, "198.51.100.1")])
def test_only_the_proxies_that_are_there_are_believed(tmp_path: Path, proxies: int, address: str) -> None:
    settings = Settings(data_dir=tmp_path, secret_key="x" * 64, proxies=proxies).completed()
    migrate(settings)
    app = create_app(settings)

    @app.get("/who")
    @auth.public
    def who() -> Any:
        return jsonify(request.remote_addr)

    told = app.test_client().get("/who", headers={"X-Forwarded-For": "198.51.100.1, 203.0.113.7"})
    assert told.get_json() == address
    app.extensions["chatapp"].engine.dispose()
