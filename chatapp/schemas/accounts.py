"""Accounts: sign-up, sign-in, people, invites."""

from __future__ import annotations

from typing import Any

from marshmallow import ValidationError, fields, validate

from chatapp.schemas import Schema, Text, Time, one_line

PASSWORD = validate.Length(8, 200)


class Email(fields.Email):
    """An address in lower case, by which one person has one account."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        text = super()._deserialize(value, attr, data, **kwargs).strip().lower()
        if not text.isprintable() or len(text) > 320:
            raise ValidationError("Not a valid email address.")
        return text


class Register(Schema):
    email = Email(required=True)
    password = Text(required=True, validate=PASSWORD, metadata={"format": "password"})
    name = Text(load_default=None, allow_none=True, validate=one_line(200))
    invite = Text(load_default=None, allow_none=True, validate=validate.Length(max=200))


class Login(Schema):
    email = Text(required=True, validate=validate.Length(1, 320))
    password = Text(required=True, validate=validate.Length(1, 200), metadata={"format": "password"})


class User(Schema):
    id = fields.UUID()
    email = fields.String()
    name = fields.String()
    role = fields.String()
    created_at = Time()


class SignedIn(Schema):
    access_token = fields.String()
    refresh_token = fields.String()
    user = fields.Nested(User)


class NewInvite(Schema):
    """Who comes by it has `plan`; without one the site's default."""

    email = Email(load_default=None, allow_none=True)
    plan = Text(load_default=None, allow_none=True, validate=validate.Length(max=40))


class Invite(Schema):
    id = fields.UUID()
    email = fields.String(allow_none=True)
    plan = fields.String(allow_none=True)
    created_at = Time()
    expires_at = Time()


class MadeInvite(Invite):
    """The token is shown this once; the site keeps its hash."""

    token = fields.String()
    url = fields.String()


class Invites(Schema):
    invites = fields.List(fields.Nested(Invite))
