"""What people hear of what is theirs, from any worker; and streams of somebody's own, mounted beside the site's."""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from chatapp import sse
from chatapp.sse import Frame
from tests import conftest
from tests.conftest import making
from tests.support.redis_server import RedisServer
from tests.support.site import Client, Site, wait_until

SETUPS = ("sqlite, 2 workers", "postgresql, redis, 2 workers")
PATH = "/api/events"
TALKS = "/api/chat/conversations"


@pytest.fixture(scope="session")
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, model_environ: dict[str, str]
) -> Iterator[Site]:
    """As everywhere, but with routes that use `chatapp.sse` alone."""
    with making(tmp_path_factory, model_environ) as make:
        yield make("tests.support.mounted_wsgi", **conftest.SETUPS[request.param](request))


class Ear:
    """Somebody who listens, in a thread; a frame is waited for."""

    def __init__(self, client: Client, path: str = PATH, last_event_id: str | None = None) -> None:
        self.frames: queue.Queue[Frame | None] = queue.Queue()
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        headers["Authorization"] = str(client.http.headers.get("Authorization"))
        self.response = requests.get(client.url + path, headers=headers, stream=True, timeout=90)
        assert self.response.status_code == 200, self.response.text
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()

    def _listen(self) -> None:
        parser = sse.Parser()
        with contextlib.suppress(Exception):  # a broken connection is an end
            while data := self.response.raw.read1(65536):
                for frame in parser.feed(data):
                    self.frames.put(frame)
        self.frames.put(None)

    def next(self, seconds: float = 20) -> Frame:
        frame = self.frames.get(timeout=seconds)
        assert frame is not None, "the stream has ended"
        return frame

    def data(self, event: str) -> Any:
        """Return what the next event brings, which must have this name."""
        frame = self.next()
        assert frame.event == event, frame
        return json.loads(frame.data)

    def rest(self) -> list[Frame]:
        frames = []
        while (frame := self.frames.get(timeout=90)) is not None:
            frames.append(frame)
        return frames

    def leave(self) -> None:
        if self.thread.is_alive():
            with contextlib.suppress(RuntimeError, ValueError):  # it ends just now
                self.response.raw.shutdown()  # wakes the thread; the other side learns nothing of it
            self.thread.join(10)
        self.response.close()


@pytest.fixture
def listen() -> Iterator[Callable[..., Ear]]:
    made: list[Ear] = []

    def begin(*arguments: Any, **options: Any) -> Ear:
        ear = Ear(*arguments, **options)
        made.append(ear)
        return ear

    yield begin
    for ear in made:
        ear.leave()


def looked(site: Site) -> dict[str, Any]:
    found: dict[str, Any] = requests.get(f"{site.url}/mounted", timeout=90).json()
    return found


def everywhere(site: Site, look: Callable[[dict[str, Any]], bool]) -> None:
    """Wait until all workers say so."""
    workers = len(site.workers())
    yes: set[int] = set()

    def all_do() -> bool:
        said = looked(site)
        (yes.add if look(said) else yes.discard)(said["worker"])
        return len(yes) == workers

    wait_until(all_do, 20, "what all workers say")


# the user's own stream


def test_what_happens_to_a_conversation_is_told_in_every_tab_of_its_user(
    ada: Client, bob: Client, listen: Callable[..., Ear]
) -> None:
    tabs, stranger = [listen(ada) for _ in range(4)], listen(bob)  # some with one worker, some with the other
    for ear in [*tabs, stranger]:
        assert ear.data("sync") == {"missed": False}
    started, _ = ada.ask("hello there")
    name = started["conversationId"]
    wait_until(lambda: all(tab.frames.qsize() == 2 for tab in tabs))
    ada.call("PATCH", f"{TALKS}/{name}", {"title": "Trip"})
    ada.call("PATCH", f"{TALKS}/{name}", {"pinned": True})
    ada.call("DELETE", f"{TALKS}/{name}", status=204)
    made = ada.call("POST", TALKS, {"title": "Next", "key": "next"}, 201)
    ada.call("POST", TALKS, {"key": "next"}, 201)  # it is there: nothing happens
    ada.call("POST", f"{TALKS}/{made['id']}/messages", {"content": "and then?"}, 201)
    for tab in tabs:
        heard = [tab.data("conversation") for _ in range(7)]
        steps = [(one["action"], one["title"], one["running"]) for one in heard]
        assert steps == [
            ("made", "hello there", True),
            ("answered", "hello there", False),
            ("renamed", "Trip", False),
            ("changed", "Trip", False),
            ("deleted", "Trip", False),
            ("made", "Next", False),
            ("changed", "Next", False),
        ]
        assert {one["id"] for one in heard[:5]} == {name}
        assert heard[5] == {"action": "made", **made}  # described as in lists
    assert stranger.frames.empty()


