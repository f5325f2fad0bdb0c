"""The site, with access tokens that last a second."""

from __future__ import annotations

from datetime import timedelta

from wsgi import app

app.config["JWT_ACCESS_TOKEN_EXPIRES"] = timedelta(seconds=1)
