"""Models that can be asked."""

from __future__ import annotations

from marshmallow import fields

from chatapp.schemas import Schema


class Model(Schema):
    id = fields.String()
    name = fields.String()
    provider = fields.String()
    context_length = fields.Integer(allow_none=True)
    capabilities = fields.List(fields.String())


class Models(Schema):
    """`default` is the one that is asked where none is named; null where there is none."""

    models = fields.List(fields.Nested(Model))
    default = fields.String(allow_none=True)
