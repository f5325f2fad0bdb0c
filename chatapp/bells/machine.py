"""The bell between the workers of one machine: datagrams on Unix sockets, without any server.

Each worker has a socket in `<data folder>/bells`, which only the site's own user may enter, and finds the others by
looking there. It announces which logs it follows, so that a ring is sent only to those who want it, and a ring that
nobody wants costs a look into a dict. Datagrams are lost when a receiver is busy or gone, therefore everything is said
again: who is there and what they want, every second; what nobody repeats is forgotten.

What is rung in one turn of the event loop travels in one datagram: the kernel keeps no more than ten for a receiver.
Each peer has a sending socket of its own: what a frozen one does not fetch is charged to the socket that sent it, and
would keep a shared one from serving the others.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import platform
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gevent
import orjson
from gevent import Greenlet

from chatapp.bells import _wire
from chatapp.bells._here import Here
from chatapp.events import Entry
from chatapp.settings import Settings

logger = logging.getLogger(__name__)

SECONDS = 1.0  # between two announcements
FORGET_SECONDS = 3.5  # a want that was not repeated for this long is none
DATAGRAM_BYTES = 128 * 1024  # the kernel takes some 200 kB at once
WANTS_AT_ONCE = 1000
OUTBOX_BYTES = 1024 * 1024
FIRST_PAUSE, LAST_PAUSE = 0.002, 0.25  # before a peer whose queue is full is tried again
RECEIVING_SECONDS = 0.005  # others get a turn then
ADDRESS_BYTES = 103  # sun_path has 108 on Linux and 104 on BSD, with a NUL
FULL = {errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.EINTR}
NAME = re.compile(r"([0-9a-f]{8})-[0-9a-f]{16}")


class Peer:
    """The way to another process. Never waits: what it cannot take is tried again, and the oldest of it dropped."""

    def __init__(self, name: str, address: str, gone: Callable[[Peer], None]) -> None:
        """Raises OSError if nobody is there."""
        self.name = name
        self._gone = gone
        self._outbox: _wire.Outbox[bytes] = _wire.Outbox(OUTBOX_BYTES)
        self._loop = gevent.get_hub().loop
        self._due: Any = None  # the callback or the timer that will send
        self._pause = FIRST_PAUSE
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * DATAGRAM_BYTES)
            self._socket.connect(address)
        except OSError:
            self._socket.close()
            raise

    def send(self, *lines: bytes) -> None:
        for line in lines:
            self._outbox.put(line, len(line) + 1)
        if self._due is None:
            self._due = self._loop.run_callback(self._send)

    def _send(self) -> None:
        self._due = None
        while taken := self._outbox.take(DATAGRAM_BYTES):
            try:
                self._socket.send(b"\n".join(line for line, _ in taken))
            except OSError as error:
                if error.errno in FULL:
                    self._outbox.give_back(taken)
                    self._send_later()
                    return
                if error.errno != errno.EMSGSIZE:
                    self._gone(self)
                    return
            self._pause = FIRST_PAUSE

    def _send_later(self) -> None:
        timer = self._loop.timer(self._pause)
        timer.start(self._send)
        self._due, self._pause = timer, min(2 * self._pause, LAST_PAUSE)

    def close(self) -> None:
        if self._due is not None:
            self._due.stop()
        self._due = self  # nothing is sent any more
        self._outbox.clear()
        self._socket.close()


class Bell(Here):
    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._path = settings.data_dir / "bells"
        self._machine = machine_id()
        self._name = ""
        self._folder: int | None = None
        self._socket: socket.socket | None = None
        self._greenlets: list[Greenlet] = []
        self._peers: dict[str, Peer] = {}
        self._mine: set[str] = set()  # the logs that are followed here
        self._wanted: dict[str, dict[Peer, float]] = {}  # by log: who follows it elsewhere, and until when that holds

    # what the site calls

    def ring(self, generation_id: str, entries: Sequence[Entry]) -> None:
        super().ring(generation_id, entries)
        wanting = self._wanted.get(generation_id)
        if wanting:
            now, lines = time.monotonic(), _wire.ring(generation_id, entries, DATAGRAM_BYTES)
            for peer, until in wanting.items():
                if now < until:
                    peer.send(*lines)

    def tell(self, topic: str, message: dict[str, Any]) -> None:
        super().tell(topic, message)
        self._send_all(_wire.line(_wire.TELL, topic, message))

    def want(self, generation_id: str) -> None:
        self._mine.add(generation_id)
        self._send_all(_wire.line("want", self._name, [generation_id]))

    def unwant(self, generation_id: str) -> None:
        self._mine.discard(generation_id)
        self._send_all(_wire.line("unwant", self._name, [generation_id]))

    def open(self) -> None:
        if self._socket is not None:
            return
        try:
            self._bind()
        except OSError as error:
            logger.warning("no bell between workers, they look into the database each second: %s", error)
            self.close()
            return
        self._greenlets = [gevent.spawn(self._receive), gevent.spawn(self._announce)]

    def close(self) -> None:
        greenlets, self._greenlets = self._greenlets, []
        gevent.killall(greenlets, timeout=1)  # they must not wait for a socket that is closed
        for peer in list(self._peers.values()):
            self._forget(peer)
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            self._remove(self._name)
        if self._folder is not None:
            os.close(self._folder)
            self._folder = None

    # the folder

    def _bind(self) -> None:
        """Raises OSError where the folder's file system has no sockets, or its path is too long for one."""
        self._path.mkdir(mode=0o700, exist_ok=True)
        self._folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        os.fchmod(self._folder, 0o700)
        name = f"{self._machine}-{secrets.token_hex(8)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(self._address(name))
        self._name = name

    def _address(self, name: str) -> str:
        """Return a path to *name* that is short enough for a socket, however deep the data folder lies."""
        short = Path(f"/proc/self/fd/{self._folder}")
        address = str((short if short.exists() else self._path) / name)
        if len(os.fsencode(address)) > ADDRESS_BYTES:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), address)
        return address

    def _remove(self, name: str) -> None:
        if name and self._folder is not None:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=self._folder)

    def _look(self) -> None:
        """Meet those who came; remove what the dead left."""
        if self._folder is None:
            return
        for name in (path.name for path in self._path.iterdir()):
            known = NAME.fullmatch(name)
            # a folder that machines share has the sockets of others too, which look dead from here
            if known and known[1] == self._machine and name != self._name and name not in self._peers:
                self._meet(name)

    def _meet(self, name: str) -> None:
        try:
            self._peers[name] = peer = Peer(name, self._address(name), self._bury)
        except ConnectionRefusedError:
            self._remove(name)
        except OSError as error:
            logger.debug("the worker at %s cannot be reached: %s", name, error)
        else:
            peer.send(*self._wants())

    def _bury(self, peer: Peer) -> None:
        self._forget(peer)
        self._remove(peer.name)

    def _forget(self, peer: Peer) -> None:
        self._peers.pop(peer.name, None)
        for wanting in self._wanted.values():
            wanting.pop(peer, None)
        peer.close()

    # what is said

    def _send_all(self, line: bytes) -> None:
        if line and len(line) <= DATAGRAM_BYTES:
            for peer in list(self._peers.values()):
                peer.send(line)

    def _wants(self) -> Iterator[bytes]:
        """Yield lines that say who this is and all it wants."""
        mine = list(self._mine)
        for start in range(0, max(1, len(mine)), WANTS_AT_ONCE):
            yield _wire.line("want", self._name, mine[start : start + WANTS_AT_ONCE])

    def _announce(self) -> None:
        while True:
            try:
                self._look()
                for line in self._wants():
                    self._send_all(line)
                self._prune()
            except Exception:
                logger.exception("the bell between workers failed to announce itself")
            gevent.sleep(SECONDS)

    def _prune(self) -> None:
        now = time.monotonic()
        for generation_id, wanting in list(self._wanted.items()):
            for peer in [peer for peer, until in wanting.items() if until <= now]:
                del wanting[peer]
            if not wanting:
                del self._wanted[generation_id]

    # what is heard

    def _receive(self) -> None:
        assert self._socket is not None
        hub, buffer = gevent.get_hub(), bytearray(2 * DATAGRAM_BYTES)
        view = memoryview(buffer)
        readable = hub.loop.io(self._socket.fileno(), 1)
        try:
            while True:
                hub.wait(readable)
                late = time.monotonic() + RECEIVING_SECONDS
                with contextlib.suppress(BlockingIOError):
                    while time.monotonic() < late:
                        size = self._socket.recv_into(buffer)
                        for line in bytes(view[:size]).split(b"\n"):
                            self._take(line)
        finally:
            readable.close()

    def _take(self, line: bytes) -> None:
        try:
            kind, *words = orjson.loads(line)
            HEARD[kind](self, *words)
        except (ValueError, TypeError, KeyError) as error:
            self._ignore(repr(error))

    def _rung(self, generation_id: str, entries: list[Any]) -> None:
        if generation_id in self._mine:
            super().ring(generation_id, _wire.entries_of(entries))

    def _told(self, topic: str, message: dict[str, Any]) -> None:
        super().tell(topic, message)

    def _is_wanted(self, name: str, generation_ids: list[str]) -> None:
        if name not in self._peers:
            self._look()
        peer = self._peers.get(name)
        if peer is not None:
            until = time.monotonic() + FORGET_SECONDS
            for generation_id in generation_ids:
                self._wanted.setdefault(generation_id, {})[peer] = until

    def _is_unwanted(self, name: str, generation_ids: list[str]) -> None:
        peer = self._peers.get(name)
        for generation_id in generation_ids:
            wanting = self._wanted.get(generation_id)
            if wanting is not None and peer is not None:
                wanting.pop(peer, None)
                if not wanting:
                    del self._wanted[generation_id]


HEARD: dict[str, Callable[..., None]] = {
    _wire.RING: Bell._rung,
    _wire.TELL: Bell._told,
    "want": Bell._is_wanted,
    "unwant": Bell._is_unwanted,
}


def machine_id() -> str:
    """Return eight digits that all processes under one running kernel share, those in containers included."""
    try:
        running = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        running = platform.node()
    return hashlib.sha256(running.encode()).hexdigest()[:8]
