"""A history that the client keeps, whose last question is to be answered."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from marshmallow import ValidationError, fields, validate

from chatapp.schemas import KEY, REFERENCE, Schema, Text

MAX_MESSAGES = 200
MAX_ID_CHARS = 200
ROLES = ("user", "assistant", "system")


class When(fields.Field):
    """When something was said, by the client's clock: a date as JSON has it, or milliseconds since 1970."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return value
        try:
            return datetime.fromisoformat(value)
        except (TypeError, ValueError) as error:
            raise ValidationError("Not a date: use RFC 3339, as in 2024-01-01T00:00:00Z.") from error


class SaidMessage(Schema):
    """`id` is the client's own name for a message, and what says whether it is stored already."""

    id = Text(required=True, validate=validate.Length(1, MAX_ID_CHARS))
    role = Text(required=True, validate=validate.OneOf(ROLES))
    content = Text(required=True)
    timestamp = When(load_default=None, allow_none=True)


class Stream(Schema):
    """With `chatId` the new questions and the answer are stored; without it nothing is."""

    messages = fields.List(fields.Nested(SaidMessage), required=True, validate=validate.Length(1, MAX_MESSAGES))
    model = Text(required=True, validate=validate.Length(1, 300))
    chatId = Text(load_default=None, allow_none=True, validate=REFERENCE)
    systemPrompt = Text(load_default=None, allow_none=True)
    requestId = Text(load_default=None, allow_none=True, validate=KEY)
