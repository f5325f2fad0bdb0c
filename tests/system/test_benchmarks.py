"""The kit that measures: a reader that finds nothing wrong proves something only if it finds what is wrong."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chatapp.settings import ROOT
from tests.support.site import free_port, wait_until

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")

REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}\0"


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(tmp_path_factory.mktemp("kit"))
    for name in ("model", "load"):
        source = ROOT / "benchmarks" / f"{name}.c"
        subprocess.run(
            ["cc", "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-o", folder / name, source], check=True
        )
    (folder / "requests").write_bytes(REQUEST)
    return folder


@pytest.fixture(scope="module")
def model_port(kit: Path) -> Iterator[int]:
    port = free_port()
    model = subprocess.Popen([kit / "model", "--port", str(port), "--tokens", "50", "--rate", "500"])
    wait_until(lambda: accepts(port))
    yield port
    model.kill()
    model.wait()


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def load(kit: Path, port: int, tokens: int, *options: str) -> dict[str, Any]:
    command = [str(kit / "load"), "--port", str(port), "--tokens", str(tokens), *options, str(kit / "requests")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.stderr == ""
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def answering(body: str) -> int:
    """Return the port of a server that answers one request with *body*, a byte at a time, and goes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with listener, connection:
            connection.recv(65_536)
            for byte in f"HTTP/1.1 200 OK\r\n\r\n{body}".encode():
                connection.sendall(bytes([byte]))

    threading.Thread(target=serve, daemon=True).start()
    return int(listener.getsockname()[1])


def test_whole_streams_are_whole(kit: Path, model_port: int) -> None:
    said = load(kit, model_port, 50, "--streams", "20", "--ramp-ms", "100")
    assert (said["whole"], said["received"], said["lost"], said["doubled"], said["disordered"]) == (20, 1000, 0, 0, 0)
    assert 0 < said["delay_p50"] <= said["delay_p99"]


def test_a_stream_that_ends_early_has_lost_tokens(kit: Path, model_port: int) -> None:
    said = load(kit, model_port, 60, "--streams", "3")
    assert (said["whole"], said["broken"], said["lost"]) == (0, 3, 30)


@pytest.mark.parametrize(
    ("tokens", "wrong"),
    [
        ([0, 1, 2, 3], {"lost": 0, "doubled": 0, "disordered": 0}),
        ([0, 1, 3], {"lost": 1, "doubled": 0, "disordered": 1}),
        ([0, 1, 1, 2, 3], {"lost": 0, "doubled": 1, "disordered": 0}),
        ([1, 0, 2, 3], {"lost": 0, "doubled": 0, "disordered": 3}),
        ([0, 1, 2, 3, 4], {"lost": 0, "doubled": 0, "disordered": 1}),
    ],
    ids=["right", "lost", "doubled", "disordered", "invented"],
)
def test_what_is_wrong_is_counted(kit: Path, tokens: list[int], wrong: dict[str, int]) -> None:
    said = load(kit, answering("".join(f'data: {{"content": " [{token}@1]"}}\n\n' for token in tokens)), 4)
    assert {key: said[key] for key in wrong} == wrong


def test_what_comes_after_the_end_is_not_looked_at(kit: Path) -> None:
    body = "event: token\ndata: [0@1]\n\nevent: done\ndata: the whole answer again: [0@1]\n\n"
    assert load(kit, answering(body), 1, "--stop", "event: done")["doubled"] == 0
    assert load(kit, answering(body), 1)["doubled"] == 1


def test_a_refusal_is_told(kit: Path, model_port: int) -> None:
    (kit / "requests").write_bytes(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n\0")
    try:
        said = load(kit, model_port, 1)
    finally:
        (kit / "requests").write_bytes(REQUEST)
    assert (said["broken"], said["trouble"].startswith("HTTP/1.1 404")) == (1, True)
