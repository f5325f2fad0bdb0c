"""Chats in a project: a question by query or body, and a whole answer."""

from __future__ import annotations

from marshmallow import fields, validate

from chatapp.schemas import CURSOR, KEY, Schema, Text, Time, Uuid
from chatapp.schemas.conversations import Message

MODEL = validate.Length(max=300)


class Chat(Schema):
    """A question whose whole answer is waited for."""

    projectId = Uuid(load_default=None, allow_none=True)
    message = Text(required=True)
    conversationId = Uuid(load_default=None, allow_none=True)
    model = Text(load_default=None, allow_none=True, validate=MODEL)
    requestId = Text(load_default=None, allow_none=True, validate=KEY)


class ChatQuery(Schema):
    """A question whose answer is streamed. `requestId` does what the header Idempotency-Key does."""

    projectId = Uuid(required=True)
    message = Text(required=True)
    conversationId = Uuid(load_default=None)
    model = Text(load_default=None, validate=MODEL)
    requestId = Text(load_default=None, validate=KEY)
    lastEventId = fields.String(load_default=None, metadata=CURSOR)


class ChatAnswer(Schema):
    conversationId = fields.UUID()
    message = fields.Nested(Message)
    timestamp = Time()
    metadata = fields.Dict()
