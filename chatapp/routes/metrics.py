"""Counts for Prometheus."""

from __future__ import annotations

import hmac
import time

import gevent
from flask import Flask, Response, g, request

from chatapp import auth, metrics
from chatapp.errors import Unauthorized
from chatapp.routes._json import Blueprint
from chatapp.services import site
from chatapp.services.accounts import require_admin
from chatapp.settings import Settings, is_loopback

blueprint = Blueprint("metrics", __name__, description="The site itself")
PASSED_ON = ("X-Forwarded-For", "X-Real-IP", "Forwarded", "Via")  # by a proxy, so that who asks is elsewhere


@blueprint.route("/api/metrics")
@blueprint.route("/metrics")
@blueprint.response(200, {"type": "string"}, content_type="text/plain")
@blueprint.fails(401, 403)
@auth.public
def shown() -> Response:
    """Counts in Prometheus' text format, of all workers of this machine"""
    check_reader(site().settings)
    # many files are read and added up: in a thread, or all streams would wait
    text = gevent.get_hub().threadpool.apply(metrics.text)
    return Response(text, content_type=metrics.CONTENT_TYPE, headers={"Cache-Control": "no-store"})


def check_reader(settings: Settings) -> None:
    """Let in who sends the metrics' token, who asks from this machine where there is no token, and admins.

    Raises Unauthorized, Forbidden.
    """
    if has_token(settings.metrics_token) or (not settings.metrics_token and is_near(settings)):
        return
    user = auth.optional_user()
    if user is None:
        raise Unauthorized("Send CHATAPP_METRICS_TOKEN as Bearer, or sign in as an admin.")
    require_admin(user)


def has_token(token: str) -> bool:
    given = request.headers.get("Authorization", "")
    return bool(token) and hmac.compare_digest(given.encode(), f"Bearer {token}".encode())


def is_near(settings: Settings) -> bool:
    """Say whether somebody on this machine asks, by its own name: not a proxy for others, nor a page whose name leads here."""
    return (
        settings.proxies == 0
        and is_loopback(request.remote_addr or "")
        and is_loopback(request.host.rpartition(":")[0] or request.host)
        and "Origin" not in request.headers
        and not any(name in request.headers for name in PASSED_ON)
    )


def count_requests(app: Flask) -> None:
    """Have every request counted."""

    @app.before_request
    def begin() -> None:
        g.begun = time.perf_counter()

    @app.after_request
    def count(response: Response) -> Response:
        begun = g.get("begun")
        route = request.url_rule.rule if request.url_rule is not None else "none"
        if begun is not None:
            metrics.request(request.method, route, response.status_code, time.perf_counter() - begun)
        return response
