"""The contract of `/chat/start`, `/chat/stream` and `/chat/history`, line by line.

Plans, usage and metrics have tests of their own; so have reactions, exports and the cache.
"""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update

from chatapp.database import connected, engine_for, utcnow
from chatapp.models.conversations import Message
from chatapp.models.generations import Generation
from chatapp.settings import ROOT, Settings
from tests.support.api import check_error
from tests.support.fake_models import FakeModels
from tests.support.site import Client, Site, wait_until

SETUPS = ("sqlite, 1 worker", "postgresql, redis, 2 workers")
PATHS = ("/api/chat", "/chat")


def new(scenario: str) -> str:
    """Return a model that nobody else asks."""
    return f"{scenario},test={uuid.uuid4().hex}"


def streamed(client: Client, session: str, *, path: str = "/api/chat", after: str | None = None) -> list[Any]:
    """Return the events of a session's stream, which are data only."""
    frames = list(client.frames(f"{path}/stream?sessionId={session}", after))
    assert all(frame.event is None for frame in frames)
    return [json.loads(frame.data) for frame in frames]


def text_of(events: list[Any]) -> str:
    assert events[-1] == {"type": "done"}
    assert all(set(event) == {"type", "content"} and event["type"] == "token" for event in events[:-1])
    return "".join(event["content"] for event in events[:-1])


def said(client: Client, prompt: str, **body: Any) -> str:
    """Return what is answered to *prompt*, to the end."""
    started = client.start(prompt, body.pop("model", "openai/echo"), **body)
    return text_of(streamed(client, started["sessionId"]))


