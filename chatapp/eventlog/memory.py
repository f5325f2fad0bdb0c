"""Logs that die with the process: for answers that nobody asked to keep, and for tests."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from chatapp.eventlog import PAGE, Head, LeaseLost, Within
from chatapp.events import Entry, Event


@dataclass
class Log:
    owner: str
    lease_until: float
    entries: list[Entry] = field(default_factory=list)
    ended_at: float | None = None
    last_seq: int = 0
    stop_requested: bool = False


class Store:
    def __init__(self) -> None:
        self._logs: dict[str, Log] = {}

    def create(self, generation_id: str, *, owner: str, lease_seconds: float, session: Any = None) -> None:
        self._logs[generation_id] = Log(owner, time.monotonic() + lease_seconds)

    def append(
        self, generation_id: str, events: Sequence[Event], *, after: int, owner: str, within: Within | None = None
    ) -> list[Entry]:
        log = self._logs.get(generation_id)
        if log is None or log.owner != owner or log.ended_at is not None or log.last_seq != after:
            raise LeaseLost(generation_id)
        entries = [Entry(after + n, event) for n, event in enumerate(events, 1)]
        if within is not None:
            within(None)
        log.entries += entries
        log.last_seq += len(entries)
        if events[-1].terminal:
            log.ended_at = time.monotonic()
        return entries

    def read(self, generation_id: str, after: int = 0, limit: int = PAGE) -> list[Entry]:
        log = self._logs.get(generation_id)
        return log.entries[after : after + limit] if log else []

    def head(self, generation_id: str) -> Head | None:
        log = self._logs.get(generation_id)
        if log is None:
            return None
        return Head(log.last_seq, log.ended_at is not None, expired=log.last_seq > 0 and not log.entries)

    def renew(self, generation_ids: Sequence[str], *, owner: str, lease_seconds: float) -> None:
        for name, log in self._logs.items():
            if name in generation_ids and log.owner == owner:
                log.lease_until = time.monotonic() + lease_seconds

    def take_expired(self, *, owner: str, lease_seconds: float) -> list[str]:
        now = time.monotonic()
        orphans = [name for name, log in self._logs.items() if log.ended_at is None and log.lease_until < now]
        for name in orphans:
            self._logs[name].owner = owner
            self._logs[name].lease_until = now + lease_seconds
        return orphans

    def request_stop(self, generation_id: str) -> None:
        if generation_id in self._logs:
            self._logs[generation_id].stop_requested = True

    def stop_requests(self, owner: str) -> list[str]:
        return [
            name
            for name, log in self._logs.items()
            if log.owner == owner and log.stop_requested and log.ended_at is None
        ]

    def sweep(self, ended_before_seconds: float) -> int:
        now = time.monotonic()
        old = [
            log
            for log in self._logs.values()
            if log.ended_at is not None and log.ended_at < now - ended_before_seconds and log.entries
        ]
        for log in old:
            log.entries = []
        return len(old)
