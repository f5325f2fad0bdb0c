"""What all pages share: their headers, and the one style sheet."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from typing import Any

from flask import Response, render_template, url_for

from chatapp.services import site
from chatapp.settings import ROOT

CSS_LAYERS = ("tokens", "base", "layout")  # in this order; blocks come after, in any
# A slip in the page stays without effect: nothing runs, loads or connects but what comes from this site.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "manifest-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'self'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",  # it names who is signed in
}


def page(template: str, **values: Any) -> Response:
    css_url = url_for("pages.css", digest=stylesheet()[1])
    text = render_template(template, site_name=site().settings.site_name, css_url=css_url, **values)
    return Response(text, headers=HEADERS, mimetype="text/html")


@cache
def stylesheet() -> tuple[str, str]:
    """Return the style sheet and its hash."""
    folder = ROOT / "static" / "css"
    files = [folder / f"{name}.css" for name in CSS_LAYERS] + sorted((folder / "blocks").glob("*.css"))
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    text = re.sub(r"\s+", " ", re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)).strip() + "\n"
    return text, hashlib.sha256(text.encode()).hexdigest()[:16]