def history(client: Client, **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.call("GET", "/api/chat/history", params=query)["messages"]
    return found


def name() -> str:
    return f"chat-{uuid.uuid4().hex}"


def change(site: Site, generation_id: str, **values: Any) -> None:
    """Change a session behind the site's back, as time would."""
    engine = engine_for(Settings.load(site.environ, dotenv=None))
    with connected(engine, writes=True) as connection:
        connection.execute(update(Generation).where(Generation.id == generation_id).values(**values))
    engine.dispose()


def is_there(site: Site, generation_id: str) -> bool:
    engine = engine_for(Settings.load(site.environ, dotenv=None))
    with connected(engine) as connection:
        found = connection.scalar(select(func.count()).where(Generation.id == generation_id))
    engine.dispose()
    return bool(found)


# starting


@pytest.mark.parametrize("path", PATHS)
def test_a_start_answers_with_a_session_and_a_chat(ada: Client, path: str) -> None:
    started = ada.call("POST", f"{path}/start", {"modelId": "openai/echo", "prompt": "a b"}, 201)
    assert uuid.UUID(started["sessionId"])
    assert uuid.UUID(started["chatId"])
    assert text_of(streamed(ada, started["sessionId"], path=path)) == "a b"
    found = ada.call("GET", f"{path}/history?chatId={started['chatId']}")
    assert found["chatId"] == started["chatId"]
    assert [message["content"] for message in found["messages"]] == ["a b", "a b"]


def test_the_question_is_stored_at_once(ada: Client) -> None:
    chat = name()
    started = ada.start("Where?", "openai/silent-body", chatId=chat)
    assert started["chatId"] == chat
    question, answer = history(ada, chatId=chat)
    assert (question["role"], question["content"], question["status"]) == ("user", "Where?", "stored")
    assert (answer["role"], answer["status"]) == ("assistant", "running")
    ada.call("POST", f"/api/chat/conversations/{started['conversationId']}/stop")


def test_a_session_is_threaded_into_its_chat(ada: Client, fake_models: FakeModels) -> None:
    model, chat = new("echo"), name()
    for prompt in ("one", "two"):
        said(ada, prompt, model=f"openai/{model}", chatId=chat)
    told = [turn["content"] for turn in fake_models.log(model)[-1]["messages"] if turn["role"] != "system"]
    assert told == ["one", "one", "two"]


@pytest.mark.parametrize("field", ["projectId", "taskId", "chatId", "prompt", "modelId"])
def test_a_field_of_the_wrong_form_is_refused(ada: Client, field: str) -> None:
    for wrong in (7, ["x"], "a b\0", "x" * 40_000):
        body = {"prompt": "x", "modelId": "openai/echo", field: wrong}
        assert field in check_error(ada.request("POST", "/api/chat/start", body), 400)["fields"]


def test_a_chat_in_a_project_of_the_users_own(ada: Client, bob: Client) -> None:
    project = ada.call("POST", "/api/projects", {"name": "P"}, 201)["id"]
    started = ada.start("in it", projectId=project, chatId=name())
    assert ada.conversation(started)["project_id"] == project
    for client, wrong in ((bob, project), (ada, str(uuid.uuid4()))):
        body = {"prompt": "x", "modelId": "openai/echo", "projectId": wrong}
        check_error(client.request("POST", "/api/chat/start", body), 404)
        check_error(client.request("GET", f"/api/chat/history?projectId={wrong}"), 404)
    assert [m["chatId"] for m in history(ada, projectId=project)] == [started["conversationId"]] * 2
    outside = ada.start("outside", chatId=name())
    assert [m["content"] for m in history(ada, projectId=project, chatId=outside["chatId"])] == []
    assert len(history(ada, projectId=project, chatId=started["chatId"])) == 2


def test_a_task_is_kept_on_question_and_answer(ada: Client) -> None:
    chat, task = name(), "Task:1.a_b-c"
    started = ada.start("for it", chatId=chat, taskId=task)
    said(ada, "not for it", chatId=chat)
    assert [m["content"] for m in history(ada, taskId=task)] == ["for it", "for it"]
    assert [m["taskId"] for m in history(ada, chatId=chat)] == [task, task, None, None]
    assert [m["content"] for m in history(ada, chatId=chat, taskId=task)] == ["for it", "for it"]
    assert history(ada, taskId="another") == []
    path = f"/api/chat/messages/{started['messageId']}/regenerate"
    again = ada.call("POST", path, {}, 201)
    wait_until(lambda: ada.answer(again)["status"] == "finished")
    assert ada.answer(again)["task_id"] == task
    for wrong in ("", "x" * 65, "a b"):
        body = {"prompt": "x", "taskId": wrong}
        check_error(ada.request("POST", "/api/chat/start", body), 400)


# the session


def test_tokens_then_done_and_nothing_else(ada: Client) -> None:
    started = ada.start("x", "openai/count-5")
    assert text_of(streamed(ada, started["sessionId"])) == "1 2 3 4 5"


def test_what_goes_wrong_with_the_model_is_an_error_event_and_the_last(ada: Client) -> None:
    started = ada.start("x", "openai/error-in-stream-after-2")
    events = streamed(ada, started["sessionId"])
    assert set(events[-1]) == {"type", "message"}
    assert events[-1]["type"] == "error"
    assert "done" not in {event["type"] for event in events}


def test_an_unknown_session_and_somebody_elses_are_not_there(ada: Client, bob: Client) -> None:
    mine = ada.start("x")["sessionId"]
    answers = [
        client.request("GET", f"/api/chat/stream?sessionId={session}")
        for client, session in ((bob, mine), (bob, str(uuid.uuid4())), (ada, "cm2exxxxx"))
    ]
    assert len({json.dumps(check_error(answer, 404)) for answer in answers}) == 1
    check_error(Client(ada.url).request("GET", f"/api/chat/stream?sessionId={mine}"), 401)


def test_an_expired_session_is_gone_but_not_for_who_comes_back(site: Site, ada: Client) -> None:
    session = ada.start("a b")["sessionId"]
    frames = list(ada.frames(f"/api/chat/stream?sessionId={session}"))
    change(site, session, expires_at=utcnow() - timedelta(seconds=1))
    error = check_error(ada.request("GET", f"/api/chat/stream?sessionId={session}"), 410)
    assert error["code"] == "session_expired"
    assert streamed(ada, session, after=frames[0].id) == [json.loads(frame.data) for frame in frames[1:]]


def test_a_session_lasts_ten_minutes(site: Site, ada: Client) -> None:
    session = ada.start("x")["sessionId"]
    engine = engine_for(Settings.load(site.environ, dotenv=None))
    with connected(engine) as connection:
        lasts = connection.execute(
            select(Generation.created_at, Generation.expires_at).where(Generation.id == session)
        ).one()
    engine.dispose()
    assert abs((lasts.expires_at - lasts.created_at).total_seconds() - 600) < 5


def test_a_session_opens_ten_times_and_asks_the_model_once(ada: Client, fake_models: FakeModels) -> None:
    model = new("count-3")
    session = ada.start("x", f"openai/{model}")["sessionId"]
    with ThreadPoolExecutor(5) as pool:
        texts = list(pool.map(lambda _: text_of(streamed(ada, session)), range(10)))
    assert texts == ["1 2 3"] * 10
    error = check_error(ada.request("GET", f"/api/chat/stream?sessionId={session}"), 429)
    assert error["code"] == "rate_limited"
    assert len(fake_models.log(model)) == 1


def test_two_readers_of_one_session_see_the_same_while_it_runs(ada: Client, fake_models: FakeModels) -> None:
    model = new("count-60,delay=0.02")
    session = ada.start("x", f"openai/{model}")["sessionId"]
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: text_of(streamed(ada, session)), range(2))
    assert one == other == " ".join(str(number) for number in range(1, 61))
    assert len(fake_models.log(model)) == 1


