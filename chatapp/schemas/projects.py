"""Projects and who is in them."""

from __future__ import annotations

from marshmallow import fields, validate

from chatapp.schemas import Schema, Text, TextOrObject, Time, Uuid, one_line
from chatapp.schemas.accounts import Email

ROLE = validate.OneOf(["owner", "editor", "reader"])
DESCRIPTION, INSTRUCTIONS, SCHEMA = (validate.Length(max=most) for most in (2000, 20_000, 60_000))


class NewProject(Schema):
    """`instructions` and `schema` are told to the model in each conversation of the project."""

    name = Text(required=True, validate=one_line(200))
    description = Text(load_default="", validate=DESCRIPTION)
    instructions = Text(load_default="", validate=INSTRUCTIONS)
    schema = TextOrObject(load_default="", validate=SCHEMA)


class ProjectChange(Schema):
    name = Text(validate=one_line(200))
    description = Text(validate=DESCRIPTION)
    instructions = Text(validate=INSTRUCTIONS)
    schema = TextOrObject(validate=SCHEMA)
    archived = fields.Boolean()


class Project(Schema):
    """`role` is what the asker is in it: owner, editor or reader."""

    id = fields.UUID()
    name = fields.String()
    description = fields.String()
    instructions = fields.String()
    schema = fields.String()
    archived = fields.Boolean()
    role = fields.String()
    created_at = Time()
    updated_at = Time()


class ProjectPage(Schema):
    projects = fields.List(fields.Nested(Project))
    total = fields.Integer()
    page = fields.Integer()
    page_size = fields.Integer()


class ProjectQuery(Schema):
    archived = fields.Boolean(load_default=False)
    page = fields.Integer(load_default=1, validate=validate.Range(1, 1_000_000))
    page_size = fields.Integer(load_default=50, validate=validate.Range(1, 200))


class NewMember(Schema):
    """Somebody with an account here, named by one of `email` and `user_id`."""

    email = Email(load_default=None, allow_none=True)
    user_id = Uuid(load_default=None, allow_none=True)
    role = Text(load_default="reader", validate=ROLE)


class MemberChange(Schema):
    role = Text(required=True, validate=ROLE)


class Member(Schema):
    user_id = fields.UUID()
    email = fields.String()
    name = fields.String()
    role = fields.String()
    created_at = Time()


class Members(Schema):
    members = fields.List(fields.Nested(Member))
