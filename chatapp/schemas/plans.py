"""Plans: which models, and how much in a day."""

from __future__ import annotations

from typing import Any

from marshmallow import fields, validate

from chatapp.schemas import Schema, Text

# patterns also stand in the OpenAPI document: see `chatapp.schemas`
NAME = validate.Regexp(
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$(?!\n)", error="Use 1 to 40 of the characters A-Z a-z 0-9 . _ -"
)
MODEL = validate.Regexp(r"^(?=.{1,300}$)[a-z0-9]+/\S(.*\S)?$(?!\n)", error="Name models as provider/name.")
MAX_TOKENS = 1_000_000_000
MAX_SAID = 500


class Said(fields.Dict):
    """Model ids -> whether the plan includes them; null leaves it to the catalogue again."""

    def __init__(self) -> None:
        keys = Text(validate=MODEL)
        values = fields.Boolean(allow_none=True)
        super().__init__(keys=keys, values=values, load_default=dict, validate=validate.Length(max=MAX_SAID))


class Quota(fields.Integer):
    """Tokens that each of the plan's people may use in a day; 0: any number, null: as the site's settings say."""

    def __init__(self, **options: Any) -> None:
        super().__init__(strict=True, allow_none=True, validate=validate.Range(0, MAX_TOKENS), **options)

    def _validated(self, value: Any) -> int:
        if isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return super()._validated(value)


class NewPlan(Schema):
    """A plan begins with what the lowest one has by the catalogue."""

    name = Text(required=True, validate=NAME)
    models = Said()
    tokens_per_day = Quota(load_default=None)


class PlanChange(Schema):
    models = Said()
    tokens_per_day = Quota()


class Plan(Schema):
    """`models` holds all that are known, and whether the plan includes them; `overrides` what an admin said of some."""

    name = fields.String()
    tokens_per_day = fields.Integer(allow_none=True)
    models = fields.Dict(keys=fields.String(), values=fields.Boolean())
    overrides = fields.Dict(keys=fields.String(), values=fields.Boolean())
    people = fields.Integer()
    is_default = fields.Boolean()


class Plans(Schema):
    """The lowest first."""

    plans = fields.List(fields.Nested(Plan))