# sweeping


def swept(site: Site) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-m", "chatapp.cli", "sweep", "--json"],
        cwd=ROOT,
        env=site.environ,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    counts: dict[str, int] = json.loads(done.stdout)
    return counts


def long_over(site: Site, session: str, *, days: float = 1.1) -> None:
    past = utcnow() - timedelta(days=days)
    change(site, session, expires_at=past, ended_at=past)


def test_sessions_that_expired_a_day_ago_are_swept_and_their_answers_stay(site: Site, ada: Client) -> None:
    old, recent, running = ada.start("a b"), ada.start("c d"), ada.start("x", "openai/silent-body")
    still_open = ada.start("e f")
    for started in (old, recent, still_open):
        streamed(ada, started["sessionId"])
    before = history(ada, chatId=old["chatId"])
    long_over(site, old["sessionId"])
    long_over(site, recent["sessionId"], days=0.9)
    change(site, still_open["sessionId"], ended_at=utcnow() - timedelta(days=2))
    change(site, running["sessionId"], expires_at=utcnow() - timedelta(days=2))
    assert swept(site)["sessions"] >= 1
    check_error(ada.request("GET", f"/api/chat/stream?sessionId={old['sessionId']}"), 404)
    check_error(ada.request("GET", f"/api/generations/{old['generationId']}/events"), 404)
    check_error(ada.request("GET", f"/api/chat/stream?sessionId={recent['sessionId']}"), 410)
    assert history(ada, chatId=old["chatId"]) == before
    assert is_there(site, running["generationId"])
    assert is_there(site, still_open["generationId"])
    ada.call("POST", f"/api/chat/conversations/{running['conversationId']}/stop")


def test_what_looked_for_a_session_that_was_swept_does_without(
    site: Site, ada: Client, fake_models: FakeModels
) -> None:
    model, key = new("echo"), uuid.uuid4().hex
    started = ada.start("a b", f"openai/{model}", requestId=key)
    streamed(ada, started["sessionId"])
    long_over(site, started["sessionId"])
    swept(site)
    conversation = f"/api/chat/conversations/{started['conversationId']}"
    frames = list(ada.frames(f"{conversation}/stream"))
    told = [json.loads(frame.data) for frame in frames if frame.event == "chunk"]
    assert "".join(chunk["content"] for chunk in told) == "a b"
    assert frames[-1].event == "done"
    assert ada.request("GET", f"{conversation}/stream", headers={"Last-Event-ID": frames[-1].id}).status_code == 204
    assert len(fake_models.log(model)) == 1
    assert ada.call("POST", f"{conversation}/stop")["message"]["content"] == "a b"
    again = ada.call("POST", f"/api/chat/messages/{started['messageId']}/regenerate", {}, 201)
    assert text_of(streamed(ada, again["sessionId"])) == "a b"
    forgotten = ada.start("a b", requestId=key)
    assert forgotten["sessionId"] != started["sessionId"]
    ada.call("DELETE", conversation, status=204)


