"""Questions to a session, which the client has its own name for, and their streams."""

from __future__ import annotations

import re
from typing import Any

from flask import Response, request

from chatapp import auth
from chatapp.errors import ValidationFailed
from chatapp.models.generations import Generation
from chatapp.routes import _stream
from chatapp.routes._json import Blueprint
from chatapp.schemas import REFERENCE, REFERENCE_PATTERN
from chatapp.schemas import questions as shapes
from chatapp.schemas.generations import IdempotencyHeader
from chatapp.services import questions

blueprint = Blueprint("questions", __name__, description="Questions to documents")
WHOLE_NUMBER = re.compile(r"0|[1-9][0-9]{0,14}", re.ASCII)  # longer ones lose digits in JavaScript


@blueprint.route("/api/chat/<session_id>/stream", methods=["POST"])
@blueprint.route("/chat/<session_id>/stream", methods=["POST"])
@blueprint.arguments(IdempotencyHeader, location="headers")
@blueprint.arguments(shapes.Question)
@blueprint.response(200, {"type": "string"}, content_type="text/event-stream")
@blueprint.alt_response(204, description="The cursor is at the end")
@blueprint.fails(401, 403, 404, 413, 415, 429, 503)
@_stream.speaks("question")
def ask(headers: dict[str, Any], body: dict[str, Any], session_id: str) -> Response:
    """Ask in a session, which is made on first use, and follow the answer"""
    return follow(asked(session_id, body, headers["key"]), session_id)


@blueprint.route("/api/chat/<session_id>/stream")
@blueprint.route("/chat/<session_id>/stream")
@blueprint.arguments(IdempotencyHeader, location="headers")
@blueprint.arguments(shapes.QuestionQuery, location="query")
@blueprint.response(200, {"type": "string"}, content_type="text/event-stream")
@blueprint.alt_response(204, description="The cursor is at the end")
@blueprint.fails(401, 403, 404, 409, 414, 429, 503)
@_stream.speaks("question")
def stream(headers: dict[str, Any], query: dict[str, Any], session_id: str) -> Response:
    """Ask and follow the answer; without a question, follow the running or latest one"""
    if query["question"] is not None:
        auth.check_not_cross_site()
        return follow(asked(session_id, query, headers["key"]), session_id)
    user = auth.current_user()
    return follow(questions.latest(user, checked(session_id), seen=_stream.seen_generation()), session_id)


def asked(session_id: str, given: dict[str, Any], key: str | None) -> Generation:
    _stream.check_room()
    optional = {name: given[name] for name in ("document_ids", "system_prompt") if given[name]}
    return questions.ask(
        auth.current_user(),
        checked(session_id),
        given["question"],
        seen=_stream.seen_generation(),
        model=given["model"],
        key=key or given["requestId"],
        search_mode=given["search_mode"],
        **optional,
    )


def checked(session_id: str) -> str:
    if not re.match(REFERENCE_PATTERN, session_id):
        raise ValidationFailed(fields={"session_id": [str(REFERENCE.error)]})
    return session_id


def follow(generation: Generation, session_id: str) -> Response:
    """Return the stream; of another type than event streams have only to who takes nothing but plain text."""
    reference = int(session_id) if WHOLE_NUMBER.fullmatch(session_id) else session_id
    response = _stream.follow(generation, "question", named_by_url=False, reference=reference)
    if [kind for kind, _ in request.accept_mimetypes] == ["text/plain"]:
        response.mimetype = "text/plain"
    return response
