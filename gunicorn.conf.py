"""How gunicorn runs the site: workers, limits, the built-in model's process. See docs/running.md.

gunicorn reads this file again at every reload, so nothing is kept in its globals.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import logging
import mmap
import os
import resource
import signal
import socket
import stat
import struct
import time
from pathlib import Path
from typing import Any

from gunicorn import util

from chatapp import cli, local_model
from chatapp.settings import ROOT, Settings

settings = Settings.load()

MAX_OPEN_FILES = 65_536
FILES_BESIDE_STREAMS = 128  # database, listening sockets, the model APIs' idle connections
LEAVING_SECONDS = 0.1  # for what looks at worker.alive
GARBAGE = (20_000, 20, 50)  # tokens make many objects, and hardly any of them in circles
REQUEST_SECONDS = 2.0  # for ordinary requests that were begun before the worker left
RELOAD_SECONDS = 5.0  # within which a reload ends the workers that were there before
WATCH_SECONDS = 0.25  # how often a worker looks whether its master lives
LOADING_SECONDS = 15.0  # what the built-in model may take before the site is called ready without it
DRAINED_BYTES, DRAIN_SECONDS = 4 * 1024 * 1024, 2.0


def open_files() -> int:
    """Return how many files a worker may have open, after raising the limit (often 1,024) as far as is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MAX_OPEN_FILES if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def metrics_folder() -> Path:
    """Return where the workers keep their counts, which all of them read: a folder of our own, the same at every start.

    In memory, where there is room: a page that a full disk has no place for would end the worker that touches it.
    """
    if given := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        Path(given).mkdir(mode=0o700, parents=True, exist_ok=True)
        return Path(given)
    name = hashlib.sha256(f"{settings.data_dir} {settings.bind}".encode()).hexdigest()[:16]
    shared = Path("/dev/shm") / f"chatapp-{os.getuid()}-{name}"
    with contextlib.suppress(OSError):
        shared.mkdir(mode=0o700, exist_ok=True)
        found = shared.lstat()  # anybody may make folders there
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
            return shared
    folder = settings.data_dir / "metrics"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics_folder())  # prometheus_client looks when it is imported
