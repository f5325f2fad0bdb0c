"""What people use."""

from __future__ import annotations

from typing import Any

from chatapp import auth
from chatapp.routes._json import Blueprint
from chatapp.schemas import usage as shapes
from chatapp.services import usage

blueprint = Blueprint("usage", __name__, url_prefix="/api", description="Usage")


@blueprint.route("/usage")
@blueprint.arguments(shapes.UsageQuery, location="query")
@blueprint.response(200, shapes.Usage)
@blueprint.fails(401, 403)
def of_all(query: dict[str, Any]) -> dict[str, Any]:
    """What people used, for admins: sums by day, user, model, or several of them"""
    return usage.of_all(auth.current_user(), **query)


@blueprint.route("/usage/me")
@blueprint.arguments(shapes.MyUsageQuery, location="query")
@blueprint.response(200, shapes.MyUsage)
@blueprint.fails(401)
def of_mine(query: dict[str, Any]) -> dict[str, Any]:
    """What the user used by day and model, and what is left of today's quota"""
    return usage.of_mine(auth.current_user(), **query)
