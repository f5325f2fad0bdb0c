"""Two workers that hear of each other by Redis, and what happens to answers when Redis fails."""

from __future__ import annotations

import http.client
import itertools
import json
import signal
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import psutil
import pytest

from chatapp import sse
from tests.support.fake_models import FakeModels
from tests.support.redis_server import RedisServer
from tests.support.site import Client, Site, wait_until
from tests.system._processes import worker_pids

NewSite = Callable[..., Site]
BROKEN_SECONDS = 2.0


class Reader:
    """Someone who reads an answer to its end, and notes when each frame came."""

    def __init__(self, client: Client, site: Site, generation_id: str) -> None:
        self.frames: list[tuple[float, sse.Frame]] = []
        self._connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=60)
        headers = {"Authorization": str(client.http.headers["Authorization"])}
        self._connection.request("GET", f"/api/generations/{generation_id}/events", headers=headers)
        self.port: int = self._connection.sock.getsockname()[1]
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        parser = sse.Parser()
        with self._connection.getresponse() as response:
            while data := response.read1(65_536):
                self.frames += [(time.monotonic(), frame) for frame in parser.feed(data)]
        self._connection.close()

    def whole(self) -> list[sse.Frame]:
        """Return all frames, when the stream has ended."""
        self._thread.join(60)
        assert not self._thread.is_alive()
        return [frame for _, frame in self.frames]

    def blocks(self) -> int:
        """Return how often something came, after what was there at the opening."""
        return sum(late - early > 0.005 for (early, _), (late, _) in itertools.pairwise(self.frames))


def ports_of_workers(site: Site) -> list[set[int]]:
    """Return for each worker the ports of the clients that it serves."""
    found = []
    for pid in worker_pids(site):
        with suppress(psutil.Error):
            connections = psutil.Process(pid).net_connections("tcp")
            found.append({one.raddr.port for one in connections if one.raddr and one.laddr.port == site.port})
    return found


def read_everywhere(client: Client, site: Site, generation_id: str) -> list[Reader]:
    """Return readers of one answer, some on each worker: the kernel chooses, so more come until all have one."""
    readers: list[Reader] = []

    def on_all() -> bool:
        readers.append(Reader(client, site, generation_id))
        ports = {reader.port for reader in readers}
        return len(found := ports_of_workers(site)) == 2 and all(served & ports for served in found)

    wait_until(on_all)
    return readers


@pytest.fixture(scope="module")
def redis_server(new_redis: Callable[..., RedisServer]) -> RedisServer:
    return new_redis()


@pytest.fixture(scope="module")
def pair(new_site: NewSite, new_database: Callable[[], str], redis_server: RedisServer) -> Site:
    """A site as it would be on two machines, but for the machine."""
    site = new_site(CHATAPP_WORKERS="2", CHATAPP_DATABASE_URL=new_database(), CHATAPP_REDIS_URL=redis_server.url)
    wait_until(lambda: len(worker_pids(site)) == 2)
    return site


def check_whole(readers: list[Reader], count: int) -> None:
    """Check that everyone got an answer of *count* numbers once, in order."""
    first, *others = [reader.whole() for reader in readers]
    assert [frame.id for frame in first] == [str(n) for n in range(1, len(first) + 1)]
    assert first[-1].event == "done"
    text = "".join(json.loads(frame.data)["content"] for frame in first if frame.event == "token")
    assert text == " ".join(str(n) for n in range(1, count + 1))
    assert all(other == first for other in others)


def test_a_reader_on_another_worker_follows_live(pair: Site, fake_models: FakeModels) -> None:
    ada, model = pair.new_user(), fake_models.slow(400)
    started = ada.start("x", f"openai/{model}")
    readers = read_everywhere(ada, pair, started["generationId"])
    there = max(len(reader.frames) for reader in readers)
    wait_until(lambda: all(len(reader.frames) > there + 40 for reader in readers))
    fake_models.hurry(model)
    check_whole(readers, 400)
    assert min(reader.blocks() for reader in readers) > 15  # two or three, if each second brought what was stored
    by_seq = zip(*(reader.frames[20:] for reader in readers), strict=True)
    spread = sorted(max(at for at, _ in row) - min(at for at, _ in row) for row in by_seq)
    print(
        f"between first and last reader: p50 {statistics.median(spread) * 1000:.1f} ms, max {spread[-1] * 1000:.1f} ms"
    )


