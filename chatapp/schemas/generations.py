"""Starting an answer, and what comes back."""

from __future__ import annotations

from marshmallow import fields, validate

from chatapp.schemas import CURSOR, KEY, REFERENCE, Schema, Text
from chatapp.schemas.conversations import Message


class IdempotencyHeader(Schema):
    key = fields.String(data_key="Idempotency-Key", load_default=None, validate=KEY)


class Start(Schema):
    modelId = Text(load_default=None, allow_none=True, validate=validate.Length(max=300))
    prompt = Text(required=True)
    chatId = Text(load_default=None, allow_none=True, validate=REFERENCE)
    projectId = fields.UUID(load_default=None, allow_none=True)
    taskId = Text(load_default=None, allow_none=True, validate=REFERENCE)
    requestId = Text(load_default=None, allow_none=True, validate=KEY)


class Started(Schema):
    """`sessionId` opens the stream for a while; `generationId` names the answer's log, `messageId` the answer."""

    sessionId = fields.UUID()
    chatId = fields.String()
    conversationId = fields.UUID()
    generationId = fields.UUID()
    messageId = fields.UUID()
    userMessageId = fields.UUID()


class AskAgain(Schema):
    modelId = Text(load_default=None, allow_none=True, validate=validate.Length(max=300))
    requestId = Text(load_default=None, allow_none=True, validate=KEY)


class Edit(AskAgain):
    content = Text(required=True)


class SessionQuery(Schema):
    sessionId = Text(required=True, validate=validate.Length(1, 64))
    lastEventId = fields.String(load_default=None, metadata=CURSOR)


class CursorQuery(Schema):
    lastEventId = fields.String(load_default=None, metadata=CURSOR)


class Stopped(Schema):
    """What was stored; null where nothing was running and there is no answer."""

    message = fields.Nested(Message, allow_none=True)
