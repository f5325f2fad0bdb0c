"""People, for admins."""

from __future__ import annotations

from typing import Any

from chatapp import auth
from chatapp.routes._json import Blueprint
from chatapp.schemas import users as shapes
from chatapp.services import users

blueprint = Blueprint("users", __name__, url_prefix="/api", description="People")
ONE = "/users/<uuid:user_id>"


@blueprint.route("/users")
@blueprint.arguments(shapes.UsersQuery, location="query")
@blueprint.response(200, shapes.UserPage)
@blueprint.fails(401, 403)
def listed(query: dict[str, Any]) -> dict[str, Any]:
    """All people, the oldest account first; `q` is looked for in e-mails and names"""
    return users.page(auth.current_user(), **query)


@blueprint.route(ONE)
@blueprint.response(200, shapes.Person)
@blueprint.fails(401, 403, 404)
def shown(user_id: object) -> dict[str, Any]:
    """A person"""
    return users.one(auth.current_user(), str(user_id))


@blueprint.route(ONE, methods=["PATCH"])
@blueprint.arguments(shapes.UserChange)
@blueprint.response(200, shapes.Person)
@blueprint.fails(401, 403, 404, 409, 413, 415)
def change(body: dict[str, Any], user_id: object) -> dict[str, Any]:
    """Give somebody another name, role or plan; shut them out, or let them in again"""
    return users.change(auth.current_user(), str(user_id), **body)


@blueprint.route(ONE, methods=["DELETE"])
@blueprint.response(204)
@blueprint.fails(401, 403, 404, 409)
def delete(user_id: object) -> None:
    """Delete a person and all that is theirs"""
    users.delete(auth.current_user(), str(user_id))
