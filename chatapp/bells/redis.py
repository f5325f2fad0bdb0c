"""The bell between machines: Redis pub/sub. Redis keeps nothing of it, and may die, freeze or forget at any moment.

Nobody waits for Redis but three greenlets: one hears, one says what is to be heard, one publishes what waits in a bounded
outbox. Each connection is begun again after an error, later each time; what was followed is subscribed to anew. Of all the
errors of one outage the log has the first, and a line when it is over.

Others may write into the same Redis. So a message carries a code that only who has the site's secret key can make;
anything else is dropped, and a reader is never shown what no runner wrote.
"""

from __future__ import annotations

import hmac
import logging
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

import gevent
import orjson
from gevent import Greenlet
from gevent.event import Event as Signal
from redis.backoff import NoBackoff
from redis.connection import ConnectionInterface, ConnectionPool
from redis.exceptions import RedisError
from redis.retry import Retry

from chatapp.bells import _wire
from chatapp.bells._here import Here
from chatapp.events import Entry
from chatapp.settings import Settings

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 1.0
SEND_SECONDS = 1.0
PING_SECONDS = 2.0  # a connection that hears nothing else hears the answer to this
HEAR_SECONDS = 5.0  # one that hears nothing at all leads nowhere: Redis is frozen, or its machine is gone
FIRST_PAUSE, LAST_PAUSE = 0.1, 2.0
STABLE_SECONDS = 10.0  # a connection that held for this long was no failed attempt
LINE_BYTES = 1024 * 1024
TOGETHER_BYTES = 256 * 1024  # what is published before the answers are waited for
OUTBOX_BYTES = 4 * 1024 * 1024
TURN_SECONDS = 0.005  # others get a turn then
SENDER_BYTES, CODE_BYTES = 8, 16

Work = Callable[[ConnectionInterface], None]