@pytest.mark.parametrize(("model", "how"), [("openai/echo", "asked"), ("openai/silent-body", "stopped")])
def test_an_answer_is_told_of_at_its_beginning_and_its_end(
    ada: Client, listen: Callable[..., Ear], model: str, how: str
) -> None:
    tab = listen(ada)
    assert tab.data("sync") == {"missed": False}
    made = ada.call("POST", TALKS, {"title": "Talk"}, 201)
    ada.ask("the first", chatId=made["id"])
    assert [tab.data("conversation")["action"] for _ in range(3)] == ["made", "made", "answered"]
    ada.start("and again", model, chatId=made["id"])
    first = tab.data("conversation")
    if how == "stopped":
        ada.call("POST", f"{TALKS}/{made['id']}/stop")
    last = tab.data("conversation")
    assert [(one["action"], one["running"], one["id"]) for one in (first, last)] == [
        ("changed", True, made["id"]),
        ("answered", False, made["id"]),
    ]


def test_what_is_told_was_committed_before(ada: Client, listen: Callable[..., Ear]) -> None:
    tab = listen(ada)
    tab.data("sync")
    for number in range(5):
        ada.call("POST", TALKS, {"title": f"Talk {number}"}, 201)
        told = tab.data("conversation")
        assert told["id"] in [one["id"] for one in ada.call("GET", TALKS)["conversations"]]


def test_who_comes_back_is_told_to_look_again(ada: Client, listen: Callable[..., Ear]) -> None:
    first = listen(ada).next()
    assert (first.event, first.data) == ("sync", '{"missed":false}')
    assert first.id
    assert first.id.isascii()
    assert len(first.id) < 40
    assert listen(ada, last_event_id=first.id).data("sync") == {"missed": True}
    assert listen(ada, f"{PATH}?lastEventId={first.id}").data("sync") == {"missed": True}
    tab = listen(ada)
    tab.next()
    ada.call("POST", TALKS, {"title": "Talk"}, 201)
    ids = [tab.next().id, first.id]
    assert len(set(ids)) == 2


def test_the_stream_has_the_head_of_all_streams_and_its_retry_first(ada: Client) -> None:
    with ada.http.get(ada.url + PATH, stream=True, timeout=90) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        assert response.headers["Cache-Control"] == "no-cache, no-transform"
        assert response.headers["X-Accel-Buffering"] == "no"
        assert response.raw.read1(200).startswith(b"retry: 3000\n")


def test_nobody_hears_anything_without_a_sign_in(ada: Client) -> None:
    stranger = Client(ada.url)
    assert stranger.request("GET", PATH).status_code == 401
    again = stranger.request("GET", PATH, headers={"Last-Event-ID": "x-1"})
    [frame] = sse.Parser().feed(again.content)
    assert (again.status_code, frame.event, json.loads(frame.data)["code"]) == (200, "error", "unauthorized")


def test_one_page_too_many_is_refused_until_another_is_closed(
    ada: Client, site: Site, listen: Callable[..., Ear]
) -> None:
    tabs = [listen(ada) for _ in range(20)]
    key = f"user:{ada.user['id']}"
    everywhere(site, lambda said: said["counts"].get(key) == 20)
    assert ada.request("GET", PATH).status_code == 429
    tabs[0].leave()
    everywhere(site, lambda said: said["counts"].get(key) == 19)  # before anything was written to it
    listen(ada).data("sync")


