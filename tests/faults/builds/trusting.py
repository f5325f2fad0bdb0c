"""A site that does not look where a GET that begins work comes from."""

from __future__ import annotations

from wsgi import app  # first: it patches

from chatapp import auth  # isort: skip

__all__ = ["app"]

auth.check_not_cross_site = lambda: None
