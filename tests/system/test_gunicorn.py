"""What gunicorn itself does with requests, workers and logs."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.site import Site, wait_until
from tests.system._processes import worker_pids


def exchange(site: Site, request: bytes) -> tuple[int, dict[str, str], Any]:
    """Return status, headers and JSON of the answer to raw bytes."""
    with socket.create_connection(("127.0.0.1", site.port), timeout=10) as connection:
        connection.sendall(request)
        answer = b""
        while data := connection.recv(65_536):
            answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(first.split()[1]), headers, json.loads(body)


@pytest.mark.parametrize(
    ("request_head", "status", "code"),
    [
        (b"GET /?q=" + b"x" * 9_000 + b" HTTP/1.1", 414, "uri_too_long"),
        (b"GET /?q=" + b"x" * 2_000_000 + b" HTTP/1.1", 414, "uri_too_long"),
        (b"GET / HTTP/1.1\r\nLast-Event-ID: " + b"1" * 9_000, 431, "payload_too_large"),
        (b"GET / HTTP/1.1\r\nX-\x00: 1", 400, "validation_error"),
        (b"GET / HTTP/9.9", 400, "validation_error"),
        (b"rubbish", 400, "validation_error"),
    ],
    ids=["long address", "endless address", "long header", "bad header", "bad version", "rubbish"],
)
def test_what_never_reaches_the_application_is_answered_in_its_form(
    site: Site, request_head: bytes, status: int, code: str
) -> None:
    got, headers, body = exchange(site, request_head + b"\r\nHost: x\r\n\r\n")
    assert (got, headers["content-type"], body["error"]["code"]) == (status, "application/json", code)
    assert body["error"]["message"]


def test_an_address_that_is_too_long_names_the_way_out(site: Site) -> None:
    _, _, body = exchange(site, b"GET /api/v1/ai/chat/stream?message=" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    assert "POST /api/v1/ai/chat" in body["error"]["message"]


def test_a_quiet_start_says_one_line(new_site: Callable[..., Site]) -> None:
    site = new_site(CHATAPP_WORKERS="2")
    wait_until(lambda: len(worker_pids(site)) == 2)
    wait_until(lambda: "is ready" in site.log())
    assert [line.split(" with ")[0] for line in site.log().splitlines()] == [f"chatapp is ready at {site.url}"]


def test_no_socket_is_opened_outside_the_data_folder(site: Site) -> None:
    sockets = [path for path in site.folder.rglob("*") if stat.S_ISSOCK(path.lstat().st_mode)]
    assert {path.relative_to(site.folder).parts[:2] for path in sockets} <= {("data", "bells")}


def test_a_killed_worker_is_replaced_without_another_greeting(new_site: Callable[..., Site]) -> None:
    site = new_site()
    wait_until(lambda: "is ready" in site.log())
    before = worker_pids(site)
    os.kill(min(before), signal.SIGKILL)
    wait_until(lambda: (now := worker_pids(site)) and not now & before)
    wait_until(site.answers)
    assert site.log().count("is ready") == 1


@pytest.mark.parametrize("group", [True, False], ids=["Ctrl-C", "SIGINT to the master"])
def test_an_interrupt_ends_everything_quietly(tmp_path: Path, group: bool) -> None:
    site = Site(tmp_path)
    site.start()
    wait_until(lambda: "is ready" in site.log())
    family, process = site.family(), site.process
    assert process is not None
    (os.killpg if group else os.kill)(process.pid, signal.SIGINT)
    assert process.wait(30) == 0
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive
    assert len(site.log().splitlines()) == 1


def test_a_reload_keeps_the_site_up(new_site: Callable[..., Site]) -> None:
    site = new_site()
    assert site.process is not None
    before = worker_pids(site)
    site.process.send_signal(signal.SIGHUP)
    wait_until(lambda: (now := worker_pids(site)) and not now & before)
    wait_until(site.answers)  # no connection is refused meanwhile, or it would raise


def test_a_reader_who_takes_nothing_is_let_go_without_a_word(new_site: Callable[..., Site]) -> None:
    site = new_site(CHATAPP_SEND_TIMEOUT_SECONDS="0.5")
    ada = site.new_user()
    started = ada.start("x", "openai/endless,size=65536")
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", site.port))
        path = f"/api/generations/{started['generationId']}/events"
        bearer = str(ada.http.headers["Authorization"])
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer}\r\n\r\n".encode())
        ours = connection.getsockname()[1]
        wait_until(lambda: streams_to(site, ours))
        wait_until(lambda: not streams_to(site, ours))
    ada.call("POST", f"/api/chat/conversations/{started['conversationId']}/stop")
    assert "Traceback" not in site.log()


def streams_to(site: Site, port: int) -> list[Any]:
    """Return the sockets of the site's workers that lead to the local *port*."""
    connections = (found for pid in worker_pids(site) for found in psutil.Process(pid).net_connections("tcp"))
    return [
        found for found in connections if found.raddr and found.raddr.port == port and found.status == "ESTABLISHED"
    ]
