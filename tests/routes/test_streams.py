"""Streams over real gunicorn: whole, exactly once, from any cursor, for as many readers as come."""

from __future__ import annotations

import json
import time
import uuid
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from chatapp import sse
from chatapp.sse import Frame
from tests.support.fake_models import FakeModels
from tests.support.site import Client, Site, wait_until
from tests.support.wire import open_socket, read_in_pieces

EVERY_SETUP = True
WORDS = " ".join(str(n) for n in range(1, 51))


def text_of(frames: list[Frame]) -> str:
    return "".join(json.loads(frame.data)["content"] for frame in frames if frame.event == "token")


def events_path(started: dict[str, Any]) -> str:
    return f"/api/generations/{started['generationId']}/events"


STREAMS: dict[str, Callable[[dict[str, Any]], str]] = {
    "native": events_path,
    "session": lambda started: f"/api/chat/stream?sessionId={started['sessionId']}",
    "named": lambda started: f"/api/chat/conversations/{started['conversationId']}/stream",
    "question": lambda started: f"/api/chat/{started['conversationId']}/stream",
}


def test_an_answer_streams_as_it_is_made_and_is_stored_byte_for_byte(ada: Client) -> None:
    prompt = 'Grüße 🦊 \r\n data: x \u2028 </script> \\ " end'
    started, frames = ada.ask(prompt)
    assert [frame.event for frame in frames[:2]] == ["start", "status"]
    assert [frame.event for frame in frames[-2:]] == ["usage", "done"]
    assert [frame.id for frame in frames] == [str(n) for n in range(1, len(frames) + 1)]
    answer = ada.answer(started)
    assert text_of(frames) == answer["content"] == json.loads(frames[-1].data)["message"]["content"]
    assert json.loads(frames[-1].data)["message"] == answer
    assert answer["status"] == "finished"


def test_tokens_come_one_by_one_and_not_at_the_end(ada: Client, fake_models: FakeModels) -> None:
    model = fake_models.slow()
    started = ada.start("count", f"openai/{model}")
    stream = ada.follow(started["generationId"])
    for frame in stream:
        if frame.event == "token":
            break
    assert ada.answer(started)["status"] == "running"
    fake_models.hurry(model)
    assert text_of([frame, *stream]) == ada.answer(started)["content"]


def test_the_head_is_what_event_source_and_proxies_need(ada: Client) -> None:
    started, _ = ada.ask("hi")
    for path in STREAMS.values():
        with ada.http.get(ada.url + path(started), stream=True, timeout=20) as response:
            assert response.headers["Content-Type"].startswith("text/event-stream")
            assert response.headers["Cache-Control"] == "no-cache, no-transform"
            assert response.headers["X-Accel-Buffering"] == "no"
            assert response.raw.read1(200).startswith(b"retry: 3000\n")


@pytest.mark.parametrize("dialect", STREAMS)
def test_every_cursor_of_an_ended_answer_gets_exactly_the_rest(ada: Client, dialect: str) -> None:
    started, _ = ada.ask("count", "openai/count-20,delay=0.005")
    path = STREAMS[dialect](started)
    whole = list(ada.frames(path))
    for n, frame in enumerate(whole[:-1], 1):
        assert list(ada.frames(path, frame.id)) == whole[n:]
    assert ada.request("GET", path, headers={"Last-Event-ID": whole[-1].id}).status_code == 204
    joined = f"{path}{'&' if '?' in path else '?'}lastEventId={whole[0].id}"
    assert list(ada.frames(joined)) == whole[1:]


@pytest.mark.parametrize("dialect", STREAMS)
def test_readers_cut_off_at_random_bytes_lose_and_repeat_nothing(ada: Client, dialect: str) -> None:
    started = ada.start("count", "openai/count-150,delay=0.003")
    path = STREAMS[dialect](started)
    heard, cuts = read_in_pieces(ada, path)
    assert cuts > 5
    assert heard == list(ada.frames(path))
    assert ada.answer(started)["content"] == " ".join(str(n) for n in range(1, 151))


def test_a_reader_who_leaves_does_not_end_the_answer(ada: Client, fake_models: FakeModels) -> None:
    model = fake_models.slow(50)
    started = ada.start("count", f"openai/{model}")
    stream = ada.follow(started["generationId"])
    for _ in range(5):
        next(stream)
    stream.close()  # type: ignore[attr-defined]
    fake_models.hurry(model)
    wait_until(lambda: ada.answer(started)["status"] == "finished")
    assert ada.answer(started)["content"] == WORDS


def test_an_answer_that_nobody_reads_is_made_all_the_same(ada: Client, fake_models: Any) -> None:
    started = ada.start("count", "openai/count-50,nobody=reads")
    wait_until(lambda: ada.answer(started)["status"] == "finished")
    assert ada.answer(started)["content"] == WORDS


