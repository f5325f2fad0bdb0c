"""The bell within one process: a call."""

from __future__ import annotations

from collections.abc import Sequence

from chatapp.bells import Hear
from chatapp.events import Entry


class Bell:
    def __init__(self) -> None:
        self._listeners: list[Hear] = []

    def listen(self, hear: Hear) -> None:
        self._listeners.append(hear)

    def ring(self, generation_id: str, entries: Sequence[Entry]) -> None:
        for hear in self._listeners:
            hear(generation_id, entries)
