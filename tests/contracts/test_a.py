"""The contract of `/api/stream`, line by line: a history that the client keeps, answered in the same request."""

from __future__ import annotations

import json
import signal
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import requests
from sqlalchemy import func, select

from chatapp import sse
from chatapp.database import Base, connected, engine_for
from chatapp.settings import Settings
from tests.support.api import check_error
from tests.support.fake_models import FakeModels
from tests.support.site import Client, Site, wait_until

SETUPS = ("sqlite, 1 worker", "postgresql, redis, 2 workers")
PATH = "/api/stream"
ENDLESS = "openai/count-5000,delay=0.05"
NAMES = ["message-start", "message-chunk", "message-complete"]


def said(content: str, name: str | None = None, *, role: str = "user") -> dict[str, str]:
    return {"id": name or nonce(), "role": role, "content": content, "timestamp": "2024-01-01T00:00:00Z"}


def nonce() -> str:
    return uuid.uuid4().hex


def request(*messages: dict[str, str], model: str = "openai/echo", **body: Any) -> dict[str, Any]:
    return {"messages": list(messages), "model": model, **body}


def post(client: Client, body: dict[str, Any], last_id: str | None = None, **headers: str) -> requests.Response:
    """Send a request with a connection of its own, whose stream is to be read and closed."""
    given = {**client.http.headers, **headers, **({"Last-Event-ID": last_id} if last_id else {})}
    return requests.post(client.url + PATH, json=body, headers=given, stream=True, timeout=60)


def live(response: requests.Response) -> Iterator[sse.Frame]:
    """Yield the frames as they come; the connection closes with the generator."""
    assert response.status_code == 200, f"{response.status_code} {response.text[:500]}"
    parser = sse.Parser()
    with response:
        while data := response.raw.read1(65536):
            yield from parser.feed(data)


def frames(client: Client, body: dict[str, Any], last_id: str | None = None, **headers: str) -> list[sse.Frame]:
    return list(live(post(client, body, last_id, **headers)))


def events(heard: list[sse.Frame]) -> list[tuple[str | None, Any]]:
    return [(frame.event, json.loads(frame.data)) for frame in heard]


def answer(client: Client, body: dict[str, Any]) -> str:
    """Return the whole text of a good answer."""
    heard = events(frames(client, body))
    assert [name for name, _ in (heard[0], heard[-1])] == ["message-start", "message-complete"], heard
    return str(heard[-1][1]["fullContent"])


def told(client: Client, *messages: dict[str, str], **body: Any) -> list[tuple[str, str]]:
    """Return what the model is told of *messages*."""
    turns = json.loads(answer(client, request(*messages, model="openai/prompt", **body)))
    return [(turn["role"], turn["content"]) for turn in turns]


def stored(client: Client, reference: str) -> list[tuple[str, str]]:
    """Return the branch that is shown of a conversation."""
    found = client.call("GET", "/api/chat/history", params={"chatId": reference})["messages"]
    return [(message["role"], message["content"]) for message in found]


def tree(client: Client, reference: str) -> list[dict[str, Any]]:
    found = client.call("GET", "/api/chat/history", params={"chatId": reference})["messages"]
    messages: list[dict[str, Any]] = client.call("GET", f"/api/chat/conversations/{found[0]['chatId']}")["messages"]
    return messages


# the stream


def test_the_events_are_the_contracts_and_no_others(ada: Client) -> None:
    response = post(ada, request(said("one two three"), model="openai/reasoning,delay=0.01", chatId=nonce()))
    assert response.headers["Content-Type"].startswith("text/event-stream")
    assert response.headers["Cache-Control"] == "no-cache, no-transform"
    assert response.headers["X-Accel-Buffering"] == "no"
    heard = list(live(response))
    start, *chunks, complete = events(heard)
    message = start[1]["messageId"]
    assert uuid.UUID(message).version == 4
    assert start == ("message-start", {"messageId": message})
    assert len(chunks) > 1
    for name, data in chunks:
        assert (name, data) == ("message-chunk", {"messageId": message, "content": data["content"], "done": False})
    text = "".join(data["content"] for _, data in chunks)
    assert complete == ("message-complete", {"messageId": message, "fullContent": text})
    assert len({frame.id for frame in heard}) == len(heard)
    assert None not in {frame.id for frame in heard}


