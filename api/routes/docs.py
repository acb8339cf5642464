"""`/openapi.json` and `/docs`: what the API takes and answers, for programs and for people. No key is asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import flask

from farm.domain.errors import NotFound

#: Swagger UI's own files, and the types they are sent as.
_PARTS = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}
_START = "start.js"
#: Its addresses are relative, so that it works behind whatever path a proxy puts before it.
_PAGE = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>srpo-farm</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="icon" type="image/png" href="docs/favicon-32x32.png">
<div id="page"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/{_START}"></script>
</html>
"""
_SCRIPT = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#page",
  deepLinking: true,
  docExpansion: "none",
  defaultModelsExpandDepth: -1,
  filter: true,
  tryItOutEnabled: true,
});
"""
#: Nothing from elsewhere, and nothing inline; Swagger UI brings its icons as data.
_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
#: How long a browser may keep the parts of the page, in seconds.
_MAX_AGE = 3600


def routes(document: Callable[[], Mapping[str, Any]]) -> flask.Blueprint:
    """`document` makes the OpenAPI document; it is asked once, when somebody wants to read it."""
    blueprint = flask.Blueprint("docs", __name__)

    @cache
    def encoded() -> tuple[bytes, str]:
        text = flask.json.dumps(document()).encode()
        return text, hashlib.sha256(text).hexdigest()[:32]

    @blueprint.get("/openapi.json")
    def openapi() -> flask.Response:
        text, digest = encoded()
        response = _kept(flask.Response(text, mimetype="application/json"), digest)
        response.cache_control.no_cache = True
        return response

    @blueprint.get("/docs")
    def page() -> flask.Response:
        response = flask.Response(_PAGE, mimetype="text/html")
        response.headers["Content-Security-Policy"] = _POLICY
        return response

    @blueprint.get("/docs/<name>")
    def part(name: str) -> flask.Response:
        content, media_type, digest = _part(name)
        response = _kept(flask.Response(content, mimetype=media_type), digest)
        response.cache_control.public = True
        response.cache_control.max_age = _MAX_AGE
        return response

    return blueprint


def _kept(response: flask.Response, digest: str) -> flask.Response:
    """The answer, or that the client has it already."""
    response.set_etag(digest)
    response.make_conditional(flask.request)
    return response


@cache
def _found(name: str) -> tuple[bytes, str, str]:
    if name == _START:
        content, media_type = _SCRIPT.encode(), "text/javascript"
    else:
        content, media_type = (files("flask_swagger_ui") / "dist" / name).read_bytes(), _PARTS[name]
    return content, media_type, hashlib.sha256(content).hexdigest()[:32]


def _part(name: str) -> tuple[bytes, str, str]:
    """A part of the page: its bytes, their type and their digest. Raises NotFound."""
    if name != _START and name not in _PARTS:
        raise NotFound(f"The documentation has no part '{name}'.")
    return _found(name)