def test_the_site_sweeps_by_itself(new_site: Callable[..., Site]) -> None:
    own = new_site(CHATAPP_SESSION_SECONDS="1", CHATAPP_STREAM_RETENTION_SECONDS="1")
    ada = own.new_user()
    session = ada.start("x")["sessionId"]
    wait_until(lambda: history(ada)[-1]["status"] == "finished")
    long_over(own, session)
    wait_until(lambda: not is_there(own, session), 20)


# the history

FIELDS = {"id", "role", "content", "createdAt", "model", "status"}


def test_a_history_is_oldest_first_and_has_all_fields_always(ada: Client) -> None:
    chat = name()
    for prompt in ("one", "two"):
        said(ada, prompt, chatId=chat)
    found = ada.call("GET", "/api/chat/history", params={"chatId": chat})
    assert found["chatId"] == chat
    messages = found["messages"]
    assert all(set(message) >= FIELDS for message in messages)
    assert len({frozenset(message) for message in messages}) == 1
    assert [message["content"] for message in messages] == ["one", "one", "two", "two"]
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2
    assert [message["model"] for message in messages] == [None, "openai/echo"] * 2
    assert [message["createdAt"] for message in messages] == sorted(message["createdAt"] for message in messages)
    assert all(message["createdAt"].endswith("Z") for message in messages)


def test_without_a_chat_the_latest_messages_are_paged(ada: Client, bob: Client) -> None:
    for prompt in ("one", "two", "three"):
        said(ada, prompt)
    said(bob, "somebody else's")
    pages = [ada.call("GET", f"/api/chat/history?page={page}&page_size=4") for page in (1, 2)]
    assert [page["total"] for page in pages] == [6, 6]
    assert [m["content"] for m in pages[0]["messages"]] == ["two", "two", "three", "three"]
    assert [m["content"] for m in pages[1]["messages"]] == ["one", "one"]
    assert all(page["chatId"] is None for page in pages)


def test_an_unknown_chat_has_no_history(ada: Client, bob: Client) -> None:
    chat = name()
    said(ada, "x", chatId=chat)
    for client, wrong in ((bob, chat), (ada, name()), (ada, str(uuid.uuid4()))):
        check_error(client.request("GET", f"/api/chat/history?chatId={wrong}"), 404)


# slash commands

COMMANDS = ("help", "model", "clear", "title", "system", "docs", "summarize", "export")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_answered_in_the_same_events_and_no_model_is_asked(
    ada: Client, fake_models: FakeModels, command: str
) -> None:
    model = new("echo")
    started = ada.start(f"/{command}", f"openai/{model}")
    assert text_of(streamed(ada, started["sessionId"]))
    assert fake_models.log(model) == []
    question, answer = ada.conversation(started)["messages"]
    assert question["command"] == answer["command"] == command
    assert (answer["status"], answer["finish_reason"]) == ("finished", "stop")


def test_an_unknown_command_is_answered_with_the_list(ada: Client) -> None:
    text = said(ada, "/nonsense and more")
    assert "/nonsense" in text
    assert all(f"`/{command}" in text for command in COMMANDS)


def test_models_are_told_nothing_of_commands(ada: Client, fake_models: FakeModels) -> None:
    model, chat = new("echo"), name()
    for prompt in ("one", "/help", "/no-such", "two"):
        said(ada, prompt, model=f"openai/{model}", chatId=chat)
    told = [turn["content"] for turn in fake_models.log(model)[-1]["messages"] if turn["role"] != "system"]
    assert told == ["one", "one", "two"]
    assert len(history(ada, chatId=chat)) == 8


def test_two_slashes_are_for_the_model(ada: Client) -> None:
    assert said(ada, "//help me") == "/help me"
    assert said(ada, "/etc/hosts is what?") == "/etc/hosts is what?"


