"""Short-lived values: what may be forgotten at any moment, and is never truth.

`memory` is of one process; `redis` is shared by all processes of the site and falls back to memory while Redis is away, when
each process counts and remembers for itself.
"""

from __future__ import annotations

import importlib
from typing import Protocol

from chatapp.errors import SettingsError
from chatapp.settings import Settings


class Cache(Protocol):
    """Nothing here raises, and nothing waits longer than a third of a second."""

    def get(self, key: str) -> bytes | None:
        """Return what was put there, None if it is gone or never was."""
        ...

    def put(self, key: str, value: bytes, *, seconds: float) -> None:
        """Keep *value* for at most *seconds*."""
        ...

    def delete(self, key: str) -> None:
        """Forget what was put there. While Redis is away it may come back with it, for the rest of its seconds."""
        ...

    def count(self, key: str, *, within_seconds: float) -> int:
        """Add one to a counter and return it; it begins again *within_seconds* after its first one. No `get` sees it."""
        ...

    def answers(self) -> bool:
        """Say whether it is what it should be: False while Redis is away."""
        ...

    def close(self) -> None:
        """Let go of connections; a second time does nothing."""
        ...


def load(settings: Settings) -> Cache:
    """Return the cache that the settings choose. Raises SettingsError where a library is missing."""
    member = "redis" if settings.redis_url else "memory"
    try:
        cache: Cache = importlib.import_module(f"{__name__}.{member}").Cache(settings)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "redis":
            raise
        raise SettingsError("CHATAPP_REDIS_URL needs redis-py: pip install 'chatapp[redis]'.") from error
    return cache
