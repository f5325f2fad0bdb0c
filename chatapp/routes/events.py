"""What happens elsewhere to what is a user's: in another tab, on another device, by a colleague."""

from __future__ import annotations

import random
import secrets
from contextlib import suppress
from typing import Any

from flask import Response

from chatapp import auth, sse
from chatapp.database import db
from chatapp.errors import RateLimited, Unauthorized
from chatapp.readers import Reader
from chatapp.routes import _stream
from chatapp.routes._json import Blueprint
from chatapp.schemas import events as shapes
from chatapp.services import Site, conversations, site
from chatapp.services.events import key_of

blueprint = Blueprint("events", __name__, description="What happens elsewhere")
SIGNED_OUT = "You are signed out. Sign in to go on."
MAX_STREAMS = 20  # of one person: a tab has one, and some browsers share it


class Listener(sse.SSEStream):
    """One open stream of one person. Its events have ids, though none can be resumed from: see `sync`."""

    def __init__(self, parts: Site, user_id: str, *, heartbeat_event: bool) -> None:
        super().__init__(heartbeat_seconds=parts.settings.heartbeat_seconds, heartbeat_event=heartbeat_event)
        self._parts = parts
        self._key = key_of(user_id)
        self._name, self._sent = secrets.token_hex(4), 0
        self._reader: Reader | None = None

    def open(self, user_id: str, sign_in_id: str | None, *, missed: bool) -> None:
        """Begin to hear, then say so: what happens after that is told."""
        self._reader = self._parts.readers.watch(user_id, sign_in_id, self.wake)
        self.on_close(self._leave)
        self._parts.connections.register(self._key, self, missed=self.sync)
        self.sync(missed=missed)
        self.wake()

    def send(self, *, data: Any = sse.NOTHING, id: str | int | None = None, **rest: Any) -> None:
        if id is None and data is not sse.NOTHING:
            id, self._sent = f"{self._name}-{self._sent}", self._sent + 1
        super().send(data=data, id=id, **rest)

    def sync(self, *, missed: bool = True) -> None:
        """Say whether something may have been missed: then what the page shows has to be loaded again."""
        with suppress(sse.StreamClosed):
            self.send(event="sync", data={"missed": missed})

    def wake(self) -> None:
        """Look whether the stream has to end. Never waits."""
        if self.closed or self._reader is None:
            return
        with suppress(sse.StreamClosed):  # by a reader who is too slow: it ends all the same
            if self._parts.readers.closing:
                self.send(retry=random.randint(*_stream.SOON_MS))
                self.close()
            elif not self._reader.allowed:
                super().send(event="error", data={"code": Unauthorized.code, "message": SIGNED_OUT})
                self.close()

    def _leave(self, stream: sse.SSEStream) -> None:
        if self._reader is not None:
            self._parts.readers.leave(self._reader)


@blueprint.route("/api/events")
@blueprint.arguments(shapes.EventsQuery, location="query")
@blueprint.response(200, {"type": "string"}, content_type="text/event-stream")
@blueprint.fails(401, 429)
@_stream.speaks("named")
def events(query: dict[str, Any]) -> Response:
    """Follow what happens to what is yours: conversation, notification, typing; sync where something was missed"""
    user, parts = auth.current_user(), site()
    if parts.readers.closing:
        return _stream.respond(iter([_stream.come_back_soon()]))
    if parts.connections.count(key_of(user.id)) >= MAX_STREAMS:
        raise RateLimited(f"You have {MAX_STREAMS} pages open already. Close one of them.", retry_after=5)
    listener = Listener(parts, user.id, heartbeat_event=query["heartbeat"] == "event")
    try:
        listener.open(user.id, auth.sign_in_id(), missed=bool(_stream.last_event_id()))
        db.session.remove()  # a stream holds no connection
        return sse.sse_response(listener, send_timeout_seconds=parts.settings.send_timeout_seconds)
    except BaseException:
        listener.close()
        raise


@blueprint.route("/api/chat/conversations/<uuid:conversation_id>/typing", methods=["POST"])
@blueprint.arguments(shapes.Typing)
@blueprint.response(204)
@blueprint.fails(401, 403, 404, 413, 415)
def typing(body: dict[str, Any], conversation_id: object) -> None:
    """Tell the others who see this conversation that you are writing, or not any more"""
    conversations.tell_typing(auth.current_user(), str(conversation_id), body["isTyping"])