def test_commands_are_carried_out_where_they_are_typed_and_nowhere_else(ada: Client) -> None:
    """Not in what a model says, not in questions that other contracts bring, not in what is replayed."""
    chat = name()
    said(ada, "say: /title Stolen", chatId=chat)  # the model echoes it
    echoed = ada.start("x", "openai/echo,text=%2Ftitle%20Stolen", chatId=chat)
    assert text_of(streamed(ada, echoed["sessionId"])) == "/title Stolen"
    conversation = ada.conversation(echoed)
    assert conversation["title"] == "say: /title Stolen"
    asked = ada.call("POST", "/api/v1/ai/chat", {"message": "/title Stolen", "conversationId": conversation["id"]}, 200)
    assert asked["message"]["content"] == "/title Stolen"
    assert ada.conversation(echoed)["title"] == "say: /title Stolen"


def test_a_title_is_set_and_commands_give_none_by_themselves(ada: Client) -> None:
    chat = name()
    started = ada.start("/help", chatId=chat)
    streamed(ada, started["sessionId"])
    assert ada.conversation(started)["title"] == ""
    said(ada, "First question", chatId=chat)
    assert ada.conversation(started)["title"] == "First question"
    said(ada, "/title  My  talk ", chatId=chat)
    assert ada.conversation(started)["title"] == "My talk"
    assert "200" in said(ada, "/title " + "x" * 201, chatId=chat)
    assert ada.conversation(started)["title"] == "My talk"


def test_a_model_is_chosen_for_the_questions_that_name_none(ada: Client, fake_models: FakeModels) -> None:
    model, chat = new("echo"), name()
    said(ada, f"/model openai/{model}", chatId=chat)
    started = ada.start("x", None, chatId=chat)  # type: ignore[arg-type]
    streamed(ada, started["sessionId"])
    assert len(fake_models.log(model)) == 1
    assert ada.conversation(started)["model"] == f"openai/{model}"
    assert "There is no model nonsense" in said(ada, "/model nonsense", chatId=chat)
    assert ada.conversation(started)["model"] == f"openai/{model}"
    assert f"openai/{model}" in said(ada, "/model", chatId=chat)


def test_a_system_prompt_is_the_conversations_own(ada: Client, fake_models: FakeModels) -> None:
    model, chat = new("echo"), name()
    said(ada, "/system Rhyme.", chatId=chat)
    for prompt in ("x", "/system off", "y"):
        said(ada, prompt, model=f"openai/{model}", chatId=chat)
    first, second = (
        [t["content"] for t in call["messages"] if t["role"] == "system"] for call in fake_models.log(model)
    )
    assert "Rhyme." in first[0]
    assert "Rhyme." not in second[0]
    said(ada, "z", model=f"openai/{model}", chatId=name())
    assert "Rhyme." not in fake_models.log(model)[-1]["messages"][0]["content"]


def test_after_a_clear_models_are_told_nothing_from_before_and_nothing_is_lost(
    ada: Client, fake_models: FakeModels
) -> None:
    model, chat = new("echo"), name()
    started = ada.start("one", f"openai/{model}", chatId=chat)
    streamed(ada, started["sessionId"])
    for prompt in ("/clear", "two"):
        said(ada, prompt, model=f"openai/{model}", chatId=chat)
    told = [turn["content"] for turn in fake_models.log(model)[-1]["messages"] if turn["role"] != "system"]
    assert told == ["two"]
    assert [m["content"] for m in history(ada, chatId=chat)][2:] == ["two", "two"]
    assert len(ada.conversation(started)["messages"]) == 6
    ada.call("PATCH", f"/api/chat/conversations/{started['conversationId']}", {"leaf_id": started["messageId"]})
    said(ada, "three", model=f"openai/{model}", chatId=chat)
    told = [turn["content"] for turn in fake_models.log(model)[-1]["messages"] if turn["role"] != "system"]
    assert told == ["one", "one", "three"]


