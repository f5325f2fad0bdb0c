"""A model whose every answer is known before: numbered words, at a rate, that goes on exactly after a given beginning.

    python -m tests.chaos.model

speaks Ollama's API, and OpenAI's, which cannot go on. The last question says what to answer: `answer=7 tokens=400
delay=0.01`. Each call is kept, with the beginning that came along, so that being asked twice is seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from typing import Any

from chatapp.settings import ROOT


@dataclass(frozen=True)
class Known:
    """An answer that is known before."""

    answer: int
    tokens: int = 200
    delay: float = 0.01  # seconds from word to word; 0: all at once
    silence: float = 0.0  # seconds before the first word
    stamped: bool = False  # each word is when it was written, in nanoseconds

    @classmethod
    def read(cls, prompt: str) -> Known:
        given = dict(part.split("=", 1) for part in prompt.split() if "=" in part)
        return cls(
            int(given.get("answer", 0)),
            int(given.get("tokens", 200)),
            float(given.get("delay", 0.01)),
            float(given.get("silence", 0)),
            given.get("stamped") == "1",
        )

    def prompt(self) -> str:
        return (
            f"answer={self.answer} tokens={self.tokens} delay={self.delay:g} silence={self.silence:g} "
            f"stamped={int(self.stamped)}"
        )

    def word(self, number: int) -> str:
        """Return the word with that *number*, from 1 on. No two of any answers are alike, and some bytes are half a letter."""
        return f"{self.answer}·{number} "

    def text(self) -> str:
        return "".join(map(self.word, range(1, self.tokens + 1)))

    def words_after(self, beginning: str) -> list[str] | None:
        """Return what is left of the answer; None if it does not begin so."""
        if self.stamped:
            return [""] * self.tokens
        words = list(map(self.word, range(1, self.tokens + 1)))
        at = 0
        while words and len(beginning) - at >= len(words[0]):
            if not beginning.startswith(words[0], at):
                return None
            at += len(words.pop(0))
        rest = beginning[at:]
        if not rest:
            return words
        return [words[0][len(rest) :], *words[1:]] if words and words[0].startswith(rest) else None


class Gone(Exception):
    """The other side closed the connection."""


class Ollama:
    content_type = "application/x-ndjson"

    def token(self, text: str) -> bytes:
        return dumped({"model": "numbers", "message": {"role": "assistant", "content": text}, "done": False}) + b"\n"

    def end(self, tokens: int) -> bytes:
        record = {"model": "numbers", "message": {"role": "assistant", "content": ""}, "done": True}
        return dumped({**record, "done_reason": "stop", "prompt_eval_count": 7, "eval_count": tokens}) + b"\n"

    def error(self, text: str) -> bytes:
        return dumped({"error": text}) + b"\n"


class OpenAI:
    content_type = "text/event-stream"

    def token(self, text: str) -> bytes:
        return self.event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})

    def end(self, tokens: int) -> bytes:
        return self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}) + b"data: [DONE]\n\n"

    def error(self, text: str) -> bytes:
        return self.event({"error": {"message": text}})

    def event(self, record: dict[str, Any]) -> bytes:
        return b"data: " + dumped(record) + b"\n\n"


def dumped(record: Any) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode()


APIS = {"/api/chat": Ollama(), "/v1/chat/completions": OpenAI()}
PAGES = {"/api/tags": {"models": [{"name": "numbers"}]}, "/v1/models": {"data": [{"id": "numbers"}]}}


class Server:
    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(Gone, ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            path = first.split()[1]
            if path in APIS:
                await self.answer(APIS[path], json.loads(body), reader, writer)
            else:
                page = dumped(self.calls if path == "/_log" else PAGES.get(path, {}))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n")
                writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(page), page))
                await writer.drain()
        writer.close()

    async def answer(
        self, api: Ollama | OpenAI, body: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        messages = body["messages"]
        beginning = messages[-1]["content"] if messages[-1]["role"] == "assistant" else ""
        known = Known.read(next(m["content"] for m in reversed(messages) if m["role"] == "user"))
        words = known.words_after(beginning)
        call = {
            "answer": known.answer,
            "after": len(beginning),
            "fits": words is not None,
            "begun": time.monotonic(),
            "sent": 0,
            "left": None,  # when the site closed the connection before the end
        }
        self.calls.append(call)
        gone = asyncio.ensure_future(reader.read(1))
        gone.add_done_callback(lambda _: call.update(left=call["left"] or time.monotonic()))
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {api.content_type}\r\nConnection: close\r\n"
        writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        try:
            await self.send(api, known, words, call, gone, writer)
            writer.write(b"0\r\n\r\n")
            await writer.drain()
            call["left"] = None
        finally:
            gone.cancel()

    async def send(
        self,
        api: Ollama | OpenAI,
        known: Known,
        words: list[str] | None,
        call: dict[str, Any],
        gone: asyncio.Future[bytes],
        writer: asyncio.StreamWriter,
    ) -> None:
        if words is None:
            return chunk(writer, api.error("this is not how the answer begins"))
        await pause(known.silence, gone)
        due = time.monotonic()
        for word in words:
            chunk(writer, api.token(f"{time.monotonic_ns()} " if known.stamped else word))
            call["sent"] += 1
            due += known.delay
            if known.delay:
                await pause(due - time.monotonic(), gone)
            elif call["sent"] % 100 == 0:
                await writer.drain()
        return chunk(writer, api.end(known.tokens))


def chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


async def pause(seconds: float, gone: asyncio.Future[bytes]) -> None:
    """Wait, but not for somebody who has left. Raises Gone."""
    if seconds > 0:
        await asyncio.wait([gone], timeout=seconds)
    if gone.done():
        raise Gone


async def serve() -> None:
    server = await asyncio.start_server(Server().connection, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # ends with who started it


class Model:
    """The model as a child process: `with Model() as model: ... model.url ... model.calls(7)`."""

    def __enter__(self) -> Model:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.model"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
        )
        assert self._child.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._child.stdout.readline())}"
        return self

    def __exit__(self, *exception: object) -> None:
        self._child.kill()
        self._child.communicate()

    def environ(self) -> dict[str, str]:
        """Return settings that make a site ask it."""
        return {
            "OLLAMA_HOST": self.url,
            "OPENAI_BASE_URL": f"{self.url}/v1",
            "OPENAI_API_KEY": "sk-none",
            "CHATAPP_REGISTRATION": "open",
            "CHATAPP_STREAMS_PER_USER": "10000",
            "CHATAPP_FIRST_EVENT_SECONDS": "120",
            "CHATAPP_IDLE_SECONDS": "60",
        }

    def calls(self, answer: int | None = None) -> list[dict[str, Any]]:
        """Return the calls so far, oldest first, of all answers or of one.

        Each: {answer, after (characters that it was to go on from), fits, begun, sent, left}; times on the machine's
        monotonic clock.
        """
        with urllib.request.urlopen(f"{self.url}/_log", timeout=20) as response:
            calls: list[dict[str, Any]] = json.load(response)
        return [call for call in calls if answer is None or call["answer"] == answer]


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())