@pytest.mark.parametrize("chat", [True, False])
def test_text_is_exact_and_comes_as_it_is_made(ada: Client, chat: bool) -> None:
    prompt = 'Grüße 🦊 \r\n data: x \u2028 </script> \\ " end'
    chat_id = nonce() if chat else None
    assert answer(ada, request(said(prompt), chatId=chat_id)) == prompt
    if chat_id:
        assert stored(ada, chat_id) == [("user", prompt), ("assistant", prompt)]
    with closing(live(post(ada, request(said("x"), model=ENDLESS, chatId=chat_id)))) as stream:
        assert [frame.event for frame in islice(stream, 4)] == [*NAMES[:2], *NAMES[1:2] * 2]  # long before its end
    if chat_id:
        ada.call("POST", f"/api/chat/conversations/{tree(ada, chat_id)[0]['conversation_id']}/stop")


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("model", ["status-500", "status-404", "close-before-headers", "cut-fin-after-3"])
def test_an_error_of_the_model_is_an_event(ada: Client, model: str, chat: bool) -> None:
    heard = events(frames(ada, request(said("x"), model=f"openai/{model}", chatId=nonce() if chat else None)))
    assert heard[0][0] == "message-start"
    [(name, data)] = [one for one in heard if one[0] not in NAMES]
    assert (name, list(data)) == ("error", ["message"])
    assert "CANARY" not in data["message"]
    assert heard[-1] == (name, data)


def test_a_sign_in_is_asked_for(site: Site) -> None:
    check_error(post(Client(site.url), request(said("x"))), 401)


# the request

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no messages": ({"messages": []}, "messages"),
    "messages that are none": ({"messages": "hello"}, "messages"),
    "a message that is none": ({"messages": ["hello"]}, "messages"),
    "another role": ({"messages": [said("x", role="tool")]}, "messages"),
    "no id": ({"messages": [{"role": "user", "content": "x"}]}, "messages"),
    "an id that is too long": ({"messages": [said("x", "i" * 201)]}, "messages"),
    "content that is no text": ({"messages": [{**said("x"), "content": ["x"]}]}, "messages"),
    "a time that is none": ({"messages": [{**said("x"), "timestamp": "yesterday"}]}, "messages"),
    "an empty question": ({"messages": [said(" \n")]}, "messages"),
    "a question that is too long": ({"messages": [said("x" * 32_001)]}, "messages"),
    "a message before it that is too long": ({"messages": [said("x" * 32_001, role="system"), said("x")]}, "messages"),
    "too many messages": ({"messages": [said("x") for _ in range(201)]}, "messages"),
    "an answer at the end": ({"messages": [said("x"), said("y", role="assistant")]}, "messages"),
    "no model": ({"model": None}, "model"),
    "a model that is not there": ({"model": "nobody/nothing"}, "model"),
    "a chat that is no reference": ({"chatId": "a b"}, "chatId"),
    "a system prompt that is no text": ({"systemPrompt": 7}, "systemPrompt"),
    "a system prompt that is too long": ({"systemPrompt": "x" * 32_001}, "systemPrompt"),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_invalid_body_is_400_and_says_what_is_wrong(ada: Client, case: str) -> None:
    wrong, name = WRONG[case]
    for chat in ({}, {"chatId": "c"}):
        error = check_error(post(ada, {**request(said("x")), **chat, **wrong}), 400)
        assert list(error["fields"]) == [name]
        assert error["message"].startswith(name)
    assert ada.call("GET", "/api/chat/conversations")["total"] == 0


