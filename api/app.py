"""The Flask application: its parts put together, and nothing decided here."""

from __future__ import annotations

from functools import partial
from importlib import import_module

import apiflask
import flask
from prometheus_client import CollectorRegistry

from api import errors
from api.auth import Doorman
from api.held import Held
from api.hosts import Hosts
from api.house import House
from api.json import FastJson
from api.openapi.document import document
from api.paths import OtherThan
from api.receiving import Receiving
from api.room import Room
from api.routes import deliveries, docs, fal_proxy, fal_storage, files, health, jwks, wavespeed_media
from api.routes.fal_proxy import Proxy
from api.streams import Streams
from farm import __version__, clock
from farm.bootstrap import Farm
from farm.dialects.registry import SPOKEN
from farm.telemetry import FarmCollector, HttpMetrics
from farm.webhooks.desk import Desk

#: Where the time of a request's arrival stands in its WSGI environment.
_BEGAN = "farm.began"
#: Largest body of a request for pictures, in bytes.
MAX_BODY = 1024 * 1024


class Response(flask.Response):
    """Says no type unless it is given one: Flask would call an empty answer HTML."""

    default_mimetype = None


def create_app(farm: Farm, *, base: str, with_keys: bool, most_streams: int, most_held: int) -> flask.Flask:
    """The application. `base` begins every URL it hands out; without keys everybody is the caller `local`."""
    app = apiflask.APIFlask(
        "srpo-farm",
        title="srpo-farm",
        version=__version__,
        enable_openapi=False,
        json_errors=False,
        static_folder=None,  # type: ignore[arg-type]  # Flask's own way to serve none
    )
    app.wsgi_app = Hosts(Proxy(app.wsgi_app))  # type: ignore[method-assign]  # Flask's own way to wrap an application
    app.response_class = Response
    app.url_map.converters["other_than"] = OtherThan
    app.url_map.merge_slashes = False  # else a doubled slash is redirected, in HTML
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.json = FastJson(app)
    doorman = Doorman(farm.callers if with_keys else None)
    streams = app.extensions["streams"] = Streams(most_streams)
    app.extensions["room"] = Room()
    held = Held(farm.service, most=most_held, seconds=farm.settings.hold_seconds)
    registry = CollectorRegistry()
    registry.register(FarmCollector(farm.census))
    _measure(app, HttpMetrics(registry))
    app.before_request(doorman.guard)
    errors.install(app)
    house = House(farm, doorman=doorman, held=held, streams=streams, links=farm.links(base))
    for module in dict.fromkeys(spoken.routes for spoken in SPOKEN):
        app.register_blueprint(import_module(f"api.routes.{module}").routes(house))
    desk = Desk(farm.deliveries, secrets=farm.secrets, outbound=farm.outbound)
    app.register_blueprint(deliveries.routes(desk, doorman=doorman))
    app.register_blueprint(fal_proxy.routes(house))
    receiving = Receiving()
    app.register_blueprint(fal_storage.routes(house, receiving))
    app.register_blueprint(wavespeed_media.routes(house, receiving))
    app.register_blueprint(files.routes(farm.storage))
    app.register_blueprint(jwks.routes(farm.secrets))
    app.register_blueprint(health.routes(farm.redis, registry))
    app.register_blueprint(docs.routes(partial(document, base)))
    return app


def _measure(app: flask.Flask, metrics: HttpMetrics) -> None:
    """Count and time every answer by its route; paths would make a series of each job."""

    @app.before_request
    def start() -> None:
        flask.request.environ[_BEGAN] = clock.monotonic()

    @app.after_request
    def stop(response: flask.Response) -> flask.Response:
        environ, rule = flask.request.environ, flask.request.url_rule
        seconds = None if response.is_streamed else clock.monotonic() - environ[_BEGAN]
        metrics.count(rule.rule if rule else "none", environ["REQUEST_METHOD"], response.status_code, seconds)
        return response
