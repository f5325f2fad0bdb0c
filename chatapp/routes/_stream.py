"""A response that follows a log: cursor in, a dialect's frames out.

No database connection and no request is held while it waits. What goes wrong after the first byte is told in the dialect's
own error event.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, TypeVar, cast
from uuid import UUID

from flask import Response, current_app, request
from sqlalchemy.exc import DBAPIError
from werkzeug.wsgi import ClosingIterator

import chatapp.dialects
from chatapp import auth, registry, sse
from chatapp.answer import FAILED, INTERRUPTED, RUNNING, fold
from chatapp.database import db
from chatapp.dialects import NOTHING, START, Context, Cursor, Dialect, frames, parse_cursor, wire
from chatapp.errors import AppError, NotFound, Overloaded, Unauthorized
from chatapp.eventlog import EventLog, Head, LogExpired, LogGone, LogTroubled
from chatapp.events import Entry, Event, Failed, Finished, Reasoning, Sources, Started, Token, Usage
from chatapp.models.conversations import Message
from chatapp.models.generations import Generation
from chatapp.readers import Reader
from chatapp.routes import _outlet
from chatapp.routes._outlet import Gzip, Outlet
from chatapp.runner import ADRIFT
from chatapp.schemas.conversations import Message as MessageSchema
from chatapp.services import Site, site

logger = logging.getLogger(__name__)

DIALECTS: dict[str, Dialect] = registry.load(chatapp.dialects)  # type: ignore[assignment]
OPENING = b"retry: 3000\n"  # milliseconds; without a blank line, of which some clients make an event
HEARTBEATS = {"comment": sse.comment(), "event": sse.Frame("{}", event="heartbeat").encode()}
SOON_MS = (200, 700)  # when to come back to a site that is being restarted: not all at once
TICK_SECONDS = 1.0  # how often a stream without an outlet looks whether it may go on
RESTARTED = "The site is being restarted. Ask again in a moment."
HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}  # nginx buffers unless told not to
View = TypeVar("View", bound=Callable[..., Any])


def speaks(dialect: str) -> Callable[[View], View]:
    """Mark a view as a stream, so that whoever comes back to it learns of errors in-band; HEAD begins and counts nothing."""

    def decorate(view: View) -> View:
        @wraps(view)
        def streamed(*args: Any, **kwargs: Any) -> Response:
            if request.method == "HEAD":
                return Response(mimetype="text/event-stream", headers=HEADERS)
            response: Response = view(*args, **kwargs)
            return response

        streamed.dialect = dialect  # type: ignore[attr-defined]
        return cast(View, streamed)

    return decorate


def last_event_id() -> str | None:
    """Return the id that the reader says it saw last: the header, or what EventSource's first connect must use."""
    return request.headers.get("Last-Event-ID") or request.args.get("lastEventId")


def seen_generation() -> str | None:
    """Return the id of the generation that the reader's last event was of, where ids name it."""
    cursor = parse_cursor(last_event_id())
    return str(UUID(cursor.generation)) if cursor is not None and cursor.generation else None


def check_room() -> None:
    """Refuse who asks what they could not read: before it is stored and a model is asked, or trying again asks twice.

    Who comes back, with a cursor, asks nothing. Raises RateLimited, Overloaded.
    """
    if not last_event_id():
        site().readers.check_room(auth.current_user().id)


