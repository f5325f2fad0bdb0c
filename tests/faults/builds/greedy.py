"""A site that reads from models as urllib3 does by itself: without giving way, as long as something comes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from wsgi import app  # first: it patches

from chatapp.providers import _http, _stream  # isort: skip

__all__ = ["app"]


def blocks(api: Any, response: Any) -> Iterator[bytes]:
    while block := response.raw.read1(_http.READ_BYTES, decode_content=True):
        yield block


_http.blocks = blocks
_http.MAX_HEAD_BYTES = 1 << 40
_http.time = SimpleNamespace(sleep=lambda seconds: None, monotonic=time.monotonic)  # type: ignore[assignment]
_stream.time = _http.time  # type: ignore[attr-defined]
