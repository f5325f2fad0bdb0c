"""The pages: the shell that the chat runs in, sign-in and sign-up, and the one style sheet."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from typing import Any
from uuid import UUID

from flask import Blueprint, Response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from chatapp import auth
from chatapp.schemas.conversations import ConversationPage
from chatapp.services import accounts, conversations, site
from chatapp.settings import ROOT

blueprint = Blueprint("pages", __name__)

CSS_LAYERS = ("tokens", "base", "layout")  # in this order; blocks come after, in any
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
# A slip in the page stays without effect: nothing runs, loads or connects but what comes from this site.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "manifest-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'self'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",  # it names who is signed in
}


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


def page(template: str, **values: Any) -> Response:
    css_url = url_for("pages.css", digest=stylesheet()[1])
    text = render_template(template, site_name=site().settings.site_name, css_url=css_url, **values)
    return Response(text, headers=HEADERS, mimetype="text/html")


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


@cache
def stylesheet() -> tuple[str, str]:
    """Return the style sheet and its hash."""
    folder = ROOT / "static" / "css"
    files = [folder / f"{name}.css" for name in CSS_LAYERS] + sorted((folder / "blocks").glob("*.css"))
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    text = re.sub(r"\s+", " ", re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)).strip() + "\n"
    return text, hashlib.sha256(text.encode()).hexdigest()[:16]