@pytest.mark.parametrize("fault", ["killed", "frozen"])
def test_redis_fails_in_the_middle_and_nothing_is_lost(
    pair: Site, redis_server: RedisServer, fake_models: FakeModels, fault: str
) -> None:
    ada, model = pair.new_user(), fake_models.slow()
    logged = len(pair.log())
    started = ada.start("x", f"openai/{model}")
    readers = read_everywhere(ada, pair, started["generationId"])
    wait_until(lambda: all(len(reader.frames) > 20 for reader in readers))
    if fault == "killed":
        redis_server.kill()
    else:
        redis_server.freeze()
    try:
        slowest = slowest_request(pair, BROKEN_SECONDS)
        late = ada.start("x", "openai/count-50,delay=0.02")
        late_readers = read_everywhere(ada, pair, late["generationId"])
    finally:
        if fault == "killed":
            redis_server.start()  # and it has forgotten everything
        else:
            redis_server.thaw()
    fake_models.hurry(model)
    check_whole(readers, 1000)
    check_whole(late_readers, 50)
    assert ada.answer(started)["content"] == " ".join(str(n) for n in range(1, 1001))
    assert slowest < 7  # far below a second on a quiet machine; with its library's own limits eight and more
    print(f"slowest request while Redis was {fault}: {slowest * 1000:.0f} ms")
    wait_until(lambda: pair.log()[logged:].count("Redis is back") >= pair.log()[logged:].count("Redis is away") > 0)
    assert len(pair.log()[logged:].splitlines()) <= 8  # two for each worker; a slow machine may see it fail twice
    assert "Traceback" not in pair.log()
    check_live(pair, fake_models)


def test_the_control_who_only_believes_redis_misses_what_it_lost(
    new_site: NewSite, new_database: Callable[[], str], new_redis: Callable[..., RedisServer]
) -> None:
    redis = new_redis()
    environ = {"CHATAPP_WORKERS": "2", "CHATAPP_DATABASE_URL": new_database(), "CHATAPP_REDIS_URL": redis.url}
    site = new_site("tests.support.failing_wsgi", CHATAPP_TEST_WITHOUT="look", **environ)
    wait_until(lambda: len(worker_pids(site)) == 2)
    ada = site.new_user()
    started = ada.start("x", "openai/count-100,delay=0.02")
    readers = read_everywhere(ada, site, started["generationId"])
    wait_until(lambda: all(len(reader.frames) > 20 for reader in readers))
    redis.kill()
    wait_until(lambda: ada.answer(started)["status"] == "finished")
    time.sleep(2)  # a site that looks for itself does so after one
    assert {reader.frames[-1][1].event == "done" for reader in readers} == {True, False}
    site.stop(signal.SIGKILL)


def slowest_request(site: Site, seconds: float) -> float:
    """Use the site as people do for so long; return the seconds that the slowest request took."""
    bob, longest, until = site.new_user("Bob"), 0.0, time.monotonic() + seconds
    requests = [
        lambda: bob.call("GET", "/api/auth/me"),
        lambda: bob.call("GET", "/api/chat/conversations"),
        lambda: bob.start("hello"),
        lambda: bob.ask("hello"),
    ]
    while time.monotonic() < until:
        for request in requests:
            begun = time.monotonic()
            request()
            longest = max(longest, time.monotonic() - begun)
    return longest


def check_live(site: Site, fake_models: FakeModels) -> None:
    """Check that workers hear each other."""
    ada = site.new_user()

    def live() -> bool:
        model = fake_models.slow(400)
        started = ada.start("x", f"openai/{model}")
        readers = read_everywhere(ada, site, started["generationId"])
        there = max(len(reader.frames) for reader in readers)
        wait_until(lambda: all(len(reader.frames) > there + 40 for reader in readers))
        fake_models.hurry(model)
        check_whole(readers, 400)
        return min(reader.blocks() for reader in readers) > 15  # two or three, if each second brought what was stored

    wait_until(live)
