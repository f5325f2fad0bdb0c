"""Opinions of answers."""

from __future__ import annotations

from marshmallow import fields, validate

from chatapp.schemas import Schema, Text

KINDS = ("like", "dislike")
NOTE_CHARS = 2000


class NewReaction(Schema):
    reaction = fields.String(required=True, validate=validate.OneOf(KINDS))
    note = Text(load_default="", validate=validate.Length(max=NOTE_CHARS))
