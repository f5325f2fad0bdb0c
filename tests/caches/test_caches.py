"""What every cache does, and what the shared one does without Redis."""

from __future__ import annotations

import contextlib
import json
import logging
import socketserver
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import chatapp.caches
from chatapp import caches, registry
from chatapp.caches import _shelf
from chatapp.caches.memory import Cache as Memory
from chatapp.errors import SettingsError
from chatapp.settings import ROOT, Settings
from tests.support.redis_server import RedisServer
from tests.support.site import wait_until

SECRET = "s" * 64


@pytest.fixture(scope="module")
def redis_server(new_redis: Callable[..., RedisServer]) -> RedisServer:
    return new_redis()


def cache_at(url: str, secret: str = SECRET) -> caches.Cache:
    return caches.load(Settings(secret_key=secret, redis_url=url))


@pytest.fixture(params=registry.load(chatapp.caches))
def cache(request: pytest.FixtureRequest) -> Iterator[caches.Cache]:
    url = request.getfixturevalue("redis_server").url if request.param == "redis" else ""
    made = cache_at(url)
    assert type(made).__module__ == f"chatapp.caches.{request.param}"
    yield made
    made.close()
    made.close()


def new_key() -> str:
    return f"a key\n{uuid.uuid4()} ü"


def test_a_value_is_kept_as_it_is_until_it_is_replaced_or_forgotten(cache: caches.Cache) -> None:
    key, value = new_key(), bytes(range(256))
    assert cache.get(key) is None
    cache.put(key, value, seconds=60)
    assert cache.get(key) == value
    cache.put(key, b"", seconds=60)
    assert cache.get(key) == b""
    cache.delete(key)
    cache.delete(key)
    assert cache.get(key) is None


def test_a_value_has_an_end(cache: caches.Cache) -> None:
    key, other = new_key(), new_key()
    cache.put(key, b"short", seconds=0.05)
    cache.put(other, b"long", seconds=60)
    wait_until(lambda: cache.get(key) is None)
    cache.put(other, b"none", seconds=0)
    assert cache.get(other) is None


def test_a_counter_counts_within_its_window(cache: caches.Cache) -> None:
    key = new_key()
    assert [cache.count(key, within_seconds=60) for _ in range(3)] == [1, 2, 3]
    assert cache.count(new_key(), within_seconds=60) == 1
    short, begun = new_key(), time.monotonic()
    numbers = [cache.count(short, within_seconds=0.2)]
    while numbers[-1] != 1 or len(numbers) == 1:  # later calls do not prolong it
        assert time.monotonic() < begun + 20
        numbers.append(cache.count(short, within_seconds=0.2))
    assert numbers[:-1] == list(range(1, len(numbers)))
    assert time.monotonic() >= begun + 0.19


def test_values_and_counters_do_not_meet(cache: caches.Cache) -> None:
    key = new_key()
    cache.put(key, b"7", seconds=60)
    assert cache.count(key, within_seconds=60) == 1
    assert cache.get(key) == b"7"


def test_any_text_is_a_key(cache: caches.Cache) -> None:
    for key in ("", "\ud800", "\0", "x" * 10_000):
        cache.put(key, b"v", seconds=60)
        assert cache.get(key) == b"v"
        cache.delete(key)


def test_memory_is_bounded_and_forgets_what_was_not_asked_for_longest() -> None:
    cache = Memory()
    cache.values = _shelf.Shelf(10_000)
    cache.put("first", b"x" * 1000, seconds=60)
    for number in range(100):
        assert cache.get("first") is not None
        cache.put(str(number), b"x" * 1000, seconds=60)
    assert cache.values.bytes <= 10_000
    assert cache.get("99") is not None
    assert cache.get("0") is None
    cache.put("huge", b"x" * 20_000, seconds=60)
    assert cache.get("huge") is None
    assert cache.get("99") is not None
    for number in range(100):
        cache.delete(str(number))
    cache.delete("first")
    assert cache.values.bytes == 0


def test_who_fills_the_values_resets_no_counter() -> None:
    cache = Memory()
    cache.values = _shelf.Shelf(10_000)
    cache.count("tries", within_seconds=60)
    for number in range(100):
        cache.put(str(number), b"x" * 1000, seconds=60)
    assert cache.count("tries", within_seconds=60) == 2


