"""What is measured side by side, each started on the first core; a target that is not to be had is left out."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks._kit import BUILD, HERE, Model, Target, answers, on_core, running, tree
from tests.support.site import Client, Site, free_port, wait_until

USERS = 10
SITE_OPTIONS = ("--steps", "2", "--member", "generationId", "--stop", "event: done")
MANY = "100000"
ENVIRONMENT = {  # of the site: as people run it, but for limits that a single person would meet here
    "CHATAPP_REGISTRATION": "open",
    "CHATAPP_WORKERS": "1",
    "CHATAPP_STREAMS_PER_USER": MANY,
    "CHATAPP_MAX_ANSWER_TOKENS": MANY,
    "CHATAPP_CACHE_SECONDS": "0",  # all ask the same
}
NAMES = {
    "model": "the model itself",
    "nginx": "nginx",
    "plain": "plain Flask",
    "starlette": "starlette",
    "litellm": "LiteLLM",
    "site": "this site",
    "own": "a stream each",
    "shared": "one answer for all",
}


def raw_request(method: str, path: str, body: Any = None, **headers: str) -> bytes:
    """Return a request as it goes over the wire."""
    text = json.dumps(body) if body is not None else ""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *(f"{name}: {value}" for name, value in headers.items())]
    if text:
        lines += ["Content-Type: application/json", f"Content-Length: {len(text)}"]
    return "\r\n".join([*lines, "", text]).encode()


def completion(prompt: str = "Hello") -> bytes:
    body = {"model": "bench", "stream": True, "messages": [{"role": "user", "content": prompt}]}
    return raw_request("POST", "/v1/chat/completions", body)


def simple(prompt: str = "Hello") -> bytes:
    return raw_request("POST", "/chat", {"prompt": prompt})


@dataclass(frozen=True)
class Bench:
    """What runs while a part is measured."""

    folder: Path
    model: Model
    targets: dict[str, Target]
    site: Site
    users: Sequence[Client] = ()

    @property
    def own(self) -> Target:
        return self.targets["site"]

    def with_new_users(self) -> Bench:
        """Return the same with people who have just signed in: a sign-in is good for a quarter of an hour."""
        users = [self.site.new_user() for _ in range(USERS)]
        for user in users:
            user.http.headers["Accept-Encoding"] = "identity"  # as all readers here: nobody asks for compression
        write(self.own.questions, [request for user in users for request in both_steps(user)])
        return replace(self, users=users)

    def asking(self, name: str) -> Callable[[str], bytes]:
        """Return what makes a request of a target other than the site."""
        return simple if name in ("plain", "starlette") else completion


@contextmanager
def bench() -> Iterator[Bench]:
    """Start the model on the last core and the targets on the first; yield them all."""
    with tempfile.TemporaryDirectory() as name, on_core(-1), ExitStack() as stack:
        folder, model = Path(name), Model(free_port())
        stack.enter_context(running(BUILD / "model", "--port", str(model.port)))
        wait_until(lambda: answers(f"{model.url}/stats"))
        targets = {}
        with on_core(0):
            for name, start in STARTS.items():
                target = stack.enter_context(start(folder, model))
                if target is not None:
                    targets[name] = target
            site = stack.enter_context(Site(folder, OPENAI_BASE_URL=f"{model.url}/v1", **ENVIRONMENT))
        wait_until(lambda: "is ready" in site.log())
        targets["site"] = Target("site", site.port, folder / "site", SITE_OPTIONS, tuple(site.family()))
        yield Bench(folder, model, targets, site)


def both_steps(user: Client) -> tuple[bytes, bytes]:
    start = raw_request("POST", "/api/chat/start", {"modelId": "openai/bench", "prompt": "Hello"}, **bearer(user))
    return start, raw_request("GET", "/api/generations/{id}/events", **bearer(user))


def bearer(user: Client) -> dict[str, str]:
    return {"Authorization": str(user.http.headers["Authorization"])}


def write(file: Path, questions: Sequence[bytes]) -> Path:
    file.write_bytes(b"".join(question + b"\0" for question in questions))
    return file


@contextmanager
def started(
    name: str, folder: Path, question: bytes, port: int, *command: str | Path, **environ: str
) -> Iterator[Target]:
    with running(*command, **environ) as process:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/"), 60, f"{name} at port {port}")
        yield Target(name, port, write(folder / name, [question]), processes=tuple(tree(process.pid)))


@cache
def say_left_out(name: str, why: str) -> str:
    sentence = f"{NAMES[name]} is left out: {why}"
    print(sentence, file=sys.stderr)
    return sentence


@contextmanager
def left_out(name: str, why: str) -> Iterator[None]:
    say_left_out(name, why)  # once, however many parts start their targets
    yield


Start = AbstractContextManager[Target | None]


@contextmanager
def the_model(folder: Path, model: Model) -> Iterator[Target]:
    yield Target("model", model.port, write(folder / "model", [completion()]))


NGINX = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log warn;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        location / {{
            proxy_pass {url};
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 300s;
        }}
    }}
}}
"""


