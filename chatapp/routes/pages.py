"""The pages: the shell that the chat runs in, sign-in and sign-up, and the one style sheet."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from flask import Blueprint, Response, redirect, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from chatapp import auth
from chatapp.routes._page import page, stylesheet
from chatapp.schemas.conversations import ConversationPage
from chatapp.services import accounts, conversations, site

blueprint = Blueprint("pages", __name__)

PAGE_SIZE = 50  # conversations that the sidebar begins with, as chat-sidebar.js has it
CSS_SECONDS = 365 * 24 * 3600  # its address holds its hash
MODULES = (  # all that the first sight of a conversation needs, so that the browser asks for them at once
    "js/api.js",
    "js/answer.js",
    "js/stream.js",
    "js/markdown.js",
    "js/elements/chat-sidebar.js",
    "js/elements/chat-thread.js",
    "js/elements/chat-turn.js",
    "js/elements/chat-composer.js",
    "vendor/marked-18.2.1.js",
)
STARTERS = (
    ("Turn these meeting notes into a list of tasks", "paste the notes"),
    ("Find the mistake in this code", "paste the code"),
    ("Make this text shorter and clearer", "paste the text"),
)


@blueprint.get("/")
@auth.public
def home() -> AnyResponse:
    return shell()


@blueprint.get("/c/<uuid:conversation_id>")
@auth.public
def conversation(conversation_id: UUID) -> AnyResponse:
    """The same page: whether there is such a conversation, and whose, the API tells it."""
    return shell()


def shell() -> AnyResponse:
    user = auth.optional_user()
    if user is None:
        door_name = "pages.sign_up" if accounts.is_first() else "pages.sign_in"
        return redirect(url_for(door_name, next=request.path if request.path != "/" else None))
    listed = conversations.page(user, q="", archived=False, page=1, page_size=PAGE_SIZE)
    return page(
        "chat.html",
        boot={
            **boot(),
            "user": {"id": user.id, "name": user.name, "email": user.email, "role": user.role},
            "conversations": ConversationPage().dump(listed),
        },
        modules=MODULES,
        starters=STARTERS,
    )


@blueprint.get("/sign-in")
@auth.public
def sign_in() -> AnyResponse:
    return door("sign-in")


@blueprint.get("/sign-up")
@auth.public
def sign_up() -> AnyResponse:
    return door("sign-up")


def door(name: str) -> AnyResponse:
    if auth.optional_user() is not None:
        return redirect(url_for("pages.home"))
    mode = site().settings.registration
    admitted = accounts.is_first() or mode == "open" or (mode == "invite" and "invite" in request.args)
    return page("sign-in.html", page=name, boot=boot(), admitted=admitted)


def boot() -> dict[str, Any]:
    """Return what the page has to know before it asks for anything."""
    settings = site().settings
    return {
        "auth": settings.auth,
        "max_message_chars": settings.max_message_chars,
        "registration": {"first": accounts.is_first(), "mode": settings.registration},
    }


@blueprint.get("/static/css/site-<digest>.css")
@auth.public
def css(digest: str) -> AnyResponse:
    """All of `static/css` in one, so that the page waits for one request."""
    text, current = stylesheet()
    response = Response(text, mimetype="text/css")
    response.set_etag(current)
    response.headers["X-Content-Type-Options"] = "nosniff"
    if digest == current:
        response.cache_control.public = True
        response.cache_control.max_age = CSS_SECONDS
        response.cache_control.immutable = True
    return response.make_conditional(request)
