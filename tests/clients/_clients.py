"""Clients of event streams that others wrote: each reads a stream as often as it is told, and returns the events."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import requests
import sseclient
from httpx_sse import connect_sse

from chatapp import sse

HERE = Path(__file__).parent
ALL = 10**6
ENDS = ("done", "complete", "message-complete", "error", "fail")
NAMES = (  # what an EventSource has to be told to listen for
    "message",
    *("start", "status", "sources", "reasoning", "token", "usage", "done", "fail", "reset"),
    *("typing", "progress", "chunk", "error"),
)


class Event(NamedTuple):
    event: str
    data: str
    id: str | None


@dataclass(frozen=True)
class Call:
    """A request that is answered by a stream."""

    url: str
    method: str = "GET"
    body: dict[str, Any] | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def all_headers(self, last_id: str | None) -> dict[str, str]:
        content = {"Content-Type": "application/json"} if self.body is not None else {}
        return {**self.headers, **content, **({"Last-Event-ID": last_id} if last_id else {})}

    @property
    def content(self) -> str | None:
        return None if self.body is None else json.dumps(self.body)


class Time(NamedTuple):
    """One reading: up to *most* events; with *resume* from where the last one stopped."""

    most: int = ALL
    resume: bool = False


Read = Callable[[Call, str | None, int], list[Event]]  # from the last id on, so many events
Client = Callable[[Call, Sequence[Time]], list[list[Event]]]


def each(read: Read) -> Client:
    """Return a client that calls *read* for each time."""

    def client(call: Call, times: Sequence[Time]) -> list[list[Event]]:
        readings: list[list[Event]] = []
        for time in times:
            readings.append(read(call, readings[-1][-1].id if time.resume else None, time.most))
        return readings

    return client


def whole(call: Call, last_id: str | None = None, most: int = ALL) -> list[Event]:
    """Read with the project's own parser: what the others are compared with."""
    headers = {**call.all_headers(last_id), "Accept-Encoding": "identity"}
    with requests.request(
        call.method, call.url, headers=headers, data=call.content, stream=True, timeout=120
    ) as response:
        assert response.status_code == 200, response.text[:500]
        parser = sse.Parser()
        frames = (frame for data in iter(lambda: response.raw.read1(4096), b"") for frame in parser.feed(data))
        return [Event(frame.event or "message", frame.data, frame.id) for frame in islice(frames, most)]


def with_sseclient(call: Call, last_id: str | None, most: int) -> list[Event]:
    with requests.request(
        call.method, call.url, headers=call.all_headers(last_id), data=call.content, stream=True, timeout=120
    ) as response:
        assert response.status_code == 200, response.text[:500]
        events = (event for event in sseclient.SSEClient(response).events() if event.data)
        return [Event(event.event, event.data, event.id) for event in islice(events, most)]


def with_httpx_sse(call: Call, last_id: str | None, most: int) -> list[Event]:
    headers = call.all_headers(last_id)
    with (
        httpx.Client(timeout=120, trust_env=False) as client,
        connect_sse(client, call.method, call.url, headers=headers, content=call.content) as source,
    ):
        events = (event for event in source.iter_sse() if event.data)
        return [Event(event.event, event.data, event.id) for event in islice(events, most)]


def with_curl(call: Call, last_id: str | None, most: int) -> list[Event]:
    headers = [f"{name}: {value}" for name, value in call.all_headers(last_id).items()]
    command = ["curl", "-N", "-sS", "--fail-with-body", "--max-time", "30", "-X", call.method, call.url]
    command += [part for header in headers for part in ("-H", header)]
    command += ["-d", call.content] if call.content is not None else []
    with subprocess.Popen(command, stdout=subprocess.PIPE) as curl:
        assert curl.stdout is not None
        events = list(islice(printed(curl.stdout.fileno()), most))
        curl.kill()
    return events


def printed(descriptor: int) -> Iterator[Event]:
    parser = sse.Parser()
    while data := os.read(descriptor, 65536):
        for frame in parser.feed(data):
            yield Event(frame.event or "message", frame.data, frame.id)


def with_node(name: str) -> Client:
    def client(call: Call, times: Sequence[Time]) -> list[list[Event]]:
        need_node()
        given = {
            "method": call.method,
            "url": call.url,
            "headers": call.all_headers(None),
            "body": call.content,
            "times": [time._asdict() for time in times],
            "ends": ENDS,
            "names": NAMES,
        }
        command = ["node", str(HERE / "read.mjs"), name, json.dumps(given)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        return [[Event(**event) for event in events] for events in json.loads(done.stdout)]

    return client


def need_node() -> None:
    """Skip where node or the packages are missing; CI has them."""
    if shutil.which("node") is None or not (HERE / "node_modules" / ".made").exists():
        if os.environ.get("CI"):
            raise AssertionError("CI does not go on without the npm packages in tests/clients: make clients")
        pytest.skip("the npm packages in tests/clients are not there: make clients")


CLIENTS: dict[str, Client] = {
    "curl": each(with_curl),
    "sseclient-py": each(with_sseclient),
    "httpx-sse": each(with_httpx_sse),
    "eventsource": with_node("eventsource"),
    "eventsource-parser": with_node("eventsource-parser"),
    "fetch-event-source": with_node("fetch-event-source"),
}
ONLY_GET = {"eventsource"}
