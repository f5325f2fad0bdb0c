"""JSON in and out: strict parsing, the contract's error bodies, and the blueprint that all API files use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar, cast

import flask
import flask_smorest
import marshmallow
import orjson
from flask import Response, jsonify, request
from flask.json.provider import JSONProvider
from webargs.core import is_json, missing
from webargs.flaskparser import FlaskParser
from werkzeug.exceptions import HTTPException

from chatapp.errors import (
    AppError,
    Conflict,
    Forbidden,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    RateLimited,
    Unauthorized,
    UnsupportedMediaType,
    UriTooLong,
    ValidationFailed,
)
from chatapp.routes import _openapi
from chatapp.schemas import Error, Text, TextOrObject, Time

View = TypeVar("View", bound=Callable[..., Any])


class OrjsonProvider(JSONProvider):
    """Strict: no NaN, no lone surrogates, no nesting that overflows a stack."""

    def dumps(self, obj: Any, **kwargs: Any) -> str:
        return orjson.dumps(obj).decode()

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:
        return orjson.loads(s)

    def response(self, *args: Any, **kwargs: Any) -> Response:
        return Response(orjson.dumps(self._prepare_response_obj(args, kwargs)), mimetype="application/json")


class Parser(FlaskParser):
    """Reads what a schema describes; whatever is wrong with it is the contract's 400, or 415."""

    DEFAULT_VALIDATION_STATUS = 400

    def _raw_load_json(self, req: flask.Request) -> Any:
        body = req.get_data(cache=True)
        if req.content_length is None and len(body) == req.max_content_length:
            raise PayloadTooLarge  # werkzeug cuts a body of no declared length at the limit, and says nothing
        if not body:
            return missing
        if not is_json(req.mimetype):
            raise UnsupportedMediaType
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise ValidationFailed("The body is not valid JSON.") from error

    def handle_error(self, error: marshmallow.ValidationError, req: Any, schema: Any, **kwargs: Any) -> NoReturn:
        fields: dict[str, Any] = {}
        for problems in error.normalized_messages().values():
            fields.update(named(problems) if isinstance(problems, dict) else {"body": problems})
        if fields.pop("_schema", None):  # marshmallow's name for the whole
            fields["body"] = ["It must be a JSON object."]
        raise ValidationFailed(fields=fields) from error


def named(problems: dict[Any, Any]) -> dict[str, Any]:
    """Return *problems* with the places in lists as text, which JSON asks for."""
    return {str(name): named(one) if isinstance(one, dict) else one for name, one in problems.items()}


class Blueprint(flask_smorest.Blueprint):
    """A blueprint whose views are documented from their schemas."""

    ARGUMENTS_PARSER = Parser()

    def arguments(self, schema: Any, **options: Any) -> Callable[[View], View]:
        """Read what *schema* describes; of a class one is made now, and not for each request."""
        made = schema() if isinstance(schema, type) else schema
        return cast(Callable[[View], View], super().arguments(made, **options))

    def fails(self, *statuses: int) -> Callable[[View], View]:
        """Document that a view may answer with these errors of the contract."""

        def decorate(view: View) -> View:
            for status in statuses:
                view = self.alt_response(status, schema=Error)(view)
            return view

        return decorate


SIGN_IN = {
    "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    "cookie": {
        "type": "apiKey",
        "in": "cookie",
        "name": "access_token_cookie",
        "description": "What changes something also needs the value of the cookie csrf_access_token as X-CSRF-TOKEN.",
    },
}


class Api(flask_smorest.Api):
    """OpenAPI from the schemas; errors are handled in `app.py`."""

    ERROR_SCHEMA = Error

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_field(Text, "string", None)
        self.register_field(TextOrObject, None, None)  # it tells of its two types itself
        self.register_field(Time, "string", "date-time")
        for name, scheme in SIGN_IN.items():
            self.spec.components.security_scheme(name, scheme)
        self.spec.options["security"] = [{name: []} for name in SIGN_IN]

    def document(self) -> dict[str, Any]:
        """Return the whole OpenAPI document."""
        return _openapi.completed(self.spec.to_dict(), flask.current_app)

    def _openapi_json(self) -> Response:
        return jsonify(self.document())

    def _register_error_handlers(self) -> None:
        pass  # `app.py` has one handler for all errors


STATUSES: dict[int, type[AppError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: PayloadTooLarge,
    414: UriTooLong,
    415: UnsupportedMediaType,
    429: RateLimited,
    503: Overloaded,
}
PLAIN = {404: "There is no such address.", 405: "This address does not take {method}."}


def error_response(error: AppError, status: int | None = None) -> Response:
    """Return the contract's error body."""
    response = jsonify(error.body())
    response.status_code = status or error.status
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    return response


def from_http(error: HTTPException) -> Response:
    """Return the contract's form of an error that Flask or Werkzeug raised."""
    status = error.code or 500
    if status < 400:  # a redirect
        return Response(error.get_response().get_data(), status, error.get_response().headers)
    sentence = PLAIN.get(status, "").format(method=request.method) or None
    kind = STATUSES.get(status, ValidationFailed if status < 500 else AppError)
    response = error_response(kind(sentence), status)
    allowed = getattr(error, "valid_methods", None)
    if allowed:
        response.headers["Allow"] = ", ".join(sorted(allowed))
    return response
