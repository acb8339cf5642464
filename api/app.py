"""The Flask application: builds its parts and registers the routes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from importlib import import_module
from typing import Any

import flask
from flask.sessions import NullSession, SessionInterface
from prometheus_client import CollectorRegistry, ProcessCollector
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.routing import MapAdapter

from api.admission import body_memory
from api.admission.body_memory import BodyMemoryBudget
from api.admission.held_calls import HELD_BY, HeldCalls
from api.admission.rate_limit import RateLimiter
from api.admission.sse import EventStreams
from api.auth import Authenticator
from api.context import ApiContext
from api.http import errors, fal_hosts, request_id
from api.http.cors import Cors
from api.http.fal_hosts import FalHosts
from api.http.json import FastJson
from api.http.path_converters import PathExcept
from api.http.public_base import PublicBase
from api.http.upload_body import UploadSlots
from api.openapi.document import document
from api.routes import (
    batches,
    deliveries,
    docs,
    enhance,
    fal_proxy,
    fal_storage,
    files,
    health,
    jwks,
    keys,
    page,
    usage,
    wavespeed_media,
)
from api.routes.fal_proxy import FalProxy
from farm import clock
from farm.bootstrap import Farm
from farm.concurrency.slots import Slots
from farm.dialects.registry import DIALECTS, NATIVE
from farm.dialects.unknown_fields import UnknownFields
from farm.jobstore.daily_usage import DailyUsage
from farm.jobstore.reading import Reading
from farm.settings import Settings
from farm.telemetry import api_metrics
from farm.telemetry.api_metrics import ApiMetrics
from farm.telemetry.collector import StoreCollector
from farm.telemetry.disk_metrics import DiskCollector
from farm.webhooks.service import WebhookService

#: The time of a request's arrival in its WSGI environment.
_STARTED_AT = "farm.started_at"
#: Addresses whose links are cached: callers use few.
_CACHED_BASES = 64
#: Prompts that callers wait for at a time: a language model enhances one after the other.
MAX_ENHANCEMENTS = 8
#: Largest body of a request without input images, in bytes.
MAX_BODY = 1024 * 1024


class Response(flask.Response):
    """A response without a default content type: Flask would call an empty one HTML."""

    default_mimetype = None


class NoSessions(SessionInterface):
    """An interface to sessions that are neither read nor stored: keys identify callers, and no cookie is set."""

    _NONE = NullSession()

    def open_session(self, *_: Any, **__: Any) -> NullSession:
        return self._NONE


class Application(flask.Flask):
    """Flask without coroutines, sessions, and a default content type."""

    response_class = Response
    session_interface = NoSessions()

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function: Flask would check before each call whether it is a coroutine, a tenth of a poll."""
        return func

    def create_url_adapter(self, request: flask.Request | None) -> MapAdapter | None:
        """Bind the routes to a request, as Flask does, but for the host: no route is of one host only.

        To read, check and encode the Host header three times costs 4 % of a submit and 6 % of a poll.
        """
        if request is None:
            return None
        environ = request.environ
        return MapAdapter(
            self.url_map,
            environ.get("HTTP_HOST", ""),
            environ.get("SCRIPT_NAME") or "/",
            "",
            environ["wsgi.url_scheme"],
            environ["PATH_INFO"].encode("latin-1").decode(errors="replace"),
            environ["REQUEST_METHOD"],
            environ.get("QUERY_STRING", ""),
        )


