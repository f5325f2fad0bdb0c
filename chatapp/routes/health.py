"""Whether the site is well, for who watches over it."""

from __future__ import annotations

from typing import Any

from chatapp import __version__, auth
from chatapp.routes._json import Blueprint
from chatapp.schemas import health as shapes
from chatapp.services import health, site

blueprint = Blueprint("health", __name__, description="The site itself")


@blueprint.route("/api/health")
@blueprint.route("/health")
@blueprint.response(200, shapes.Health)
@blueprint.alt_response(503, schema=shapes.Health)
@blueprint.doc(security=[])
@auth.public
def shown() -> Any:
    """Whether the site can be used, and the state of what it depends on; 503 where its database is down"""
    found = health.of(site())
    down = found["database"]["state"] == health.DOWN
    told = {"status": "down" if down else "ok", "version": __version__, "dependencies": found}
    return told, 503 if down else 200, {"Cache-Control": "no-store"}