@dataclass
class Stream:
    """One reader's view of one log, in one dialect."""

    site: Site
    generation_id: str
    dialect: Dialect
    context: Context
    cursor: Cursor
    prefix: str
    opening: bytes = b""  # sent before the log's own frames
    heartbeat: bytes = sse.comment()
    outlet: Outlet | None = None
    reader: Reader = field(init=False)

    @property
    def log(self) -> EventLog:
        return self.site.log

    def join(self, user_id: str, sign_in_id: str | None) -> None:
        """Be counted as one who reads. Raises RateLimited, Overloaded."""
        self.reader = self.site.readers.join(user_id, sign_in_id, self.generation_id, self.wake)

    def wake(self) -> None:
        if self.outlet is not None:
            self.outlet.wake()

    def make(self, entries: Sequence[Entry]) -> bytes:
        """Return the bytes of what comes after what was sent to this reader; of any cursor's, if they are alike."""
        return wire(self.dialect, entries, context=self.context, prefix=self.prefix)

    def __iter__(self) -> Iterator[bytes]:
        """Yield bytes: one block per wake-up, a heartbeat in silence, and an error event where it must end early."""
        try:
            yield OPENING + self.opening
            try:
                yield from self._follow(self.log)
            except LogTroubled as trouble:
                if trouble.event.code != ADRIFT:
                    raise
                yield from self._follow(self.site.runners.spare)
        except LogGone:
            yield self._failure(NotFound("This conversation was deleted."))
        except LogTroubled as trouble:
            self.reader.ended = trouble.event.code
            yield failed(self.dialect, trouble.event)
        except (LogExpired, DBAPIError, Overloaded):
            logger.exception("generation %s: a reader has to come again", self.generation_id)
            yield self._failure(Overloaded("The stream broke off. It goes on in a moment."))
        except OSError:
            raise  # of the reader's socket, which gunicorn knows how to end
        except Exception:
            logger.exception("generation %s: a stream failed", self.generation_id)
            yield self._failure(AppError())
        finally:
            self.close()

    def close(self) -> None:
        self.site.readers.leave(self.reader)
        if self.outlet is not None:
            self.outlet.close()
            self.outlet = None

    def _follow(self, log: EventLog) -> Iterator[bytes]:
        heartbeat = self.site.settings.heartbeat_seconds
        tap = None if self.cursor.part else self.outlet  # who reads from the middle of an event gets bytes of its own
        pause = min(heartbeat, TICK_SECONDS) if tap is None else heartbeat
        said_at = time.monotonic()
        after = self.cursor.after
        if self.outlet is not None:  # it may have taken more meanwhile
            self.outlet.flush()
            after = max(after, self.outlet.cursor)
        for batch in log.follow(self.generation_id, after, heartbeat_seconds=pause, tap=tap):
            if self.outlet is not None:
                if self.outlet.gone:
                    return
                self.outlet.flush()
            if not self.reader.allowed:
                if log.head(self.generation_id) is None:  # whose sign-in is good is not sent to sign in
                    raise LogGone(self.generation_id)
                yield self._failure(Unauthorized("You may not read this any longer."))
                return
            if self.site.readers.closing and not batch:
                self.reader.ended = "restart"
                yield self.sent_away()
                return
            data = wire(self.dialect, batch, context=self.context, cursor=self.cursor, prefix=self.prefix)
            if batch:
                self.cursor = Cursor(batch[-1].seq)
            now = time.monotonic()
            if not data and now - max(said_at, self.outlet.sent_at if self.outlet else 0.0) >= heartbeat - 0.001:
                data = self.heartbeat
            if data:
                said_at = now
                yield data
        self.reader.ended = "answered"

    def sent_away(self) -> bytes:
        """Return what a reader is told whom this process cannot serve any longer."""
        return come_back_soon()

    def _failure(self, error: AppError) -> bytes:
        self.reader.ended = error.code
        return failure(self.dialect, error)


class PassingStream(Stream):
    """One reader's view of an answer that is stored nowhere, which ends with its last reader."""

    left = False

    @property
    def log(self) -> EventLog:
        return self.site.passing.log

    def join(self, user_id: str, sign_in_id: str | None) -> None:
        self.reader = self.site.readers.join(user_id, sign_in_id, None, self.wake)

    def close(self) -> None:
        super().close()
        if not self.left:
            self.left = True
            self.site.passing.leave(self.generation_id)

    def sent_away(self) -> bytes:
        return self._failure(Overloaded(RESTARTED))  # nobody can go on with it


