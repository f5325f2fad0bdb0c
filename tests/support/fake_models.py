"""Model APIs that fail on demand: Ollama's, OpenAI's and Anthropic's, on a real socket, byte for byte.

    python -m tests.support.fake_models --port 0        prints its port

The model's name is the scenario, so that tests share one server and run at the same time: a scenario, then options,
with commas between them. `openai/count-200,delay=0.01` streams 200 numbered tokens, 10 ms apart.

    answers
      echo                    the last user message again, word by word
      count-N                 N tokens: "1", " 2", " 3", ... (size=N: made up to so many characters)
      prompt                  the JSON of the messages that were sent, as one token
      reasoning               some reasoning, then an answer
      length                  an answer that was cut at the limit of tokens
      no-usage                an answer without counts
      endless                 tokens for ever (64 bytes each; size=N for others)
      split-utf8-at-K         an emoji of four bytes, cut by the network after K of them
    silence (N tokens first; the connection stays open)
      silent-headers          nothing at all
      silent-body             a response without a body
      silent-after-N
      drip                    the answer, a byte a second (delay=S for others)
      heartbeats-only         comments (for Ollama: empty lines) every 50 ms
    ends that are none (after N tokens)
      cut-fin-after-N         the connection is closed, after a whole chunk where the body is chunked
      cut-rst-after-N         it is reset
      cut-chunk-after-N       it is closed inside a chunk
      no-end-after-N          the body ends as it should, but without the protocol's end mark
    refusals
      status-S                that status with the API's own kind of error body (status-429,retry-after=7)
      status-S-html           with a web page
      status-S,body=none      without a body; body=huge: with an endless one; body=silent: with one that never comes
      context-too-long        400 in the API's own words
      redirect                302 to a link-local address (to=PATH for one of this server, status=S)
      close-before-headers    the connection is closed at once
      continue-for-ever       "100 Continue", again and again (size=N: N bytes of it)
    rubbish
      html-200                a web page with a status of 200
      json-error-200          an error object with a status of 200, not as a stream
      bad-json-after-N        a broken line
      wrong-type-after-N      a number where the text should be
      odd                     nulls, missing and empty fields around an answer
      error-in-stream-after-N an error object inside the stream
      content-filter-after-N  the API's way to say so
      huge-line               64 MB without a newline (size=N for other sizes)
      bomb                    gzip that unpacks to a thousand times its size, for ever
      empty-bomb              gzip that unpacks to nothing, for ever (size=N: N bytes of it)
      tools                   some text and a tool to be called, as each API's documentation has it
      script-N                the bytes that were kept with PUT /_scripts/N, in the framing that the options say

    options
      delay=S                 seconds between tokens
      wait=S                  seconds before the headers
      close-delimited         no declared length: the body ends with the connection (chunked by default)
      block=N                 the body is sent in writes, and chunks, of N bytes
      newline=cr, newline=crlf, bom, gzip
      end=fin, end=rst        how a script's connection ends instead of properly; end=chunk: inside a chunk
      reasoning=N             N pieces of reasoning first (field=reasoning: vLLM's other name for it)
      text=...                URL-quoted, instead of the scenario's own; one token a character

An answer goes on after an assistant's message at the end of the history. What was asked is kept:
GET /_log is a list of calls, DELETE /_log empties it. After PUT /_hurry/MODEL that model's delays are over.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import select
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

MODELS = ("count-20", "count-200,delay=0.01", "echo", "prompt", "reasoning")
PAGE = b"<!doctype html><title>Bad gateway</title><h1>CANARY-BODY</h1>"
BODY_CANARY = "CANARY-BODY"  # in each error's body: what an API says about an error must reach nobody
LINK_LOCAL = "http://169.254.169.254/latest/meta-data/"
SCRIPTS: dict[int, bytes] = {}  # what was kept with PUT /_scripts/N
HURRIED: set[str] = set()  # models that wait no longer between tokens: PUT /_hurry/MODEL
REASONS = {200: "OK", 302: "Found", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}


# The scenario


@dataclass
class Scenario:
    """A model's name, taken apart."""

    kind: str
    number: int | None
    html: bool = False
    options: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, model: str) -> Scenario:
        name, *given = model.split(",")
        html = name.startswith("status-") and name.endswith("-html")
        match = re.fullmatch(r"(.*?)-(\d+)", name.removesuffix("-html") if html else name)
        kind, number = (match[1], int(match[2])) if match else (name, None)
        options = {name: value or "1" for name, _, value in (option.partition("=") for option in given)}
        return cls(kind, number, html, options)

    def seconds(self, name: str, default: float = 0.0) -> float:
        return float(self.options.get(name, default))

    def integer(self, name: str, default: int = 0) -> int:
        return int(self.options.get(name, default))


