"""Routes of the API documentation: `/openapi.json` and Swagger UI at `/docs` (`/` leads there), without an API key."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import flask
from werkzeug.exceptions import PreconditionFailed

from farm.domain.errors import NotFound

#: Swagger UI's files and their media types.
_PARTS = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}
_START = "start.js"
#: Its URLs are relative, so that it works under any path prefix of a proxy.
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
#: Same origin only, and nothing inline; Swagger UI's icons are data URIs.
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
#: Cache time of the page's files, in seconds.
_MAX_AGE = 3600


def routes(document: Callable[[], Mapping[str, Any]]) -> flask.Blueprint:
    """Build the routes. `document` builds the OpenAPI document; it is called once, at the first request."""
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

    @blueprint.get("/")
    def start() -> flask.Response:
        # Programs accept anything, browsers name HTML.
        if "text/html" not in flask.request.headers.get("Accept", ""):
            flask.abort(404)
        return flask.Response(status=302, headers={"Location": "docs", "Vary": "Accept"})

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
    """Return the response, or 304 if the client has it already. Raises PreconditionFailed."""
    response.set_etag(digest)
    response.make_conditional(flask.request)
    if response.status_code == PreconditionFailed.code:
        raise PreconditionFailed
    return response


@cache
def _found(name: str) -> tuple[bytes, str, str]:
    if name == _START:
        content, media_type = _SCRIPT.encode(), "text/javascript"
    else:
        content, media_type = (files("flask_swagger_ui") / "dist" / name).read_bytes(), _PARTS[name]
    return content, media_type, hashlib.sha256(content).hexdigest()[:32]


def _part(name: str) -> tuple[bytes, str, str]:
    """Return bytes, media type and digest of a file of the page. Raises NotFound."""
    if name != _START and name not in _PARTS:
        raise NotFound(f"The documentation has no file '{name}'.")
    return _found(name)