def test_a_summary_is_asked_over_the_history_and_told_on(ada: Client, fake_models: FakeModels) -> None:
    model, chat = new("count-3"), name()
    said(ada, "one", model=f"openai/{model}", chatId=chat)
    started = ada.start("/summarize in verse", f"openai/{model}", chatId=chat)
    assert text_of(streamed(ada, started["sessionId"])) == "1 2 3"
    told = [turn for turn in fake_models.log(model)[-1]["messages"] if turn["role"] != "system"]
    assert [turn["role"] for turn in told] == ["user", "assistant", "user"]
    assert told[-1]["content"].endswith("in verse")
    assert not told[-1]["content"].startswith("/summarize")
    said(ada, "shorter", model=f"openai/{model}", chatId=chat)
    told = [turn for turn in fake_models.log(model)[-1]["messages"] if turn["role"] != "system"]
    assert [turn["content"] for turn in told] == ["one", "1 2 3\n\n1 2 3", "shorter"]
    again = ada.call("POST", f"/api/chat/messages/{started['messageId']}/regenerate", {}, 201)
    streamed(ada, again["sessionId"])
    assert fake_models.log(model)[-1]["messages"][-1]["content"].endswith("in verse")


def test_an_export_links_to_files_that_are_there(ada: Client) -> None:
    text = said(ada, "/export", chatId=name())
    links = [part.split(")")[0] for part in text.split("](")[1:]]
    assert len(links) == 3
    for link in links:
        assert link.startswith(ada.url)
        assert ada.http.get(link, timeout=60).status_code == 200


def test_a_command_is_edited_and_given_again(ada: Client, fake_models: FakeModels) -> None:
    model, chat = new("echo"), name()
    started = ada.start("/title One", f"openai/{model}", chatId=chat)
    streamed(ada, started["sessionId"])
    path = f"/api/chat/messages/{started['userMessageId']}"
    edited = ada.call("PATCH", path, {"content": "/title Two"}, 201)
    streamed(ada, edited["sessionId"])
    assert ada.conversation(started)["title"] == "Two"
    again = ada.call("POST", f"/api/chat/messages/{started['messageId']}/regenerate", {}, 201)
    assert "One" in text_of(streamed(ada, again["sessionId"]))
    assert ada.conversation(started)["title"] == "One"
    plain = ada.call("PATCH", path, {"content": "a question", "modelId": f"openai/{model}"}, 201)
    assert text_of(streamed(ada, plain["sessionId"])) == "a question"
    check_error(ada.request("POST", f"/api/chat/messages/{started['messageId']}/continue", {}), 409)


def test_a_command_is_carried_out_once_per_key(ada: Client) -> None:
    chat, key = name(), uuid.uuid4().hex
    with ThreadPoolExecutor(8) as pool:
        starts = list(pool.map(lambda _: ada.start("/title Once", chatId=chat, requestId=key), range(8)))
    assert len({started["sessionId"] for started in starts}) == 1
    assert len(ada.conversation(starts[0])["messages"]) == 2


def test_a_site_without_any_model_carries_commands_out(new_site: Callable[..., Site]) -> None:
    empty = dict.fromkeys(("OPENAI_BASE_URL", "OPENAI_API_KEY", "ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY"), "")
    own = new_site(**empty, OLLAMA_HOST="http://127.0.0.1:1")
    ada = own.new_user()
    assert "`/title" in said(ada, "/help", model=None)
    assert "no model" in said(ada, "/model", model=None)
    check_error(ada.request("POST", "/api/chat/start", {"prompt": "x"}), 400)


def test_positions_and_tree_stay_whole(site: Site, ada: Client) -> None:
    chat = name()
    for prompt in ("one", "/clear", "two", "/help"):
        said(ada, prompt, chatId=chat)
    engine = engine_for(Settings.load(site.environ, dotenv=None))
    with connected(engine) as connection:
        conversation_id = history(ada, chatId=chat)[0]["chatId"]
        rows = connection.execute(
            select(Message.position, Message.parent_id)
            .where(Message.conversation_id == conversation_id)
            .order_by(Message.position)
        ).all()
    engine.dispose()
    assert [row.position for row in rows] == list(range(1, 9))
    assert [row.parent_id is None for row in rows] == [True, False, True, False, False, False, False, False]
