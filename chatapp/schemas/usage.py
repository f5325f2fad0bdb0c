"""What people use."""

from __future__ import annotations

from typing import Any

from marshmallow import ValidationError, fields, validate

from chatapp.schemas import Schema, Text, Time

GROUPS = ("day", "user", "model")


class Groups(fields.String):
    """Some of day, user, model, separated by commas; sums are made for each of their combinations."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        names = [name.strip() for name in super()._deserialize(value, attr, data, **kwargs).split(",") if name.strip()]
        if not names or set(names) - set(GROUPS) or len(names) != len(set(names)):
            raise ValidationError("Use some of day, user, model, separated by commas.")
        return names


class MyUsageQuery(Schema):
    """Days are UTC, YYYY-MM-DD, and both are included."""

    first = fields.Date(data_key="from", load_default=None)
    last = fields.Date(data_key="to", load_default=None)
    page = fields.Integer(load_default=1, validate=validate.Range(1, 1_000_000))
    page_size = fields.Integer(load_default=50, validate=validate.Range(1, 200))


class UsageQuery(MyUsageQuery):
    user = fields.UUID(load_default=None)
    model = Text(load_default=None, validate=validate.Length(max=300))
    group = Groups(load_default=lambda: ["day"])


class Sums(Schema):
    answers = fields.Integer()
    prompt_tokens = fields.Integer()
    completion_tokens = fields.Integer()
    total_tokens = fields.Integer()


class Row(Sums):
    """`day`, `user` (with `email`) and `model` are there where sums are made for each."""

    day = fields.String()
    user = fields.UUID()
    email = fields.String(allow_none=True)
    model = fields.String()


class Usage(Schema):
    """`total` sums up all `rows` rows, of which one page is shown."""

    usage = fields.List(fields.Nested(Row))
    total = fields.Nested(Sums)
    rows = fields.Integer()
    page = fields.Integer()
    page_size = fields.Integer()


class MyUsage(Usage):
    """`quota` is what may be used today (UTC), null for any number; `used` and `left` are of today, until `renews_at`."""

    plan = fields.String()
    quota = fields.Integer(allow_none=True)
    used = fields.Integer()
    left = fields.Integer(allow_none=True)
    renews_at = Time()
