"""Opinions of answers."""

from __future__ import annotations

from typing import Any

from chatapp import auth
from chatapp.models.conversations import Message
from chatapp.routes._json import Blueprint
from chatapp.schemas import conversations as messages
from chatapp.schemas import reactions as shapes
from chatapp.services import reactions

blueprint = Blueprint("reactions", __name__, description="Opinions of answers")
PATH = "/api/chat/messages/<uuid:message_id>/reaction"


@blueprint.route(PATH, methods=["PUT"])
@blueprint.arguments(shapes.NewReaction)
@blueprint.response(200, messages.Message)
@blueprint.fails(401, 403, 404, 409, 413, 415)
def put(body: dict[str, Any], message_id: object) -> Message:
    """Like or dislike an answer; each person has one opinion of it"""
    return reactions.put(auth.current_user(), str(message_id), kind=body["reaction"], note=body["note"])


@blueprint.route(PATH, methods=["DELETE"])
@blueprint.response(204)
@blueprint.fails(401, 403, 404, 409)
def remove(message_id: object) -> None:
    """Take the opinion of an answer back"""
    reactions.remove(auth.current_user(), str(message_id))