def test_processes_share_what_is_in_redis_and_sites_do_not(redis_server: RedisServer) -> None:
    one, two, other = cache_at(redis_server.url), cache_at(redis_server.url), cache_at(redis_server.url, "t" * 64)
    key = new_key()
    one.put(key, b"v", seconds=60)
    assert (two.get(key), other.get(key)) == (b"v", None)
    assert [one.count(key, within_seconds=60), two.count(key, within_seconds=60)] == [1, 2]
    assert other.count(key, within_seconds=60) == 1
    for cache in (one, two, other):
        cache.close()


# Redis that fails


@pytest.mark.parametrize("fault", ["killed", "frozen", "full"])
def test_without_redis_each_process_has_its_own(
    new_redis: Callable[..., RedisServer], caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    server = new_redis()
    cache = cache_at(server.url)
    cache.put("before", b"v", seconds=60)
    cache.count("tries", within_seconds=60)
    break_it(server, fault)
    begun = time.monotonic()
    cache.put("meanwhile", b"w", seconds=60)
    assert [cache.count("tries", within_seconds=60) for _ in range(100)] == list(range(1, 101))
    assert cache.get("meanwhile") == b"w"
    assert time.monotonic() - begun < 10  # of 102 calls one waits a quarter of a second, and tries once
    mend(server, fault)
    wait_until(lambda: cache.get("nothing") is None and "is back" in caplog.text)
    assert cache.count("tries", within_seconds=60) == (1 if fault == "killed" else 2)
    cache.put("after", b"v", seconds=60)
    again = cache_at(server.url)
    assert again.get("after") == b"v"
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    cache.close()
    again.close()


def break_it(server: RedisServer, fault: str) -> None:
    if fault == "killed":
        server.kill()
    elif fault == "frozen":
        server.freeze()
    else:
        assert server.command("CONFIG", "SET", "maxmemory", "1") == b"+OK\r\n"


def mend(server: RedisServer, fault: str) -> None:
    if fault == "killed":
        server.start()
    elif fault == "frozen":
        server.thaw()
    else:
        server.command("CONFIG", "SET", "maxmemory", "0")


CROWD = """
from gevent import monkey
monkey.patch_all()
import json, sys, time
import gevent
from chatapp import caches
from chatapp.settings import Settings

cache = caches.load(Settings(secret_key="s" * 64, redis_url=sys.argv[1]))
cache.get("x")
sys.stdout.write("\\n"); sys.stdout.flush()
sys.stdin.readline()
longest = gap = 0.0

def call(n):
    global longest
    begun = time.monotonic()
    cache.count("x", within_seconds=60)
    longest = max(longest, time.monotonic() - begun)

def watch():
    global gap
    while True:
        begun = time.monotonic()
        gevent.sleep(0.01)
        gap = max(gap, time.monotonic() - begun)

gevent.spawn(watch)
begun = time.monotonic()
while time.monotonic() < begun + 1.5:
    gevent.joinall([gevent.spawn(call, n) for n in range(50)])
    gevent.sleep(0.01)
print(json.dumps([longest, gap]))
"""


class Dripping(socketserver.StreamRequestHandler):
    """A Redis that sends a byte now and then, so that no single step takes long."""

    def handle(self) -> None:
        self.request.recv(65_536)
        with contextlib.suppress(OSError):
            self.request.sendall(b"$1000000\r\n")
            while True:
                time.sleep(0.05)
                self.request.sendall(b"x")


@pytest.mark.parametrize("fault", ["frozen", "dripping"])
def test_a_slow_redis_costs_a_crowd_a_moment(new_redis: Callable[..., RedisServer], fault: str) -> None:
    server = new_redis()
    with contextlib.ExitStack() as opened:
        dripping = opened.enter_context(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Dripping))
        dripping.daemon_threads = True
        threading.Thread(target=dripping.serve_forever, daemon=True).start()
        opened.callback(dripping.shutdown)
        url = server.url if fault == "frozen" else f"redis://127.0.0.1:{dripping.server_address[1]}"
        command = [sys.executable, "-c", CROWD, url]
        crowd = opened.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        )
        opened.callback(crowd.kill)
        assert crowd.stdout is not None
        crowd.stdout.readline()
        if fault == "frozen":
            server.freeze()
        said, _ = crowd.communicate("\n", timeout=60)
    longest, gap = json.loads(said)
    print(f"longest call {longest:.3f} s, longest gap {gap:.3f} s")
    assert longest < 10  # a quarter of a second on a quiet machine; redis-py's own defaults: a minute
    assert gap < 3


def test_without_the_library_the_setting_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.delitem(sys.modules, "chatapp.caches.redis", raising=False)
    with pytest.raises(SettingsError, match="CHATAPP_REDIS_URL needs redis-py"):
        cache_at("redis://127.0.0.1:1")
