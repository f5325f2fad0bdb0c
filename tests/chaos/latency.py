"""How soon: a token, a stop, the end of a reader who is gone; and what streams cost that say nothing."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from tests.chaos.kills import busiest
from tests.chaos.load import Answer, Load, answer_numbers, percentile, workers
from tests.chaos.model import Known, Model
from tests.chaos.reader import STREAMS, Reader
from tests.support.site import Client, Site, wait_until

SILENCE_SECONDS = 100
TRIES = 200


def serves(worker: psutil.Process, port: int) -> bool:
    """Say whether our end with that *port* leads to *worker*."""
    return any(c.raddr and c.raddr.port == port for c in worker.net_connections("tcp"))


def connected_to(site: Site, worker: psutil.Process) -> socket.socket:
    """Return a connection that *worker* accepted. Raises AssertionError if it accepts none."""
    for _ in range(TRIES):
        raw = socket.create_connection(("127.0.0.1", site.port), timeout=30)
        port = raw.getsockname()[1]
        owner = wait_until(lambda port=port: [w for w in workers(site) if serves(w, port)], 10, "a connection")
        if owner == [worker]:
            return raw
        raw.close()
    raise AssertionError("the worker accepts nothing")


def post(raw: socket.socket, client: Client, path: str) -> int:
    """Send a POST without a body; return the status."""
    bearer = client.http.headers["Authorization"]
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer}\r\nContent-Type: application/json\r\n"
    raw.sendall(f"{head}Connection: close\r\nContent-Length: 2\r\n\r\n{{}}".encode())
    answer = b""
    while data := raw.recv(65536):
        answer += data
    return int(answer.split()[1])


def stop_path(answer: Answer) -> str:
    return f"/api/chat/conversations/{answer.started['conversationId']}/stop"


def a_connection(site: Site, model: Model, elsewhere: bool | None) -> socket.socket:
    """Return a connection to the worker that makes the answer, to another one, or (None) to any."""
    if elsewhere is None:
        return socket.create_connection(("127.0.0.1", site.port), timeout=30)
    maker = busiest(site, model)
    return connected_to(site, other_than(site, maker) if elsewhere else maker)


def other_than(site: Site, worker: psutil.Process) -> psutil.Process:
    return next(found for found in workers(site) if found != worker)


def stops(site: Site, model: Model, number: int, *, elsewhere: bool | None = None) -> list[float]:
    """Stop answers at the worker that makes them, at another one, or (None) at any; return the seconds from the request
    until the model saw its connection closed.
    """
    load, taken = Load(site, model), []
    for _ in range(number):
        answer = load.begin(Known(next(answer_numbers), 10_000, delay=0.01))
        number_of = answer.known.answer
        wait_until(lambda number=number_of: sum(call["sent"] for call in model.calls(number)) > 3)
        with contextlib.closing(a_connection(site, model, elsewhere)) as raw:
            begun = time.monotonic()
            assert post(raw, load.client, stop_path(answer)) == 200
        left = wait_until(lambda number=number_of: model.calls(number)[0]["left"], 10, "the model being left")
        taken.append(left - begun)
        assert load.stored(answer)["status"] == "stopped"
    return taken


def token_delays(site: Site, model: Model, *, tokens: int, elsewhere: bool = False) -> list[float]:
    """Return the seconds from the model's writing of each token until its reader had it."""
    load = Load(site, model)
    answer = load.begin(Known(next(answer_numbers), tokens, delay=0.02, silence=1, stamped=True))
    wait_until(lambda: model.calls(answer.known.answer))
    reader = Reader.of(load.client, STREAMS["native"](answer.started))
    reader.connect = lambda: a_connection(site, model, elsewhere)
    reader.read()
    assert reader.ended
    return [
        came - int(stamp) / 1e9
        for frame, came in zip(reader.frames, reader.times, strict=True)
        for stamp in frame.text.split()
    ]


