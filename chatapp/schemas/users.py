"""People, as admins see them."""

from __future__ import annotations

from marshmallow import fields, validate

from chatapp.schemas import Schema, Text, one_line
from chatapp.schemas.accounts import User

ROLES = ("admin", "user")


class UsersQuery(Schema):
    page = fields.Integer(load_default=1, validate=validate.Range(1, 1_000_000))
    page_size = fields.Integer(load_default=50, validate=validate.Range(1, 200))
    q = Text(load_default="", validate=validate.Length(max=200))


class UserChange(Schema):
    """`plan`: null for the site's default one. Who is `disabled` is signed out at once, and cannot sign in."""

    name = Text(validate=one_line(200))
    role = fields.String(validate=validate.OneOf(ROLES))
    plan = Text(allow_none=True, validate=validate.Length(max=40))
    disabled = fields.Boolean()


class Person(User):
    """`plan` is what an admin gave them, `effective_plan` what they have."""

    plan = fields.String(allow_none=True)
    effective_plan = fields.String()
    disabled = fields.Boolean()


class UserPage(Schema):
    users = fields.List(fields.Nested(Person))
    total = fields.Integer()
    page = fields.Integer()
    page_size = fields.Integer()
