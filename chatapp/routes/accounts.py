"""Signing up, in and out; invites."""

from __future__ import annotations

from typing import Any

from flask import Response, jsonify, request

from chatapp import auth
from chatapp.errors import Conflict
from chatapp.models.accounts import Invite, User
from chatapp.routes._json import Blueprint
from chatapp.schemas import accounts as shapes
from chatapp.services import accounts, site
from chatapp.services.accounts import Grant

blueprint = Blueprint("accounts", __name__, url_prefix="/api", description="Accounts")


@blueprint.route("/auth/register", methods=["POST"])
@blueprint.arguments(shapes.Register)
@blueprint.response(201, shapes.SignedIn)
@blueprint.fails(403, 409, 413, 415)
@blueprint.doc(security=[])
@auth.public
def register(body: dict[str, Any]) -> Response:
    """Make an account; the first one becomes the admin"""
    check_sign_in_is_on()
    return signed_in(accounts.register(**body), 201)


@blueprint.route("/auth/login", methods=["POST"])
@blueprint.arguments(shapes.Login)
@blueprint.response(200, shapes.SignedIn)
@blueprint.fails(401, 409, 413, 415, 429)
@blueprint.doc(security=[])
@auth.public
def login(body: dict[str, Any]) -> Response:
    """Sign in: tokens in the body, and as HttpOnly cookies"""
    check_sign_in_is_on()
    return signed_in(accounts.login(**body, address=request.remote_addr or ""), 200)


@blueprint.route("/auth/refresh", methods=["POST"])
@blueprint.response(200, shapes.SignedIn)
@blueprint.fails(401, 403, 409)
@auth.public
def refresh() -> Response:
    """Renew a sign-in with its refresh token, which is spent by it"""
    check_sign_in_is_on()
    return signed_in(auth.renewed(), 200)


@blueprint.route("/auth/logout", methods=["POST"])
@blueprint.response(204)
@blueprint.fails(401, 403)
def logout() -> Response:
    """Sign out: the tokens of this sign-in are void at once"""
    sign_in = auth.sign_in_id()
    if sign_in is not None:
        accounts.logout(sign_in)
    response = Response(status=204)
    auth.forget_cookies(response)
    return response


@blueprint.route("/auth/me")
@blueprint.response(200, shapes.User)
@blueprint.fails(401)
def me() -> User:
    """Who is signed in"""
    return auth.current_user()


@blueprint.route("/invites", methods=["POST"])
@blueprint.arguments(shapes.NewInvite)
@blueprint.response(201, shapes.MadeInvite)
@blueprint.fails(401, 403, 413, 415)
def invite(body: dict[str, Any]) -> dict[str, Any]:
    """Invite someone; the token is shown this once"""
    made, token = accounts.invite(auth.current_user(), **body)
    url = f"{request.host_url}sign-up?invite={token}"
    return {
        **shapes.Invite().dump(made),
        "token": token,
        "url": url,
        "created_at": made.created_at,
        "expires_at": made.expires_at,
    }


@blueprint.route("/invites")
@blueprint.response(200, shapes.Invites)
@blueprint.fails(401, 403)
def invites() -> dict[str, list[Invite]]:
    """The invites that nobody has used yet"""
    return {"invites": accounts.invites(auth.current_user())}


@blueprint.route("/invites/<uuid:invite_id>", methods=["DELETE"])
@blueprint.response(204)
@blueprint.fails(401, 403, 404)
def withdraw(invite_id: object) -> None:
    """Withdraw an invite"""
    accounts.withdraw(auth.current_user(), str(invite_id))


def signed_in(grant: Grant, status: int) -> Response:
    made = auth.tokens(grant)
    response = jsonify(shapes.SignedIn().dump({**made, "user": grant.user}))
    response.status_code = status
    auth.set_cookies(response, made)
    return response


def check_sign_in_is_on() -> None:
    if site().settings.auth == "off":
        raise Conflict("Sign-in is off on this site: everything belongs to one person.")
