"""Chats in a project, by REST and by a stream."""

from __future__ import annotations

from typing import Any

from flask import Response

from chatapp import auth
from chatapp.database import utcnow
from chatapp.routes import _stream
from chatapp.routes._json import Blueprint
from chatapp.schemas import chats as shapes
from chatapp.schemas.generations import IdempotencyHeader
from chatapp.services import chats, generations

blueprint = Blueprint("chats", __name__, description="Chats in projects")


@blueprint.route("/api/v1/ai/chat", methods=["POST"])
@blueprint.route("/api/ai/chat", methods=["POST"])
@blueprint.route("/ai/chat", methods=["POST"])
@blueprint.arguments(IdempotencyHeader, location="headers")
@blueprint.arguments(shapes.Chat)
@blueprint.response(200, shapes.ChatAnswer)
@blueprint.fails(401, 403, 404, 409, 413, 415, 429, 502, 503, 504)
def ask(headers: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    """Ask and wait for the whole answer; with the key of a start it follows that same answer"""
    generation = chats.ask(
        auth.current_user(),
        body["message"],
        conversation_id=body["conversationId"],
        project_id=body["projectId"],
        model=body["model"],
        key=headers["key"] or body["requestId"],
    )
    message = generations.answer(generation)
    metadata = {"model": generation.model, "conversationId": generation.conversation_id}
    return {
        "conversationId": generation.conversation_id,
        "message": message,
        "timestamp": utcnow(),
        "metadata": {**(message.details or {}), **metadata, "usage": message.usage},
    }


@blueprint.route("/api/v1/ai/chat/stream")
@blueprint.route("/api/ai/chat/stream")
@blueprint.route("/ai/chat/stream")
@blueprint.arguments(IdempotencyHeader, location="headers")
@blueprint.arguments(shapes.ChatQuery, location="query")
@blueprint.response(200, {"type": "string"}, content_type="text/event-stream")
@blueprint.alt_response(204, description="The cursor is at the end")
@blueprint.fails(401, 403, 404, 409, 414, 429, 503)
@_stream.speaks("chat")
def stream(headers: dict[str, Any], query: dict[str, Any]) -> Response:
    """Ask and follow the answer; a reader who comes back with the id of its last event asks nobody twice"""
    auth.check_not_cross_site()
    _stream.check_room()
    generation = chats.stream(
        auth.current_user(),
        query["message"],
        conversation_id=query["conversationId"],
        project_id=query["projectId"],
        model=query["model"],
        key=headers["key"] or query["requestId"],
        seen=_stream.seen_generation(),
    )
    return _stream.follow(generation, "chat", named_by_url=False)
