"""Measure the site against its goals and print a table; `--write` makes docs/benchmarks.md of it.

    make bench                          everything, some five minutes
    make bench ARGS='--only relay'      a part: start install memory relay page

Targets take turns within one run, and figures are medians: what counts is how they compare, since machines differ. On Linux
the server under test has the first core to itself and the kit (model, load, this program) the last one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import requests

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.site import Site, free_port, wait_until  # noqa: E402

PLAIN = ROOT / "benchmarks"  # away from our gunicorn.conf.py, which gunicorn would find
BUILD = PLAIN / "build"
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
MB = 1e6
BUSY = 0.5  # load average

ROUNDS = 3
FIRST_ROUNDS, FIRST_TOKENS = 40, 20
STREAMS, TOKENS, RATE = 100, 500, 50
RAMP_MS = 2000
USERS = 10


@dataclass(frozen=True)
class Figure:
    """One line of the table; *goal* is the most that it may be, None where there is none."""

    name: str
    value: float
    unit: str = ""
    goal: float | None = None

    @property
    def missed(self) -> bool:
        return self.goal is not None and self.value > self.goal

    @property
    def cells(self) -> tuple[str, str, str]:
        verdict = "" if self.goal is None else f"≤ {self.goal:g} {'✗' if self.missed else '✓'}"
        return self.name, f"{self.value:,.4g} {self.unit}".strip(), verdict


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
    process = subprocess.Popen([*map(str, command)], cwd=PLAIN, env={**os.environ, **environ}, start_new_session=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).ok
    except requests.RequestException:
        return False


# start: from a clean clone to the first page


def measure_start() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        environ = {"HOME": folder, "PIP_CACHE_DIR": str(BUILD / "pip-cache"), "PATH": os.environ["PATH"]}
        environ = {name: value for name, value in os.environ.items() if name.startswith("PIP_")} | environ
        for name in ("first", "second"):  # the first one fills pip's cache
            subprocess.run(["git", "clone", "--quiet", ROOT, f"{folder}/{name}"], check=True)
            cold = seconds_to_first_page(Path(folder) / name, environ)
        warm = statistics.median(seconds_to_first_page(Path(folder) / "second", environ) for _ in range(ROUNDS))
    return [
        Figure("clean clone to first page, packages in pip's cache", cold, "s", 90),
        Figure("second start to first page", warm, "s", 3),
    ]


def seconds_to_first_page(clone: Path, environ: dict[str, str]) -> float:
    port = free_port()
    environ = {**environ, "CHATAPP_BIND": f"127.0.0.1:{port}", "OLLAMA_HOST": "http://127.0.0.1:1"}
    begun = time.monotonic()
    make = subprocess.Popen(["make", "run"], cwd=clone, env=environ, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/"), 300, "the first page")
        return time.monotonic() - begun
    finally:
        os.killpg(make.pid, signal.SIGINT)
        make.wait(20)
        wait_until(lambda: not answers(f"http://127.0.0.1:{port}/"))


# install: what the core brings with it


def measure_install() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        environ = {**os.environ, "PIP_CACHE_DIR": str(BUILD / "pip-cache")}
        clone, wheels, venv = (Path(folder) / name for name in ("clone", "wheels", "venv"))
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        before = size(venv)
        pip = [str(venv / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        for step in (
            ["wheel", "--wheel-dir", wheels, clone],
            ["install", "--no-index", "--find-links", wheels, "chatapp"],
        ):
            subprocess.run([*pip, *map(str, step)], env=environ, check=True, stderr=subprocess.DEVNULL)
        listed = subprocess.run([*pip[:3], "list", "--format", "json"], check=True, capture_output=True)
        names = {package["name"].lower() for package in json.loads(listed.stdout)} - {"pip", "setuptools", "chatapp"}
        return [
            Figure("packages in the core", len(names), "", 45),
            Figure("to download", size(wheels) / MB, "MB", 60),
            Figure("on disk", (size(venv) - before) / MB, "MB", 150),
        ]


def size(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


# memory: master and worker, idle


def measure_memory() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder, Site(Path(folder)) as site:
        wait_until(lambda: "is ready" in site.log())
        requests.get(site.url, timeout=5)
        family = [process.memory_full_info() for process in site.family()]
    return [
        Figure("memory of master and worker, idle (PSS)", sum(each.pss for each in family) / MB, "MB", 150),
        Figure("the same, shared pages counted twice (RSS)", sum(each.rss for each in family) / MB, "MB"),
    ]


# relay: what the site adds to the model's own delay


@dataclass(frozen=True)
class Target:
    """Something that streams: where it listens, how it is asked, whose processor time counts."""

    name: str
    port: int
    requests_file: Path
    options: tuple[str, ...] = ()
    processes: Callable[[], list[psutil.Process]] = list

    def load(self, *, streams: int, tokens: int, ramp_ms: int = 0) -> dict[str, Any]:
        """Return what the load program says, and the processor time that the target took, in µs a token."""
        sizes = {"--port": self.port, "--streams": streams, "--tokens": tokens, "--ramp-ms": ramp_ms}
        command = [str(BUILD / "load"), *(str(part) for option in sizes.items() for part in option), *self.options]
        before = self.cpu_seconds()
        done = subprocess.run([*command, str(self.requests_file)], stdout=subprocess.PIPE, check=False, text=True)
        said: dict[str, Any] = json.loads(done.stdout)
        said["cpu_us"] = (self.cpu_seconds() - before) / max(1, said["received"]) * 1e6
        if said["trouble"]:
            print(f"{self.name}: {said['trouble']}", file=sys.stderr)
        return said

    def cpu_seconds(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in self.processes())


def raw_request(method: str, path: str, body: Any = None, **headers: str) -> bytes:
    text = json.dumps(body) if body is not None else ""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *(f"{name}: {value}" for name, value in headers.items())]
    if text:
        lines += ["Content-Type: application/json", f"Content-Length: {len(text)}"]
    return "\r\n".join([*lines, "", text]).encode() + b"\0"


@contextmanager
def targets(folder: Path, model_port: int) -> Iterator[list[Target]]:
    """Start a model, and on the first core the site and a plain relay; yield all three."""
    model_url = f"http://127.0.0.1:{model_port}/v1"
    files = {name: folder / name for name in ("direct", "plain", "site")}
    question = {"model": "bench", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
    files["direct"].write_bytes(raw_request("POST", "/v1/chat/completions", question))
    files["plain"].write_bytes(raw_request("POST", "/chat", {"prompt": "Hello"}))
    plain_port = free_port()
    bind = f"127.0.0.1:{plain_port}"
    gunicorn = (sys.executable, "-m", "gunicorn", "-k", "gevent", "--log-level", "warning", "--no-control-socket")
    with running(BUILD / "model", "--port", str(model_port)), ExitStack() as others:
        wait_until(lambda: answers(f"http://127.0.0.1:{model_port}/stats"))
        with on_core(0):
            plain = others.enter_context(running(*gunicorn, "-b", bind, "plain:app", MODEL_URL=model_url))
            site = others.enter_context(
                Site(folder, OPENAI_BASE_URL=model_url, CHATAPP_REGISTRATION="open", CHATAPP_WORKERS="1")
            )
        wait_until(lambda: answers(f"http://{bind}/"))
        files["site"].write_bytes(b"".join(site_requests(site)))
        steps = ("--steps", "2", "--member", "generationId", "--stop", "event: done")
        plain_family = psutil.Process(plain.pid)
        yield [
            Target("the model itself", model_port, files["direct"]),
            Target("plain Flask", plain_port, files["plain"], (), lambda: [plain_family, *plain_family.children()]),
            Target("the site", site.port, files["site"], steps, site.family),
        ]


def site_requests(site: Site) -> Iterator[bytes]:
    for _ in range(USERS):
        bearer = {"Authorization": str(site.new_user().http.headers["Authorization"])}
        yield raw_request("POST", "/api/chat/start", {"modelId": "openai/bench", "prompt": "Hello"}, **bearer)
        yield raw_request("GET", "/api/generations/{id}/events", **bearer)


def set_model(port: int, *, tokens: int, rate: int) -> None:
    requests.get(f"http://127.0.0.1:{port}/set?tokens={tokens}&rate={rate}", timeout=5).raise_for_status()


def measure_relay() -> list[Figure]:
    port = free_port()
    with on_core(-1), tempfile.TemporaryDirectory() as folder, targets(Path(folder), port) as every:
        return [*first_tokens(every, port), *many_streams(every, port)]


def first_tokens(every: list[Target], model_port: int) -> list[Figure]:
    """One stream at a time, targets in turn."""
    set_model(model_port, tokens=FIRST_TOKENS, rate=200)
    rounds = [{t.name: t.load(streams=1, tokens=FIRST_TOKENS)["first_p50"] for t in every} for _ in range(FIRST_ROUNDS)]
    direct, *others = ((t.name, statistics.median(each[t.name] for each in rounds) / 1000) for t in every)
    goals = {"the site": 20.0}
    return [Figure(f"first token, {name} adds", value - direct[1], "ms", goals.get(name)) for name, value in others]


def many_streams(every: list[Target], model_port: int) -> list[Figure]:
    """All streams at once, targets in turn."""
    set_model(model_port, tokens=TOKENS, rate=RATE)
    rounds = [{t.name: t.load(streams=STREAMS, tokens=TOKENS, ramp_ms=RAMP_MS) for t in every} for _ in range(ROUNDS)]
    what = f"{STREAMS} streams × {RATE} tokens/s"
    figures = []
    for name in (t.name for t in every):
        said = [each[name] for each in rounds]
        middle = {key: statistics.median(each[key] for each in said) for key in said[0] if key != "trouble"}
        wrong = sum(each[key] for each in said for key in ("lost", "doubled", "disordered"))
        figures += [
            Figure(
                f"{what}, {name}: tokens lost, doubled or out of order", wrong, "", 0 if name == "the site" else None
            ),
            Figure(f"{what}, {name}: token delay, median", middle["delay_p50"] / 1000, "ms"),
            Figure(f"{what}, {name}: token delay, 99th percentile", middle["delay_p99"] / 1000, "ms"),
            Figure(f"{what}, {name}: first token, 99th percentile", middle["first_p99"] / 1000, "ms"),
        ]
        if middle["cpu_us"]:
            figures.append(Figure(f"{what}, {name}: processor time a token", middle["cpu_us"], "µs"))
    return figures


# page: what a browser has to fetch


def measure_page() -> list[Figure]:
    from playwright.sync_api import sync_playwright

    sizes: list[int] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        Site(Path(folder), CHATAPP_AUTH="off") as site,
        sync_playwright() as play,
    ):
        browser = play.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_page()
        devtools = page.context.new_cdp_session(page)
        devtools.send("Network.enable")
        devtools.on("Network.loadingFinished", lambda event: sizes.append(int(event["encodedDataLength"])))
        page.goto(site.url, wait_until="load")
        page.wait_for_timeout(1000)
        browser.close()
    return [
        Figure("requests for the first page", len(sizes), "", 15),
        Figure("bytes for it", sum(sizes) / 1000, "kB", 200),
    ]


def chromium() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        raise FileNotFoundError("Chromium is not installed")
    return found


PARTS = {
    "start": measure_start,
    "install": measure_install,
    "memory": measure_memory,
    "relay": measure_relay,
    "page": measure_page,
}

PAGE = """\
# Benchmarks

