"""Routes of the API documentation: `/openapi.json` and Swagger UI at `/docs`, without an API key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import flask

from api.http.assets import Asset, Assets, policy

#: Swagger UI's files.
_PARTS = ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png")
#: Files of the farm's own beside them.
_OWN_PARTS = ("start.js", "accessibility.css")
#: Its URLs are relative, so that it works under any path prefix of a proxy.
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>srpo-farm</title>
<meta name="description" content="The farm's HTTP API, to read and to try.">
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="stylesheet" href="docs/accessibility.css">
<link rel="icon" type="image/png" href="docs/favicon-32x32.png">
<div id="page"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</html>
"""
#: Swagger UI's icons are data URIs.
_POLICY = policy("data:")


def routes(document: Callable[[], Mapping[str, Any]]) -> flask.Blueprint:
    """Build the routes. `document` builds the OpenAPI document; it is called once, at the first request."""
    blueprint = flask.Blueprint("docs", __name__)
    library, own = files("flask_swagger_ui") / "dist", files("api.page") / "swagger"
    assets = Assets([*(library / name for name in _PARTS), *(own / name for name in _OWN_PARTS)])

    @cache
    def described() -> Asset:
        return Asset.of(flask.json.dumps(document()).encode(), "application/json")

    @blueprint.get("/openapi.json")
    def openapi() -> flask.Response:
        response = described().answer()
        response.cache_control.no_cache = True
        return response

    @blueprint.get("/docs")
    def page() -> flask.Response:
        response = flask.Response(_PAGE, mimetype="text/html")
        response.headers["Content-Security-Policy"] = _POLICY
        return response

    @blueprint.get("/docs/<name>")
    def part(name: str) -> flask.Response:
        return assets.answer(name)

    return blueprint
