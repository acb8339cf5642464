"""`/healthz`, `/readyz`, `/metrics`: for probes and Prometheus. No key, and no caller's name in them."""

from __future__ import annotations

from typing import Any

import flask
import redis
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest


def routes(client: redis.Redis, registry: CollectorRegistry) -> flask.Blueprint:
    blueprint = flask.Blueprint("health", __name__)

    @blueprint.get("/healthz")
    def healthz() -> dict[str, Any]:
        return {"status": "alive"}

    @blueprint.get("/readyz")
    def readyz() -> tuple[dict[str, Any], int]:
        try:
            # A script that answers proves the way, the server and its right to run scripts.
            client.eval("return redis.call('PING')", 0)
        except redis.exceptions.RedisError as error:
            return {"status": "unready", "reason": f"Redis: {error}"}, 503
        return {"status": "ready"}, 200

    @blueprint.get("/metrics")
    def metrics() -> flask.Response:
        return flask.Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)

    return blueprint