def create_app(
    farm: Farm, *, base: str, with_keys: bool, max_streams: int, max_held_calls: int, host_decides: bool = False
) -> flask.Flask:
    """Build the application. `base` begins every URL in its answers; without keys every caller is `local`.

    With `host_decides`, the address that the caller used comes before `base`.
    """
    public_base = PublicBase(base, host_decides)
    app = _application(farm.settings)
    limiter = RateLimiter(farm.service)
    limiter.install(app)
    authenticator = Authenticator(
        farm.callers if with_keys else None, limiter, origins=farm.settings.cors, base=public_base
    )

    def per_caller(total: int) -> int:
        """Return how much of a limited resource one caller may hold: half, where there are others."""
        return max(1, total // 2) if with_keys else total

    streams = app.extensions["streams"] = EventStreams(max_streams, per_caller(max_streams))
    app.extensions["body_memory"] = BodyMemoryBudget(body_memory.MAX_BYTES, per_key=per_caller(body_memory.MAX_BYTES))
    held_calls = HeldCalls(
        farm.service,
        max_calls=max_held_calls,
        per_caller=per_caller(max_held_calls),
        seconds=farm.settings.hold_seconds,
    )
    registry = app.extensions["metrics"] = CollectorRegistry()
    registry.register(StoreCollector(partial(Reading.of, farm.redis)))
    registry.register(DiskCollector(farm.data_dir, holds_jobs=farm.settings.redis_url is None))
    request_id.install(app)
    _measure(app, _api_metrics(registry, held_calls, streams))
    app.before_request(authenticator.guard)
    errors.install(app, count=partial(farm.tally.add, "refusals"))
    context = ApiContext(
        farm,
        authenticator=authenticator,
        held_calls=held_calls,
        streams=streams,
        base=public_base,
        links_at=lru_cache(_CACHED_BASES)(farm.links),
        unknown_fields=UnknownFields(farm.settings.unknown_fields),
    )
    enhancements = Slots(MAX_ENHANCEMENTS, per_key=per_caller(MAX_ENHANCEMENTS))
    for blueprint in (
        *_dialect_routes(context),
        *_native_routes(context),
        enhance.routes(context, enhancements),
        health.routes(farm.redis, registry),
        docs.routes(partial(document, "/" if host_decides else base)),
    ):
        app.register_blueprint(blueprint)
    return app


def _application(settings: Settings) -> Application:
    """Return an application without routes."""
    app = Application("srpo-farm", static_folder=None)
    app.wsgi_app = _wrapped(app.wsgi_app, settings)  # type: ignore[method-assign, assignment]  # Flask's way
    app.url_map.converters["path_except"] = PathExcept
    app.url_map.merge_slashes = False  # a doubled slash would be redirected, in HTML
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.json = FastJson(app)
    return app


def _dialect_routes(context: ApiContext) -> Iterator[flask.Blueprint]:
    """Yield the routes of every dialect, and those of the providers' uploads."""
    for module in dict.fromkeys(dialect.routes for dialect in DIALECTS):
        yield import_module(f"api.routes.{module}").routes(context)
    yield fal_proxy.routes(context)
    upload_slots = UploadSlots()
    yield fal_storage.routes(context, upload_slots)
    yield wavespeed_media.routes(context, upload_slots)
    yield batches.routes(context, upload_slots)


def _native_routes(context: ApiContext) -> Iterator[flask.Blueprint]:
    """Yield the farm's own routes that need nothing but its parts."""
    farm, authenticator = context.farm, context.authenticator
    webhook_service = WebhookService(farm.deliveries, secrets=farm.secrets, outbound=farm.outbound)
    yield deliveries.routes(webhook_service, authenticator=authenticator)
    yield keys.routes(farm.callers, authenticator=authenticator)
    yield usage.routes(
        DailyUsage(farm.redis), authenticator=authenticator, price_per_image=farm.settings.price_per_image
    )
    yield files.routes(farm.storage, farm.store)
    yield jwks.routes(farm.secrets, padded=farm.settings.jwks_padding)
    yield page.routes(farm.settings)


def _api_metrics(registry: CollectorRegistry, held_calls: HeldCalls, streams: EventStreams) -> ApiMetrics:
    """Return the metrics of this process, which show its blocking calls and streams."""
    ProcessCollector(registry=registry)
    metrics = ApiMetrics(registry, (dialect.name for dialect in DIALECTS if dialect is not NATIVE))
    for family, read in (
        (api_metrics.HELD, lambda: held_calls.count),
        (api_metrics.MAX_HELD, lambda: held_calls.max_calls),
        (api_metrics.STREAMS, lambda: streams.count),
        (api_metrics.MAX_STREAMS, lambda: streams.max_streams),
    ):
        metrics.show(family, read)
    return metrics


def _wrapped(application: fal_hosts.Application, settings: Settings) -> fal_hosts.Application:
    """Wrap the application in its WSGI middleware: forwarded headers, CORS, fal's host names and fal's proxy."""
    hops = settings.proxy_hops
    wrapped = Cors(FalHosts(FalProxy(application)), origins=settings.cors)
    return ProxyFix(wrapped, x_for=hops, x_proto=hops, x_host=hops) if hops else wrapped


def _measure(app: flask.Flask, metrics: ApiMetrics) -> None:
    """Count every answer by its route, and time it; paths would make a series of each job."""

    @app.before_request
    def start() -> None:
        flask.request.environ[_STARTED_AT] = clock.monotonic()

    @app.after_request
    def stop(response: flask.Response) -> flask.Response:
        environ, rule = flask.request.environ, flask.request.url_rule
        route = rule.rule if rule else "none"
        metrics.count(route, environ["REQUEST_METHOD"], response.status_code)
        if not response.is_streamed:
            metrics.time(route, clock.monotonic() - environ[_STARTED_AT], held_by=environ.get(HELD_BY, ""))
        return response