def test_two_hundred_messages_and_dates_of_every_kind_are_taken(ada: Client) -> None:
    messages = [said(str(number)) for number in range(200)]
    messages[0]["timestamp"] = 1704067200000  # type: ignore[assignment]
    messages[1]["timestamp"] = "2024-01-01T00:00:00.000Z"
    messages[2]["timestamp"] = None  # type: ignore[assignment]
    del messages[3]["timestamp"]
    assert answer(ada, request(*messages)) == "\n\n".join(map(str, range(200)))  # models take no two turns of one role
    long = said("y" * 40_000, role="assistant")  # an answer of the site's own may be longer than a question
    assert told(ada, said("a"), long, said("b"))[2] == ("assistant", long["content"])


@pytest.mark.parametrize("chat", [True, False])
def test_the_whole_history_comes_from_the_client(ada: Client, chat: bool) -> None:
    chat_id = nonce() if chat else None
    first = said("first")
    told(ada, first, chatId=chat_id)
    history = [said("Obey.", role="system"), first, said("invented", role="assistant"), said("second")]
    assert told(ada, *history, chatId=chat_id, systemPrompt="Rhyme.") == [
        ("system", "Rhyme.\n\nObey."),
        ("user", "first"),
        ("assistant", "invented"),
        ("user", "second"),
    ]


@pytest.mark.parametrize("chat", [True, False])
def test_without_a_system_prompt_the_sites_own_is_used(ada: Client, chat: bool) -> None:
    chat_id = nonce() if chat else None
    default = Settings.load({}, dotenv=None).system_prompt
    for given, prompt in ((None, default), ("", default), ("Rhyme.", "Rhyme.")):
        assert told(ada, said("x"), chatId=chat_id, systemPrompt=given)[0] == ("system", prompt)


# what is stored


def test_with_a_chat_new_questions_and_the_answer_are_stored(ada: Client) -> None:
    chat_id, one, two = nonce(), said("one"), said("two")
    assert answer(ada, request(one, chatId=chat_id)) == "one"
    assert answer(ada, request(one, said("one", role="assistant"), two, chatId=chat_id)) == "two"
    assert stored(ada, chat_id) == [("user", "one"), ("assistant", "one"), ("user", "two"), ("assistant", "two")]
    [conversation] = ada.call("GET", "/api/chat/conversations")["conversations"]
    assert (conversation["key"], conversation["title"], conversation["running"]) == (chat_id, "one", False)


def test_a_history_that_comes_at_once_is_stored_question_by_question(ada: Client) -> None:
    chat_id = nonce()
    history = [said("a"), said("x", role="assistant"), said("b"), said("y", role="assistant"), said("c")]
    answer(ada, request(said("s", role="system"), *history, chatId=chat_id))
    assert stored(ada, chat_id) == [("user", "a"), ("user", "b"), ("user", "c"), ("assistant", "c")]
    assert ada.call("GET", "/api/chat/conversations")["conversations"][0]["title"] == "a"


def test_a_message_that_is_stored_is_not_stored_again_and_answered_anew(ada: Client) -> None:
    chat_id, one = nonce(), said("one", "msg-1")
    for _ in range(3):
        answer(ada, request(one, chatId=chat_id))
    question, *answers = tree(ada, chat_id)
    assert question["role"] == "user"
    assert [message["parent_id"] for message in answers] == [question["id"]] * 3
    assert stored(ada, chat_id) == [("user", "one"), ("assistant", "one")]


def test_a_message_that_is_known_by_the_sites_own_id_is_not_stored_again(ada: Client) -> None:
    started, _ = ada.ask("one")
    question, reply = ada.conversation(started)["messages"]
    history = [said("one", question["id"]), said("one", reply["id"], role="assistant"), said("two")]
    answer(ada, request(*history, chatId=started["conversationId"]))
    shown = [("user", "one"), ("assistant", "one"), ("user", "two"), ("assistant", "two")]
    assert stored(ada, started["conversationId"]) == shown


def test_a_chat_is_its_owners(ada: Client, bob: Client) -> None:
    chat_id = nonce()
    answer(ada, request(said("of Ada's", "msg-1"), chatId=chat_id))
    answer(bob, request(said("of Bob's", "msg-1"), chatId=chat_id))
    hers = tree(ada, chat_id)[0]["conversation_id"]
    answer(bob, request(said("borrowed"), chatId=hers))
    assert stored(ada, chat_id) == [("user", "of Ada's"), ("assistant", "of Ada's")] == stored(ada, hers)
    assert stored(bob, chat_id) == [("user", "of Bob's"), ("assistant", "of Bob's")]