`make bench ARGS=--write` made this page, with {python} on {cores} cores ({machine}). Figures are medians of targets that took
turns in one run; machines differ, so look at how they compare. The load average was {load:.1f} when it began: above
0.5, other work took part of the cores.

| measured | is | goal |
| --- | ---: | --- |
{rows}

*Plain Flask* (`benchmarks/plain.py`) hands on the model's stream: no sign-in, nothing stored, nothing to resume. *The model
itself* (`benchmarks/model.c`) shows what the kit adds. A token's delay is from the moment the model wrote it to its arrival in
the reader (`benchmarks/load.c`), all on one machine, whose first core the server under test has for itself.
"""


def table(figures: list[Figure]) -> str:
    cells = [figure.cells for figure in figures]
    widths = [max(len(row[column]) for row in cells) for column in range(2)]
    return "\n".join(f"{name:<{widths[0]}}  {value:>{widths[1]}}  {goal}".rstrip() for name, value, goal in cells)


def markdown(figures: list[Figure], load: float) -> str:
    rows = "\n".join(f"| {' | '.join(figure.cells)} |" for figure in figures)
    facts = {"python": f"Python {platform.python_version()}", "cores": os.cpu_count(), "machine": platform.machine()}
    return PAGE.format(rows=rows, load=load, **facts)


def main() -> int:
    """Print the table; return 1 if a goal was missed."""
    parser = argparse.ArgumentParser(description="Measure the site against its goals.")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure")
    parser.add_argument("--write", action="store_true", help="make docs/benchmarks.md of it")
    given = parser.parse_args()
    load = os.getloadavg()[0]
    if load > BUSY:
        print(f"the load average is {load:.1f}: other work will show in the figures", file=sys.stderr)
    figures: list[Figure] = []
    for name in given.only:
        print(f"measuring: {name} …", file=sys.stderr)
        try:
            figures += PARTS[name]()
        except FileNotFoundError as error:
            print(f"left out: {error}", file=sys.stderr)
    print(table(figures))
    if given.write:
        (ROOT / "docs" / "benchmarks.md").write_text(markdown(figures, load))
    return int(any(figure.missed for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
