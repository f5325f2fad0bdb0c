"""As `full`, with the patience that the site has."""

from __future__ import annotations

from tests.faults.builds.full import app

from chatapp import runner  # isort: skip

__all__ = ["app"]

runner.STORAGE_SECONDS = 30.0