def open_sockets(worker: psutil.Process) -> int:
    """Return how many sockets the worker has; in a fifth of the time that psutil takes."""
    folder, found = f"/proc/{worker.pid}/fd", 0
    for name in os.listdir(folder):  # noqa: PTH208
        with contextlib.suppress(FileNotFoundError):
            found += os.readlink(f"{folder}/{name}").startswith("socket:")  # noqa: PTH115
    return found


def vanishings(site: Site, model: Model, number: int) -> list[float]:
    """Leave streams of a silent model; return the seconds until the worker has closed its end."""
    load, taken = Load(site, model), []
    answer = load.begin(Known(next(answer_numbers), 1, silence=SILENCE_SECONDS))
    [worker] = workers(site)
    wait_until(lambda: model.calls(answer.known.answer))
    for _ in range(number):
        before = settled(lambda: open_sockets(worker))
        raw = Reader.of(load.client, STREAMS["native"](answer.started)).open()
        seen = b""
        while b"event: status" not in seen:
            seen += raw.recv(65536)
        assert open_sockets(worker) > before
        begun = time.monotonic()
        raw.close()
        while open_sockets(worker) > before and time.monotonic() < begun + 10:
            time.sleep(0.001)
        taken.append(time.monotonic() - begun)
    assert load.stored(answer)["status"] == "running"  # the runner goes on
    load.client.call("POST", stop_path(answer))
    return taken


def settled(measure: Callable[[], int], seconds: float = 0.3) -> int:
    """Return the measure when it has not changed for so long."""
    value, since = measure(), time.monotonic()
    while time.monotonic() < since + seconds:
        time.sleep(0.02)
        if (now := measure()) != value:
            value, since = now, time.monotonic()
    return value


@dataclass(frozen=True)
class Idle:
    """What many streams cost on which nothing is said."""

    streams: int
    request_p99: float  # seconds
    bytes_each: float
    freed_after: float  # seconds from the closing of all until the worker has closed its ends


def idle_streams(site: Site, model: Model, number: int, *, requests: int = 200) -> Idle:
    load = Load(site, model)
    answers = [load.begin(Known(next(answer_numbers), 1, silence=SILENCE_SECONDS)) for _ in range(10)]
    [worker] = workers(site)
    sockets, memory = settled(lambda: open_sockets(worker)), worker.memory_info().rss
    with contextlib.ExitStack() as opened:
        raws = [
            opened.enter_context(Reader.of(load.client, STREAMS["native"](answers[n % 10].started)).open())
            for n in range(number)
        ]
        for raw in raws:
            assert b"200 OK" in raw.recv(65536)
        wait_until(lambda: open_sockets(worker) >= sockets + number)
        taken = []
        del load.client.http.headers["Connection"]
        for _ in range(requests):
            begun = time.monotonic()
            load.client.call("GET", "/api/auth/me")
            taken.append(time.monotonic() - begun)
        grown = worker.memory_info().rss - memory
        for raw in raws:
            raw.close()
        begun = time.monotonic()
        load.client.http.close()
        wait_until(lambda: open_sockets(worker) <= sockets, 30, "the streams being freed")
        freed = time.monotonic() - begun
    for answer in answers:
        load.client.call("POST", stop_path(answer))
    return Idle(number, percentile(taken, 0.99), grown / number, freed)


@dataclass(frozen=True)
class Held:
    """What a worker holds when nothing is going on."""

    files: int
    connections: int
    greenlets: int
    memory: int

    @classmethod
    def by(cls, site: Site) -> Held:
        [worker] = workers(site)
        files = settled(worker.num_fds, 3)
        return cls(files, len(worker.net_connections("tcp")), greenlets(site, worker), worker.memory_info().rss)


def greenlets(site: Site, worker: psutil.Process) -> int:
    """Return how many greenlets the worker has; see tests/support/failing_wsgi.py."""
    file = site.folder / "data" / f"greenlets-{worker.pid}"
    file.touch()
    number: str = wait_until(file.read_text, 10, "the count of greenlets")
    file.unlink()
    return int(json.loads(number))