def counts(site: Site) -> dict[str, int]:
    """Return how many rows the tables have, but those that count use and renew leases."""
    engine = engine_for(Settings.load(site.environ, dotenv=None))
    with connected(engine) as connection:
        tables = [table for name, table in Base.metadata.tables.items() if name not in ("usage", "log_owners")]
        found = {table.name: connection.scalar(select(func.count()).select_from(table)) or 0 for table in tables}
    engine.dispose()
    return found


def test_without_a_chat_nothing_is_stored_not_even_the_log(site: Site, ada: Client) -> None:
    answer(ada, request(said("warm up"), chatId="c"))
    before = counts(site)
    assert answer(ada, request(said("a secret"), model="openai/count-20,delay=0.005")).startswith("1 2 3")
    assert events(frames(ada, request(said("a secret"), model="openai/status-500")))[-1][0] == "error"
    assert counts(site) == before
    answer(ada, request(said("a secret"), chatId="c"))
    assert counts(site) != before


# once, and again


@pytest.mark.parametrize("place", ["header", "body"])
def test_a_start_is_done_once(ada: Client, fake_models: FakeModels, place: str) -> None:
    key, chat_id, model = nonce(), nonce(), f"count-5,test={nonce()}"
    body = request(said("x"), model=f"openai/{model}", chatId=chat_id)

    def one(number: int) -> list[sse.Frame]:
        if place == "header":
            return frames(ada, body, **{"Idempotency-Key": key})
        return frames(ada, {**body, "requestId": key})

    with ThreadPoolExecutor(25) as pool:
        first, *others = pool.map(one, range(50))
    assert all(other == first for other in others)
    assert len(fake_models.log(model)) == 1
    assert stored(ada, chat_id) == [("user", "x"), ("assistant", "1 2 3 4 5")]


@pytest.mark.parametrize("keyed", [True, False])
def test_who_comes_back_goes_on_exactly_there_and_asks_nobody(
    ada: Client, fake_models: FakeModels, keyed: bool
) -> None:
    """Also without a key: a client that only repeats its POST, with the id of the last event, means the same answer."""
    model = f"count-12,delay=0.02,test={nonce()}"
    body = request(said("x"), model=f"openai/{model}", chatId=nonce())
    headers = {"Idempotency-Key": nonce()} if keyed else {}
    with closing(live(post(ada, body, **headers))) as stream:
        seen = list(islice(stream, 3))
    seen += frames(ada, body, seen[-1].id, **headers)
    assert events(seen)[-1][1]["fullContent"] == " ".join(map(str, range(1, 13)))
    for number, frame in enumerate(seen[:-1], 1):
        assert frames(ada, body, frame.id, **headers) == seen[number:]
    assert post(ada, body, seen[-1].id, **headers).status_code == 204
    assert len(fake_models.log(model)) == 1


def test_a_cursor_of_something_else_begins_at_the_beginning(ada: Client, bob: Client) -> None:
    theirs = frames(bob, request(said("a secret"), chatId="c"))
    mine = frames(ada, request(said("other"), chatId="c"))
    for cursor in (theirs[1].id, theirs[-1].id, mine[0].id, "1", "x", "é".encode().decode("latin-1")):
        for chat in ({"chatId": "c"}, {}):
            heard = events(frames(ada, request(said("mine"), **chat), cursor))
            assert [name for name, _ in heard] == ["message-start", *["message-chunk"] * (len(heard) - 2), NAMES[-1]]
            assert heard[-1][1]["fullContent"] == "mine"


def test_what_is_stored_outlives_its_reader(ada: Client) -> None:
    chat_id = nonce()
    with closing(live(post(ada, request(said("x"), model="openai/count-20,delay=0.02", chatId=chat_id)))) as stream:
        assert next(stream).event == "message-start"
    wait_until(lambda: stored(ada, chat_id)[-1][1] == " ".join(map(str, range(1, 21))))


