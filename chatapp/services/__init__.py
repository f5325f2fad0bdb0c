"""One file a noun: what a user may do. Never flask.request.

`site()` gives the parts that the application was put together from.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from flask import current_app
from sqlalchemy import Engine

from chatapp.bells import Bell
from chatapp.caches import Cache
from chatapp.connections import Connections
from chatapp.eventlog import EventLog
from chatapp.pace import Pace
from chatapp.passing import Passing
from chatapp.providers import Model, Provider
from chatapp.readers import Readers
from chatapp.runners import Runners
from chatapp.settings import Settings


@dataclass(frozen=True)
class Site:
    """The parts of one application, made in `app.py`."""

    settings: Settings
    engine: Engine
    log: EventLog
    bell: Bell
    cache: Cache
    providers: Mapping[str, Provider]
    runners: Runners
    passing: Passing
    readers: Readers
    connections: Connections
    pace: Pace

    def open(self) -> None:
        """Begin the work that no request asks for: leases, orphaned answers, sweeping, hearing other processes."""
        self.pace.keep()
        self.bell.open()
        self.runners.keep()

    def close(self, seconds: float) -> None:
        """Begin nothing more, let what runs end within *seconds* or go on elsewhere, and let the readers go."""
        until = time.monotonic() + seconds
        self.passing.draining = True
        try:
            self.runners.drain(seconds)
            self.passing.drain(until - time.monotonic())
        finally:
            self.readers.close()
            self.connections.close()
            self.bell.close()
            self.cache.close()

    def models(self) -> list[Model]:
        """Return the models that all providers have now."""
        from chatapp.services import models

        return models.available(self)


def site() -> Site:
    """Return the parts of the current application."""
    return cast(Site, current_app.extensions["chatapp"])
