"""`/api/docs`: the OpenAPI document as a page, made on the server. Nothing is loaded from elsewhere and no script is needed."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, Response, current_app, request
from markupsafe import Markup, escape

from chatapp import auth
from chatapp.routes._openapi import GROUPS, NOT_BLANK, operations, sample
from chatapp.routes._page import page
from chatapp.schemas import KEY, REFERENCE, one_line

blueprint = Blueprint("docs", __name__)

CODE = re.compile(r"`([^`]+)`")
PATTERNS = {  # in words
    REFERENCE.regex.pattern: REFERENCE.error.removeprefix("Use ").lower(),
    KEY.regex.pattern: KEY.error.removeprefix("Use ").rstrip("."),
    one_line(1)[1].regex.pattern: "one line, not blank",
    NOT_BLANK: "not blank",
    one_line(1, blank=True)[1].regex.pattern: "one line",
}
KINDS = {"date-time": "time", "uuid": "UUID", "email": "e-mail", "uri": "address"}


@blueprint.get("/api/docs")
@auth.public
def docs() -> Response:
    document = current_app.extensions["flask-smorest"]["apis"][""]["ext_obj"].document()
    groups = grouped(document)
    shapes = [shape(name, document) for name in sorted(document["components"]["schemas"], key=str.lower)]
    return page(
        "docs.html",
        about=coded(document["info"]["description"]),
        version=document["info"]["version"],
        url=request.host_url.rstrip("/"),
        groups=groups,
        count=sum(len(group["operations"]) for group in groups),
        shapes=shapes,
        codes=sorted({(status, code) for one in each(groups) for status, _, codes in one["errors"] for code in codes}),
    )


def each(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [operation for group in groups for operation in group["operations"]]


def grouped(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the groups in their order, each with its operations; addresses that lead to one view are shown as one."""
    views: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
    found = dict(operations(document))
    for (method, path), operation in found.items():
        views.setdefault((operation["tags"][0], method, operation["summary"]), []).append((method, path))
    groups = []
    for tag in document["tags"]:
        mine = [
            sorted(places, key=lambda one: -len(one[1])) for (name, *_), places in views.items() if name == tag["name"]
        ]
        title = GROUPS.get(tag["name"], (tag["name"].capitalize(), ""))[0]
        groups.append(
            {
                "id": tag["name"],
                "title": title,
                "about": coded(tag.get("description", "")),
                "operations": [shown(places, found[places[0]], document) for places in mine],
            }
        )
    return groups


