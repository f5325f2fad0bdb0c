"""Other sites' pages, where CHATAPP_CORS_ORIGINS names them: they may use the API as the site's own do (WHATWG Fetch 3.2).

An origin is compared whole, never by a pattern. For any other no header is sent, and the browser keeps the answer from the
page. What a state-changing request needs besides, a token or the cookie's CSRF value, is asked of everybody alike.
"""

from __future__ import annotations

from flask import Flask, Response, request

from chatapp.settings import Settings

METHODS = "GET, POST, PUT, PATCH, DELETE"
HEADERS = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-CSRF-TOKEN"
EXPOSED = "Retry-After, Content-Disposition"
PREFLIGHT_SECONDS = "600"


def configure(app: Flask, settings: Settings) -> None:
    """Answer the pages of allowed origins; to be called before what asks for a sign-in, which a preflight has none of."""
    origins = frozenset(settings.cors_origins)
    if not origins:
        return

    @app.before_request
    def preflight() -> Response | None:
        asks = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
        if not asks or request.headers.get("Origin") not in origins:
            return None
        response = Response(status=204)
        response.headers["Access-Control-Allow-Methods"] = METHODS
        response.headers["Access-Control-Allow-Headers"] = HEADERS
        response.headers["Access-Control-Max-Age"] = PREFLIGHT_SECONDS
        return response

    @app.after_request
    def allow(response: Response) -> Response:
        response.vary.add("Origin")  # also for others, or a cache would give them what it gave this one
        origin = request.headers.get("Origin")
        if origin is not None and origin in origins:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Allow-Credentials"] = "true"
            response.headers["Access-Control-Expose-Headers"] = EXPOSED
        return response
