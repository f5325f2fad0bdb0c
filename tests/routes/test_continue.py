"""An answer that is not whole is gone on with: in its place, from where it broke off, and the text it had is kept."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from chatapp.sse import Frame
from tests.support.fake_models import FakeModels
from tests.support.site import Client, Site, wait_until

EVERY_SETUP = True
STATES = {  # what a model does, how its answer ends, and in which status
    "length": ("length", "finished"),
    "interrupted": ("cut-fin-after-4", "interrupted"),
    "failed": ("error-in-stream-after-4", "failed"),
}
Started = dict[str, Any]


def key() -> str:
    return str(uuid.uuid4())


def counted(number: int) -> str:
    return " ".join(str(n) for n in range(1, number + 1))


def go_on(client: Client, started: Started, status: int = 201, **body: Any) -> Started:
    found: Started = client.call("POST", f"/api/chat/messages/{started['messageId']}/continue", body, status)
    return found


def gone_on(client: Client, started: Started, **body: Any) -> tuple[Started, list[Frame]]:
    """Go on and wait for the end; return what the start said and all frames."""
    again = go_on(client, started, **body)
    return again, list(client.follow(again["generationId"]))


def text_of(frames: list[Frame]) -> str:
    return "".join(json.loads(frame.data)["content"] for frame in frames if frame.event == "token")


def stop(client: Client, started: Started, *, after: int = 10) -> dict[str, Any]:
    """Stop the answer when it has *after* characters; return it as it is stored."""
    frames, seen = client.follow(started["generationId"]), ""
    while len(seen) < after:
        frame = next(frames)
        seen += json.loads(frame.data)["content"] if frame.event == "token" else ""
    frames.close()  # type: ignore[attr-defined]
    stopped: dict[str, Any] = client.call("POST", f"/api/chat/conversations/{started['conversationId']}/stop")
    return stopped["message"]  # type: ignore[no-any-return]


@pytest.fixture
def broken(ada: Client) -> tuple[Started, dict[str, Any]]:
    """An answer that was cut off, as its start and as it is stored."""
    started, _ = ada.ask("Count", "ollama/length")
    return started, ada.answer(started)


@pytest.mark.parametrize("api", ["ollama", "anthropic"])
def test_a_stopped_answer_goes_on_from_the_very_character(ada: Client, fake_models: FakeModels, api: str) -> None:
    model = fake_models.slow()
    started = ada.start("Count", f"{api}/{model}")
    stopped = stop(ada, started)
    assert (stopped["status"], counted(60)[: len(stopped["content"])]) == ("stopped", stopped["content"])
    fake_models.hurry(model)
    again, frames = gone_on(ada, started)
    assert (again["messageId"], again["conversationId"]) == (started["messageId"], started["conversationId"])
    assert again["userMessageId"] == started["userMessageId"]
    assert again["generationId"] != started["generationId"]
    assert text_of(frames) == counted(1000)
    stored = ada.answer(started)
    assert (stored["status"], stored["content"], stored["error"]) == ("finished", counted(1000), None)
    assert stored["generation_id"] == again["generationId"]
    assert stored["metadata"]["seams"] == [len(stopped["content"])]
    assert fake_models.log(model)[-1]["messages"][-1] == {"role": "assistant", "content": stopped["content"]}
    assert len(ada.conversation(started)["messages"]) == 2


@pytest.mark.parametrize("state", STATES)
def test_each_kind_of_broken_answer_goes_on(ada: Client, state: str) -> None:
    model, status = STATES[state]
    started, frames = ada.ask("Count", f"ollama/{model}")
    before = ada.answer(started)
    assert (before["status"], before["content"]) == (status, text_of(frames))
    again, frames = gone_on(ada, started, modelId="ollama/count-15")
    after = ada.answer(started)
    assert (after["content"], after["status"], after["finish_reason"]) == (counted(15), "finished", "stop")
    assert (after["error"], after["model"]) == (None, "ollama/count-15")
    assert after["metadata"]["seams"] == [len(before["content"])]
    assert json.loads(frames[-1].data)["message"] == after
    assert again["messageId"] == started["messageId"]


def test_its_log_begins_with_all_that_was_said(ada: Client) -> None:
    started, _ = ada.ask("Count", "ollama/cut-fin-after-4,reasoning=3")
    before = ada.answer(started)
    again, frames = gone_on(ada, started, modelId="ollama/count-6")
    assert [frame.event for frame in frames[:4]] == ["start", "status", "reasoning", "token"]
    assert json.loads(frames[0].data)["generation"] == again["generationId"]
    assert json.loads(frames[1].data)["content"] == "Going on where the answer broke off…"
    assert json.loads(frames[2].data)["content"] == before["reasoning"] != ""
    assert json.loads(frames[3].data)["content"] == before["content"] == counted(4)
    assert [int(frame.id or 0) for frame in frames] == list(range(1, len(frames) + 1))
    assert text_of(frames) == ada.answer(started)["content"] == counted(6)
    assert ada.answer(started)["reasoning"] == before["reasoning"]


def test_it_can_be_gone_on_with_again_and_again(ada: Client) -> None:
    started, _ = ada.ask("Count", "ollama/cut-fin-after-3")
    for number in (6, 9):
        _, frames = gone_on(ada, started)
        assert ada.answer(started)["status"] == "interrupted"
        assert (frames[-1].event, text_of(frames)) == ("fail", counted(number))
    seams = [len(counted(number)) for number in (3, 6)]
    assert json.loads(frames[-1].data)["metadata"]["seams"] == seams
    assert ada.answer(started)["metadata"]["seams"] == seams
    gone_on(ada, started)
    whole = ada.answer(started)
    assert (whole["status"], whole["content"]) == ("finished", counted(10))
    assert whole["metadata"]["seams"] == [*seams, len(counted(9))]


def test_what_goes_on_can_be_stopped_and_keeps_all(ada: Client, fake_models: FakeModels) -> None:
    started = ada.start("Count", f"ollama/{fake_models.slow()}")
    first = stop(ada, started)
    again = go_on(ada, started)
    second = stop(ada, again, after=len(first["content"]) + 5)
    assert second["status"] == "stopped"
    assert second["content"].startswith(first["content"])
    assert len(second["content"]) > len(first["content"])
    assert second["metadata"]["seams"] == [len(first["content"])]


def test_a_model_that_takes_no_beginning_is_asked_by_a_further_turn(ada: Client, fake_models: FakeModels) -> None:
    model = f"cut-fin-after-3,test={key()}"
    started, _ = ada.ask("Count", f"openai/{model}")
    gone_on(ada, started)
    asked = [turn for turn in fake_models.log(model)[-1]["messages"] if turn["role"] != "system"]
    assert asked[:2] == [{"role": "user", "content": "Count"}, {"role": "assistant", "content": "1 2 3"}]
    assert [turn["role"] for turn in asked] == ["user", "assistant", "user"]
    assert "Go on exactly" in asked[2]["content"]
    assert ada.answer(started)["content"] == "1 2 3" + "1 2 3"  # whatever it says comes after what there was
    assert len(ada.conversation(started)["messages"]) == 2  # that turn is nobody's question


def test_all_readers_of_it_see_one_whole_answer(ada: Client, broken: tuple[Started, dict[str, Any]]) -> None:
    started, _ = broken
    again = go_on(ada, started, modelId="ollama/count-60,delay=0.02")
    with ThreadPoolExecutor(4) as pool:
        heard = list(pool.map(lambda _: list(ada.follow(again["generationId"])), range(4)))
    assert heard == [heard[0]] * 4
    assert text_of(heard[0]) == counted(60)
    assert list(ada.follow(again["generationId"], heard[0][4].id)) == heard[0][5:]


def test_while_it_grows_it_is_running_with_what_it_had(ada: Client, broken: tuple[Started, dict[str, Any]]) -> None:
    started, before = broken
    again = go_on(ada, started, modelId="ollama/count-2000,delay=0.05")
    now = ada.answer(started)
    assert (now["status"], now["generation_id"]) == ("running", again["generationId"])
    assert (now["content"], now["finish_reason"], now["error"]) == (before["content"], None, None)
    assert ada.conversation(started)["running"] is True
    stop(ada, again)


def refusals(client: Client) -> Iterator[Started]:
    running = client.start("x", "ollama/endless,delay=0.05")
    yield running
    client.call("POST", f"/api/chat/conversations/{running['conversationId']}/stop")
    whole, _ = client.ask("x", "ollama/count-3")
    yield whole
    yield {**whole, "messageId": whole["userMessageId"]}
    failed, _ = client.ask("x", "ollama/status-500")
    yield failed
    silent = client.start("x", "ollama/silent-body")
    client.call("POST", f"/api/chat/conversations/{silent['conversationId']}/stop")
    yield silent


def test_what_runs_is_whole_or_is_empty_is_not_gone_on_with(ada: Client) -> None:
    said = set()
    for started in refusals(ada):
        before = ada.answer(started)
        error = go_on(ada, started, 409)["error"]
        assert error["code"] == "conflict"
        said.add(error["message"])
        if before["status"] != "running":
            assert ada.answer(started) == before
    assert len(said) == 3


def test_what_is_not_mine_is_not_gone_on_with(ada: Client, bob: Client, broken: tuple[Started, dict[str, Any]]) -> None:
    started, before = broken
    assert go_on(bob, started, 404) == go_on(bob, {"messageId": key()}, 404)
    assert ada.answer(started) == before


@pytest.mark.parametrize("by_header", [False, True])
def test_many_requests_with_one_key_go_on_once(
    ada: Client, fake_models: FakeModels, broken: tuple[Started, dict[str, Any]], by_header: bool
) -> None:
    started, before = broken
    name, model = key(), f"count-20,test={key()}"
    body = {"modelId": f"ollama/{model}"} | ({} if by_header else {"requestId": name})
    headers = {"Idempotency-Key": name} if by_header else {}
    path = f"/api/chat/messages/{started['messageId']}/continue"
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: ada.call("POST", path, body, 201, headers=headers), range(20)))
    assert answers == [answers[0]] * 20
    list(ada.follow(answers[0]["generationId"]))
    assert ada.answer(started)["content"] == counted(20)
    assert ada.answer(started)["metadata"]["seams"] == [len(before["content"])]
    assert len(fake_models.log(model)) == 1
    assert ada.call("POST", path, body, 201, headers=headers) == answers[0]  # also when it has ended


def test_many_who_go_on_at_once_are_one_and_the_others_are_told(
    ada: Client, fake_models: FakeModels, broken: tuple[Started, dict[str, Any]]
) -> None:
    started, _ = broken
    model = fake_models.slow()
    path = f"/api/chat/messages/{started['messageId']}/continue"
    with ThreadPoolExecutor(8) as pool:
        body = {"modelId": f"ollama/{model}"}
        statuses = sorted(pool.map(lambda _: ada.request("POST", path, body).status_code, range(8)))
    assert statuses == [201] + [409] * 7
    stop(ada, {**started, "generationId": ada.answer(started)["generation_id"]})
    assert len(fake_models.log(model)) == 1


def test_the_old_log_says_what_it_said(ada: Client) -> None:
    started, whole = ada.ask("Count", "ollama/cut-fin-after-4")
    gone_on(ada, started, modelId="ollama/count-6")
    assert list(ada.follow(started["generationId"])) == whole
    assert list(ada.follow(started["generationId"], whole[3].id)) == whole[4:]
    end = ada.request(
        "GET", f"/api/generations/{started['generationId']}/events", headers={"Last-Event-ID": whole[-1].id}
    )
    assert end.status_code == 204


def test_where_the_old_log_is_gone_its_readers_get_the_answer_as_it_is(new_site: Callable[..., Site]) -> None:
    client = new_site(CHATAPP_STREAM_RETENTION_SECONDS="1").new_user()
    started, whole = client.ask("Count", "ollama/cut-fin-after-4")
    gone_on(client, started, modelId="ollama/count-6")

    def replayed() -> list[Frame]:
        frames = list(client.follow(started["generationId"]))
        return frames if frames[0].event == "reset" else []

    reset, end = wait_until(replayed)
    assert json.loads(reset.data)["text"] == counted(6)
    assert (end.event, end.id) == ("done", whole[-1].id)
    assert json.loads(end.data)["message"]["content"] == counted(6)