def test_many_readers_get_the_same(ada: Client) -> None:
    started = ada.start("count", "openai/count-40,delay=0.01")
    with ThreadPoolExecutor(8) as pool:
        heard = list(pool.map(lambda n: list(ada.frames(events_path(started), None)), range(8)))
    assert heard == [heard[0]] * 8
    assert text_of(heard[0]) == ada.answer(started)["content"]


def test_silence_is_made_audible(new_site: Callable[..., Site]) -> None:
    site = new_site(CHATAPP_HEARTBEAT_SECONDS="0.2", CHATAPP_FIRST_EVENT_SECONDS="30")
    client = site.new_user()
    started = client.start("x", "openai/silent-body")
    raw = open_socket(client, events_path(started))
    heard = b""
    while heard.count(b"\n:\n\n") < 3:
        heard += raw.recv(4096)
    raw.close()
    assert heard.count(b"event: ") == 2  # and nothing else was said
    client.call("POST", f"/api/chat/conversations/{started['conversationId']}/stop")


def test_a_cursor_past_the_end_begins_again_with_all_the_text(ada: Client) -> None:
    started, whole = ada.ask("one two three")
    first, *rest = ada.frames(events_path(started), "999")
    assert first.event == "reset"
    assert json.loads(first.data)["text"] == "one two three"
    assert rest == whole[-1:]
    session = STREAMS["session"](started)
    assert list(ada.frames(session, "999")) == list(ada.frames(session))


def test_a_cursor_past_the_end_of_a_running_answer_leaves_no_hole(ada: Client, fake_models: FakeModels) -> None:
    model = fake_models.slow()
    started = ada.start("count", f"openai/{model}")
    stream = ada.frames(events_path(started), "99999")
    first = next(stream)
    fake_models.hurry(model)
    rest = list(stream)
    assert first.event == "reset"
    assert json.loads(first.data)["text"] + text_of(rest) == " ".join(str(n) for n in range(1, 1001))
    assert [int(frame.id or 0) for frame in rest] == list(range(int(first.id or 0) + 1, int(rest[-1].id or 0) + 1))


@pytest.mark.parametrize("dialect", STREAMS)
def test_a_cursor_of_another_answer_counts_as_none(ada: Client, dialect: str) -> None:
    started, _ = ada.ask("first")
    other, _ = ada.ask("second")
    named = f"{other['generationId'].replace('-', '')}-3"
    path = STREAMS[dialect](started)
    assert list(ada.frames(path, named)) == list(ada.frames(path))


def test_an_ended_answer_can_be_read_after_its_log_is_gone(new_site: Callable[..., Site]) -> None:
    site = new_site(CHATAPP_STREAM_RETENTION_SECONDS="1")
    client = site.new_user()
    started, whole = client.ask("one two three")
    failed, _ = client.ask("x", "openai/cut-fin-after-3")
    site.restart()  # sweeps at its start

    def expired() -> bool:
        return len(list(client.frames(events_path(started)))) < len(whole)

    wait_until(expired, 75)
    for name, path in STREAMS.items():
        frames = list(client.frames(path(started)))
        assert "one two three" in "".join(frame.data for frame in frames), name
        assert client.request("GET", path(started), headers={"Last-Event-ID": str(frames[-1].id)}).status_code == 204
    first, last = client.frames(events_path(started), "3")
    assert (first.event, json.loads(first.data)["text"], last.event) == ("reset", "one two three", "done")
    assert [frame.event for frame in client.frames(events_path(failed))] == ["reset", "fail"]


def test_who_loses_the_right_to_read_is_told_so_within_seconds(ada: Client) -> None:
    started = ada.start("x", "openai/count-2000,delay=0.05")
    stream = ada.follow(started["generationId"])
    next(stream)
    other = Client(ada.url)
    other.http.headers.update(ada.http.headers)
    other.call("POST", "/api/auth/logout", status=204)
    *_, last = stream
    assert last.event == "fail"
    assert json.loads(last.data)["code"] == "unauthorized"  # long before the answer would have been whole


def test_a_conversation_that_is_deleted_ends_its_streams_and_leaves_the_model(ada: Client, fake_models: Any) -> None:
    model = f"count-2000,delay=0.02,deleted={uuid.uuid4()}"
    started = ada.start("x", f"openai/{model}")
    stream = ada.follow(started["generationId"])
    while next(stream).event != "token":
        pass
    ada.call("DELETE", f"/api/chat/conversations/{started['conversationId']}", status=204)
    last = list(stream)[-1]
    assert (last.event, json.loads(last.data)["code"]) == ("fail", "not_found")
    wait_until(lambda: [call["disconnected"] for call in fake_models.log() if call["model"] == model] == [True])