def come_back_soon() -> bytes:
    return sse.retry(random.randint(*SOON_MS))


def follow(
    generation: Generation,
    dialect: str,
    *,
    named_by_url: bool,
    reference: str | int | None = None,
    heartbeat: str = "comment",
) -> Response:
    """Return the stream of *generation* from the reader's cursor on; 204 where the cursor is at the end.

    *named_by_url* says that the URL names the generation; otherwise each id does. A cursor that names nothing of this
    log counts as none. *reference* is what the client calls the conversation. *heartbeat* is one of HEARTBEATS: an event,
    which a page can hear, has no id, so that it never moves a cursor.
    """
    parts, speaker = site(), DIALECTS[dialect]
    if parts.readers.closing:
        return respond(iter([come_back_soon()]))
    head = parts.log.head(generation.id) or swept(generation)
    prefix = "" if named_by_url else f"{generation.id.replace('-', '')}-"
    context = Context(generation.message_id, generation.conversation_id, generation.model, reference)
    cursor = given_cursor(generation, named_by_url=named_by_url)
    if cursor is not None and head.ended and cursor == Cursor(head.last_seq, 0, cursor.generation):
        return Response(status=204)
    unknown = cursor is not None and cursor.seq > head.last_seq
    if head.expired:
        return respond(replay(stored(generation), head, speaker, context=context, prefix=prefix))
    opening = b""
    if unknown and hasattr(speaker, "reset"):
        opening, cursor = caught_up(parts.log, generation, speaker, prefix)
    elif unknown or cursor is None:
        cursor = START
    stream = Stream(parts, generation.id, speaker, context, cursor, prefix, opening, HEARTBEATS[heartbeat])
    stream.join(generation.user_id, auth.sign_in_id())
    try:
        db.session.remove()  # a stream holds no connection
        if parts.readers.closing:  # since the first look
            stream.close()
            return respond(iter([come_back_soon()]))
        return respond_live(stream)
    except BaseException:
        stream.close()
        raise


def follow_passing(generation: Generation, dialect: str) -> Response:
    """Return the stream of an answer that is stored nowhere, of which the caller is a reader, from the cursor on."""
    parts = site()
    cursor = given_cursor(generation, named_by_url=False)
    head = parts.passing.log.head(generation.id)
    if cursor is None or head is None or cursor.seq > head.last_seq:
        cursor = START
    stream = PassingStream(
        parts,
        generation.id,
        DIALECTS[dialect],
        Context(generation.message_id, None, generation.model),
        cursor,
        f"{generation.id.replace('-', '')}-",
    )
    try:
        stream.join(generation.user_id, auth.sign_in_id())
    except BaseException:
        parts.passing.leave(generation.id)
        raise
    try:
        db.session.remove()  # a stream holds no connection
        return respond_live(stream)
    except BaseException:
        stream.close()
        raise


def given_cursor(generation: Generation, *, named_by_url: bool) -> Cursor | None:
    cursor = parse_cursor(last_event_id())
    if cursor is None:
        return None
    expected = None if named_by_url else generation.id.replace("-", "")
    return cursor if cursor.generation == expected else None


def caught_up(log: EventLog, generation: Generation, speaker: Any, prefix: str) -> tuple[bytes, Cursor]:
    """Return a `reset` with all that was said so far, and the cursor to go on from; the terminal entry is left to follow."""
    entries = log.read_all(generation.id)
    if entries and entries[-1].event.terminal:
        entries = entries[:-1]
    seq = entries[-1].seq if entries else 0
    frame = speaker.reset(fold(entry.event for entry in entries), f"{prefix}{seq}")
    return frame.encode(), Cursor(seq)


