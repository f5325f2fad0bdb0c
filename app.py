"""The one file that names the parts together."""

from __future__ import annotations

import logging
import sys
from functools import partial
from pathlib import Path

from flask import Flask, Response, request
from flask_smorest import Blueprint
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnection
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.proxy_fix import ProxyFix

import chatapp.models
import chatapp.routes
from chatapp import __version__, auth, bells, caches, database, providers, registry, responses, sse
from chatapp.connections import Connections
from chatapp.database import db
from chatapp.errors import AppError, Overloaded
from chatapp.eventlog import EventLog
from chatapp.eventlog.sql import Store
from chatapp.pace import Pace
from chatapp.passing import Passing
from chatapp.readers import Readers
from chatapp.routes import _body, _cors, _json, _stream
from chatapp.routes import metrics as routes_metrics
from chatapp.runners import Runners
from chatapp.services import Site, conversations, usage
from chatapp.settings import ROOT, Settings

logger = logging.getLogger("chatapp")

MAX_BODY_BYTES = 1024 * 1024


def create_app(settings: Settings | None = None) -> Flask:
    """Return the application; nothing runs in the background before `app.extensions["chatapp"].open()`."""
    settings = settings or Settings.load()
    app = Flask(__name__, template_folder=ROOT / "templates", static_folder=ROOT / "static")
    app.json = _json.OrjsonProvider(app)
    app.config.update(
        SQLALCHEMY_DATABASE_URI=database.url(settings),
        SQLALCHEMY_ENGINE_OPTIONS=database.engine_options(settings),
        MAX_CONTENT_LENGTH=MAX_BODY_BYTES,
        MAX_FORM_MEMORY_SIZE=MAX_BODY_BYTES,
        API_TITLE="chatapp",
        API_VERSION=__version__,
        OPENAPI_VERSION="3.0.3",
        OPENAPI_URL_PREFIX="/api",
        OPENAPI_JSON_PATH="openapi.json",
    )
    app.wsgi_app = _body.Deadline(app.wsgi_app, settings.body_seconds)  # type: ignore[method-assign]
    if settings.proxies:
        app.wsgi_app = ProxyFix(app.wsgi_app, *[settings.proxies] * 3)  # type: ignore[method-assign]  # for, proto, host
    db.init_app(app)
    if "flask" in Path(sys.argv[0]).parts[-2:]:  # `flask db`; a site that runs has 9 MB and a tenth of its start less
        from flask_migrate import Migrate

        Migrate(app, db, directory=str(database.MIGRATIONS))
    app.extensions["chatapp"] = assemble(app, settings)
    routes_metrics.count_requests(app)
    _cors.configure(app, settings)
    auth.configure(app, settings)
    add_routes(app)
    add_error_pages(app)
    return app


def assemble(app: Flask, settings: Settings) -> Site:
    """Return the parts of the site, each knowing only what it needs."""
    with app.app_context():
        database.configure(db.engine)
    engine = database.engine_for(settings)
    bell = bells.load(settings)
    log = EventLog(Store(engine), bell)
    configured = providers.load(settings)
    runners = Runners(engine, log, bell, configured, settings)
    connections = Connections(bell)
    sse.use_connections(app, connections)
    cache = caches.load(settings)
    runners.on_end.append(partial(responses.keep, cache, settings))
    runners.on_end.append(partial(conversations.tell_answered, engine, connections))
    passing = Passing(configured, settings)
    passing.on_spent.append(partial(usage.count, engine))
    return Site(
        settings,
        engine,
        log,
        bell,
        cache,
        configured,
        runners,
        passing,
        Readers(engine, bell, settings),
        connections,
        Pace(lambda: log.appended),
    )


def add_routes(app: Flask) -> None:
    """Register the blueprint of each file in `routes`."""
    api = _json.Api(app)
    for module in registry.load(chatapp.routes).values():
        if isinstance(module.blueprint, Blueprint):
            api.register_blueprint(module.blueprint)
        else:
            app.register_blueprint(module.blueprint)


def add_error_pages(app: Flask) -> None:
    """Answer every error in the contract's form; a stream that was come back to learns it in-band."""

    @app.errorhandler(AppError)
    def app_error(error: AppError) -> Response:
        return _stream.refusal(error) or _json.error_response(error)

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        return _json.from_http(error)

    @app.errorhandler(DBAPIError)
    @app.errorhandler(NoConnection)
    def database_error(error: Exception) -> Response:
        logger.exception("the database failed in %s %s", request.method, request.endpoint)
        db.session.rollback()
        return app_error(Overloaded("The database does not answer. Try again in a moment."))

    @app.errorhandler(Exception)
    def unforeseen(error: Exception) -> Response:
        logger.exception("an error nobody foresaw, in %s %s", request.method, request.endpoint)
        return app_error(AppError())