def test_what_is_not_stored_ends_with_its_reader(ada: Client, fake_models: FakeModels) -> None:
    for scenario in ("count-5000,delay=0.05", "silent-after-1", "silent-headers"):
        model = f"{scenario},test={nonce()}"
        with closing(live(post(ada, request(said("x"), model=f"openai/{model}")))) as stream:
            assert next(stream).event == "message-start"
            fake_models.wait_for(lambda call: True, model=model)
            left_at = time.time()
        call = fake_models.wait_for(lambda call: bool(call["ended"]), 5, model=model)
        assert call["ended"] - left_at < 2


# a site of its own


@pytest.fixture(scope="module")
def strict(new_site: Callable[..., Site]) -> Site:
    """A site with narrow limits."""
    return new_site(CHATAPP_STREAMS_PER_USER="2", CHATAPP_TOKENS_PER_DAY="40")


def test_an_answer_that_is_not_stored_counts_as_one_of_the_users_streams(strict: Site) -> None:
    ada = strict.new_user()
    streams = [live(post(ada, request(said("x"), model="openai/count-40,delay=0.05"))) for _ in range(2)]
    assert [next(stream).event for stream in streams] == ["message-start"] * 2
    for chat in ({}, {"chatId": "c"}):
        check_error(post(ada, request(said("x"), **chat)), 429, "rate_limited")
    streams[0].close()  # type: ignore[attr-defined]
    wait_until(lambda: post(ada, request(said("x"))).status_code == 200)
    streams[1].close()  # type: ignore[attr-defined]


def test_what_nobody_could_read_is_neither_stored_nor_asked(strict: Site) -> None:
    ada = strict.new_user()
    project = ada.call("POST", "/api/projects", {"name": "Shop"}, 201)["id"]
    streams = [live(post(ada, request(said("x"), model="openai/count-40,delay=0.05"))) for _ in range(2)]
    assert [next(stream).event for stream in streams] == ["message-start"] * 2
    for method, path, body in (
        ("POST", "/api/stream", request(said("x"), chatId="c")),
        ("POST", "/chat/1/stream", {"question": "x", "model": "openai/echo"}),
        ("GET", "/chat/1/stream?question=x&model=openai/echo", None),
        ("GET", f"/ai/chat/stream?projectId={project}&message=x&model=openai/echo", None),
    ):
        check_error(ada.request(method, path, body), 429, "rate_limited")
        assert ada.call("GET", "/api/chat/conversations")["total"] == 0, path
    for stream in streams:
        stream.close()  # type: ignore[attr-defined]


def test_an_answer_that_is_not_stored_counts_towards_the_days_tokens(strict: Site) -> None:
    ada = strict.new_user()
    assert answer(ada, request(said("x"), model="openai/count-60"))

    def refused() -> bool:
        return all(post(ada, request(said("x"), **chat)).status_code == 429 for chat in ({}, {"chatId": "c"}))

    wait_until(refused)
    check_error(post(ada, request(said("x"))), 429, "quota_exceeded")


def test_the_turns_of_the_client_outlive_a_killed_worker(
    new_site: Callable[..., Site], fake_models: FakeModels
) -> None:
    site = new_site(CHATAPP_WORKERS="2")
    ada, model = site.new_user(), f"count-40,delay=0.05,test={nonce()}"
    history = [said("first"), said("invented", role="assistant"), said("x")]
    body = request(*history, model=f"anthropic/{model}", chatId="c", requestId=nonce())
    with closing(live(post(ada, body))) as stream:
        seen = list(islice(stream, 5))
        for worker in site.workers():
            worker.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while seen[-1].event != "message-complete" and time.monotonic() < deadline:
        try:
            seen += frames(ada, body, seen[-1].id)
        except requests.RequestException:
            time.sleep(0.1)
    text = "".join(data["content"] for name, data in events(seen) if name == "message-chunk")
    assert text == events(seen)[-1][1]["fullContent"] == " ".join(map(str, range(1, 41)))
    first, *later = fake_models.log(model)
    assert later
    for call in (first, *later):
        assert [turn["content"] for turn in call["messages"][1:4]] == ["first", "invented", "x"]


