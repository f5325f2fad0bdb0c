"""One file a noun: shapes of JSON, in and out. Never a query.

What a client sends beside the fields that are named here is ignored, so that a client of another version still works.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import marshmallow
import orjson
from marshmallow import EXCLUDE, ValidationError, fields, validate


class Schema(marshmallow.Schema):
    """Base of all shapes."""

    class Meta:
        unknown = EXCLUDE

    def __deepcopy__(self, memo: dict[int, Any]) -> Schema:
        """Return this very schema, which nobody changes: documenting the routes would copy all of them a hundred times."""
        return self


class Text(fields.String):
    """Text that every database can store: no NUL, no lone surrogate."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        text = super()._deserialize(value, attr, data, **kwargs)
        if "\0" in text:
            raise ValidationError("The character NUL is not allowed.")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValidationError("Not valid Unicode.") from error
        return text


class TextOrObject(Text):
    """Text; a JSON object is taken too, and kept as its JSON."""

    def __init__(self, **options: Any) -> None:
        super().__init__(metadata={"oneOf": [{"type": "string"}, {"type": "object"}]}, **options)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        if isinstance(value, dict):
            try:
                value = orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
            except orjson.JSONEncodeError as error:
                raise ValidationError("It is nested too deep.") from error
        return super()._deserialize(value, attr, data, **kwargs)


class Uuid(fields.UUID):
    """An id as the database keeps it: text, whatever way of writing it was sent."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        return str(super()._deserialize(value, attr, data, **kwargs))


class Time(fields.Field):
    """RFC 3339 in UTC with `Z` and microseconds."""

    def _serialize(self, value: datetime | None, attr: str | None, obj: Any, **kwargs: Any) -> str | None:
        return rfc3339(value) if value is not None else None


class ErrorBody(Schema):
    """What went wrong; `fields` only for validation errors."""

    code = fields.String(required=True)
    message = fields.String(required=True)
    fields_ = fields.Dict(data_key="fields", attribute="fields")


class Error(Schema):
    error = fields.Nested(ErrorBody, required=True)


def rfc3339(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def one_line(maximum: int, *, blank: bool = False) -> list[Any]:
    """Validators for a title or a name: no line breaks, and something besides blanks unless *blank* is allowed."""
    line = r"[^\r\n\u2028\u2029]*$(?!\n)"
    pattern = rf"^{line}" if blank else rf"^(?=.*\S){line}"
    return [
        validate.Length(0 if blank else 1, maximum),
        validate.Regexp(pattern, error="Must be a single line of text."),
    ]


# The user's own name for a conversation, unique per user; a UUID is one of ours
# (patterns also stand in the OpenAPI document: what Python writes \Z is the letter Z to everyone else)
REFERENCE_PATTERN = r"^[A-Za-z0-9._:-]{1,64}$(?!\n)"
REFERENCE = validate.Regexp(REFERENCE_PATTERN, error="Use 1 to 64 of the characters A-Z a-z 0-9 . _ : -")
CURSOR = {"description": "the id of the last event that was seen, for who cannot send it as `Last-Event-ID`"}
KEY = validate.Regexp(r"^[\x21-\x7e]{1,200}$(?!\n)", error="Use 1 to 200 visible ASCII characters.")
