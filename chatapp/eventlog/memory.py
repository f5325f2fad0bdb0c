"""Logs that die with the process: for answers that nobody asked to keep, and for tests."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from chatapp.bells.local import Bell
from chatapp.eventlog import PAGE, Done, EventLog, Head, LeaseLost, Within
from chatapp.events import Entry, Event


@dataclass
class Log:
    owner: str
    entries: list[Entry] = field(default_factory=list)
    ended_at: float | None = None
    first: int = 0  # the seq past which its entries begin
    last_seq: int = 0
    taken: int = 0
    stop_requested: bool = False


class Logs(EventLog):
    """All logs of this process that are in memory alone."""

    def __init__(self) -> None:
        self.memory = Store()
        super().__init__(self.memory, Bell())


class Store:
    def __init__(self) -> None:
        self._logs: dict[str, Log] = {}
        self._leases: dict[str, float] = {}

    def create(self, generation_id: str, *, owner: str, session: Any = None, events: Sequence[Event] = ()) -> None:
        self._check_lease(owner)
        self._logs[generation_id] = Log(owner)
        self._append(generation_id, events, after=0, owner=owner)

    def append_soon(
        self,
        generation_id: str,
        events: Sequence[Event],
        *,
        after: int,
        owner: str,
        done: Done,
        within: Within | None = None,
    ) -> None:
        try:
            entries = self._append(generation_id, events, after=after, owner=owner, within=within)
        except Exception as error:
            done(None, error)
        else:
            done(entries, None)

    def _append(
        self, generation_id: str, events: Sequence[Event], *, after: int, owner: str, within: Within | None = None
    ) -> list[Entry]:
        log = self._logs.get(generation_id)
        self._check_lease(owner)
        if log is None or log.owner != owner or log.ended_at is not None or log.last_seq != after:
            raise LeaseLost(generation_id)
        entries = [Entry(after + n, event) for n, event in enumerate(events, 1)]
        if within is not None:
            within(None)
        log.entries += entries
        log.last_seq += len(entries)
        if events and events[-1].terminal:
            log.ended_at = time.monotonic()
        return entries

    def take_up(self, generation_id: str, *, owner: str, last_seq: int) -> None:
        """Begin a log that goes on after *last_seq* of another one, for *owner*, whose lease never ends."""
        self.enter(owner, lease_seconds=math.inf)
        self._logs[generation_id] = Log(owner, first=last_seq, last_seq=last_seq)

    def drop(self, generation_id: str) -> None:
        """Forget the log; whoever still appends to it loses it."""
        self._logs.pop(generation_id, None)

    def writes(self, generation_id: str) -> bool:
        return generation_id in self._logs

    def read(self, generation_id: str, after: int = 0, limit: int = PAGE) -> list[Entry]:
        log = self._logs.get(generation_id)
        start = max(0, after - log.first) if log else 0
        return log.entries[start : start + limit] if log else []

    def head(self, generation_id: str) -> Head | None:
        log = self._logs.get(generation_id)
        if log is None:
            return None
        return Head(log.last_seq, log.ended_at is not None, log.last_seq > 0 and not log.entries, log.taken)

    def enter(self, owner: str, *, lease_seconds: float) -> None:
        self._leases[owner] = time.monotonic() + lease_seconds

    def hold(self, owner: str, *, lease_seconds: float) -> bool:
        if owner not in self._leases:
            return False
        self.enter(owner, lease_seconds=lease_seconds)
        return True

    def leave(self, owner: str) -> None:
        self._leases.pop(owner, None)
        for log in self._logs.values():
            if log.owner == owner:
                log.owner = ""

    def adopt(self, generation_id: str, last_seq: int) -> None:
        pass

    def forget(self, owner: str) -> None:
        pass

    def release(self, generation_ids: Sequence[str], *, owner: str) -> None:
        for name in generation_ids:
            if self._logs[name].owner == owner:
                self._logs[name].owner = ""
                self._logs[name].taken += 1

    def has_orphans(self) -> bool:
        now = time.monotonic()
        living = {name for name, until in self._leases.items() if until >= now}
        return any(log.ended_at is None and log.owner not in living for log in self._logs.values())

    def take_orphans(self, owner: str) -> list[str]:
        self._check_lease(owner)
        now = time.monotonic()
        self._leases = {name: until for name, until in self._leases.items() if until >= now}
        orphans = [name for name, log in self._logs.items() if log.ended_at is None and log.owner not in self._leases]
        for name in orphans:
            self._logs[name].taken += 1 if self._logs[name].owner else 0
            self._logs[name].owner = owner
        return orphans

    def _check_lease(self, owner: str) -> None:
        if owner not in self._leases:
            raise LeaseLost(owner)

    def erase(self, generation_ids: Collection[str], *, session: Any = None) -> None:
        for generation_id in generation_ids:
            self._logs.pop(generation_id, None)

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
