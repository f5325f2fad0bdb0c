"""A site that reads answers as `requests` does, line by line: a long one is joined again and again, and others wait."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

from wsgi import app  # first: it patches

from chatapp.providers import _http, _stream  # isort: skip

__all__ = ["app"]


def blocks(api: Any, response: Any) -> Iterator[bytes]:
    for line in response.iter_lines():
        yield line + b"\n"


_http.blocks = blocks
_http.time = SimpleNamespace(sleep=lambda seconds: None, monotonic=time.monotonic)  # type: ignore[assignment]
_stream.time = _http.time  # type: ignore[attr-defined]
with suppress(ImportError, AttributeError):
    from chatapp.providers import _body

    _body.of = lambda response: None  # type: ignore[attr-defined]
