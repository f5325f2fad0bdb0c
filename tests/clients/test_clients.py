"""Every contract's stream, read by clients that others wrote: live, cut off and gone on with, and once more from the start."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
from playwright.sync_api import Page

from tests.clients import _clients
from tests.clients._clients import CLIENTS, ENDS, NAMES, ONLY_GET, Call, Event, Time, each, whole
from tests.support.site import Client, Site

MODEL = "openai/count-16,delay=0.01"
WORDS = " ".join(str(number) for number in range(1, 17))
CUT = 4  # events


@pytest.fixture(scope="module")
def site(new_site: Callable[..., Site]) -> Site:
    return new_site(CHATAPP_DEFAULT_MODEL=MODEL)


@pytest.fixture
def ada(site: Site) -> Client:
    return site.new_user("Ada")


def history(ada: Client) -> Call:
    messages = [{"id": "m1", "role": "user", "content": "count", "timestamp": "2024-01-01T00:00:00Z"}]
    return Call("/api/stream", "POST", {"messages": messages, "model": MODEL, "chatId": "c", "requestId": nonce()})


def history_unkept(ada: Client) -> Call:
    body = history(ada).body or {}
    return Call("/api/stream", "POST", {**body, "chatId": None})


def question(ada: Client) -> Call:
    return Call(f"/chat/{nonce()}/stream", "POST", {"question": "count", "model": MODEL, "requestId": nonce()})


def question_by_get(ada: Client) -> Call:
    return Call(f"/chat/{nonce()}/stream?question=count&requestId={nonce()}")


def chat(ada: Client) -> Call:
    project = ada.call("POST", "/api/projects", {"name": "Counting"}, 201)["id"]
    return Call(
        f"/api/v1/ai/chat/stream?projectId={project}&message=count&conversationId={uuid.uuid4()}&requestId={nonce()}"
    )


def conversation(ada: Client) -> Call:
    path = "/api/chat/conversations"
    path += f"/{ada.call('POST', path, {}, 201)['id']}"
    ada.call("POST", f"{path}/messages", {"content": "count"}, 201)
    return Call(f"{path}/stream")


def session(ada: Client) -> Call:
    return Call(f"/api/chat/stream?sessionId={ada.start('count', MODEL)['sessionId']}")


def native(ada: Client) -> Call:
    return Call(f"/api/generations/{ada.start('count', MODEL)['generationId']}/events")


def nonce() -> str:
    return uuid.uuid4().hex


WAYS: dict[str, Callable[[Client], Call]] = {
    "A": history,
    "B": question,
    "B by GET": question_by_get,
    "C": chat,
    "D": conversation,
    "E": session,
    "N": native,
}


def call_of(way: Callable[[Client], Call], ada: Client) -> Call:
    made = way(ada)
    return Call(ada.url + made.url, made.method, made.body, {"Authorization": str(ada.http.headers["Authorization"])})


def check(call: Call, read: _clients.Client) -> None:
    """Read until cut off in mid-answer, go on, and read it all again."""
    first, rest, again = read(call, [Time(CUT), Time(resume=True), Time()])
    expected = whole(call)
    assert len(first) == CUT
    assert [*first, *rest] == expected
    assert again == expected
    assert WORDS.split()[-1] in expected[-3].data + expected[-2].data + expected[-1].data


PAIRS = [
    (way, client) for way in WAYS for client in CLIENTS if way not in ("A", "B") or client not in ONLY_GET
]  # A and B are POSTs


@pytest.mark.parametrize(("way", "client"), PAIRS)
def test_a_stream_is_whole_to_anybodys_client(ada: Client, way: str, client: str) -> None:
    check(call_of(WAYS[way], ada), CLIENTS[client])


@pytest.mark.parametrize("client", [client for client in CLIENTS if client not in ONLY_GET])
def test_what_nobody_keeps_is_whole_to_who_stays(ada: Client, client: str) -> None:
    [events] = CLIENTS[client](call_of(history_unkept, ada), [Time()])
    assert (events[0].event, events[-1].event) == ("message-start", "message-complete")
    assert WORDS in events[-1].data
    assert ada.call("GET", "/api/chat/conversations")["total"] == 0


# a browser

EVENT_SOURCE = """({url, most, ends, names}) => new Promise((resolve) => {
  const events = [], source = new EventSource(url);
  const take = (event) => {
    if (event.data === undefined) return;  // an error of the connection
    events.push([event.type, event.data, event.lastEventId]);
    const kind = event.type === "message" ? JSON.parse(event.data).type : event.type;
    if (events.length >= most || ends.includes(kind)) {
      source.close();
      resolve(events);
    }
  };
  for (const name of names) source.addEventListener(name, take);
})"""


@pytest.mark.parametrize("way", ["B by GET", "C", "D", "E", "N"])
def test_a_stream_is_whole_to_a_browser(me: tuple[Page, Client], way: str) -> None:
    page, ada = me
    page.goto(f"{ada.url}/api/docs")

    def read(call: Call, last_id: str | None, most: int) -> list[Event]:
        joint = "&" if "?" in call.url else "?"
        url = call.url + (f"{joint}lastEventId={last_id}" if last_id else "")
        given = {"url": url, "most": most, "ends": ENDS, "names": NAMES}
        return [Event(*event) for event in page.evaluate(EVENT_SOURCE, given)]

    check(call_of(WAYS[way], ada), each(read))


CHAT_CLIENT = """async ({url, messages, chatId}) => {
  const { SSEChatClient } = await import("/static/js/sse-chat-client.js");
  const heard = [];
  const note = (name) => (data) => heard.push([name, data]);
  const client = new SSEChatClient();
  await client.sendMessage({ messages: messages.map((one) => ({ ...one, timestamp: new Date() })), model: url, chatId },
    { onStart: note("start"), onChunk: note("chunk"), onComplete: note("complete"), onError: note("error") });
  return heard;
}"""


@pytest.mark.parametrize("chat_id", [None, "chat-123"])
def test_the_chat_client_works_in_a_browser_with_its_cookie(me: tuple[Page, Client], chat_id: str | None) -> None:
    page, ada = me
    page.goto(f"{ada.url}/api/docs")
    messages = [{"id": "m1", "role": "user", "content": "count"}]
    heard = page.evaluate(CHAT_CLIENT, {"url": MODEL, "messages": messages, "chatId": chat_id})
    assert [name for name, _ in heard[:2]] == ["start", "chunk"]
    [name, complete] = heard[-1]
    assert (name, complete["fullContent"]) == ("complete", WORDS)
    assert "".join(data["content"] for name, data in heard if name == "chunk") == WORDS
    assert ada.call("GET", "/api/chat/conversations")["total"] == (1 if chat_id else 0)
    refused = page.evaluate(CHAT_CLIENT, {"url": "nobody/nothing", "messages": messages, "chatId": chat_id})
    assert [name for name, _ in refused] == ["error"]
    assert "nobody/nothing" in refused[0][1]["message"]
