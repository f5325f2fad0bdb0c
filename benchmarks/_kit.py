"""The instruments: cores, the model server, the load program, what a tree of processes costs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import requests

HERE = Path(__file__).resolve().parent
BUILD = HERE / "build"
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
SETTLE_SECONDS = 0.2  # what a server puts off until after an answer is counted too
END_SECONDS = 5  # uvicorn would wait for its readers for ever
CONNECTED = {"01", "08"}  # ESTABLISHED and CLOSE_WAIT, in /proc/net/tcp

Said = dict[str, float]


@contextmanager
def on_core(index: int) -> Iterator[None]:
    """Let what is started within have one core for itself, where there are several."""
    if len(CORES) > 1:
        os.sched_setaffinity(0, {CORES[index]})
    try:
        yield
    finally:
        if len(CORES) > 1:
            os.sched_setaffinity(0, {CORES[-1]})


@contextmanager
def running(*command: str | Path, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    # even if this program is killed; and away from our gunicorn.conf.py, which gunicorn would find
    bound = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
    process = subprocess.Popen(
        [*bound, *map(str, command)], cwd=HERE, env={**os.environ, **environ}, start_new_session=True
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).status_code < 500
    except requests.RequestException:
        return False


def tree(pid: int) -> list[psutil.Process]:
    master = psutil.Process(pid)
    return [master, *master.children(recursive=True)]


def cpu_seconds(process: psutil.Process) -> float:
    """Return the processor time of *process*, all its threads and its ended children."""
    user, system, *ended = process.cpu_times()[:4]
    if sys.platform != "linux":
        return float(user + system + sum(ended))
    clock = (~process.pid << 3) | 2  # clock_getcpuclockid(3): nanoseconds, where /proc has hundredths
    return time.clock_gettime(clock) + sum(ended)


@dataclass(frozen=True)
class Model:
    """The model server: how it answers, and which of its streams were left when."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def set(self, *, tokens: int, rate: float, first_ms: float = 0) -> None:
        """Answer from now on with *tokens*, *rate* of them a second (0: as fast as they are read), after *first_ms*."""
        self._ask(f"/set?tokens={tokens}&rate={rate}&first-ms={first_ms}")

    def stats(self) -> dict[str, int]:
        """Return how many streams were `begun`, `finished` and `left_early`."""
        stats: dict[str, int] = self._ask("/stats")
        return stats

    def left(self) -> list[tuple[int, int]]:
        """Return the tag and the moment (CLOCK_MONOTONIC, ns) of each stream left since this was last asked."""
        return [(tag, at) for tag, at in self._ask("/left")]

    def _ask(self, path: str) -> Any:
        answer = requests.get(f"{self.url}{path}", timeout=5)
        answer.raise_for_status()
        return answer.json()


@dataclass(frozen=True)
class Target:
    """Something that streams: where it listens, how it is asked, whose processor time and memory count."""

    name: str
    port: int
    questions: Path  # raw requests for the load program
    options: tuple[str, ...] = ()  # for the load program
    processes: tuple[psutil.Process, ...] = ()

    def load(self, **sizes: float) -> Said:
        """Return what the load program says of *sizes*, its options. Added to it, where the target has processes:

        `cpu_us`, their processor time a token in µs, of the whole run; `streaming_us`, the same from the moment when each
        stream has had its first token until the first one is over.
        """
        before = self.cpu_seconds()
        with self.start_load(**sizes) as process:
            marks, said = self._follow(process)
        time.sleep(SETTLE_SECONDS)
        if self.processes:
            cpu = self.cpu_seconds() - before
            said |= {"cpu_seconds": cpu, "cpu_us": cpu / max(1, said["received"]) * 1e6}
        if self.processes and len(marks) == 2 and marks["ending"][0] > marks["streaming"][0]:
            tokens, seconds = (end - begin for begin, end in zip(marks["streaming"], marks["ending"], strict=True))
            said["streaming_us"] = seconds / tokens * 1e6
        return said

    def start_load(self, **sizes: float) -> subprocess.Popen[str]:
        given = {"--port": self.port, **{f"--{name.replace('_', '-')}": value for name, value in sizes.items()}}
        command = [str(BUILD / "load"), *(str(part) for option in given.items() for part in option), *self.options]
        return subprocess.Popen(
            [*command, str(self.questions)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def _follow(self, process: subprocess.Popen[str]) -> tuple[dict[str, tuple[int, float]], Said]:
        assert process.stdout is not None
        marks: dict[str, tuple[int, float]] = {}
        for line in process.stdout:
            said = json.loads(line)
            if "mark" not in said:
                return marks, self.sound(said)
            marks[said["mark"]] = said["received"], self.cpu_seconds()
        raise AssertionError(f"{self.name}: the load program said nothing")

    def sound(self, said: dict[str, Any]) -> Said:
        """Return the figures of *said*, after telling what was wrong."""
        trouble = said.pop("trouble")
        if trouble:
            print(f"{self.name}: {said['broken']} streams broke; the first: {trouble}", file=sys.stderr)
        return said

    @contextmanager
    def held(self, *, streams: int, ramp_ms: int) -> Iterator[None]:
        """Hold *streams* open, each with its first token, and leave them all at once. Raises AssertionError if some end."""
        with self.start_load(streams=streams, tokens=1000, ramp_ms=ramp_ms, hold=1, timeout_s=120) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            first = json.loads(process.stdout.readline())
            if first.get("mark") != "streaming":
                raise AssertionError(f"{self.name} did not hold {streams} streams: {first.get('trouble')}")
            yield
            process.stdin.close()
            process.wait(20)

    def cpu_seconds(self) -> float:
        """Return the processor time of the tree, its ended children included."""
        return sum(cpu_seconds(process) for process in self.processes)

    def memory_bytes(self) -> int:
        """Return the tree's memory: pages that several share are counted once (PSS)."""
        return sum(process.memory_full_info().pss for process in self.processes)

    def open_connections(self) -> int:
        """Return how many connections the target has not closed."""
        rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
        return sum(row[1].endswith(f":{self.port:04X}") and row[3] in CONNECTED for row in rows)


def exchange(port: int, request: bytes, until: bytes) -> tuple[float, float, bytes]:
    """Send *request* on a new connection and read until *until* has come.

    Returns the milliseconds to the first byte and to that, and what was read. Raises ConnectionError if it never comes.
    """
    begun, first, data = time.perf_counter(), 0.0, b""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(request)
        while until not in data:
            block = connection.recv(65536)
            if not block:
                raise ConnectionError(f"the connection was closed after {data[:200]!r}")
            data += block
            first = first or time.perf_counter() - begun
        return 1000 * first, 1000 * (time.perf_counter() - begun), data


def seconds_until(condition: Callable[[], Any], *, at_most: float) -> float:
    """Return how long it takes until *condition* holds; infinity past *at_most*."""
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > at_most:
            return float("inf")
        time.sleep(0.005)
    return time.monotonic() - begun


def quantile(values: Sequence[float], q: float) -> float:
    return sorted(values)[round(q * (len(values) - 1))]
