"""Which models there are."""

from __future__ import annotations

from typing import Any

from chatapp.database import db
from chatapp.routes._json import Blueprint
from chatapp.schemas import models as shapes
from chatapp.services import models, site

blueprint = Blueprint("models", __name__, url_prefix="/api", description="Models")


@blueprint.route("/models")
@blueprint.response(200, shapes.Models)
@blueprint.fails(401)
def listed() -> dict[str, Any]:
    """The models that can be asked now"""
    parts = site()
    db.session.commit()  # who is asking is known: no connection is held while model servers are asked
    found = models.available(parts)
    return {"models": found, "default": models.default(parts, found)}
