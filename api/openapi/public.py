"""Operations without an API key: images, health checks, signing keys, and the documentation."""

from __future__ import annotations

from typing import Any

from api.openapi.native import errors
from api.openapi.operation import ANYWHERE, PROBLEM, Operation, Parameter, Response, Section
from api.routes.health import Alive, Ready, Unready
from farm.dialects.answers.fal import SigningKeys

_ETAG = Parameter("ETag", "A file never changes under its name.", where="header", is_required=True)
_COMMON = errors(*ANYWHERE)


def _conditional(what: str, *headers: Parameter) -> dict[int, Response]:
    """Return the answers to a request for `what` that the client may have already."""
    return {
        304: Response("Not modified.", headers=headers),
        412: Response(f"{what} does not match `If-Match`.", media_type=PROBLEM),
    }


#: A file that is not an image is sent as an attachment of the type that its sender declared.
_FILES = "image/jpeg, image/png, image/webp, */*"

SECTION = Section(
    name="Without a key",
    description="Images, health checks, the keys of fal's webhooks, and this documentation.",
    operations=(
        Operation(
            "get",
            "/files/{key}",
            "getFile",
            "Get an image or an uploaded file; names are unguessable, and an API key is ignored",
            parameters=(Parameter("Range", "A range of bytes.", where="header"),),
            responses={
                200: Response("The file.", media_type=_FILES, headers=(_ETAG,)),
                206: Response("The requested range.", media_type=_FILES, headers=(_ETAG,)),
                304: Response("Not modified.", headers=(_ETAG,)),
                412: Response("The file does not match `If-Match`.", media_type=PROBLEM),
                416: Response("The range is outside the file.", media_type=PROBLEM),
                **_COMMON,
                **errors(404, 503),
            },
            is_open=True,
        ),
        Operation(
            "get",
            "/.well-known/jwks.json",
            "getSigningKeys",
            "Get the keys that verify fal's webhooks (JWKS)",
            responses={
                200: Response("The keys; they may be cached for an hour.", SigningKeys),
                **_COMMON,
                **errors(503),
            },
            is_open=True,
        ),
        Operation(
            "get",
            "/healthz",
            "isAlive",
            "Check liveness",
            responses={200: Response("The process ", Alive), **_COMMON},
            is_open=True,
        ),
        Operation(
            "get",
            "/readyz",
            "isReady",
            "Check readiness",
            responses={
                200: Response("Redis is reachable and runs scripts; while it is full, submits are refused.", Ready),
                503: Response("The farm would reject every request.", Unready),
                **_COMMON,
            },
            is_open=True,
        ),
        Operation(
            "get",
            "/metrics",
            "getMetrics",
            "Get the metrics (Prometheus)",
            responses={
                200: Response("Metrics in Prometheus's text format.", str, "text/plain"),
                **_COMMON,
                **errors(503),
            },
            is_open=True,
        ),
        Operation(
            "get",
            "/",
            "openPlayground",
            "Open the playground with a browser",
            responses={
                200: Response("An HTML page, for a client that accepts HTML.", str, "text/html"),
                **_COMMON,
                **errors(404),
            },
            is_open=True,
        ),
        Operation(
            "get",
            "/queue",
            "openQueue",
            "Open the queue view with a browser",
            responses={200: Response("An HTML page.", str, "text/html"), **_COMMON},
            is_open=True,
        ),
        Operation(
            "get",
            "/page/models.json",
            "getFormModels",
            "Get what the playground's form is made from",
            responses={
                200: Response("Models with the JSON Schema of their requests.", dict[str, Any], headers=(_ETAG,)),
                **_conditional("The content", _ETAG),
                **_COMMON,
            },
            is_open=True,
        ),
        Operation(
            "get",
            "/page/{name}",
            "getAsset",
            "Get a file of these pages",
            responses={
                200: Response(
                    "A script, a style sheet, an icon or data.",
                    media_type="text/javascript, text/css, image/svg+xml, application/json",
                ),
                **_conditional("The file"),
                **_COMMON,
                **errors(404),
            },
            is_open=True,
        ),
        Operation(
            "get",
            "/openapi.json",
            "getDocument",
            "Get this document",
            responses={
                200: Response("OpenAPI 3.1.", dict[str, Any], headers=(_ETAG,)),
                **_conditional("The document", _ETAG),
                **_COMMON,
            },
            is_open=True,
        ),
        Operation(
            "get",
            "/docs",
            "readDocument",
            "Read this document in Swagger UI",
            responses={200: Response("An HTML page.", str, "text/html"), **_COMMON},
            is_open=True,
        ),
        Operation(
            "get",
            "/docs/{name}",
            "getPartOfPage",
            "Get a file of that page",
            responses={
                200: Response("A script, a style sheet or an icon.", media_type="text/javascript, text/css, image/png"),
                **_conditional("The file"),
                **_COMMON,
                **errors(404),
            },
            is_open=True,
        ),
    ),
)
