"""A site that hashes passwords in the event loop."""

from __future__ import annotations

from types import SimpleNamespace

from wsgi import app  # first: it patches

from chatapp.services import accounts  # isort: skip

__all__ = ["app"]

here = SimpleNamespace(apply=lambda function, arguments: function(*arguments))
accounts.hashing_threads = lambda: here  # type: ignore[assignment]
