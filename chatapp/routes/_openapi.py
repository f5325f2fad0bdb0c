"""The OpenAPI document, made good for reading: what the groups are about, examples, codes of errors, and what streams say.

The paths and shapes come from the views and their schemas; here is what nobody can read off those.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

from flask import Flask

import chatapp.dialects
from chatapp import registry
from chatapp.dialects import Context, wire
from chatapp.events import Entry, Event, Finished, Sources, Started, Status, Token, Usage

METHODS = ("get", "post", "put", "patch", "delete")
ABOUT = """\
A generation is one answer being made: it is written and stored whether anybody reads it or not. A stream that breaks off goes
on exactly where it was when the reader comes back with `Last-Event-ID` (or `?lastEventId=`). Starts take `Idempotency-Key`:
the same key of the same user gives the same answer. All errors have one form, and what is not yours is not there: 404."""
CODES = {  # of errors, by status
    400: ("validation_error",),
    401: ("unauthorized",),
    403: ("forbidden",),
    404: ("not_found",),
    409: ("conflict",),
    410: ("session_expired",),
    413: ("payload_too_large",),
    414: ("uri_too_long",),
    415: ("unsupported_media_type",),
    429: ("rate_limited", "quota_exceeded"),
    500: ("internal_error",),
    502: ("provider_unavailable",),
    503: ("overloaded",),
    504: ("provider_timeout",),
}
GROUPS = {  # by tag, in the order in which they are shown
    "accounts": ("Accounts", "Signing up, in and out, and invites."),
    "generations": ("Answers", "Starting, following, repeating and going on with answers."),
    "conversations": ("Conversations", "Conversations, their messages, and what was said in them."),
    "streams": (
        "Streams with a history",
        "The client sends the whole history; named events message-start to message-complete.",
    ),
    "questions": (
        "Questions to documents",
        "A question in a session, with the documents it draws on; events told apart by `type`.",
    ),
    "chats": ("Chats in projects", "A message in a project, as a stream or as one reply."),
    "events": ("What happens elsewhere", "One stream for all that changes in other tabs, or by others."),
    "projects": ("Projects", "Instructions that conversations share, and who is in them."),
    "models": ("Models", "What can be asked."),
    "reactions": ("Reactions", "Likes and dislikes."),
    "exports": ("Export", "Taking conversations along."),
    "users": ("People", "For admins: who is here, and what they may."),
    "plans": ("Plans", "For admins: which models a plan holds."),
    "usage": ("Usage", "How much was asked and answered."),
    "health": ("Health", "Whether the site and what it needs are up."),
    "metrics": ("Metrics", "Figures in Prometheus' format."),
}
QUESTIONS = {"prompt", "question", "message", "content"}  # which the site takes to a length that is set
NOT_BLANK = r"^\s*\S"
UUID = "6f1f64a4-9f8e-4c6e-8a3b-0d1c2b3a4f5e"
SAMPLES: dict[str, Any] = {  # by the name of a field or parameter
    "email": "ada@example.org",
    "password": "correct horse battery",
    "name": "Ada",
    "prompt": "Why is the sky blue?",
    "question": "Why is the sky blue?",
    "message": "Why is the sky blue?",
    "content": "Why is the sky blue?",
    "messages": [{"id": "m-1", "role": "user", "content": "Why is the sky blue?", "timestamp": "2026-01-01T00:00:00Z"}],
    "role": "user",
    "model": "openai/gpt-5",
    "modelId": "openai/gpt-5",
    "chatId": "chat-1",
    "session_id": "1",
    "title": "The sky",
    "key": "chat-1",
    "plan": "PRO",
    "value": "like",
    "reaction": "like",
    "page": 1,
    "page_size": 50,
    "format": "markdown",
}
HAPPENED = """\
retry: 3000

event: sync
data: {"missed":false}

event: conversation
data: {"action":"made","id":"6f1f64a4-9f8e-4c6e-8a3b-0d1c2b3a4f5e","title":"The sky","running":false}

