"""Projects and who is in them."""

from __future__ import annotations

from typing import Any

from chatapp import auth
from chatapp.routes._json import Blueprint
from chatapp.schemas import projects as shapes
from chatapp.services import projects

blueprint = Blueprint("projects", __name__, description="Projects")
PATH = "/api/projects"
ONE = f"{PATH}/<uuid:project_id>"
MEMBER = f"{ONE}/members/<uuid:user_id>"


@blueprint.route(PATH)
@blueprint.arguments(shapes.ProjectQuery, location="query")
@blueprint.response(200, shapes.ProjectPage)
@blueprint.fails(401)
def listed(query: dict[str, Any]) -> dict[str, Any]:
    """The projects that the user is in, by name"""
    return projects.page(auth.current_user(), **query)


@blueprint.route(PATH, methods=["POST"])
@blueprint.arguments(shapes.NewProject)
@blueprint.response(201, shapes.Project)
@blueprint.fails(401, 403, 413, 415)
def make(body: dict[str, Any]) -> dict[str, Any]:
    """Make a project and own it"""
    return projects.make(auth.current_user(), **body)


@blueprint.route(ONE)
@blueprint.response(200, shapes.Project)
@blueprint.fails(401, 404)
def shown(project_id: object) -> dict[str, Any]:
    """A project"""
    return projects.shown(auth.current_user(), str(project_id))


@blueprint.route(ONE, methods=["PATCH"])
@blueprint.arguments(shapes.ProjectChange)
@blueprint.response(200, shapes.Project)
@blueprint.fails(401, 403, 404, 413, 415)
def change(body: dict[str, Any], project_id: object) -> dict[str, Any]:
    """Rename, describe, instruct, archive; owners and editors may"""
    return projects.change(auth.current_user(), str(project_id), **body)


@blueprint.route(ONE, methods=["DELETE"])
@blueprint.response(204)
@blueprint.fails(401, 403, 404)
def delete(project_id: object) -> None:
    """Delete a project; its conversations stay with those who had them. Owners may"""
    projects.delete(auth.current_user(), str(project_id))


@blueprint.route(f"{ONE}/members")
@blueprint.response(200, shapes.Members)
@blueprint.fails(401, 404)
def members(project_id: object) -> dict[str, Any]:
    """Who is in a project"""
    return projects.members(auth.current_user(), str(project_id))


@blueprint.route(f"{ONE}/members", methods=["POST"])
@blueprint.arguments(shapes.NewMember)
@blueprint.response(201, shapes.Member)
@blueprint.fails(401, 403, 404, 409, 413, 415)
def add_member(body: dict[str, Any], project_id: object) -> dict[str, Any]:
    """Take somebody in, by e-mail or id. Owners may"""
    return projects.add_member(auth.current_user(), str(project_id), **body)


@blueprint.route(MEMBER, methods=["PATCH"])
@blueprint.arguments(shapes.MemberChange)
@blueprint.response(200, shapes.Member)
@blueprint.fails(401, 403, 404, 409, 413, 415)
def change_member(body: dict[str, Any], project_id: object, user_id: object) -> dict[str, Any]:
    """Say what somebody is in the project: owner, editor or reader. Owners may; one owner always remains"""
    return projects.change_member(auth.current_user(), str(project_id), str(user_id), **body)


@blueprint.route(MEMBER, methods=["DELETE"])
@blueprint.response(204)
@blueprint.fails(401, 403, 404, 409)
def remove_member(project_id: object, user_id: object) -> None:
    """Let somebody go, which owners may, or leave; their conversations leave the project with them"""
    projects.remove_member(auth.current_user(), str(project_id), str(user_id))
