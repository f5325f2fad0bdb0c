"""The site's health."""

from __future__ import annotations

from marshmallow import fields

from chatapp.schemas import Schema


class State(Schema):
    """up, down, busy (a locked database), unknown (a model API that was not asked lately)."""

    state = fields.String(required=True)


class Dependencies(Schema):
    """`redis` is null where none is set."""

    database = fields.Nested(State)
    redis = fields.Nested(State, allow_none=True)
    providers = fields.Dict(keys=fields.String(), values=fields.Nested(State))


class Health(Schema):
    """`status` is ok or down."""

    status = fields.String(required=True)
    version = fields.String(required=True)
    dependencies = fields.Nested(Dependencies, required=True)
