"""What watches over the site is told whether it is well, quickly and without a secret."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests

from chatapp import __version__
from tests.support.fake_models import FakeModels
from tests.support.redis_server import RedisServer
from tests.support.site import Site, wait_until


def health(site: Site, path: str = "/health") -> tuple[int, dict[str, Any]]:
    answer = requests.get(f"{site.url}{path}", timeout=90)
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    return answer.status_code, answer.json()


def file_of(site: Site) -> Path:
    return Path(site.environ["CHATAPP_DATA_DIR"]) / "chatapp.db"


def state(site: Site, name: str) -> str:
    return str(health(site)[1]["dependencies"][name]["state"])


def test_a_site_that_is_well_says_so_to_everybody(site: Site) -> None:
    for path in ("/health", "/api/health"):
        status, told = health(site, path)
        assert (status, told["status"], told["version"]) == (200, "ok", __version__)
        assert told["dependencies"]["database"] == {"state": "up"}
        assert told["dependencies"]["redis"] is None
    wait_until(lambda: health(site)[1]["dependencies"]["providers"]["openai"]["state"] == "up", 10)


def test_nothing_secret_is_told(site: Site) -> None:
    text = str(health(site))
    for secret in ("127.0.0.1", "http", "sk-canary", site.environ["CHATAPP_DATA_DIR"], "sqlite"):
        assert secret not in text


def test_a_model_api_that_is_away_is_told_and_the_site_is_well_all_the_same(new_site: Callable[..., Site]) -> None:
    with FakeModels() as api:
        site = new_site(OPENAI_BASE_URL=f"{api.url}/v1", ANTHROPIC_API_KEY="", OLLAMA_HOST="http://127.0.0.1:1")
        wait_until(lambda: health(site)[1]["dependencies"]["providers"]["openai"]["state"] == "up", 10)
        wait_until(lambda: health(site)[1]["dependencies"]["providers"]["ollama"]["state"] == "down", 10)
    wait_until(lambda: health(site)[1]["dependencies"]["providers"]["openai"]["state"] == "down", 40)
    assert health(site)[0] == 200


def test_nobody_waits_for_a_model_api_that_hangs(new_site: Callable[..., Site], hanging: str) -> None:
    site = new_site(OPENAI_BASE_URL=f"{hanging}/v1")
    begun = time.monotonic()
    assert health(site)[0] == 200
    assert time.monotonic() - begun < 2


@pytest.fixture
def hanging() -> Any:
    """An address that takes connections and says nothing."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_database_that_cannot_be_used_is_503(new_site: Callable[..., Site]) -> None:
    site = new_site()
    assert health(site)[0] == 200
    with closing(sqlite3.connect(file_of(site), timeout=90)) as database:
        database.execute("ALTER TABLE plans RENAME TO elsewhere")  # as if it were migrated down
    wait_until(lambda: health(site)[0] == 503, 10)
    status, told = health(site)
    assert (status, told["status"], told["dependencies"]["database"]) == (503, "down", {"state": "down"})
    with closing(sqlite3.connect(file_of(site), timeout=90)) as database:
        database.execute("ALTER TABLE elsewhere RENAME TO plans")
    wait_until(lambda: health(site)[0] == 200, 10)


def test_a_database_that_is_locked_for_a_while_is_busy_and_not_down(new_site: Callable[..., Site]) -> None:
    site = new_site()
    with closing(sqlite3.connect(file_of(site), timeout=90, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        wait_until(lambda: state(site, "database") == "busy", 10)
        begun = time.monotonic()
        assert health(site)[0] == 200
        assert time.monotonic() - begun < 3
        database.execute("ROLLBACK")
    wait_until(lambda: state(site, "database") == "up", 10)


def test_redis_that_is_away_is_told(new_site: Callable[..., Site], new_redis: Callable[..., RedisServer]) -> None:
    redis = new_redis()
    site = new_site(CHATAPP_REDIS_URL=redis.url)
    assert state(site, "redis") == "up"
    redis.kill()
    wait_until(lambda: state(site, "redis") == "down", 10)
    assert health(site)[0] == 200
    redis.start()
    wait_until(lambda: state(site, "redis") == "up", 20)