def words(text: str) -> list[str]:
    """Return *text* in tokens, as models cut it: a word with the space before it."""
    return re.findall(r"\s*\S+|\s+\Z", text)


def counted(number: int) -> list[str]:
    return [str(n) if n == 1 else f" {n}" for n in range(1, number + 1)]


def tokens(scenario: Scenario, messages: list[dict[str, Any]]) -> list[str]:
    """Return the tokens of the whole answer."""
    if "text" in scenario.options:
        return list(unquote(scenario.options["text"]))
    if scenario.kind == "echo":
        asked = [message["content"] for message in messages if message["role"] == "user"]
        return words(asked[-1]) if asked else ["nothing"]
    if scenario.kind == "prompt":
        return [json.dumps(messages, ensure_ascii=False)]
    if scenario.kind == "split-utf8-at":
        return ["a😀b"]
    number = scenario.number if scenario.kind == "count" and scenario.number is not None else 10
    return [f"{token:x<{scenario.integer('size')}}" for token in counted(number)]


def after_prefix(whole: list[str], messages: list[dict[str, Any]]) -> list[str]:
    """Return the tokens that are left where the history ends with the beginning of the answer."""
    last = messages[-1] if messages else {"role": "user", "content": ""}
    if last["role"] != "assistant" or not "".join(whole).startswith(last["content"]):
        return whole
    there, left = len(last["content"]), []
    for token in whole:
        left.append(token[there:])
        there = max(0, there - len(token))
    return [token for token in left if token]


# The APIs: what a stream is made of


