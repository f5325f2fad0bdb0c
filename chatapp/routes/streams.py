"""A history that the client keeps: its last question answered, in one request."""

from __future__ import annotations

from typing import Any

from flask import Response

from chatapp import auth
from chatapp.routes import _stream
from chatapp.routes._json import Blueprint
from chatapp.schemas import generations as answers
from chatapp.schemas import streams as shapes
from chatapp.services import streams
from chatapp.services.streams import Line, Talk

blueprint = Blueprint("streams", __name__, description="Answers to a history that the client keeps")


@blueprint.route("/api/stream", methods=["POST"])
@blueprint.arguments(answers.CursorQuery, location="query")
@blueprint.arguments(answers.IdempotencyHeader, location="headers")
@blueprint.arguments(shapes.Stream)
@blueprint.response(200, {"type": "string"}, content_type="text/event-stream")
@blueprint.alt_response(204, description="The cursor is at the end")
@blueprint.fails(401, 403, 413, 415, 429, 503)
@_stream.speaks("message")
def stream(query: dict[str, Any], headers: dict[str, Any], body: dict[str, Any]) -> Response:
    """Answer the last of these messages; with `chatId` the new ones and the answer are stored, without it nothing is"""
    user, key = auth.current_user(), headers["key"] or body["requestId"]
    _stream.check_room()
    lines = tuple(Line(one["id"], one["role"], one["content"]) for one in body["messages"])
    talk = Talk(lines, body["model"], body["systemPrompt"])
    if body["chatId"]:
        seen = _stream.seen_generation()
        generation = streams.begin(user, talk, reference=body["chatId"], key=key, seen=seen)
        if generation is not None:
            return _stream.follow(generation, "message", named_by_url=False)
    return _stream.follow_passing(streams.begin_passing(user, talk, key=key), "message")
