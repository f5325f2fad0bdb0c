"""What goes with the user's own events."""

from __future__ import annotations

from marshmallow import fields, validate

from chatapp.schemas import CURSOR, Schema


class HeartbeatQuery(Schema):
    heartbeat = fields.String(
        load_default="comment",
        validate=validate.OneOf(["comment", "event"]),
        metadata={"description": "in silence: a comment, or an event of that name, which a page can hear"},
    )


class EventsQuery(HeartbeatQuery):
    lastEventId = fields.String(load_default=None, metadata=CURSOR)


class Typing(Schema):
    isTyping = fields.Boolean(required=True)
