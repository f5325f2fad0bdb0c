"""Conversations as files."""

from __future__ import annotations

from collections.abc import Sequence

from marshmallow import fields, validate

from chatapp.schemas import Schema


def query(formats: Sequence[str]) -> type[Schema]:
    """Return what an export is asked with, where there are these *formats*."""

    class ExportQuery(Schema):
        """`reasoning`: whether to show what a model thought before it answered; JSON always has it."""

        format = fields.String(load_default="json", validate=validate.OneOf(formats))
        reasoning = fields.Boolean(load_default=False)

    return ExportQuery