class Bell(Here):
    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._tell_channel = f"{settings.redis_prefix}tell".encode()
        self._log_channels = f"{settings.redis_prefix}log:".encode()
        self._key = settings.derived_key("messages in Redis")
        self._me = b""
        self._hearing_pool = pool(settings.redis_url, HEAR_SECONDS)
        self._sending_pool = pool(settings.redis_url, SEND_SECONDS)
        self._greenlets: list[Greenlet] = []
        self._outbox: _wire.Outbox[tuple[bytes, bytes]] = _wire.Outbox(OUTBOX_BYTES)
        self._to_send, self._to_ask = Signal(), Signal()
        self._wanted: set[bytes] = {self._tell_channel}
        self._asked: set[bytes] = set()  # what `_hearing` is subscribed to
        self._hearing: ConnectionInterface | None = None
        self._lost: set[str] = set()

    # what the site calls

    def ring(self, generation_id: str, entries: Sequence[Entry]) -> None:
        super().ring(generation_id, entries)
        if self._greenlets:
            channel = self._log_channels + generation_id.encode()
            for line in _wire.ring(generation_id, entries, LINE_BYTES):
                self._put(channel, line)

    def tell(self, topic: str, message: dict[str, Any]) -> None:
        super().tell(topic, message)
        line = _wire.line(_wire.TELL, topic, message)
        if self._greenlets and 0 < len(line) <= LINE_BYTES:
            self._put(self._tell_channel, line)

    def want(self, generation_id: str) -> None:
        self._wanted.add(self._log_channels + generation_id.encode())
        self._to_ask.set()

    def unwant(self, generation_id: str) -> None:
        self._wanted.discard(self._log_channels + generation_id.encode())
        self._to_ask.set()

    def open(self) -> None:
        if not self._greenlets:
            self._me = os.urandom(SENDER_BYTES)
            works = [("hearing", self._hearing_pool, self._hear), ("publishing", self._sending_pool, self._publish)]
            self._greenlets = [gevent.spawn(self._keep, *work) for work in works] + [gevent.spawn(self._ask)]

    def close(self) -> None:
        greenlets, self._greenlets = self._greenlets, []
        gevent.killall(greenlets, timeout=1)
        self._outbox.clear()

    def _put(self, channel: bytes, line: bytes) -> None:
        message = self._me + self._code(self._me, channel, line) + line
        self._outbox.put((channel, message), len(message))
        self._to_send.set()

    def _code(self, sender: bytes, channel: bytes, line: bytes) -> bytes:
        return blake2b(sender + channel + line, key=self._key, digest_size=CODE_BYTES).digest()

    # the connections

    def _keep(self, name: str, connections: ConnectionPool, work: Work) -> None:
        """Do *work* on a connection of its own, and begin again after each error."""
        pause = FIRST_PAUSE
        while True:
            begun = time.monotonic()
            try:
                with connected(connections) as connection:
                    self._is_back(name)
                    work(connection)
            except (RedisError, OSError) as error:
                self._is_lost(name, error)
            except Exception:
                logger.exception("the bell failed while %s", name)
            if time.monotonic() - begun > STABLE_SECONDS:
                pause = FIRST_PAUSE
            gevent.sleep(pause * random.uniform(0.5, 1))  # not all workers at once
            pause = min(2 * pause, LAST_PAUSE)

    def _is_lost(self, name: str, error: Exception) -> None:
        if not self._lost:
            logger.warning("Redis is away, other workers' readers look into the database each second: %s", error)
        self._lost.add(name)
        self._to_send.set()

    def _is_back(self, name: str) -> None:
        if self._lost:
            self._lost.discard(name)
            if not self._lost:
                logger.warning("Redis is back")

    def _publish(self, connection: ConnectionInterface) -> None:
        while True:
            self._to_send.wait()
            self._to_send.clear()
            if not self._outbox:
                exchange(connection, [("PING",)])  # the other connection is lost: is this one?
            while taken := self._outbox.take(TOGETHER_BYTES):
                try:
                    exchange(connection, [("PUBLISH", *message) for message, _ in taken])
                except BaseException:
                    self._outbox.give_back(taken)
                    self._to_send.set()
                    raise

    def _hear(self, connection: ConnectionInterface) -> None:
        self._asked, self._hearing = set(), connection
        self._to_ask.set()
        late = time.monotonic() + TURN_SECONDS
        try:
            while True:
                reply = connection.read_response()
                if reply[0] == b"message":
                    self._take(*reply[1:])
                if time.monotonic() > late:
                    gevent.sleep(0)
                    late = time.monotonic() + TURN_SECONDS
        finally:
            self._hearing = None

    def _ask(self) -> None:
        """Subscribe to what is wanted; only this greenlet writes to the connection that hears."""
        while True:
            asked = self._to_ask.wait(PING_SECONDS)
            self._to_ask.clear()
            connection = self._hearing
            if connection is None:
                continue
            new, old = self._wanted - self._asked, self._asked - self._wanted
            self._asked = set(self._wanted)
            try:
                if new:
                    connection.send_command("SUBSCRIBE", *new, check_health=False)
                if old:
                    connection.send_command("UNSUBSCRIBE", *old, check_health=False)
                if not asked:
                    connection.send_command("PING", check_health=False)
            except (RedisError, OSError):
                connection.disconnect()  # which wakes who hears; it begins again and says why
            except Exception:
                logger.exception("the bell failed to subscribe")

    # what is heard

    def _take(self, channel: bytes, message: bytes) -> None:
        sender, rest = message[:SENDER_BYTES], message[SENDER_BYTES:]
        if sender == self._me:
            return
        code, line = rest[:CODE_BYTES], rest[CODE_BYTES:]
        if not hmac.compare_digest(code, self._code(sender, channel, line)):
            self._ignore("a message in Redis that is not of this site")
            return
        try:
            kind, *words = orjson.loads(line)
            HEARD[kind](self, *words)
        except (ValueError, TypeError, KeyError) as error:  # of a newer version, say
            self._ignore(repr(error))

    def _rung(self, generation_id: str, entries: list[Any]) -> None:
        super().ring(generation_id, _wire.entries_of(entries))

    def _told(self, topic: str, message: dict[str, Any]) -> None:
        super().tell(topic, message)


HEARD: dict[str, Callable[..., None]] = {_wire.RING: Bell._rung, _wire.TELL: Bell._told}


def pool(url: str, seconds: float) -> ConnectionPool:
    """Return where connections come from that try once, and give up after *seconds* without a byte."""
    return ConnectionPool.from_url(
        url,
        protocol=2,  # messages come as plain replies
        socket_timeout=seconds,
        socket_connect_timeout=CONNECT_SECONDS,
        retry=Retry(NoBackoff(), 0),  # by default ten times, which a frozen Redis makes a minute
    )


@contextmanager
def connected(connections: ConnectionPool) -> Iterator[ConnectionInterface]:
    """A connection that Redis has answered on. Raises RedisError, OSError."""
    connection = connections.make_connection()
    try:
        connection.connect()
        exchange(connection, [("PING",)])
        yield connection
    finally:
        connection.disconnect()


def exchange(connection: ConnectionInterface, commands: Sequence[tuple[Any, ...]]) -> None:
    """Send *commands* at once and wait for all answers. Raises RedisError, OSError."""
    connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    for _ in commands:
        connection.read_response()
