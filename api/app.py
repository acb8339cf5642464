"""The Flask application: its parts put together, and nothing decided here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import flask
from prometheus_client import CollectorRegistry
from werkzeug.middleware.proxy_fix import ProxyFix

from api.admission import body_memory
from api.admission.body_memory import BodyMemoryBudget
from api.admission.held_calls import HeldCalls
from api.admission.rate_limit import RateLimiter
from api.admission.sse import EventStreams
from api.auth import Authenticator
from api.context import ApiContext
from api.http import errors, fal_hosts
from api.http.cors import Cors
from api.http.fal_hosts import FalHosts
from api.http.json import FastJson
from api.http.path_converters import PathExcept
from api.http.upload_body import UploadSlots
from api.openapi.document import document
from api.routes import deliveries, docs, fal_proxy, fal_storage, files, health, jwks, keys, wavespeed_media
from api.routes.fal_proxy import Proxy
from farm import clock
from farm.bootstrap import Farm
from farm.dialects.registry import DIALECTS
from farm.settings import Settings
from farm.telemetry import FarmCollector, HttpMetrics
from farm.webhooks.service import WebhookService

#: Where the time of a request's arrival stands in its WSGI environment.
_BEGAN = "farm.began"
#: Largest body of a request for images, in bytes.
MAX_BODY = 1024 * 1024


class Response(flask.Response):
    """Says no type unless it is given one: Flask would call an empty answer HTML."""

    default_mimetype = None


class Application(flask.Flask):
    """Flask with plain functions only, and answers that say no type unless they are given one."""

    response_class = Response

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Flask asks again before each call whether a function is a coroutine, which costs a tenth of a poll."""
        return func


def create_app(farm: Farm, *, base: str, with_keys: bool, most_streams: int, most_held: int) -> flask.Flask:
    """The application. `base` begins every URL it hands out; without keys everybody is the caller `local`."""
    app = Application("srpo-farm", static_folder=None)
    app.wsgi_app = _wrapped(app.wsgi_app, farm.settings)  # type: ignore[method-assign, assignment]  # Flask's way
    app.url_map.converters["other_than"] = PathExcept
    app.url_map.merge_slashes = False  # else a doubled slash is redirected, in HTML
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.json = FastJson(app)
    limiter = RateLimiter(farm.service)
    limiter.install(app)
    authenticator = Authenticator(farm.callers if with_keys else None, limiter, origins=farm.settings.cors)
    share = _half if with_keys else _all
    streams = app.extensions["streams"] = EventStreams(most_streams, share(most_streams))
    app.extensions["room"] = BodyMemoryBudget(body_memory.MAX_BYTES, per_key=share(body_memory.MAX_BYTES))
    held = HeldCalls(farm.service, most=most_held, most_of_one=share(most_held), seconds=farm.settings.hold_seconds)
    registry = CollectorRegistry()
    registry.register(FarmCollector(farm.stats))
    _measure(app, HttpMetrics(registry))
    app.before_request(authenticator.guard)
    errors.install(app)
    context = ApiContext(farm, authenticator=authenticator, held=held, streams=streams, links=farm.links(base))
    for module in dict.fromkeys(dialect.routes for dialect in DIALECTS):
        app.register_blueprint(import_module(f"api.routes.{module}").routes(context))
    webhook_service = WebhookService(farm.deliveries, secrets=farm.secrets, outbound=farm.outbound)
    app.register_blueprint(deliveries.routes(webhook_service, authenticator=authenticator))
    app.register_blueprint(fal_proxy.routes(context))
    upload_slots = UploadSlots()
    app.register_blueprint(fal_storage.routes(context, upload_slots))
    app.register_blueprint(wavespeed_media.routes(context, upload_slots))
    app.register_blueprint(keys.routes(farm.callers, authenticator=authenticator))
    app.register_blueprint(files.routes(farm.storage, farm.store))
    app.register_blueprint(jwks.routes(farm.secrets))
    app.register_blueprint(health.routes(farm.redis, registry))
    app.register_blueprint(docs.routes(partial(document, base)))
    return app


def _half(most: int) -> int:
    """What one caller may have of something scarce, for there are others."""
    return max(1, most // 2)


def _all(most: int) -> int:
    """The same where there is but one caller."""
    return most


def _wrapped(application: fal_hosts.Application, settings: Settings) -> fal_hosts.Application:
    """What stands before the routes, the outermost last: it settles who calls what, and what a browser is told."""
    hops = settings.proxy_hops
    wrapped = Cors(FalHosts(Proxy(application)), origins=settings.cors)
    return ProxyFix(wrapped, x_for=hops, x_proto=hops, x_host=hops) if hops else wrapped


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