def nginx_program() -> str | None:
    return shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")  # where only root looks


def nginx(folder: Path, model: Model) -> Start:
    program = nginx_program()
    if program is None:
        return left_out("nginx", "it is not installed (apt install nginx-light).")
    port, config = free_port(), folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, port=port, url=model.url))
    return started("nginx", folder, completion(), port, program, "-p", folder, "-e", folder / "nginx.log", "-c", config)


def plain(folder: Path, model: Model) -> Start:
    port = free_port()
    gunicorn = (sys.executable, "-m", "gunicorn", "-k", "gevent", "--log-level", "warning", "--no-control-socket")
    options = ("--worker-connections", "8000", "-b", f"127.0.0.1:{port}", "plain:app")
    return started("plain", folder, simple(), port, *gunicorn, *options, MODEL_URL=f"{model.url}/v1")


def starlette(folder: Path, model: Model) -> Start:
    python, port = BUILD / "starlette" / "bin" / "python", free_port()
    if not python.exists():
        return left_out("starlette", "its packages could not be had (`make bench` tries again).")
    options = ("--log-level", "warning", "--app-dir", HERE, "--port", str(port), "starlette_proxy:app")
    return started("starlette", folder, simple(), port, python, "-m", "uvicorn", *options, MODEL_URL=f"{model.url}/v1")


def litellm(folder: Path, model: Model) -> Start:
    program, port = shutil.which("litellm"), free_port()
    if program is None:
        return left_out("litellm", "it is not installed.")
    config = folder / "litellm.json"  # JSON is YAML too
    params = {"model": "openai/bench", "api_base": f"{model.url}/v1", "api_key": "none"}
    config.write_text(json.dumps({"model_list": [{"model_name": "bench", "litellm_params": params}]}))
    return started("litellm", folder, completion(), port, program, "--config", config, "--port", str(port))


STARTS: dict[str, Callable[[Path, Model], Start]] = {
    "model": the_model,
    "nginx": nginx,
    "plain": plain,
    "starlette": starlette,
    "litellm": litellm,
}


def machine() -> str:
    """Return what this runs on."""
    cpu = re.search(r"^model name\s*: (.+)$", read("/proc/cpuinfo"), re.M)
    name = cpu[1] if cpu else platform.machine()
    return f"{os.cpu_count()} cores ({name}), {platform.system()} {platform.release().partition('-')[0]}"


def versions() -> str:
    """Return what was measured, by name and version."""
    named = {"Python": platform.python_version()}
    named |= {name: metadata.version(name) for name in ("gunicorn", "gevent", "flask", "requests")}
    program = nginx_program()
    if program:
        named["nginx"] = (
            subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stderr.strip().partition("/")[2]
        )
    for name in ("starlette", "uvicorn", "httpx"):
        found = next((BUILD / "starlette").glob(f"lib/*/site-packages/{name}-*.dist-info"), None)
        if found:
            named[name] = found.stem.partition("-")[2]
    return ", ".join(f"{name} {version}" for name, version in named.items())


def read(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""
