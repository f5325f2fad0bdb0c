"""The site, with access tokens that last three seconds; until there is a file `over` in its data folder, any that it gave.

So a test says when they are over, however long a busy machine took to come so far.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from wsgi import app

__all__ = ["app"]

OVER = Path(os.environ["CHATAPP_DATA_DIR"]) / "over"


def look() -> None:
    app.config["JWT_DECODE_LEEWAY"] = timedelta(seconds=0 if OVER.exists() else 3600)


app.config["JWT_ACCESS_TOKEN_EXPIRES"] = timedelta(seconds=3)
app.before_request_funcs.setdefault(None, []).insert(0, look)