def shown(places: list[tuple[str, str]], operation: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """Return what the page says of one operation, which has the addresses *places*."""
    (method, path), *others = places
    item = document["paths"][path]
    parameters = [resolved(one, document) for one in [*item.get("parameters", ()), *operation.get("parameters", ())]]
    body = operation.get("requestBody")
    [content] = body["content"].values() if body else [None]
    return {
        "id": anchor(method, path),
        "method": method.upper(),
        "path": path,
        "others": [other for _, other in others],
        "summary": coded(operation["summary"]),
        "about": coded(operation.get("description", "")),
        "open": operation.get("security") == [],
        "parameters": [parameter(one) for one in parameters],
        "body": [field(*one) for one in properties(content["schema"], document)] if content else None,
        "answers": answers(operation, document),
        "errors": errors(operation, document),
        "curl": curl(method, path, operation, parameters, content, document),
    }


def anchor(method: str, path: str) -> str:
    return f"{method}-{re.sub(r'[^a-z0-9]+', '-', path.lower()).strip('-')}"


def parameter(one: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": one["name"],
        "place": one["in"],
        "required": one.get("required", False),
        "kind": kind(one["schema"]),
        "limits": limits(one["schema"]),
        "about": coded(one.get("description", "")),
    }


def properties(schema: dict[str, Any], document: dict[str, Any]) -> list[tuple[str, dict[str, Any], bool]]:
    """Return (name, schema, required) of each field of an object."""
    schema = resolved(schema, document)
    if schema.get("type") == "array":
        schema = resolved(schema["items"], document)
    required = schema.get("required", ())
    found = [(name, one, name in required) for name, one in schema.get("properties", {}).items()]
    return sorted(found, key=lambda one: not one[2])


def field(name: str, schema: dict[str, Any], required: bool) -> dict[str, Any]:
    return {
        "name": name,
        "required": required,
        "kind": kind(schema),
        "limits": limits(schema),
        "about": coded(schema.get("description", "")),
    }


def shape(name: str, document: dict[str, Any]) -> dict[str, Any]:
    schema = document["components"]["schemas"][name]
    return {
        "name": name,
        "about": coded(schema.get("description", "")),
        "fields": [field(*one) for one in properties(schema, document)],
    }


def kind(schema: dict[str, Any]) -> Markup:
    """Return the type of a value, as words; shapes are links."""
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return Markup(" or ").join(
                kind(one) for one in schema[several] if one != {"type": "object", "nullable": True}
            )
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return Markup('<a href="#shape-{0}">{0}</a>').format(name)
    if schema.get("type") == "array":
        return Markup("list of {}").format(kind(schema.get("items", {})))
    return escape(KINDS.get(schema.get("format", ""), schema.get("type", "anything")))


def limits(schema: dict[str, Any]) -> Markup:
    """Return what a value may be, in words."""
    said: list[Any] = []
    for least, most, unit in (
        ("minLength", "maxLength", " characters"),
        ("minItems", "maxItems", ""),
        ("minimum", "maximum", ""),
    ):
        if least in schema and most in schema:
            said.append(f"{schema[least]:,} to {schema[most]:,}{unit}")
        elif most in schema:
            said.append(f"at most {schema[most]:,}{unit}")
        elif least in schema:
            said.append(f"at least {schema[least]:,}{unit}")
    if schema.get("enum"):
        said.append(
            Markup(" · ").join(Markup("<code>{}</code>").format(one) for one in schema["enum"] if one is not None)
        )
    if "pattern" in schema:
        words = PATTERNS.get(schema["pattern"])
        said.append(words or Markup("matches <code>{}</code>").format(schema["pattern"]))
    if schema.get("default") not in (None, ""):
        said.append(Markup("by default <code>{}</code>").format(json.dumps(schema["default"])))
    if schema.get("nullable"):
        said.append("may be null")
    return Markup("; ").join(said)


def answers(operation: dict[str, Any], document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what an operation answers where all is well."""
    found = []
    for status, answer in sorted(operation["responses"].items()):
        if not status.startswith("2"):
            continue
        for media, content in answer.get("content", {"": {}}).items():
            found.append(
                {
                    "status": status,
                    "about": answer["description"] if status == "204" and answer["description"] != "No Content" else "",
                    "media": media,
                    "kind": kind(content["schema"]) if "schema" in content and media == "application/json" else "",
                    "example": content.get("example", "") if media == "text/event-stream" else "",
                }
            )
    return found


def errors(operation: dict[str, Any], document: dict[str, Any]) -> list[tuple[str, str, list[str]]]:
    """Return status, meaning and codes of the errors that an operation names."""
    found = []
    for status, answer in sorted(operation["responses"].items()):
        if status.isdigit() and int(status) >= 400:
            words, _, codes = resolved(answer, document)["description"].partition(": ")
            found.append((status, words, CODE.findall(codes)))
    return found


def curl(
    method: str,
    path: str,
    operation: dict[str, Any],
    parameters: list[dict[str, Any]],
    content: dict[str, Any] | None,
    document: dict[str, Any],
) -> str:
    """Return a call for the shell; $URL and $TOKEN are the reader's own."""
    streams = any("text/event-stream" in answer.get("content", {}) for answer in operation["responses"].values())
    needed = {one["name"]: one for one in parameters if one["in"] == "query" and one.get("required")}
    query = urlencode({name: sample(one["schema"], document, name=name) for name, one in needed.items()})
    ids = {one["name"]: one for one in parameters if one["in"] == "path"}
    for name, one in ids.items():
        path = path.replace(f"{{{name}}}", str(sample(one["schema"], document, name=name)))
    parts = [f"curl -{'N' if streams else ''}sS", f'"$URL{path}{"?" + query if query else ""}"']
    if method not in ("get", "post") or (method == "post" and content is None):
        parts.insert(1, f"-X {method.upper()}")
    if operation.get("security") != []:
        parts.append('-H "Authorization: Bearer $TOKEN"')
    if content is not None:
        body = json.dumps(content["example"], ensure_ascii=False)
        parts += ["-H 'Content-Type: application/json'", f"-d {shlex.quote(body)}"]
    lines, joined = [parts[0]], parts[1:]
    while len(joined) and joined[0].startswith("-X"):
        lines[0] += " " + joined.pop(0)
    lines[0] += " " + joined.pop(0)
    return " \\\n  ".join([*lines, *joined])


def resolved(schema: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference."""
    found = document
    for part in schema["$ref"].removeprefix("#/").split("/") if "$ref" in schema else ():
        found = found[part]
    return found if "$ref" in schema else schema


def coded(text: str) -> Markup:
    """Return *text* with what stands between backquotes as code."""
    return Markup(CODE.sub(r"<code>\1</code>", str(escape(text))))
