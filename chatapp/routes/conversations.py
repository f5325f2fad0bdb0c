"""Conversations and their messages."""

from __future__ import annotations

from typing import Any

from flask import Response

from chatapp import auth
from chatapp.models.conversations import Message
from chatapp.routes import _stream
from chatapp.routes._json import Blueprint
from chatapp.schemas import conversations as shapes
from chatapp.schemas import generations as answers
from chatapp.schemas.events import EventsQuery
from chatapp.services import conversations, generations

blueprint = Blueprint("conversations", __name__, description="Conversations")
PATH = "/api/chat/conversations"
ONE = f"{PATH}/<uuid:conversation_id>"


@blueprint.route(PATH)
@blueprint.arguments(shapes.ConversationQuery, location="query")
@blueprint.response(200, shapes.ConversationPage)
@blueprint.fails(401, 404)
def listed(query: dict[str, Any]) -> dict[str, Any]:
    """The user's conversations, pinned and newest first; `q` searches titles and messages"""
    return conversations.page(auth.current_user(), **query)


@blueprint.route(PATH, methods=["POST"])
@blueprint.arguments(shapes.NewConversation)
@blueprint.response(201, shapes.Conversation)
@blueprint.fails(401, 403, 404, 413, 415)
def make(body: dict[str, Any]) -> dict[str, Any]:
    """Make a conversation; with `key`, the user's own of that name, made if there is none"""
    return conversations.make(auth.current_user(), **body)


@blueprint.route(ONE)
@blueprint.response(200, shapes.ConversationWithMessages)
@blueprint.fails(401, 404)
def shown(conversation_id: object) -> dict[str, Any]:
    """A conversation with all its messages"""
    return conversations.with_messages(auth.current_user(), str(conversation_id))


@blueprint.route(ONE, methods=["PATCH"])
@blueprint.arguments(shapes.ConversationChange)
@blueprint.response(200, shapes.Conversation)
@blueprint.fails(401, 403, 404, 413, 415)
def change(body: dict[str, Any], conversation_id: object) -> dict[str, Any]:
    """Rename, pin, archive, move to a project, or turn to another branch"""
    return conversations.change(auth.current_user(), str(conversation_id), **body)


@blueprint.route(ONE, methods=["DELETE"])
@blueprint.response(204)
@blueprint.fails(401, 403, 404)
def delete(conversation_id: object) -> None:
    """Delete a conversation and all that hangs on it"""
    conversations.delete(auth.current_user(), str(conversation_id))


@blueprint.route(f"{ONE}/messages", methods=["POST"])
@blueprint.arguments(shapes.NewMessage)
@blueprint.response(201, shapes.Message)
@blueprint.fails(401, 403, 404, 413, 415)
def ask(body: dict[str, Any], conversation_id: object) -> Message:
    """Store a question without answering it; the conversation's stream does"""
    return conversations.add_question(auth.current_user(), str(conversation_id), **body)


@blueprint.route(f"{ONE}/stream")
@blueprint.arguments(EventsQuery, location="query")
@blueprint.response(200, {"type": "string"}, content_type="text/event-stream")
@blueprint.alt_response(204, description="The cursor is at the end")
@blueprint.fails(401, 403, 404, 409)
@_stream.speaks("named")
def stream(query: dict[str, Any], conversation_id: object) -> Response:
    """Answer the last question if nobody has, else follow the running or latest answer"""
    auth.check_not_cross_site()
    _stream.check_room()
    seen = _stream.seen_generation()
    generation = generations.of_conversation(auth.current_user(), str(conversation_id), seen=seen)
    return _stream.follow(generation, "named", named_by_url=False, heartbeat=query["heartbeat"])


@blueprint.route(f"{ONE}/stop", methods=["POST"])
@blueprint.response(200, answers.Stopped)
@blueprint.fails(401, 403, 404, 503)
def stop(conversation_id: object) -> dict[str, Message | None]:
    """End the running answer; what was written is kept"""
    return {"message": generations.stop(auth.current_user(), str(conversation_id))}


@blueprint.route("/api/chat/history")
@blueprint.route("/chat/history")
@blueprint.arguments(shapes.HistoryQuery, location="query")
@blueprint.response(200, shapes.History)
@blueprint.fails(401, 404)
def history(query: dict[str, Any]) -> dict[str, Any]:
    """The messages of one chat, or the user's latest ones; oldest first; of one project, of one task"""
    return conversations.history(
        auth.current_user(),
        reference=query["chatId"],
        project_id=query["projectId"],
        task_id=query["taskId"],
        page=query["page"],
        page_size=query["page_size"],
    )
