"""Conversations and messages."""

from __future__ import annotations

from marshmallow import fields, validate

from chatapp.schemas import REFERENCE, Schema, Text, Time, Uuid, one_line


class MessageFailure(Schema):
    code = fields.String()
    message = fields.String()
    retryable = fields.Boolean()


class Reaction(Schema):
    """What the one who asks thinks of an answer; `kind` is like or dislike."""

    kind = fields.String()
    note = fields.String()


class Message(Schema):
    """A question or an answer. `status` is stored, running, finished, stopped, failed or interrupted.

    `command` names the slash command that a question is, and the site's answer to it: models are not told of them.
    """

    id = fields.UUID()
    conversation_id = fields.UUID()
    parent_id = fields.UUID(allow_none=True)
    role = fields.String()
    content = fields.String()
    reasoning = fields.String()
    status = fields.String()
    model = fields.String(allow_none=True)
    finish_reason = fields.String(allow_none=True)
    error = fields.Nested(MessageFailure, allow_none=True)
    usage = fields.Dict(allow_none=True)
    sources = fields.List(fields.Dict(), allow_none=True)
    metadata = fields.Dict(attribute="details", allow_none=True)
    generation_id = fields.UUID(allow_none=True)
    task_id = fields.String(allow_none=True)
    command = fields.String(allow_none=True)
    reaction = fields.Nested(Reaction, allow_none=True, dump_default=None)
    created_at = Time()


class Conversation(Schema):
    """`running` says whether an answer is being made in it; `key` is the client's own name for it."""

    id = fields.UUID()
    project_id = fields.UUID(allow_none=True)
    key = fields.String(allow_none=True)
    title = fields.String()
    model = fields.String(allow_none=True)
    pinned = fields.Boolean()
    archived = fields.Boolean()
    leaf_id = fields.UUID(allow_none=True)
    running = fields.Boolean()
    created_at = Time()
    updated_at = Time()


class ConversationWithMessages(Conversation):
    """All messages of the tree in the order of making; the branch shown runs from `leaf_id` to the root."""

    messages = fields.List(fields.Nested(Message))


class ConversationPage(Schema):
    conversations = fields.List(fields.Nested(Conversation))
    total = fields.Integer()
    page = fields.Integer()
    page_size = fields.Integer()


class ConversationQuery(Schema):
    page = fields.Integer(load_default=1, validate=validate.Range(1, 1_000_000))
    page_size = fields.Integer(load_default=50, validate=validate.Range(1, 200))
    q = Text(load_default="", validate=validate.Length(max=200))
    archived = fields.Boolean(load_default=False)
    project_id = Uuid(load_default=None)


class NewConversation(Schema):
    title = Text(load_default="", validate=one_line(200, blank=True))
    key = Text(load_default=None, allow_none=True, validate=REFERENCE)
    project_id = Uuid(load_default=None, allow_none=True)


class ConversationChange(Schema):
    title = Text(validate=one_line(200))
    pinned = fields.Boolean()
    archived = fields.Boolean()
    project_id = Uuid(allow_none=True)
    leaf_id = fields.UUID()


class NewMessage(Schema):
    content = Text(required=True)


class HistoryQuery(Schema):
    chatId = Text(load_default=None, validate=REFERENCE)
    projectId = Uuid(load_default=None)
    taskId = Text(load_default=None, validate=REFERENCE)
    page = fields.Integer(load_default=1, validate=validate.Range(1, 1_000_000))
    page_size = fields.Integer(load_default=50, validate=validate.Range(1, 200))


class HistoryMessage(Schema):
    id = fields.UUID()
    role = fields.String()
    content = fields.String()
    createdAt = Time(attribute="created_at")
    model = fields.String(allow_none=True)
    status = fields.String()
    chatId = fields.UUID(attribute="conversation_id")
    taskId = fields.String(attribute="task_id", allow_none=True)
    finishReason = fields.String(attribute="finish_reason", allow_none=True)
    error = fields.Nested(MessageFailure, allow_none=True)
    reasoning = fields.String()
    sources = fields.List(fields.Dict(), allow_none=True)
    usage = fields.Dict(allow_none=True)
    command = fields.String(allow_none=True)
    reaction = fields.Nested(Reaction, allow_none=True, dump_default=None)


class History(Schema):
    """Oldest first; without a chat, a page of the user's latest messages, with `total`, `page` and `page_size`."""

    chatId = fields.String(allow_none=True)
    messages = fields.List(fields.Nested(HistoryMessage))
    total = fields.Integer()
    page = fields.Integer()
    page_size = fields.Integer()
