"""Whether the site and what it depends on are well. What is told is for everybody: states, no addresses and no errors."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import gevent
from gevent import Greenlet
from sqlalchemy import Engine, select

from chatapp.database import Prepared, connected, glance
from chatapp.errors import Overloaded
from chatapp.models.plans import Plan
from chatapp.services import Site, models

logger = logging.getLogger(__name__)

UP, DOWN, BUSY, UNKNOWN = "up", "down", "busy", "unknown"
READ_SECONDS, WRITE_SECONDS = 1.0, 0.5
WAIT_SECONDS = 1.6  # who asks about health does not wait longer
FRESH_SECONDS = 1.0  # nobody can make the site ask its database more often by asking for its health
LOOK = Prepared(select(Plan.name).limit(1))

_seen: WeakKeyDictionary[Engine, tuple[str, float]] = WeakKeyDictionary()
_looking: WeakKeyDictionary[Engine, Greenlet[..., str]] = WeakKeyDictionary()


def of(parts: Site) -> dict[str, Any]:
    """Return the state of each dependency, within a second or two."""
    redis = {"state": UP if parts.cache.answers() else DOWN} if parts.settings.redis_url else None
    return {
        "database": {"state": database(parts.engine)},
        "redis": redis,
        "providers": {name: {"state": provider(one)} for name, one in parts.providers.items()},
    }


def provider(one: Any) -> str:
    """Return whether a model API answered lately. Nobody waits for it here."""
    answered = models.known(one)[1]
    return UNKNOWN if answered is None else UP if answered else DOWN


def database(engine: Engine) -> str:
    """Return whether the database can be read and written; `busy` where it is locked. One look at a time."""
    state, until = _seen.get(engine, (DOWN, 0.0))
    if until > time.monotonic():
        return state
    look = _looking.get(engine)
    if look is None or look.ready():
        look = _looking[engine] = gevent.spawn(looked, engine)
    look.join(WAIT_SECONDS)
    state = look.value if look.successful() and look.value else DOWN
    _seen[engine] = state, time.monotonic() + FRESH_SECONDS
    return state


def looked(engine: Engine) -> str:
    wrong = tried(lambda: read(engine), READ_SECONDS, late=DOWN)
    return wrong or tried(lambda: write(engine), WRITE_SECONDS, late=BUSY) or UP


def tried(look: Callable[[], None], seconds: float, *, late: str) -> str | None:
    """Return what is wrong, *late* where it takes longer than *seconds*; None for nothing."""
    try:
        with gevent.Timeout(seconds):
            look()
    except gevent.Timeout:
        return late
    except Overloaded:
        return BUSY
    except Exception as error:
        logger.warning("the database is not well: %s", type(error).__name__)
        return DOWN
    return None


def read(engine: Engine) -> None:
    with glance(engine) as connection:
        LOOK.first(connection)


def write(engine: Engine) -> None:
    """Begin to write, and write nothing."""
    with connected(engine, writes=True):
        pass
