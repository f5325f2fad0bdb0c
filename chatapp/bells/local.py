"""The bell within one process: a call."""

from __future__ import annotations

from chatapp.bells._here import Here


class Bell(Here):
    def want(self, generation_id: str) -> None:
        """Nobody else rings."""

    def unwant(self, generation_id: str) -> None:
        """Nobody else rings."""

    def open(self) -> None:
        """Nothing is outside."""

    def close(self) -> None:
        """Nothing is held."""
