"""The site with a minute of three seconds, for those who wait until it is over."""

from __future__ import annotations

from datetime import timedelta

from wsgi import app  # first: it patches

from chatapp.services import limits  # isort: skip

__all__ = ["app"]

limits.WINDOW = timedelta(seconds=3)
