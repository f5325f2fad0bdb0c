"""Logs to test with: every kind of event, every kind of end, and texts that break naive encoders."""

from __future__ import annotations

from chatapp.events import Entry, Event, Failed, Finished, Reasoning, Sources, Started, Status, Token, Usage

GENERATION = "6f1c9a52-33a1-4b9e-8f0e-0d8c1b7a4e21"
MESSAGE = "0b7e8f1d-9a54-4c2b-a6f3-5f1d2c3b4a59"
CONVERSATION = "d3b07384-d113-4ec6-a5d0-9c1a2b3c4d5e"
CREATED = "2026-01-02T03:04:05.678901Z"
HOSTILE = ["\r", "\n\n", "\r\n", "\0", "data: x", "id: 9", "\ufeff", "🦊", "é", "\u2028", "</script>", '"', "\\", ": "]


def begun() -> list[Event]:
    return [
        Started(GENERATION, CONVERSATION, MESSAGE, "openai/echo"),
        Status("Searching documents…"),
        Sources([{"text": "a passage\n", "score": 0.5, "metadata": {"page": 3}}], 1),
        Status("Generating response…"),
        Reasoning("hm\r\n"),
    ]


def finished(words: list[str], reason: str = "stop") -> list[Event]:
    text = "".join(words)
    message = {"id": MESSAGE, "role": "assistant", "content": text, "status": "finished", "created_at": CREATED}
    usage = Usage(3, len(words), 3 + len(words), estimated=False)
    return [*begun(), *map(Token, words), usage, Finished(message, reason, {"model": "openai/echo"})]


def failed(words: list[str], code: str = "provider_timeout") -> list[Event]:
    return [*begun(), *map(Token, words), Failed(code, "It took\ntoo long.", retryable=True)]


LOGS: dict[str, list[Event]] = {
    "finished": finished(HOSTILE),
    "plain": finished(["Hello", " there", "!"]),
    "stopped": finished(["a", "b"], "stopped"),
    "empty": finished([]),
    "failed": failed(HOSTILE),
    "interrupted": failed(["one", " two"], "interrupted"),
    "failed at once": [Failed("provider_unavailable", "Refused.", retryable=False)],
}


def entries(events: list[Event]) -> list[Entry]:
    return [Entry(seq, event) for seq, event in enumerate(events, 1)]
