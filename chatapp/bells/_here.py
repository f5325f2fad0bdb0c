"""What hears a bell in this process, whatever bell it is."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from chatapp.bells import Act, Hear
from chatapp.events import Entry

logger = logging.getLogger(__name__)

RUBBISH_SECONDS = 10.0  # between two lines about it: who can send rubbish can send much


class Here:
    """The listeners of this process."""

    def __init__(self) -> None:
        self._listeners: list[Hear] = []
        self._acts: dict[str, list[Act]] = {}
        self._rubbish_at = float("-inf")

    def listen(self, hear: Hear) -> None:
        self._listeners.append(hear)

    def on(self, topic: str, act: Act) -> None:
        self._acts.setdefault(topic, []).append(act)

    def ring(self, generation_id: str, entries: Sequence[Entry]) -> None:
        for hear in self._listeners:
            try:
                hear(generation_id, entries)
            except Exception:
                logger.exception("generation %s: what heard the bell failed", generation_id)

    def tell(self, topic: str, message: dict[str, Any]) -> None:
        for act in self._acts.get(topic, ()):
            try:
                act(message)
            except Exception:
                logger.exception("what acts on %s failed", topic)

    def _ignore(self, why: str) -> None:
        """Say, now and then, that something came which is no message of ours."""
        if time.monotonic() - self._rubbish_at >= RUBBISH_SECONDS:
            self._rubbish_at = time.monotonic()
            logger.warning("the bell ignores what it cannot read: %s", why)
