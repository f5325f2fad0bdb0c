"""Conversations as files."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from flask import Response

from chatapp import auth
from chatapp.routes._json import Blueprint
from chatapp.schemas import exports as shapes
from chatapp.services import exports
from chatapp.services.exports import FORMATS, File

blueprint = Blueprint("exports", __name__, description="Conversations as files")
QUERY = shapes.query(list(FORMATS))()
BINARY = {"type": "string", "format": "binary"}
JSON = "application/json"
KINDS = [member.MEDIA_TYPE for member in FORMATS.values()]
FILE = {
    "description": "The file",
    "content": {kind: {"schema": {"type": "object"} if kind == JSON else BINARY} for kind in KINDS},
}


@blueprint.route("/api/chat/conversations/<uuid:conversation_id>/export")
@blueprint.arguments(QUERY, location="query")
@blueprint.response(200, {"type": "object"}, content_type=JSON, description="The file")
@blueprint.doc(responses={"200": FILE})
@blueprint.fails(401, 404, 413, 503)
def one(query: dict[str, Any], conversation_id: object) -> Response:
    """A conversation as a file: JSON with all branches, Markdown or PDF with the one shown"""
    return download(exports.one(auth.current_user(), str(conversation_id), **query))


@blueprint.route("/api/chat/export")
@blueprint.arguments(QUERY, location="query")
@blueprint.response(200, {"type": "object"}, content_type=JSON, description="The file")
@blueprint.doc(responses={"200": FILE})
@blueprint.fails(401, 413, 503)
def everything(query: dict[str, Any]) -> Response:
    """All conversations as one file"""
    return download(exports.everything(auth.current_user(), **query))


def download(file: File) -> Response:
    """Return *file* as a browser saves it. What goes wrong before its first block is an error as any other."""
    first = next(file.blocks, b"")

    def blocks() -> Iterator[bytes]:
        yield first
        yield from file.blocks

    headers = {
        "Content-Disposition": disposition(file.name),
        "Cache-Control": "private, no-store",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox",
    }
    return Response(blocks(), mimetype=file.media_type, headers=headers)


def disposition(name: str) -> str:
    """Return the header that has *name* in any script (RFC 6266, RFC 8187), and in ASCII for who knows no better."""
    stem, _, suffix = name.rpartition(".")
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    plain = plain.replace('"', "").replace("\\", "").replace("%", "").strip() or "export"
    return f"attachment; filename=\"{plain}.{suffix}\"; filename*=UTF-8''{quote(name, safe='')}"
