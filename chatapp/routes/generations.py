"""Answers: starting them, following them, asking again."""

from __future__ import annotations

from typing import Any

from flask import Response, request

from chatapp import auth
from chatapp.dialects import parse_cursor
from chatapp.models.generations import Generation
from chatapp.routes import _stream
from chatapp.routes._json import Blueprint
from chatapp.schemas import generations as shapes
from chatapp.services import generations

blueprint = Blueprint("generations", __name__, description="Answers")


@blueprint.route("/api/chat/start", methods=["POST"])
@blueprint.route("/chat/start", methods=["POST"])
@blueprint.arguments(shapes.IdempotencyHeader, location="headers")
@blueprint.arguments(shapes.Start)
@blueprint.response(201, shapes.Started)
@blueprint.fails(401, 403, 404, 413, 415, 503)
def start(headers: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    """Store a question and begin its answer, or carry out a slash command; the same key gives the same one"""
    generation, reference = generations.start(
        auth.current_user(),
        body["prompt"],
        reference=body["chatId"],
        model=body["modelId"],
        key=headers["key"] or body["requestId"],
        field="prompt",
        project_id=str(body["projectId"]) if body["projectId"] else None,
        task_id=body["taskId"],
        site_url=request.host_url,
    )
    return {**started(generation), "chatId": reference}


@blueprint.route("/api/chat/stream")
@blueprint.route("/chat/stream")
@blueprint.arguments(shapes.SessionQuery, location="query")
@blueprint.response(200, {"type": "string"}, content_type="text/event-stream")
@blueprint.alt_response(204, description="The cursor is at the end")
@blueprint.fails(401, 404, 410, 429)
@_stream.speaks("session")
def session_stream(query: dict[str, Any]) -> Response:
    """Open a session's stream"""
    cursor = parse_cursor(_stream.last_event_id())
    seen = cursor.seq if cursor and cursor.generation is None else 0
    _stream.check_room()  # or an opening would be spent
    generation = generations.open_session(auth.current_user(), query["sessionId"], seen=seen)
    return _stream.follow(generation, "session", named_by_url=True)


@blueprint.route("/api/generations/<uuid:generation_id>/events")
@blueprint.arguments(shapes.CursorQuery, location="query")
@blueprint.response(200, {"type": "string"}, content_type="text/event-stream")
@blueprint.alt_response(204, description="The cursor is at the end")
@blueprint.fails(401, 404)
@_stream.speaks("native")
def events(query: dict[str, Any], generation_id: object) -> Response:
    """Follow an answer from a cursor on"""
    generation = generations.owned(auth.current_user(), str(generation_id))
    return _stream.follow(generation, "native", named_by_url=True)


@blueprint.route("/api/chat/messages/<uuid:message_id>/regenerate", methods=["POST"])
@blueprint.arguments(shapes.IdempotencyHeader, location="headers")
@blueprint.arguments(shapes.AskAgain)
@blueprint.response(201, shapes.Started)
@blueprint.fails(401, 403, 404, 409, 413, 415, 503)
def regenerate(headers: dict[str, Any], body: dict[str, Any], message_id: object) -> dict[str, Any]:
    """Answer the same question anew; the old answer stays"""
    key = headers["key"] or body["requestId"]
    user, model = auth.current_user(), body["modelId"]
    return started(generations.regenerate(user, str(message_id), model=model, key=key, site_url=request.host_url))


@blueprint.route("/api/chat/messages/<uuid:message_id>/continue", methods=["POST"])
@blueprint.arguments(shapes.IdempotencyHeader, location="headers")
@blueprint.arguments(shapes.AskAgain)
@blueprint.response(201, shapes.Started)
@blueprint.fails(401, 403, 404, 409, 413, 415, 503)
def go_on(headers: dict[str, Any], body: dict[str, Any], message_id: object) -> dict[str, Any]:
    """Go on with an answer that was stopped, cut off or interrupted; it keeps its place"""
    key = headers["key"] or body["requestId"]
    return started(generations.go_on(auth.current_user(), str(message_id), model=body["modelId"], key=key))


@blueprint.route("/api/chat/messages/<uuid:message_id>", methods=["PATCH"])
@blueprint.arguments(shapes.IdempotencyHeader, location="headers")
@blueprint.arguments(shapes.Edit)
@blueprint.response(201, shapes.Started)
@blueprint.fails(401, 403, 404, 409, 413, 415, 503)
def edit(headers: dict[str, Any], body: dict[str, Any], message_id: object) -> dict[str, Any]:
    """Edit a question and ask again; the old branch stays"""
    key = headers["key"] or body["requestId"]
    user = auth.current_user()
    content, model = body["content"], body["modelId"]
    return started(generations.edit(user, str(message_id), content, model=model, key=key, site_url=request.host_url))


def started(generation: Generation) -> dict[str, Any]:
    return {
        "sessionId": generation.id,
        "chatId": generation.conversation_id,
        "conversationId": generation.conversation_id,
        "generationId": generation.id,
        "messageId": generation.message_id,
        "userMessageId": generation.question_id,
    }