wsgi_app = "wsgi:app"
chdir = str(ROOT)
pythonpath = str(ROOT)
bind = settings.bind
workers = settings.workers
worker_class = "gevent"
# a stream is a connection here and one more to a model; at the limit new requests would hang without an answer
worker_connections = max(100, min(10_000, (open_files() - FILES_BESIDE_STREAMS) // 2))
backlog = 2048
preload_app = False  # it would import the application before the worker's patches
max_requests = 0  # with one worker a restart on count is an outage while long streams run

timeout = 30  # seconds that one greenlet may hold a worker's loop before the worker is ended
graceful_timeout = int(settings.drain_seconds) + 4  # a worker drains and leaves by itself; then the master would end it
keepalive = 2  # an idle kept connection counts as busy in a drain
limit_request_line = 8190  # gunicorn's highest: the application itself refuses what is too long for it
forwarded_allow_ips = "127.0.0.1,::1"
control_socket_disable = True  # by default gunicorn opens one in the user's home
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a worker's heartbeat must not wait for a disk

loglevel = "warning"  # one line says that the site is ready; gunicorn's own would hide it
accesslog = None
errorlog = "-"

CODES = {
    403: ("forbidden", "You may not do this."),
    414: ("uri_too_long", "The address is too long. Send a long message in the body of POST /api/v1/ai/chat."),
    431: ("payload_too_large", "The headers of the request are too large."),
    500: ("internal_error", "Something went wrong on the server. Try again in a moment."),
}


def write_error(sock: socket.socket, status: int, reason: str, mesg: str) -> None:
    """Answer what never reached the application in the same form as the application does.

    A client that is still writing would get a reset in place of the answer, so its rest is read and dropped.
    """
    code, message = CODES.get(status, ("validation_error", "The request is not valid HTTP."))
    body = json.dumps({"error": {"code": code, "message": message}})
    head = f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/json\r\n"
    with contextlib.suppress(OSError):
        sock.settimeout(DRAIN_SECONDS)
        sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        sock.shutdown(socket.SHUT_WR)
        left, deadline = DRAINED_BYTES, time.monotonic() + DRAIN_SECONDS
        while left > 0 and time.monotonic() < deadline and (dropped := len(sock.recv(65_536))):
            left -= dropped


util.write_error = write_error


def is_worth_a_line(record: logging.LogRecord) -> bool:
    """A reader who takes nothing is let go by a time-out on their socket: that is the plan, not an error."""
    return not (record.exc_info and isinstance(record.exc_info[1], TimeoutError))


def on_starting(server: Any) -> None:
    server.log.error_log.addFilter(is_worth_a_line)
    server.reloaded_at = mmap.mmap(-1, 8)  # monotonic seconds, which the workers see too
    for file in metrics_files("*.db"):  # of a master that was killed
        file.unlink()
    server.local_model = local_model.start(settings)


def on_reload(server: Any) -> None:
    server.reloaded_at[:] = struct.pack("d", time.monotonic())


def metrics_files(pattern: str) -> list[Path]:
    return list(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob(pattern))


def child_exit(server: Any, worker: Any) -> None:
    """Forget what a worker had open, however it ended; what it counted stays counted."""
    for file in metrics_files(f"gauge_live*_{worker.pid}.db"):
        file.unlink(missing_ok=True)


def pre_fork(server: Any, worker: Any) -> None:
    worker.reloaded_at = server.reloaded_at


def post_worker_init(worker: Any) -> None:
    import gevent

    # Ctrl-C reaches the whole group, and the master answers it by ending the workers: once is enough
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGQUIT, lambda *_: gevent.spawn(leave, worker))
    # gunicorn's own way sees requests and no runners, and would be gone at once, or cut all after its time-out
    signal.signal(signal.SIGTERM, lambda *_: gevent.spawn(drain, worker))
    site = worker.wsgi.extensions["chatapp"]
    site.open()
    worker.open_requests, worker.draining = 0, False
    worker.servers = keep_servers()
    gc.collect()
    gc.freeze()  # what is there now stays: to look through it again and again would keep the loop for 50 ms
    gc.set_threshold(*GARBAGE)
    gevent.spawn(watch_master, worker)
    gevent.spawn(say_ready if worker.age == 1 else look_for_models, worker, site)


def pre_request(worker: Any, request: Any) -> None:
    worker.open_requests += 1


def post_request(worker: Any, request: Any, environ: Any, response: Any) -> None:
    worker.open_requests -= 1


def watch_master(worker: Any) -> None:
    """Leave when the master was killed: the next one's workers take over what is running here."""
    import gevent

    while worker.ppid == os.getppid():
        gevent.sleep(WATCH_SECONDS)
    drain(worker, seconds=0)


def keep_servers() -> list[Any]:
    """Return a list in which gunicorn's servers will be; it keeps them to itself."""
    from gunicorn.workers import ggevent

    servers: list[Any] = []

    class Server(ggevent.StreamServer):
        def start(self) -> None:
            super().start()
            servers.append(self)

    ggevent.StreamServer = Server
    return servers


def drain(worker: Any, seconds: float | None = None) -> None:
    """End the worker so that nothing is lost: see `Site.close`.

    In a reload, what comes from now on is left to the next worker, which listens to the same socket. Before an end there is
    none: then those who come are answered for as long as answers may still run.
    """
    import gevent

    if worker.draining:
        return
    worker.draining = True
    site = worker.wsgi.extensions["chatapp"]
    try:
        if time.monotonic() - struct.unpack("d", worker.reloaded_at[:])[0] < RELOAD_SECONDS:
            stop_accepting(worker)
        site.close(settings.drain_seconds if seconds is None else seconds)
        stop_accepting(worker)
        gevent.sleep(LEAVING_SECONDS)  # for who was let in just now
        deadline = time.monotonic() + REQUEST_SECONDS
        while worker.open_requests and time.monotonic() < deadline:
            gevent.sleep(0.02)
    finally:
        leave(worker)


def stop_accepting(worker: Any) -> None:
    for server in worker.servers:
        server.stop_accepting()


def leave(worker: Any) -> None:
    """End the worker at once, as gunicorn does, but without the traceback where its main loop ends in the same moment."""
    import gevent

    worker.alive = False
    gevent.sleep(LEAVING_SECONDS)
    os._exit(0)


def look_for_models(worker: Any, site: Any) -> None:
    site.models()


def say_ready(worker: Any, site: Any) -> None:
    import gevent

    url = os.environ.get(local_model.URL_VARIABLE)
    deadline = time.monotonic() + LOADING_SECONDS
    while url and time.monotonic() < deadline and not local_model.answers(url):
        gevent.sleep(0.05)
    port = worker.sockets[0].getsockname()[1]
    print(cli.ready_line(settings, port, [model.id for model in site.models()]), flush=True)


def on_exit(server: Any) -> None:
    if not server.reexec_pid:  # else it is the next master's already
        for file in metrics_files("*.db"):
            file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).rmdir()
    if server.local_model is not None:
        server.local_model.stop()
