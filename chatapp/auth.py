"""Who is asking; never what they may do.

A JWT, as Bearer or in an HttpOnly cookie. Every view needs a sign-in unless it is marked `@public`: a new one cannot be
forgotten open.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit

from flask import Flask, Response, current_app, g, request
from flask_jwt_extended import (
    JWTManager,
    create_access_token,
    create_refresh_token,
    get_jwt,
    set_access_cookies,
    set_refresh_cookies,
    unset_jwt_cookies,
    verify_jwt_in_request,
)
from flask_jwt_extended.exceptions import CSRFError, JWTExtendedException
from jwt import PyJWTError

from chatapp.database import db, glance
from chatapp.errors import Forbidden, Unauthorized
from chatapp.models import accounts
from chatapp.models.accounts import User
from chatapp.services import accounts as people
from chatapp.services import site
from chatapp.services.accounts import SIGN_IN_DAYS, Grant
from chatapp.settings import Settings, is_loopback

ACCESS_MINUTES = 15
SIGN_IN_CLAIM = "sid"
OPEN_ENDPOINTS = ("static", "api-docs.openapi_json")  # views that are not ours to mark
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
MAX_FOUND_GOOD = 2000  # about half a megabyte
View = TypeVar("View", bound=Callable[..., Any])


def public(view: View) -> View:
    """Mark a view that needs no sign-in."""
    view.public = True  # type: ignore[attr-defined]
    return view


def configure(app: Flask, settings: Settings) -> None:
    """Put the sign-in in front of every view of *app*."""
    app.config.update(
        JWT_SECRET_KEY=settings.secret_key,
        JWT_TOKEN_LOCATION=["headers", "cookies"],
        JWT_ACCESS_TOKEN_EXPIRES=timedelta(minutes=ACCESS_MINUTES),
        JWT_REFRESH_TOKEN_EXPIRES=timedelta(days=SIGN_IN_DAYS),
        JWT_COOKIE_SECURE=settings.cookie_secure == "on",
        JWT_COOKIE_SAMESITE="Lax",
        JWT_SESSION_COOKIE=False,
        JWT_REFRESH_COOKIE_PATH="/api/auth",
        JWT_COOKIE_CSRF_PROTECT=True,
    )
    JWTManager(app)
    app.before_request(require_sign_in)


def require_sign_in() -> None:
    """Let nobody past who is not signed in, but to public views."""
    if site().settings.auth == "off":
        check_origin()
    view = current_app.view_functions.get(request.endpoint or "")
    if view is None or request.endpoint in OPEN_ENDPOINTS or getattr(view, "public", False):
        return
    if request.method == "OPTIONS":  # Flask says which methods there are; a pre-flight never brings a token
        return
    current_user()


def check_origin() -> None:
    """Without sign-in any page that this person visits could ask: only the site's own may. Raises Forbidden.

    The name in `Host` must be this machine's too, or a foreign name that resolves to it would count as the same origin.
    """
    host = urlsplit(f"//{request.host}").hostname or ""
    origin = request.headers.get("Origin")
    own = origin is None or origin in (f"http://{request.host}", f"https://{request.host}")
    own = own or origin in site().settings.cors_origins
    if not is_loopback(host) or not (own or request.method in SAFE_METHODS):
        raise Forbidden("Without sign-in, this site answers only its own pages.")


def check_not_cross_site() -> None:
    """Refuse a GET that begins work when another site's page made it, with the cookie of someone signed in here.

    Browsers say so themselves (W3C Fetch Metadata). Who sends a token in a header is meant to: no page can make a browser do
    that elsewhere, but one that this site allows to (CORS), which may come by the cookie too.
    """
    if "Authorization" in request.headers or request.headers.get("Origin") in site().settings.cors_origins:
        return
    if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
        raise Forbidden("Another site may not begin an answer here.")


def current_user() -> User:
    """Return who is asking. Raises Unauthorized, and Forbidden where the CSRF token is missing."""
    if "user" not in g:
        # holds no connection afterwards: the body may still be on its way, for as long as a client likes
        g.user, g.sign_in_id = without_sign_in() if site().settings.auth == "off" else from_token()
    user: User = g.user
    return user


def optional_user() -> User | None:
    """Return who is asking, None if nobody is signed in."""
    try:
        return current_user()
    except Unauthorized:
        return None


def sign_in_id() -> str | None:
    """Return the id of the sign-in that the request's token belongs to; None where nobody signs in."""
    current_user()
    found: str | None = g.sign_in_id
    return found


def without_sign_in() -> tuple[User, None]:
    user = people.built_in()
    db.session.commit()
    return user, None


def from_token() -> tuple[User, str]:
    claims = access_claims()
    sign_in: str = claims.get(SIGN_IN_CLAIM, "")
    with glance(db.engine) as connection:
        user = accounts.signed_in(connection, claims["sub"], sign_in)
    if user is None:
        raise Unauthorized
    return user, sign_in


def access_claims() -> dict[str, Any]:
    """Return the claims of the request's access token. Raises Unauthorized, Forbidden.

    What was found good is not computed again while it lasts: the same request would be found good. Whether the sign-in
    still is, the database is asked each time.
    """
    cookies = request.headers.get("Cookie")
    given = (request.headers.get("Authorization"), cookies, request.headers.get("X-CSRF-TOKEN"), request.method)
    digest = hashlib.sha256(repr((site().settings.secret_key, given)).encode()).digest()
    known = found_good.get(digest)
    if known is not None and known.get("exp", 0) > time.time():
        return known
    claims = verified()
    if len(found_good) >= MAX_FOUND_GOOD:
        found_good.clear()
    found_good[digest] = claims
    return claims


found_good: dict[bytes, dict[str, Any]] = {}  # by a digest of all that decided it, so that no token is kept


def verified(*, refresh: bool = False) -> dict[str, Any]:
    """Return the claims of the request's token. Raises Unauthorized, Forbidden."""
    try:
        if not request.headers.get("X-CSRF-TOKEN", "").isascii():  # what compares it takes ASCII alone
            raise CSRFError
        verify_jwt_in_request(refresh=refresh)
    except CSRFError as error:
        raise Forbidden("The CSRF token is missing or wrong. Reload the page.") from error
    except (JWTExtendedException, PyJWTError, UnicodeError, ValueError) as error:
        raise Unauthorized from error
    claims: dict[str, Any] = get_jwt()
    return claims


def renewed() -> Grant:
    """Return the sign-in of the request's refresh token, renewed. Raises Unauthorized."""
    claims = verified(refresh=True)
    return people.refresh(claims["sub"], claims.get(SIGN_IN_CLAIM, ""), claims["jti"])


def tokens(grant: Grant) -> dict[str, str]:
    """Return an access and a refresh token for *grant*."""
    claims = {SIGN_IN_CLAIM: grant.sign_in_id}
    return {
        "access_token": create_access_token(grant.user.id, additional_claims=claims),
        "refresh_token": create_refresh_token(grant.user.id, additional_claims={**claims, "jti": grant.refresh_jti}),
    }


def set_cookies(response: Response, made: dict[str, str]) -> None:
    set_access_cookies(response, made["access_token"])
    set_refresh_cookies(response, made["refresh_token"])


def forget_cookies(response: Response) -> None:
    unset_jwt_cookies(response)