@dataclass
class Dialect:
    """One answer in one API's words. Each method returns the bytes of one event."""

    model: str
    scenario: Scenario

    name = ""
    content_type = "text/event-stream"

    def event(self, data: dict[str, Any]) -> bytes:
        return b"data: " + dumped(data) + b"\n\n"

    def start(self, prompt_tokens: int) -> bytes:
        return b""

    def heartbeat(self) -> bytes:
        return b": silence\n\n"

    def broken(self) -> bytes:
        return b'data: {"choices": [{"delta"\n\n'

    def huge(self) -> bytes:
        return b'data: {"content": "'

    def messages(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        return list(body.get("messages", []))

    def token(self, text: Any) -> bytes:
        raise NotImplementedError

    def reasoning(self, text: str) -> bytes:
        raise NotImplementedError

    def odd(self) -> bytes:
        raise NotImplementedError

    def end(self, reason: str, prompt_tokens: int, completion_tokens: int, *, usage: bool) -> bytes:
        raise NotImplementedError

    def filtered(self) -> bytes:
        return b""

    def tools(self) -> bytes:
        raise NotImplementedError

    def error(self, status: int) -> dict[str, Any]:
        raise NotImplementedError


class Ollama(Dialect):
    name = "ollama"
    content_type = "application/x-ndjson"

    def event(self, data: dict[str, Any]) -> bytes:
        return dumped({"model": self.model, "created_at": "2026-01-01T00:00:00Z", **data}) + b"\n"

    def heartbeat(self) -> bytes:
        return b"\n"

    def broken(self) -> bytes:
        return b'{"message": {"content"\n'

    def huge(self) -> bytes:
        return b'{"message": {"content": "'

    def token(self, text: Any) -> bytes:
        return self.event({"message": {"role": "assistant", "content": text}, "done": False})

    def reasoning(self, text: str) -> bytes:
        return self.event({"message": {"role": "assistant", "content": "", "thinking": text}, "done": False})

    def odd(self) -> bytes:
        return b"".join(self.event(data) for data in ({}, {"message": None}, {"message": {"content": None}}))

    def tools(self) -> bytes:
        call = {"function": {"name": "get_weather", "arguments": {"city": "Paris"}}}
        return self.event({"message": {"role": "assistant", "content": "", "tool_calls": [call]}, "done": False})

    def end(self, reason: str, prompt_tokens: int, completion_tokens: int, *, usage: bool) -> bytes:
        reason = "stop" if reason == "tools" else reason
        counts = {"prompt_eval_count": prompt_tokens, "eval_count": completion_tokens} if usage else {}
        message = {"role": "assistant", "content": ""}
        return self.event({"message": message, "done": True, "done_reason": reason, **counts})

    def error(self, status: int) -> dict[str, Any]:
        texts = {
            404: f'model "{self.model}" not found, try pulling it first',
            413: "the input length exceeds the context length",
        }
        return {"error": f"{texts.get(status, 'it broke')} {BODY_CANARY}"}


class OpenAI(Dialect):
    name = "openai"

    def chunk(self, *choices: dict[str, Any], **more: Any) -> bytes:
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1767225600, "model": self.model}
        return self.event({**head, "choices": [{"index": 0, **choice} for choice in choices], **more})

    def start(self, prompt_tokens: int) -> bytes:
        return self.chunk({"delta": {"role": "assistant", "content": ""}, "finish_reason": None})

    def token(self, text: Any) -> bytes:
        return self.chunk({"delta": {"content": text}, "finish_reason": None})

    def reasoning(self, text: str) -> bytes:
        name = self.scenario.options.get("field", "reasoning_content")
        return self.chunk({"delta": {"content": None, name: text}, "finish_reason": None})

    def odd(self) -> bytes:
        head = self.chunk() + self.chunk({"delta": {"content": None}}) + self.chunk({"delta": None}) + self.chunk({})
        return head + self.event({"object": "something.new"}) + self.event({"choices": None})

    def tools(self) -> bytes:
        def delta(**call: Any) -> bytes:
            return self.chunk({"delta": {"tool_calls": [{"index": 0, **call}]}, "finish_reason": None})

        begin = delta(id="call_1", type="function", function={"name": "get_weather", "arguments": ""})
        return begin + delta(function={"arguments": '{"city":'}) + delta(function={"arguments": '"Paris"}'})

    def end(self, reason: str, prompt_tokens: int, completion_tokens: int, *, usage: bool) -> bytes:
        reason = "tool_calls" if reason == "tools" else reason
        last = self.chunk({"delta": {}, "finish_reason": reason})
        names = ("prompt_tokens", "completion_tokens", "total_tokens")
        counts = dict(zip(names, (prompt_tokens, completion_tokens, prompt_tokens + completion_tokens), strict=True))
        return last + (self.chunk(usage=counts) if usage else b"") + b"data: [DONE]\n\n"

    def filtered(self) -> bytes:
        return self.chunk({"delta": {}, "finish_reason": "content_filter"}) + b"data: [DONE]\n\n"

    def error(self, status: int) -> dict[str, Any]:
        kind, code, text = {
            401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided"),
            404: ("invalid_request_error", "model_not_found", f"The model `{self.model}` does not exist"),
            429: ("requests", "rate_limit_exceeded", "Rate limit reached"),
            413: ("invalid_request_error", "context_length_exceeded", "This model's maximum context length is 4096"),
        }.get(status, ("server_error", None, "it broke"))
        return {"error": {"message": f"{text} {BODY_CANARY}", "type": kind, "param": None, "code": code}}


