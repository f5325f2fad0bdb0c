"""The site as people run it: gunicorn as a child process, on a free port, with a data folder of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import requests

from chatapp import sse
from chatapp.database import migrate
from chatapp.settings import ROOT, Settings

START_SECONDS = 60
PASSWORD = "correct horse battery"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def wait_until(condition: Callable[[], Any], seconds: float = 45, what: str = "the condition") -> Any:
    """Return the first true value of *condition*. Raises AssertionError after *seconds*."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {seconds} s")
        time.sleep(0.02)


class Site:
    """A site that can be stopped, killed and started again with the same data.

    *application* is what gunicorn serves: a test build is a module that imports `wsgi` and takes a guard away.
    """

    def __init__(self, folder: Path, *, application: str = "wsgi", **environ: str) -> None:
        self.folder = folder
        self.application = application
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_file = folder / "site.log"
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "CHATAPP_DATA_DIR": str(folder / "data"),
            "CHATAPP_BIND": f"127.0.0.1:{self.port}",
            "CHATAPP_LOCAL_MODEL": "off",
            "PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics"),  # or killed sites would fill the memory
            "OLLAMA_HOST": "http://127.0.0.1:1",
            **environ,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Site:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        migrate(Settings.load(self.environ, dotenv=None))
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "-c", str(ROOT / "gunicorn.conf.py"), f"{self.application}:app"],
                cwd=ROOT,
                env=self.environ,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self.answers, START_SECONDS, f"the site at {self.url} (see {self.log_file})")

    def answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the site ended at its start:\n{self.log()[-4000:]}")
        try:
            return requests.get(f"{self.url}/api/openapi.json", timeout=2).status_code == 200
        except requests.RequestException:
            return False

    def stop(self, how: int = signal.SIGTERM) -> None:
        """Send *how* to the master and wait until all its processes are gone."""
        if self.process is None:
            return
        family = self.family()
        self.process.send_signal(how)
        try:
            self.process.wait(30)
        finally:
            for process in family:
                try:
                    process.wait(10)
                except psutil.TimeoutExpired:
                    process.kill()
            self.process = None

    def kill(self) -> None:
        """End master and workers as a power cut would."""
        if self.process is None:
            return
        for process in reversed(self.family()):
            process.kill()
        self.stop(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def family(self) -> list[psutil.Process]:
        assert self.process is not None
        try:
            master = psutil.Process(self.process.pid)
            return [master, *master.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def workers(self) -> list[psutil.Process]:
        """Return the processes that serve."""
        return [process for process in self.family()[1:] if "gunicorn" in " ".join(process.cmdline())]

    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def new_user(self, name: str = "Ada") -> Client:
        """Return a client that is signed in as somebody new."""
        client = Client(self.url)
        email = f"{name.lower()}-{uuid.uuid4().hex[:12]}@example.org"
        body = client.call("POST", "/api/auth/register", {"email": email, "password": PASSWORD, "name": name}, 201)
        client.sign(body)
        client.email = email
        return client


class Client:
    """Someone who calls the API, with a Bearer token."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.email = ""
        self.user: dict[str, Any] = {}
        self.refresh_token = ""
        self.http = requests.Session()
        self.http.trust_env = False
        self.http.headers["Accept-Encoding"] = "identity"  # streams are read raw

    def sign(self, body: dict[str, Any]) -> None:
        self.user, self.refresh_token = body["user"], body["refresh_token"]
        self.http.cookies.clear()
        self.http.headers["Authorization"] = f"Bearer {body['access_token']}"

    def request(self, method: str, path: str, json: Any = None, **options: Any) -> requests.Response:
        return self.http.request(method, self.url + path, json=json, timeout=options.pop("timeout", 60), **options)

    def call(self, method: str, path: str, json: Any = None, status: int = 200, **options: Any) -> Any:
        """Return the JSON of an answer that must have *status*."""
        response = self.request(method, path, json, **options)
        assert response.status_code == status, f"{method} {path}: {response.status_code} {response.text[:500]}"
        return response.json() if response.content else None

    def start(self, prompt: str, model: str = "openai/echo", **body: Any) -> dict[str, Any]:
        started: dict[str, Any] = self.call(
            "POST", "/api/chat/start", {"prompt": prompt, "modelId": model, **body}, 201
        )
        return started

    def frames(self, path: str, last_event_id: str | None = None, **options: Any) -> Iterator[sse.Frame]:
        """Yield the frames of a stream as they come; the connection closes with the generator."""
        headers = {"Last-Event-ID": last_event_id} if last_event_id is not None else {}
        with self.http.get(self.url + path, headers=headers, stream=True, timeout=60, **options) as response:
            assert response.status_code == 200, f"{path}: {response.status_code} {response.text[:500]}"
            assert response.headers["Content-Type"].startswith("text/event-stream")
            parser = sse.Parser()
            while data := response.raw.read1(65536):
                yield from parser.feed(data)

    def follow(self, generation_id: str, last_event_id: str | None = None) -> Iterator[sse.Frame]:
        yield from self.frames(f"/api/generations/{generation_id}/events", last_event_id)

    def ask(self, prompt: str, model: str = "openai/echo", **body: Any) -> tuple[dict[str, Any], list[sse.Frame]]:
        """Ask and wait; return what the start said and all frames."""
        started = self.start(prompt, model, **body)
        return started, list(self.follow(started["generationId"]))

    def conversation(self, started: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", f"/api/chat/conversations/{started['conversationId']}")
        return found

    def answer(self, started: dict[str, Any]) -> dict[str, Any]:
        """Return the answer's message as it is stored now."""
        return next(m for m in self.conversation(started)["messages"] if m["id"] == started["messageId"])
