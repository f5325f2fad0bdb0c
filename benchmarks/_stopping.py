"""How long after a stop the model's connection is closed, by the clock of the model server."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from benchmarks._kit import Model, exchange, seconds_until
from benchmarks._targets import Bench, bearer, raw_request

BETWEEN_SECONDS = 0.02
Stop = Callable[[], None]


def seconds_to_leave(here: Bench, name: str, *, stops: int, at_most: float) -> list[float]:
    """Open *stops* streams, stop them one by one, and return how long each one's model was kept; infinity past *at_most*.

    All are open when the first one is stopped, so that the server has something else to do.
    """
    begun = here.model.stats()["begun"]
    open_one = open_answer if name == "site" else open_stream
    stop = [open_one(here, name, tag) for tag in range(stops)]
    seconds_until(lambda: here.model.stats()["begun"] >= begun + stops, at_most=10)
    time.sleep(0.3)  # what is under way: the first tokens, where there are any
    here.model.left()
    pressed: dict[int, int] = {}
    for tag in range(stops):
        pressed[tag] = time.monotonic_ns()
        stop[tag]()
        time.sleep(BETWEEN_SECONDS)
    return differences(pressed, all_left(here.model, stops, at_most))


def all_left(model: Model, count: int, at_most: float) -> dict[int, int]:
    """Return when each tag's stream was left, as soon as there are *count*, or what there is after *at_most* seconds."""
    left: dict[int, int] = {}

    def are_all() -> bool:
        left.update(model.left())
        return len(left) >= count

    seconds_until(are_all, at_most=at_most)
    return left


def differences(pressed: dict[int, int], left: dict[int, int]) -> list[float]:
    """Return the seconds from each press to its leaving; infinity for what was never left."""
    return [(left[tag] - at) / 1e9 if tag in left else float("inf") for tag, at in pressed.items()]


def open_answer(here: Bench, name: str, tag: int) -> Stop:
    """Begin an answer of the site and read it; the page's stop button is a request of its own."""
    user = here.users[tag % len(here.users)]
    begun = user.start(f"Hello #{tag}", model="openai/bench")
    reader = connect(
        here.site.port, raw_request("GET", f"/api/generations/{begun['generationId']}/events", **bearer(user))
    )
    path = f"/api/chat/conversations/{begun['conversationId']}/stop"
    request = raw_request("POST", path, {}, **bearer(user))

    def press() -> None:
        exchange(here.site.port, request, b"\r\n\r\n")
        reader.close()

    return press


def open_stream(here: Bench, name: str, tag: int) -> Stop:
    connection = connect(here.targets[name].port, here.asking(name)(f"Hello #{tag}"))

    def leave() -> None:
        while received(connection):  # unread bytes would make it a reset in place of an end
            pass
        connection.close()

    return leave


def connect(port: int, request: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall(request)
    connection.setblocking(False)
    return connection


def received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except BlockingIOError:
        return b""
