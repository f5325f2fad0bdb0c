"""A site in whose network `slow.invalid` is looked up for ever, and `many.invalid` has eight addresses where nobody answers.

FULL_PORT is a port whose queue of connections is full.
"""

from __future__ import annotations

import os
import socket
from typing import Any

import gevent

from wsgi import app  # first: it patches

__all__ = ["app"]

look_up = socket.getaddrinfo


def slow(host: Any, *arguments: Any, **options: Any) -> Any:
    if host == "slow.invalid":
        gevent.sleep(60)
    if host == "many.invalid":
        address = ("127.0.0.1", int(os.environ["FULL_PORT"]))
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address)] * 8
    return look_up(host, *arguments, **options)


socket.getaddrinfo = slow