def test_a_reader_who_comes_back_signed_out_is_told_in_the_stream(ada: Client) -> None:
    started, _ = ada.ask("hi")
    stranger = Client(ada.url)
    names = {"native": "fail", "session": None, "named": "error", "question": None}
    for dialect, path in STREAMS.items():
        assert stranger.request("GET", path(started)).status_code == 401
        [frame] = stranger.frames(path(started), "1")
        assert (frame.event, frame.id) == (names[dialect], None)
        assert "Sign in" in frame.data


def test_a_session_can_be_opened_ten_times_and_resumed_any_time(ada: Client) -> None:
    started, _ = ada.ask("hi")
    path = STREAMS["session"](started)
    whole = [list(ada.frames(path)) for _ in range(10)]
    assert whole == [whole[0]] * 10
    refused = ada.request("GET", path)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limited")
    assert "Retry-After" in refused.headers
    assert list(ada.frames(path, whole[0][0].id)) == whole[0][1:]


def test_a_session_expires_and_the_answer_does_not(new_site: Callable[..., Site]) -> None:
    client = new_site(CHATAPP_SESSION_SECONDS="1").new_user()
    started, whole = client.ask("hi")
    path = STREAMS["session"](started)
    wait_until(lambda: client.request("GET", path).status_code == 410)
    assert client.request("GET", path).json()["error"]["code"] == "session_expired"
    assert list(client.follow(started["generationId"])) == whole
    assert client.answer(started)["content"] == "hi"


def test_a_thousand_bytes_a_second_reader_delays_nobody(ada: Client) -> None:
    started = ada.start("x", "openai/endless,size=2000,delay=0.001")
    slow = open_socket(ada, events_path(started))
    slow.recv(100)
    _, frames = ada.ask("quick")
    assert text_of(frames) == "quick"
    slow.close()
    ada.call("POST", f"/api/chat/conversations/{started['conversationId']}/stop")


def test_a_reader_who_takes_nothing_is_let_go(new_site: Callable[..., Site]) -> None:
    site = new_site(CHATAPP_SEND_TIMEOUT_SECONDS="1")
    client = site.new_user()
    started = client.start("x", "openai/endless,size=4000")
    raw = open_socket(client, events_path(started))
    raw.recv(100)
    [worker] = site.workers()

    def is_read() -> bool:
        return any(
            c.laddr.port == site.port and c.status == "ESTABLISHED" and c.raddr.port == raw.getsockname()[1]
            for c in worker.net_connections()
        )

    assert is_read()
    wait_until(lambda: not is_read(), 30)
    raw.close()
    assert "Traceback" not in site.log()
    client.call("POST", f"/api/chat/conversations/{started['conversationId']}/stop")


def unpacked(
    client: Client, path: str, accept: str, **headers: str
) -> tuple[str | None, list[tuple[float, bytes]], bool]:
    """Return the encoding, what came unpacked and when, and whether the packing was ended properly."""
    came: list[tuple[float, bytes]] = []
    unpack = zlib.decompressobj(31)
    given = {"Accept-Encoding": accept, **headers}
    with client.http.get(client.url + path, headers=given, stream=True, timeout=60) as response:
        encoding = response.headers.get("Content-Encoding")
        while data := response.raw.read1(65536, decode_content=False):
            came.append((time.monotonic(), unpack.decompress(data) if encoding else data))
    return encoding, came, unpack.eof


@pytest.mark.parametrize("dialect", STREAMS)
def test_a_compressed_stream_says_the_same_and_each_event_at_once(ada: Client, dialect: str) -> None:
    started = ada.start("count", "openai/count-20,delay=0.05")
    path = STREAMS[dialect](started)
    encoding, came, ended = unpacked(ada, path, "gzip, deflate")
    assert (encoding, ended) == ("gzip", True)
    plain = list(ada.frames(path))
    assert sse.Parser().feed(b"".join(data for _, data in came)) == plain
    assert len([data for _, data in came if data]) > 10  # they were not held back
    _, rest, _ = unpacked(ada, path, "gzip", **{"Last-Event-ID": str(plain[3].id)})
    assert sse.Parser().feed(b"".join(data for _, data in rest)) == plain[4:]


@pytest.mark.parametrize("accept", ["identity", "gzip;q=0", "br"])
def test_who_does_not_ask_for_it_gets_nothing_compressed(ada: Client, accept: str) -> None:
    started, frames = ada.ask("one two")
    encoding, came, _ = unpacked(ada, events_path(started), accept)
    assert encoding is None
    assert sse.Parser().feed(b"".join(data for _, data in came)) == frames
