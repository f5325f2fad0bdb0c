"""Plans, for admins."""

from __future__ import annotations

from typing import Any

from chatapp import auth
from chatapp.routes._json import Blueprint
from chatapp.schemas import plans as shapes
from chatapp.services import plans

blueprint = Blueprint("plans", __name__, url_prefix="/api", description="Plans")
ONE = "/plans/<plan_name>"


@blueprint.route("/plans")
@blueprint.response(200, shapes.Plans)
@blueprint.fails(401, 403)
def listed() -> dict[str, Any]:
    """All plans, the lowest first"""
    return {"plans": plans.listed(auth.current_user())}


@blueprint.route("/plans", methods=["POST"])
@blueprint.arguments(shapes.NewPlan)
@blueprint.response(201, shapes.Plan)
@blueprint.fails(401, 403, 409, 413, 415)
def make(body: dict[str, Any]) -> dict[str, Any]:
    """Make a plan, which begins with what the lowest one has"""
    return plans.make(auth.current_user(), **body)


@blueprint.route(ONE)
@blueprint.response(200, shapes.Plan)
@blueprint.fails(401, 403, 404)
def shown(plan_name: str) -> dict[str, Any]:
    """A plan"""
    return plans.one(auth.current_user(), plan_name)


@blueprint.route(ONE, methods=["PATCH"])
@blueprint.arguments(shapes.PlanChange)
@blueprint.response(200, shapes.Plan)
@blueprint.fails(401, 403, 404, 413, 415)
def change(body: dict[str, Any], plan_name: str) -> dict[str, Any]:
    """Say which models are in a plan, and how many tokens a day"""
    return plans.change(auth.current_user(), plan_name, **body)


@blueprint.route(ONE, methods=["DELETE"])
@blueprint.response(204)
@blueprint.fails(401, 403, 404, 409)
def delete(plan_name: str) -> None:
    """Delete a plan that nobody has"""
    plans.delete(auth.current_user(), plan_name)
