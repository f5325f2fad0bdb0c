"""Who wakes followers. A bell carries the batch, so that followers need not query; it may be lost or late: it is no
truth.

A member reaches further than the one before it: `local` this process, `machine` all workers of one machine, `redis` all
machines of a site. Whatever is between the processes, those of this one are served by a call, at once.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from chatapp.errors import SettingsError
from chatapp.events import Entry
from chatapp.settings import Settings

Hear = Callable[[str, Sequence[Entry]], None]
Act = Callable[[dict[str, Any]], None]


class Bell(Protocol):
    """Rung after a commit with a generation's id and the entries that were committed.

    What is heard is called in the event loop and must not wait; if it raises, that is logged and hurts nobody else.
    """

    def listen(self, hear: Hear) -> None:
        """Call *hear* for every ring from now on: one of this process at once, with the same objects, and others'."""
        ...

    def ring(self, generation_id: str, entries: Sequence[Entry]) -> None:
        """Tell all listeners. Never waits, never raises."""
        ...

    def want(self, generation_id: str) -> None:
        """This process has followers of that log now: others send their rings."""
        ...

    def unwant(self, generation_id: str) -> None:
        """This process has none of that log any more."""
        ...

    def on(self, topic: str, act: Act) -> None:
        """Call *act* for every message on *topic* from now on, whoever tells it."""
        ...

    def tell(self, topic: str, message: dict[str, Any]) -> None:
        """Send a small message, as JSON has it, to everyone; this process hears it at once. Never waits, never raises.

        Others may hear it twice, or not at all.
        """
        ...

    def open(self) -> None:
        """Begin to hear other processes: in a worker, after the fork. Without it a bell reaches its own process only."""
        ...

    def close(self) -> None:
        """Let go of sockets, files and greenlets; a second time does nothing."""
        ...


def load(settings: Settings) -> Bell:
    """Return the bell that reaches as far as the site does. Raises SettingsError where a library is missing."""
    member = "redis" if settings.redis_url else "machine"
    try:
        bell: Bell = importlib.import_module(f"{__name__}.{member}").Bell(settings)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "redis":
            raise
        raise SettingsError("CHATAPP_REDIS_URL needs redis-py: pip install 'chatapp[redis]'.") from error
    return bell