def test_typing_is_for_who_may_see_the_conversation_and_never_for_oneself(
    ada: Client, bob: Client, listen: Callable[..., Ear]
) -> None:
    tab = listen(ada)
    tab.data("sync")
    made = ada.call("POST", TALKS, {"title": "Talk"}, 201)
    ada.call("POST", f"{TALKS}/{made['id']}/typing", {"isTyping": True}, 204)
    for body in ({}, {"isTyping": "perhaps"}, []):
        assert ada.request("POST", f"{TALKS}/{made['id']}/typing", body).status_code == 400
    assert bob.request("POST", f"{TALKS}/{made['id']}/typing", {"isTyping": True}).status_code == 404
    assert ada.request("POST", f"{TALKS}/{uuid.uuid4()}/typing", {"isTyping": True}).status_code == 404
    ada.call("DELETE", f"{TALKS}/{made['id']}", status=204)
    assert [tab.data("conversation")["action"] for _ in range(2)] == ["made", "deleted"]


# streams of somebody's own


def test_a_broadcast_reaches_every_stream_of_every_worker_once_and_in_order(
    ada: Client, site: Site, listen: Callable[..., Ear]
) -> None:
    key, other = uuid.uuid4().hex, uuid.uuid4().hex
    ears, stranger = [listen(ada, f"/mounted/{key}") for _ in range(6)], listen(ada, f"/mounted/{other}")
    workers = {ear.data("hello")["worker"] for ear in ears}
    everywhere(site, lambda said: said["counts"].get(key) == 6 and said["counts"].get(other) == 1)
    senders = set()
    for number in range(0, 60, 20):
        data = [[number + n, 'ü🦊"\r\n\u2028\0'] for n in range(20)]
        said = requests.post(f"{site.url}/mounted/{key}", json=data, timeout=90).json()
        assert said["error"] is None
        senders.add(said["worker"])
        for ear in ears:
            assert [ear.data("news") for _ in range(20)] == data
    assert stranger.data("hello")
    assert stranger.frames.empty()
    assert workers | senders <= {process.pid for process in site.workers()}


def test_a_broadcast_as_large_as_is_allowed_arrives_and_a_larger_one_is_refused(
    ada: Client, site: Site, listen: Callable[..., Ear]
) -> None:
    key = uuid.uuid4().hex
    ears = [listen(ada, f"/mounted/{key}") for _ in range(4)]
    for ear in ears:
        ear.data("hello")
    everywhere(site, lambda said: said["counts"].get(key) == 4)
    large = ["x" * 99_000, "y" * 99_000]
    assert requests.post(f"{site.url}/mounted/{key}", json=large, timeout=90).json()["error"] is None
    for ear in ears:
        assert [ear.next().data for _ in range(2)] == large
    said = requests.post(f"{site.url}/mounted/{key}", json=["x" * 101_000, "after"], timeout=90).json()
    assert said["error"] == "BroadcastTooLarge"
    requests.post(f"{site.url}/mounted/{key}", json=["last"], timeout=90)
    assert {ear.next().data for ear in ears} == {"last"}


def test_a_reader_who_leaves_is_known_to_have_left_although_nothing_is_sent(
    ada: Client, site: Site, listen: Callable[..., Ear]
) -> None:
    key = uuid.uuid4().hex
    ear = listen(ada, f"/mounted/{key}?heartbeat=600")
    ear.data("hello")
    everywhere(site, lambda said: said["counts"].get(key) == 1)
    ear.leave()
    everywhere(site, lambda said: key not in said["counts"])
    wait_until(lambda: f"{key}: the reader left" in looked(site)["left"])


