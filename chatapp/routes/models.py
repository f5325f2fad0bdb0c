"""Which models there are."""

from __future__ import annotations

from typing import Any

from chatapp import auth
from chatapp.database import db
from chatapp.routes._json import Blueprint
from chatapp.schemas import models as shapes
from chatapp.services import models, plans, site

blueprint = Blueprint("models", __name__, url_prefix="/api", description="Models")


@blueprint.route("/models")
@blueprint.response(200, shapes.Models)
@blueprint.fails(401)
def listed() -> dict[str, Any]:
    """The models that this user can ask now"""
    user, parts = auth.current_user(), site()
    db.session.commit()  # who is asking is known: no connection is held while model servers are asked
    found = models.available(parts)
    default = models.default(parts, found, may=lambda model_id: plans.may(user, model_id))
    return {"models": plans.usable(user, found), "default": default}