"""
ANSWER: tuple[Event, ...] = (
    Started(UUID, UUID, UUID, "openai/gpt-5"),
    Status("Searching documents…"),
    Sources([{"text": "Rayleigh scattering …", "score": 0.92, "metadata": {"title": "Optics", "page": 12}}], 1),
    Status("Generating response…"),
    Token("Because"),
    Token(" of scattering."),
    Usage(9, 4, 13, False),
    Finished(
        {
            "id": UUID,
            "role": "assistant",
            "content": "Because of scattering.",
            "status": "finished",
            "created_at": "2026-01-01T00:00:00.000000Z",
        },
        "stop",
        {"model": "openai/gpt-5", "confidence": 0.92, "hallucination": 0.0, "search_mode": "all"},
    ),
)


def completed(document: dict[str, Any], app: Flask) -> dict[str, Any]:
    """Return *document* with what its readers need."""
    made = copy.deepcopy(document)
    made["info"]["description"] = ABOUT
    made["servers"] = [{"url": "/", "description": "this site"}]
    used = {tag for _, operation in operations(made) for tag in operation["tags"]}
    known = {tag["name"]: tag for tag in made.get("tags", ())}
    named = [tag for tag in GROUPS if tag in used] + sorted(used - GROUPS.keys())
    made["tags"] = [
        {"name": tag, "description": GROUPS[tag][1]} if tag in GROUPS else known.get(tag, {"name": tag})
        for tag in named
    ]
    body = made["components"]["schemas"].get("ErrorBody")
    if body is not None:
        body["properties"]["code"]["enum"] = sorted({code for some in CODES.values() for code in some})
    spoken = dialects(app)
    for place, operation in operations(made):
        complete(operation, made, HAPPENED if place[1] == "/api/events" else spoken_example(spoken.get(place)))
    for schema in asked(made):
        for name in QUESTIONS & schema.get("properties", {}).keys():
            schema["properties"][name].setdefault("maxLength", app.extensions["chatapp"].settings.max_message_chars)
            schema["properties"][name] |= {"minLength": 1, "pattern": NOT_BLANK}
    for response in made["components"].get("responses", {}).values():
        tell_codes(response, 400 if response["description"] == "Bad Request" else 0)
    return made


def asked(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the shapes of bodies that clients send."""
    for _, operation in operations(document):
        for content in operation.get("requestBody", {}).get("content", {}).values():
            name = content["schema"].get("$ref", "").rpartition("/")[2]
            yield document["components"]["schemas"].get(name, {})


def operations(document: dict[str, Any]) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    """Yield (method, path) and the operation, of all that the document has."""
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                yield (method, path), item[method]


def dialects(app: Flask) -> dict[tuple[str, str], str]:
    """Return which dialect each streaming operation speaks."""
    found = {}
    for rule in app.url_map.iter_rules():
        spoken = getattr(app.view_functions[rule.endpoint], "dialect", None)
        for method in rule.methods or () if spoken else ():
            found[method.lower(), re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)] = spoken
    return found  # type: ignore[return-value]


def complete(operation: dict[str, Any], document: dict[str, Any], stream_example: str) -> None:
    for content in operation.get("requestBody", {}).get("content", {}).values():
        name = content["schema"].get("$ref", "").rpartition("/")[2]
        shape = document["components"]["schemas"].get(name, content["schema"])
        operation["requestBody"]["required"] = bool(shape.get("required"))  # nothing at all is taken for {}
        content.setdefault("example", sample(content["schema"], document))
    for status, response in operation["responses"].items():
        if status.isdigit() and int(status) >= 400:
            tell_codes(response, int(status))
        stream = response.get("content", {}).get("text/event-stream")
        if stream is not None and stream_example:
            stream["example"] = stream_example


def tell_codes(response: dict[str, Any], status: int) -> None:
    if status in CODES and "content" in response:
        response["description"] += ": " + " or ".join(f"`{code}`" for code in CODES[status])


def spoken_example(dialect: str | None) -> str:
    """Return the first answer that comes to mind, in that dialect."""
    members: dict[str, Any] = registry.load(chatapp.dialects)
    if dialect is None:
        return ""
    entries = [Entry(seq, event) for seq, event in enumerate(ANSWER, 1)]
    context = Context(message=UUID, conversation=UUID, model="openai/gpt-5", reference=1)
    return "retry: 3000\n\n" + wire(members[dialect], entries, context=context).decode()


def sample(schema: dict[str, Any], document: dict[str, Any], *, name: str = "") -> Any:
    """Return something that *schema* takes; of an object what it needs, or its first field."""
    if "$ref" in schema:
        return sample(document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], document, name=name)
    if "example" in schema:
        return schema["example"]
    if schema.get("enum"):
        return next(value for value in schema["enum"] if value is not None)
    if name in SAMPLES and is_a(SAMPLES[name], schema.get("type")):
        return SAMPLES[name]
    if "properties" in schema:
        wanted = schema.get("required") or list(schema["properties"])[:1]
        return {one: sample(schema["properties"][one], document, name=one) for one in wanted}
    if schema.get("type") == "array":
        return [sample(schema.get("items", {}), document)]
    by_format = {"uuid": UUID, "email": SAMPLES["email"], "date-time": "2026-01-01T00:00:00Z"}
    plain = {"string": "text", "integer": schema.get("minimum", 1), "number": 1.0, "boolean": True, "object": {}}
    return by_format.get(schema.get("format", "")) or plain.get(schema.get("type", ""))


def is_a(value: Any, kind: str | None) -> bool:
    kinds = {str: "string", int: "integer", list: "array"}
    return kinds[type(value)] == kind
