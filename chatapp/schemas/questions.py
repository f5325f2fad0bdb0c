"""Questions to a session, by query or body."""

from __future__ import annotations

from marshmallow import fields, validate

from chatapp.schemas import CURSOR, KEY, Schema, Text, Uuid

MODES = validate.OneOf(["all", "documents", "none"])
MODEL, PROMPT, DOCUMENTS = (validate.Length(max=most) for most in (300, 32_000, 200))


class Question(Schema):
    """`search_mode` says what is searched for the answer; `document_ids` narrow it down to those documents."""

    question = Text(required=True)
    model = Text(load_default=None, allow_none=True, validate=MODEL)
    search_mode = Text(load_default="all", validate=MODES)
    document_ids = fields.List(Uuid(), load_default=None, allow_none=True, validate=DOCUMENTS)
    system_prompt = Text(load_default=None, allow_none=True, validate=PROMPT)
    requestId = Text(load_default=None, allow_none=True, validate=KEY)


class QuestionQuery(Schema):
    """Without `question` the running or latest answer is followed. `requestId` does what the header Idempotency-Key does."""

    question = Text(load_default=None)
    model = Text(load_default=None, validate=MODEL)
    search_mode = Text(load_default="all", validate=MODES)
    document_ids = fields.List(Uuid(), load_default=None, validate=DOCUMENTS)
    system_prompt = Text(load_default=None, validate=PROMPT)
    requestId = Text(load_default=None, validate=KEY)
    lastEventId = fields.String(load_default=None, metadata=CURSOR)