def test_a_reader_who_takes_nothing_ends_its_stream_and_hurts_no_other(
    ada: Client, site: Site, listen: Callable[..., Ear]
) -> None:
    key = uuid.uuid4().hex
    slow = ada.http.get(f"{ada.url}/mounted/{key}?room=20", stream=True, timeout=90)
    well = listen(ada, f"/mounted/{key}")
    assert well.data("hello")
    everywhere(site, lambda said: said["counts"].get(key) == 2)
    sent = 0
    while looked(site)["counts"].get(key) != 1:
        assert sent < 1000, "what nobody reads is kept without end"
        requests.post(f"{site.url}/mounted/{key}", json=["z" * 90_000], timeout=90)
        sent += 1
        assert len(well.next().data) == 90_000
    wait_until(lambda: f"{key}: the reader is too slow" in looked(site)["left"])
    slow.close()


def test_silence_is_made_audible(ada: Client) -> None:
    with ada.http.get(f"{ada.url}/mounted/silence?heartbeat=0.1", stream=True, timeout=90) as response:
        heard = b""
        while heard.count(b"\n:\n") < 3:
            heard += response.raw.read1(4096)
    assert heard.count(b"data: ") == 1


# on a site of its own


@pytest.fixture(scope="module")
def quick_site(new_site: Callable[..., Site]) -> Site:
    """A site whose heart beats fast, and whose model may be silent."""
    return new_site(CHATAPP_HEARTBEAT_SECONDS="0.1", CHATAPP_FIRST_EVENT_SECONDS="30")


def test_heartbeats_are_events_for_who_asks_and_have_no_id(quick_site: Site) -> None:
    client = quick_site.new_user()
    started = client.start("x", "openai/silent-body")
    talk = f"{TALKS}/{started['conversationId']}"
    for path in (PATH, f"{talk}/stream"):
        with contextlib.closing(client.frames(f"{path}?heartbeat=event")) as frames:  # type: ignore[type-var]
            beats: list[Frame] = []
            while len(beats) < 3:
                beats += [frame for frame in [next(frames)] if frame.event == "heartbeat"]
        assert beats == [Frame("{}", "heartbeat")] * 3, path
        assert client.request("GET", f"{path}?heartbeat=never").status_code == 400
    client.call("POST", f"{talk}/stop")
    with client.http.get(client.url + PATH, stream=True, timeout=90) as plain:
        heard = b""
        while heard.count(b"\n:\n") < 2:
            heard += plain.raw.read1(4096)
    assert b"heartbeat" not in heard


def test_who_signs_out_hears_nothing_more(quick_site: Site, listen: Callable[..., Ear]) -> None:
    ada = quick_site.new_user()
    tab = listen(ada)
    tab.data("sync")
    begun = time.monotonic()
    ada.call("POST", "/api/auth/logout", status=204)
    assert tab.data("error")["code"] == "unauthorized"
    assert tab.rest() == []
    assert time.monotonic() - begun < 20  # within 5 s, on a machine that has nothing else to do


def test_a_site_that_stops_sends_its_listeners_back_soon(quick_site: Site) -> None:
    client, parser = quick_site.new_user(), sse.Parser()
    with client.http.get(client.url + PATH, stream=True, timeout=90) as response:
        parser.feed(response.raw.read1(4096))
        quick_site.process.send_signal(signal.SIGTERM)  # type: ignore[union-attr]
        while data := response.raw.read1(4096):
            parser.feed(data)
    assert parser.retry is not None
    assert parser.retry < 1000
    quick_site.stop()


def test_what_redis_lost_is_noticed_by_who_missed_it(
    new_site: Callable[..., Site], new_redis: Callable[..., RedisServer], listen: Callable[..., Ear]
) -> None:
    redis = new_redis()
    site = new_site(CHATAPP_WORKERS="2", CHATAPP_REDIS_URL=redis.url)
    client = site.new_user()
    tabs = [listen(client) for _ in range(6)]
    client.call("POST", TALKS, {"title": "before"}, 201)
    for tab in tabs:
        assert (tab.data("sync"), tab.data("conversation")["title"]) == ({"missed": False}, "before")
    redis.kill()
    client.call("POST", TALKS, {"title": "lost"}, 201)  # where it is made it is heard
    redis.start()
    told = [tab.next() for tab in tabs]
    assert {frame.event for frame in told} <= {"conversation", "sync"}
    for frame in told:
        assert frame.event == "conversation" or json.loads(frame.data) == {"missed": True}
