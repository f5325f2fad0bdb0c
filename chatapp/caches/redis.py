"""The cache that all processes of the site share, in Redis.

A call waits a quarter of a second at most. After one that failed, nobody asks Redis for a while, so that a Redis that is
away costs one call some time now and then, and all others nothing: they use this process's memory, which knows what it was
given since.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

import gevent
from redis import BlockingConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from chatapp.caches._shelf import Shelves
from chatapp.settings import Settings

logger = logging.getLogger(__name__)

CALL_SECONDS = 0.25  # in all
STEP_SECONDS = 0.2  # for each of connecting, sending, receiving
CONNECTIONS = 16
FIRST_PAUSE, LAST_PAUSE = 1.0, 5.0  # after a failure, before Redis is asked again
FALLBACK_BYTES = 8 * 1024 * 1024

Result = TypeVar("Result")


class Cache:
    def __init__(self, settings: Settings) -> None:
        self._prefix = settings.redis_prefix
        self._redis: Any = Redis(
            connection_pool=BlockingConnectionPool.from_url(
                settings.redis_url,
                protocol=2,
                encoding_errors="surrogatepass",  # a key may be made of what somebody sent
                max_connections=CONNECTIONS,
                timeout=STEP_SECONDS,
                socket_timeout=STEP_SECONDS,
                socket_connect_timeout=STEP_SECONDS,
                retry=Retry(NoBackoff(), 0),
            )
        )
        self._memory = Shelves(FALLBACK_BYTES, FALLBACK_BYTES)
        self._pause = 0.0  # 0 while Redis answers
        self._again_at = 0.0

    def get(self, key: str) -> bytes | None:
        return self._ask(
            lambda: self._redis.get(self._prefix + "value:" + key),
            lambda: self._memory.get(key),
        )

    def put(self, key: str, value: bytes, *, seconds: float) -> None:
        if seconds <= 0:
            self.delete(key)
            return
        self._ask(
            lambda: self._redis.set(self._prefix + "value:" + key, value, px=max(1, int(seconds * 1000))),
            lambda: self._memory.put(key, value, seconds=seconds),
        )

    def delete(self, key: str) -> None:
        self._memory.delete(key)
        self._ask(lambda: self._redis.delete(self._prefix + "value:" + key), lambda: 0)

    def count(self, key: str, *, within_seconds: float) -> int:
        return self._ask(
            lambda: self._count(self._prefix + "count:" + key, within_seconds),
            lambda: self._memory.count(key, within_seconds=within_seconds),
        )

    def answers(self) -> bool:
        return self._ask(lambda: bool(self._redis.ping()), lambda: False)

    def close(self) -> None:
        self._redis.close()

    def _count(self, name: str, within_seconds: float) -> int:
        """In one transaction: a counter without an end would count for ever."""
        with self._redis.pipeline(transaction=True) as both:
            both.set(name, 0, px=max(1, int(within_seconds * 1000)), nx=True)
            both.incr(name)
            number: int = both.execute()[1]
        return number

    def _ask(self, redis: Callable[[], Result], memory: Callable[[], Result]) -> Result:
        """Return what Redis says; what memory says if Redis fails, or has failed lately."""
        tries = self._pause > 0
        if tries:
            now = time.monotonic()
            if now < self._again_at:
                return memory()
            self._again_at = now + self._pause  # this call tries, the others go on without
            self._pause = min(2 * self._pause, LAST_PAUSE)
        timeout = gevent.Timeout(CALL_SECONDS)
        try:
            with timeout:
                said = redis()
        except (RedisError, OSError, gevent.Timeout) as error:
            if isinstance(error, gevent.Timeout) and error is not timeout:
                raise
            self._failed(error)
            return memory()
        if tries:
            self._pause = 0.0
            logger.warning("the cache in Redis is back")
        return said

    def _failed(self, error: BaseException) -> None:
        if not self._pause:
            logger.warning("the cache in Redis is away, each process has its own: %s", error)
            self._pause = FIRST_PAUSE
            self._again_at = time.monotonic() + FIRST_PAUSE
