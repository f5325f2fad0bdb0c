"""Who wakes followers. A bell carries the batch, so that followers need not query; it may be lost or late: it is no
truth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from chatapp.events import Entry

Hear = Callable[[str, Sequence[Entry]], None]


class Bell(Protocol):
    """Rung after a commit with a generation's id and the entries that were committed."""

    def listen(self, hear: Hear) -> None:
        """Call *hear* for every ring from now on, in the event loop; it must not wait."""
        ...

    def ring(self, generation_id: str, entries: Sequence[Entry]) -> None:
        """Tell all listeners. Never waits, never raises."""
        ...