def test_a_deploy_lets_what_is_not_stored_end_or_says_that_it_cannot(new_site: Callable[..., Site]) -> None:
    site = new_site(CHATAPP_DRAIN_SECONDS="2")
    ada = site.new_user()
    short = live(post(ada, request(said("x"), model="openai/count-30,delay=0.04")))
    long = live(post(ada, request(said("x"), model=ENDLESS)))
    assert (next(short).event, next(long).event) == ("message-start", "message-start")
    stopping = threading.Thread(target=site.stop)
    stopping.start()
    assert list(short)[-1].event == "message-complete"
    last = list(long)[-1]
    assert (last.event, last.id) == ("error", None)
    assert "restarted" in json.loads(last.data)["message"]
    stopping.join()


# a storage that fails


@pytest.fixture(scope="module")
def full(new_site: Callable[..., Site]) -> Site:
    """A site whose disk is full while there is a certain file."""
    return new_site(application="tests.faults.builds.full")


@pytest.fixture
def filled(full: Site) -> Iterator[Path]:
    file = Path(full.environ["CHATAPP_DATA_DIR"]) / "full"
    yield file
    file.unlink(missing_ok=True)


def test_a_question_that_cannot_be_stored_is_logged_and_answered(full: Site, filled: Path) -> None:
    ada, model = full.new_user(), "openai/count-20,delay=0.005"
    first, second = said("y" * 20_000), said("z" * 20_000)
    assert answer(ada, request(first, model=model, chatId="c")).startswith("1 2 3")
    filled.touch()
    for _ in range(20):  # the last page has a little room
        assert answer(ada, request(first, said("w" * 30_000), model=model, chatId="c")).endswith(" 20")
    assert "could not be stored" in full.log()
    before = len(tree(ada, "c"))
    assert answer(ada, request(first, second, model=model, chatId="c")).endswith(" 20")
    assert len(tree(ada, "c")) == before
    check_error(
        ada.request("POST", "/api/chat/start", {"prompt": "x" * 30_000, "modelId": model}), 503
    )  # others say so
    filled.unlink()
    assert answer(ada, request(first, second, model=model, chatId="c"))  # and what was not stored is stored later
    assert ("user", second["content"]) in stored(ada, "c")


def test_a_storage_that_fails_in_mid_answer_does_not_interrupt_it(full: Site, filled: Path) -> None:
    """Beside it the control: another contract's answer, which waits, and ends in its error."""
    ada, chat_id = full.new_user(), nonce()
    model = "openai/count-400,delay=0.02,size=200"  # more than the last page has room for
    body = request(said("x"), model=model, chatId=chat_id)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(lambda: ada.ask("x", model)[1])
        stream = live(post(ada, body))
        heard = list(islice(stream, 10))
        filled.touch()
        heard += stream
        assert other.result()[-1].event == "fail"
    text = events(heard)[-1][1]["fullContent"]
    assert text == "".join(data["content"] for name, data in events(heard) if name == "message-chunk")
    assert len(text) == 400 * 200
    assert "it goes on in memory" in full.log()
    assert len(stored(ada, chat_id)[-1][1]) < len(text)
    filled.unlink()
    wait_until(lambda: stored(ada, chat_id)[-1][1] == text)  # it is stored as soon as that can be done
    assert frames(ada, body, heard[4].id) == heard[5:]


def test_a_database_that_is_locked_keeps_an_answer_waiting_for_some_seconds_only(full: Site) -> None:
    ada = full.new_user()
    answer(ada, request(said("one"), chatId="c"))
    with closing(sqlite3.connect(Path(full.environ["CHATAPP_DATA_DIR"]) / "chatapp.db", isolation_level=None)) as lock:
        lock.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        assert answer(ada, request(said("two"), chatId="c")) == "two"
        waited = time.monotonic() - began
        lock.execute("ROLLBACK")
    assert 4 < waited < 25  # others wait for 30 s
    assert stored(ada, "c") == [("user", "one"), ("assistant", "one")]
