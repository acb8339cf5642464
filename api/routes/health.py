"""Routes of health checks and metrics: no API key, and no caller's name in them."""

from __future__ import annotations

from typing import Literal

import flask
import redis
import structlog
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from typing_extensions import TypedDict


class Alive(TypedDict, closed=True):
    """The process answers."""

    status: Literal["alive"]


class Ready(TypedDict, closed=True):
    """Redis is reachable and runs scripts; it may be full."""

    status: Literal["ready"]


class Unready(TypedDict, closed=True):
    """The reason why every call would be refused."""

    status: Literal["unready"]
    reason: str


_log = structlog.get_logger(__name__)


def routes(client: redis.Redis, registry: CollectorRegistry) -> flask.Blueprint:
    blueprint = flask.Blueprint("health", __name__)

    @blueprint.get("/healthz")
    def healthz() -> Alive:
        return {"status": "alive"}

    @blueprint.get("/readyz")
    def readyz() -> tuple[Ready | Unready, int]:
        try:
            # A script proves the connection, the server, and the permission to run scripts. It writes nothing: all
            # replicas have one Redis, and while that refuses writes, they still answer polls and serve images.
            client.eval("return redis.call('PING')", 0)
        except redis.exceptions.RedisError as error:
            # The error has the address of Redis, which is for operators only.
            _log.warning("not ready", error=str(error))
            return {"status": "unready", "reason": "Redis does not answer; the farm's log has the reason."}, 503
        return {"status": "ready"}, 200

    @blueprint.get("/metrics")
    def metrics() -> flask.Response:
        return flask.Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)

    return blueprint