def replay(message: Message, head: Head, speaker: Any, *, context: Context = NOTHING, prefix: str) -> Iterator[bytes]:
    """Yield an ended answer whose log is gone, as its message tells it; its last id is the one that the log's end had."""
    *before, end = told(message)[-head.last_seq :]
    yield OPENING
    if hasattr(speaker, "reset"):
        yield speaker.reset(fold(before), f"{prefix}{head.last_seq - 1}").encode()
    else:
        yield wire(speaker, [Entry(seq, event) for seq, event in enumerate(before, 1)], context=context, prefix=prefix)
    yield wire(speaker, [Entry(head.last_seq, end)], context=context, prefix=prefix)


def told(message: Message) -> list[Event]:
    """Return events that fold to what *message* holds."""
    assert message.generation_id is not None
    events: list[Event] = [
        Started(message.generation_id, message.conversation_id, message.id, message.model or ""),
    ]
    events += [Reasoning(message.reasoning)] if message.reasoning else []
    events += [Token(message.content)] if message.content else []
    events[1:1] = [Sources(message.sources, len(message.sources))] if message.sources is not None else []
    events += [Usage(**message.usage)] if message.usage else []
    if message.status in (FAILED, INTERRUPTED):
        return [*events, Failed(**(message.error or {"code": message.status, "message": "", "retryable": True}))]
    shown = MessageSchema().dump(message)
    return [*events, Finished(shown, message.finish_reason or "stop", message.details or {})]


def swept(generation: Generation) -> Head:
    """Return the head that a log has in place of one that was deleted long ago with its session.

    Raises NotFound where the answer was deleted as well.
    """
    return Head(len(told(stored(generation))), ended=True, expired=True)


def stored(generation: Generation) -> Message:
    message = db.session.get(Message, generation.message_id)
    if message is None or message.status == RUNNING:
        raise NotFound
    return message


def respond_live(stream: Stream) -> Response:
    """Return *stream* as a response, compressed where the client asks for it, each block readable when it comes."""
    pack = Gzip() if request.accept_encodings.quality("gzip") else None
    form = (stream.dialect, stream.prefix, stream.context)
    stream.outlet = _outlet.open(request.environ, form=form, make=stream.make, pack=pack)
    response = respond(iter(stream) if pack is None else packed(stream, pack))
    # direct_passthrough leaves out `call_on_close`, and a generator that nobody began runs no `finally`
    response.response = ClosingIterator(response.response, stream.close)  # type: ignore[arg-type]
    if pack is not None:
        response.headers["Content-Encoding"] = "gzip"
        response.headers["Vary"] = "Accept-Encoding"
    return response


def packed(stream: Stream, pack: Gzip) -> Iterator[bytes]:
    for block in stream:
        yield pack(block)
    yield pack.end()


def respond(body: Iterator[bytes]) -> Response:
    """Return an event stream whose socket lets go of a reader that takes nothing, or whose network is gone."""
    client = request.environ.get("gunicorn.socket")
    if client is not None:
        _outlet.prepare(client, send_timeout_seconds=site().settings.send_timeout_seconds)
    pieces = (piece for block in body for piece in _outlet.in_pieces(block))
    return Response(pieces, mimetype="text/event-stream", headers=HEADERS, direct_passthrough=True)


def refusal(error: AppError) -> Response | None:
    """Return *error* as a stream of the request's dialect if a reader came back to one; None for any other request.

    A browser's EventSource gives up for good on any status but 200, so that a person would never learn why.
    """
    view = current_app.view_functions.get(request.endpoint or "")
    dialect = getattr(view, "dialect", None)
    if dialect is None or not last_event_id() or request.method != "GET":
        return None
    return respond(iter([OPENING + failure(DIALECTS[dialect], error)]))


def failure(dialect: Dialect, error: AppError) -> bytes:
    """Return *error* as the dialect's error event; it has no id, so that the reader's cursor stays where it is."""
    return failed(dialect, Failed(error.code, error.message, retryable=error.status >= 429))


def failed(dialect: Dialect, event: Failed) -> bytes:
    return b"".join(frame.encode() for frame in frames(dialect, event))