class Anthropic(Dialect):
    name = "anthropic"

    def named(self, name: str, **data: Any) -> bytes:
        return b"event: " + name.encode() + b"\n" + self.event({"type": name, **data})

    def start(self, prompt_tokens: int) -> bytes:
        usage = {"input_tokens": prompt_tokens, "output_tokens": 1}
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": self.model, "content": []}
        return self.named("message_start", message={**message, "stop_reason": None, "usage": usage}) + self.heartbeat()

    def heartbeat(self) -> bytes:
        return self.named("ping")

    def delta(self, kind: str, key: str, value: Any) -> bytes:
        return self.named("content_block_delta", index=0, delta={"type": kind, key: value})

    def token(self, text: Any) -> bytes:
        return self.delta("text_delta", "text", text)

    def reasoning(self, text: str) -> bytes:
        return self.delta("thinking_delta", "thinking", text)

    def odd(self) -> bytes:
        head = self.named("content_block_delta", index=0, delta=None) + self.delta("signature_delta", "signature", "x")
        return head + self.delta("text_delta", "text", None) + self.named("something_new")

    def tools(self) -> bytes:
        block = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {}}
        begin = self.named("content_block_stop", index=0) + self.named(
            "content_block_start", index=1, content_block=block
        )
        parts = ("", '{"city": "Par', 'is"}')
        return begin + b"".join(self.delta("input_json_delta", "partial_json", part) for part in parts)

    def end(self, reason: str, prompt_tokens: int, completion_tokens: int, *, usage: bool) -> bytes:
        reason = {"stop": "end_turn", "length": "max_tokens", "tools": "tool_use"}.get(reason, reason)
        counts = {"usage": {"output_tokens": completion_tokens}} if usage else {}
        stopped = self.named("content_block_stop", index=0)
        last = self.named("message_delta", delta={"stop_reason": reason, "stop_sequence": None}, **counts)
        return stopped + last + self.named("message_stop")

    def filtered(self) -> bytes:
        return self.end("refusal", 1, 1, usage=True)

    def error(self, status: int) -> dict[str, Any]:
        kind, text = {
            401: ("authentication_error", "invalid x-api-key"),
            404: ("not_found_error", f"model: {self.model}"),
            413: ("invalid_request_error", "prompt is too long: 208310 tokens > 200000 maximum"),
            429: ("rate_limit_error", "Number of requests exceeded"),
            529: ("overloaded_error", "Overloaded"),
        }.get(status, ("api_error", "it broke"))
        return {"type": "error", "error": {"type": kind, "message": f"{text} {BODY_CANARY}"}}

    def messages(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        system = body.get("system")
        return ([{"role": "system", "content": system}] if system else []) + super().messages(body)


CHATS: dict[str, type[Dialect]] = {"/api/chat": Ollama, "/v1/chat/completions": OpenAI, "/v1/messages": Anthropic}


def ollama_models(names: Sequence[str]) -> dict[str, Any]:
    return {"models": [{"name": f"{name}:latest", "model": name, "details": {"family": "fake"}} for name in names]}


def openai_models(names: Sequence[str]) -> dict[str, Any]:
    listed = [{"id": name, "object": "model", "owned_by": "fake", "max_model_len": 8192} for name in names]
    return {"object": "list", "data": listed}


def anthropic_models(names: Sequence[str]) -> dict[str, Any]:
    return {"data": [{"id": name, "type": "model", "display_name": name} for name in names], "has_more": False}


def dumped(data: Any) -> bytes:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()


# The wire


class Gone(Exception):
    """The client closed the connection."""


class Cut(Exception):
    """The scenario ends the connection here."""


class Connection:
    """A client's connection. All waiting is done here, so that a client that leaves is noticed at once."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._rest = b""
        self._readable = select.poll()
        self._readable.register(sock, select.POLLIN)
        self._sent = 0

    def request(self) -> tuple[str, str, dict[str, str], bytes] | None:
        """Return method, path, headers and body; None where the client has left."""
        while b"\r\n\r\n" not in self._rest:
            if not self._receive():
                return None
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", 0))
        while len(self._rest) < length:
            if not self._receive():
                return None
        body, self._rest = self._rest[:length], self._rest[length:]
        return method, path, headers, body

    def _receive(self) -> bool:
        try:
            data = self.sock.recv(65536)
        except OSError:
            return False
        self._rest += data
        return bool(data)

    def wait(self, seconds: float) -> None:
        """Wait. Raises Gone when the client closes the connection meanwhile."""
        if self._readable.poll(max(0.0, seconds) * 1000):
            try:
                gone = not self.sock.recv(1, socket.MSG_PEEK)
            except OSError:
                gone = True
            if gone:
                raise Gone
            time.sleep(min(seconds, 0.01))

    def wait_for_ever(self) -> None:
        while True:
            self.wait(3600)

    def send(self, data: bytes) -> None:
        self._sent += 1
        if self._sent % 16 == 0:
            self.wait(0)
        try:
            self.sock.sendall(data)
        except OSError as error:
            raise Gone from error

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class Body:
    """A response's body on its way: framed, cut in blocks, compressed, as the scenario has it."""

    def __init__(self, connection: Connection, scenario: Scenario) -> None:
        self.connection = connection
        self.chunked = "close-delimited" not in scenario.options
        self._block = scenario.integer("block")
        self._newline = {"cr": b"\r", "crlf": b"\r\n"}.get(scenario.options.get("newline", ""))
        self._gzip = zlib.compressobj(wbits=31) if "gzip" in scenario.options else None

    def write(self, data: bytes) -> None:
        if self._newline:
            data = data.replace(b"\n", self._newline)
        if self._gzip:
            data = self._gzip.compress(data) + self._gzip.flush(zlib.Z_SYNC_FLUSH)
        if not self._block:
            self._frame(data)
            return
        for start in range(0, len(data), self._block):
            self._frame(data[start : start + self._block])

    def _frame(self, data: bytes) -> None:
        if data:
            self.connection.send(b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data)

    def end(self) -> None:
        if self.chunked:
            self.connection.send(b"0\r\n\r\n")


def respond(connection: Connection, status: int, body: bytes, content_type: str, *more: str) -> None:
    head = [f"HTTP/1.1 {status} {REASONS.get(status, 'Status')}", f"Content-Type: {content_type}"]
    head += [f"Content-Length: {len(body)}", *more]
    connection.send(("\r\n".join(head) + "\r\n\r\n").encode() + body)


# One call


@dataclass
class Call:
    """One answer on its way. Each ending is a method; `ENDINGS` says which scenario has which."""

    connection: Connection
    dialect: Dialect
    scenario: Scenario
    messages: list[dict[str, Any]]
    usage: bool
    body: Body = field(init=False)
    done: int = 0

    def run(self) -> bool:
        """Answer, and say whether the connection can be used for another request."""
        scenario = self.scenario
        self.connection.wait(scenario.seconds("wait"))
        before = BEFORE.get(scenario.kind)
        if before:
            before(self)
            return True
        self.body = Body(self.connection, scenario)
        self.headers()
        self.answer()
        self.body.end()
        if not self.body.chunked:
            raise Cut
        return True

    def headers(self) -> None:
        head = [f"HTTP/1.1 200 OK\r\nContent-Type: {self.dialect.content_type}\r\nCache-Control: no-cache"]
        head.append("Transfer-Encoding: chunked" if self.body.chunked else "Connection: close")
        if "gzip" in self.scenario.options or "bomb" in self.scenario.kind:
            head.append("Content-Encoding: gzip")
        self.connection.send(("\r\n".join(head) + "\r\n\r\n").encode())

    def answer(self) -> None:
        scenario, dialect = self.scenario, self.dialect
        prompt_tokens = sum(len(words(str(message["content"]))) for message in self.messages)
        if "bom" in scenario.options:
            self.body.write(b"\xef\xbb\xbf")
        during = DURING.get(scenario.kind)
        if during and scenario.kind in AT_ONCE:
            during(self)
        self.body.write(dialect.start(prompt_tokens))
        for text in counted(scenario.integer("reasoning", 5 if scenario.kind == "reasoning" else 0)):
            self.body.write(dialect.reasoning(text))
            self.pause()
        if during and scenario.number == 0:
            during(self)
        left = after_prefix(tokens(scenario, self.messages), self.messages)
        for text in left:
            self.body.write(dialect.token(text))
            self.done += 1
            self.pause()
            if during and self.done == scenario.number:
                during(self)
        if scenario.kind == "tools":
            self.body.write(dialect.tools())
        reason = scenario.kind if scenario.kind in ("length", "tools") else "stop"
        usage = self.usage and scenario.kind != "no-usage"
        self.body.write(dialect.end(reason, prompt_tokens, len(left), usage=usage))

    def pause(self) -> None:
        delay = self.scenario.seconds("delay")
        if delay and self.dialect.model not in HURRIED:
            self.connection.wait(delay)

    # instead of an answer

    def silent_headers(self) -> None:
        self.connection.wait_for_ever()

    def close(self) -> None:
        raise Cut

    def status(self) -> None:
        status = self.scenario.number or 500
        wait = unquote(self.scenario.options.get("retry-after", ""))
        more = [f"Retry-After: {wait}"] if wait else []
        body = self.scenario.options.get("body")
        if body == "none":
            self.connection.send("\r\n".join([f"HTTP/1.1 {status} x", "Content-Length: 0", *more, "", ""]).encode())
        elif body:
            head = [f"HTTP/1.1 {status} x", "Content-Type: application/json", "Connection: close", *more, "", "{"]
            self.connection.send("\r\n".join(head).encode())
            while body == "huge":
                self.connection.send(b" " * 65536)
            self.connection.wait_for_ever()
        elif self.scenario.html:
            respond(self.connection, status, PAGE, "text/html", *more)
        else:
            respond(self.connection, status, dumped(self.dialect.error(status)), "application/json", *more)

    def context_too_long(self) -> None:
        respond(self.connection, 400, dumped(self.dialect.error(413)), "application/json")

    def redirect(self) -> None:
        host, port = self.connection.sock.getsockname()
        path = self.scenario.options.get("to")
        to = f"http://{host}:{port}{unquote(path)}" if path else LINK_LOCAL
        respond(self.connection, self.scenario.integer("status", 302), b"", "text/plain", f"Location: {to}")

    def continue_for_ever(self) -> None:
        again = b"HTTP/1.1 100 Continue\r\n\r\n" * 2000
        for _ in range(self.scenario.integer("size", 1 << 62) // len(again)):
            self.connection.send(again)
        raise Cut

    def page(self) -> None:
        respond(self.connection, 200, PAGE, "text/html; charset=utf-8")

    def json_error(self) -> None:
        respond(self.connection, 200, dumped(self.dialect.error(429)), "application/json")

    # inside an answer

    def silent(self) -> None:
        self.connection.wait_for_ever()

    def drip(self) -> None:
        whole = self.dialect.start(1) + b"".join(map(self.dialect.token, tokens(self.scenario, self.messages)))
        for byte in whole:
            self.body.write(bytes([byte]))
            self.connection.wait(self.scenario.seconds("delay", 1.0))

    def heartbeats(self) -> None:
        while True:
            self.body.write(self.dialect.heartbeat())
            self.connection.wait(self.scenario.seconds("delay", 0.05))

    def endless(self) -> None:
        text = self.dialect.token("x" * self.scenario.integer("size", 64))
        while True:
            self.body.write(text)
            self.pause()

    def huge_line(self) -> None:
        self.body.write(self.dialect.huge())
        for _ in range(self.scenario.integer("size", 64 * 1024 * 1024) // 65536):
            self.body.write(b"x" * 65536)

    def bomb(self) -> None:
        packer = zlib.compressobj(9, wbits=31)
        begin = packer.compress(self.dialect.huge()) + packer.flush(zlib.Z_FULL_FLUSH)
        again = packer.compress(b"x" * 16_000_000) + packer.flush(zlib.Z_FULL_FLUSH)  # stands alone: can be sent again
        self.body.write(begin)
        while True:
            self.body.write(again)

    def empty_bomb(self) -> None:
        packer = zlib.compressobj(9, wbits=31)
        self.body.write(packer.compress(self.dialect.start(1)) + packer.flush(zlib.Z_FULL_FLUSH))
        nothing = b"\0\0\0\xff\xff" * 13_000  # stored blocks, RFC 1951 3.2.4
        for _ in range(self.scenario.integer("size", 1 << 62) // len(nothing)):
            self.body.write(nothing)
        self.body.end()
        raise Cut

    def script(self) -> None:
        self.body.write(SCRIPTS[self.scenario.number or 0])
        end = self.scenario.options.get("end")
        if end == "rst":
            self.rst()
        elif end == "chunk":
            self.connection.send(b"ff\r\nda")
        elif not end:
            self.body.end()
        raise Cut

    def odd(self) -> None:
        self.body.write(self.dialect.odd())

    def split(self) -> None:
        data = self.dialect.start(1) + self.dialect.token("a😀b")
        at = data.index("😀".encode()) + (self.scenario.number or 0)
        self.body.write(data[:at])
        self.connection.wait(0.02)
        self.body.write(data[at:] + self.dialect.end("stop", 1, 1, usage=True))
        self.body.end()
        raise Cut

    def fin(self) -> None:
        raise Cut

    def rst(self) -> None:
        self.connection.wait(0.05)  # a reset throws away what the other side has not read yet
        self.connection.reset()
        raise Cut

    def cut_chunk(self) -> None:
        data = self.dialect.token(" and more")
        self.connection.send(b"%x\r\n%b" % (len(data), data[:-5]) if self.body.chunked else data[:-5])
        raise Cut

    def no_end(self) -> None:
        self.body.end()
        raise Cut

    def bad_json(self) -> None:
        self.body.write(self.dialect.broken())

    def wrong_type(self) -> None:
        self.body.write(self.dialect.token(7))

    def error(self) -> None:
        data = self.dialect.error(self.scenario.integer("status", 529))
        self.body.write(self.dialect.event(data))
        self.body.end()
        raise Cut

    def content_filter(self) -> None:
        self.body.write(self.dialect.filtered())
        self.body.end()
        raise Cut


BEFORE: dict[str, Callable[[Call], None]] = {
    "silent-headers": Call.silent_headers,
    "close-before-headers": Call.close,
    "status": Call.status,
    "context-too-long": Call.context_too_long,
    "redirect": Call.redirect,
    "continue-for-ever": Call.continue_for_ever,
    "html": Call.page,
    "json-error": Call.json_error,
}
DURING: dict[str, Callable[[Call], None]] = {
    "silent-body": Call.silent,
    "silent-after": Call.silent,
    "drip": Call.drip,
    "heartbeats-only": Call.heartbeats,
    "endless": Call.endless,
    "huge-line": Call.huge_line,
    "bomb": Call.bomb,
    "empty-bomb": Call.empty_bomb,
    "script": Call.script,
    "odd": Call.odd,
    "split-utf8-at": Call.split,
    "cut-fin-after": Call.fin,
    "cut-rst-after": Call.rst,
    "cut-chunk-after": Call.cut_chunk,
    "no-end-after": Call.no_end,
    "bad-json-after": Call.bad_json,
    "wrong-type-after": Call.wrong_type,
    "error-in-stream-after": Call.error,
    "content-filter-after": Call.content_filter,
}
AT_ONCE = {
    *("silent-body", "drip", "heartbeats-only", "endless", "huge-line", "odd", "split-utf8-at"),
    *("bomb", "empty-bomb", "script"),
}


# The server


class Server:
    def __init__(self, port: int, models: Sequence[str]) -> None:
        self.models = models
        self.calls: list[dict[str, Any]] = []
        self.listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        self.port: int = self.listener.getsockname()[1]

    def serve(self) -> None:
        threading.stack_size(256 * 1024)  # there may be many
        while True:
            sock, _ = self.listener.accept()
            threading.Thread(target=self.connection, args=(sock,), daemon=True).start()

    def connection(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(sock)
        with contextlib.suppress(Gone, Cut), contextlib.closing(sock):
            while True:
                request = connection.request()
                if request is None or not self.request(connection, *request):
                    return

    def request(self, connection: Connection, method: str, path: str, headers: dict[str, str], body: bytes) -> bool:
        path = path.partition("?")[0]
        if method == "POST" and path in CHATS:
            self.chat(connection, CHATS[path], headers, json.loads(body))
        elif method == "PUT" and path.startswith("/_scripts/"):
            SCRIPTS[int(path.rpartition("/")[2])] = body
            respond(connection, 200, b"{}", "application/json")
        elif method == "PUT" and path.startswith("/_hurry/"):
            HURRIED.add(unquote(path.removeprefix("/_hurry/")))
            respond(connection, 200, b"{}", "application/json")
        elif method == "DELETE" and path == "/_log":
            self.calls.clear()
            respond(connection, 200, b"{}", "application/json")
        elif method == "GET" and (found := self.page(path, headers)) is not None:
            respond(connection, 200, dumped(found), "application/json")
        else:
            respond(connection, 404, dumped({"detail": f"Not Found {BODY_CANARY}"}), "application/json")
        return "close" not in headers.get("connection", "").lower()

    def page(self, path: str, headers: dict[str, str]) -> Any:
        if path == "/v1/models":
            return (anthropic_models if "anthropic-version" in headers else openai_models)(self.models)
        pages = {"/api/tags": ollama_models(self.models), "/_log": list(self.calls), "/api/version": {"version": "0"}}
        return pages.get(path)

    def chat(self, connection: Connection, api: type[Dialect], headers: dict[str, str], body: dict[str, Any]) -> None:
        model = str(body.get("model", ""))
        scenario = Scenario.parse(model)
        dialect = api(model, scenario)
        messages = dialect.messages(body)
        log: dict[str, Any] = {
            "api": api.name,
            "model": model,
            "client": connection.sock.getpeername()[1],
            "headers": {name: masked(name, value) for name, value in headers.items()},
            "messages": messages,
            "params": {name: value for name, value in body.items() if name not in ("messages", "system")},
            "started": time.time(),
            "ended": None,
            "tokens": 0,
            "disconnected": False,
            "closed_after": None,
        }
        self.calls.append(log)
        usage = api is not OpenAI or bool((body.get("stream_options") or {}).get("include_usage"))
        call = Call(connection, dialect, scenario, messages, usage)
        try:
            call.run()
        except Gone:
            log["disconnected"] = True
            log["closed_after"] = time.time() - log["started"]
            raise
        finally:
            log["tokens"] = call.done
            log["ended"] = time.time()


def masked(name: str, value: str) -> str:
    secret = name in ("authorization", "x-api-key")
    return re.sub(r"\S+$", "***", value) if secret else value


def main() -> None:
    options = argparse.ArgumentParser(description="Model APIs that fail on demand; the model's name is the scenario.")
    options.add_argument("--port", type=int, default=0)
    options.add_argument("--model", action="append", help="a name to list; can be given again")
    options.add_argument("--until-stdin-closes", action="store_true", help="end with the program that started it")
    given = options.parse_args()
    server = Server(given.port, given.model or MODELS)
    print(server.port, flush=True)
    threading.Thread(target=server.serve, daemon=True).start()
    try:
        if given.until_stdin_closes:
            sys.stdin.read()
        else:
            threading.Event().wait()
    except KeyboardInterrupt:
        pass


# For tests


class FakeModels:
    """The server as a child process: `with FakeModels() as fake: ... fake.url ... fake.log()`."""

    def __init__(self, models: Sequence[str] = (), port: int = 0) -> None:
        self._arguments = ["--port", str(port), *(f"--model={name}" for name in models)]
        self.url = ""
        self.port = 0

    def __enter__(self) -> FakeModels:
        self._child = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "--until-stdin-closes", *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._child.stdout is not None
        self.port = int(self._child.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()

    def kill(self) -> None:
        """End the server at once, as if its machine were gone."""
        self._child.kill()
        self._child.communicate()

    def log(self, model: str | None = None) -> list[dict[str, Any]]:
        """Return the calls so far, oldest first, of all models or of one.

        Each: {api, model, client (its port), headers (keys masked), messages, params, started, ended, tokens, disconnected,
        closed_after}; times in seconds since 1970, `closed_after` in seconds since `started`.
        """
        with urllib.request.urlopen(f"{self.url}/_log", timeout=10) as response:
            calls: list[dict[str, Any]] = json.load(response)
        return [call for call in calls if model is None or call["model"] == model]

    def keep(self, number: int, script: bytes) -> None:
        """Keep the bytes that the model `script-NUMBER` sends as its body."""
        request = urllib.request.Request(f"{self.url}/_scripts/{number}", script, method="PUT")
        urllib.request.urlopen(request, timeout=10).close()

    def slow(self, number: int = 1000) -> str:
        """Return a model, nobody else's, that counts to *number* slowly: until `hurry` the answer is not at its end.

        For all that must happen while an answer runs: how long that takes on a busy machine nobody knows.
        """
        return f"count-{number},delay=0.05,test={uuid.uuid4()}"

    def hurry(self, model: str) -> None:
        """Let *model* send what is left of its answers at once."""
        request = urllib.request.Request(f"{self.url}/_hurry/{quote(model)}", b"", method="PUT")
        urllib.request.urlopen(request, timeout=30).close()

    def clear(self) -> None:
        """Forget the calls so far."""
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/_log", method="DELETE"), timeout=10).close()

    def wait_for(
        self, predicate: Callable[[dict[str, Any]], bool], timeout: float = 30.0, *, model: str | None = None
    ) -> dict[str, Any]:
        """Return the first call for which *predicate* holds, waiting for one. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        while True:
            calls = self.log(model)
            for call in calls:
                if predicate(call):
                    return call
            if time.monotonic() > deadline:
                raise TimeoutError(f"no such call within {timeout:g} s; there were {calls}")
            time.sleep(0.01)


if __name__ == "__main__":
    main()
