"""What needs no key: images, probes, signing keys, and this documentation."""

from __future__ import annotations

from typing import Any

from api.openapi.native import refusals
from api.openapi.operation import ANYWHERE, PROBLEM, Answer, Operation, Parameter, Section
from api.routes.health import Alive, Ready, Unready
from farm.dialects.answers.fal import SigningKeys

_ETAG = Parameter("ETag", "What is stored under a name never changes.", where="header", is_required=True)
_COMMON = refusals(*ANYWHERE)
#: What is no image is sent as bytes, to be saved.
_FILES = "image/jpeg, image/png, image/webp, application/octet-stream"

SECTION = Section(
    name="Without a key",
    about="Images, probes, the keys of fal's webhooks, and this documentation.",
    operations=(
        Operation(
            "get",
            "/files/{key}",
            "getFile",
            "An image, or what was uploaded. Nobody can guess its name; a key is ignored",
            parameters=(Parameter("Range", "A part of it.", where="header"),),
            answers={
                200: Answer("The file.", media_type=_FILES, headers=(_ETAG,)),
                206: Answer("The part that was asked for.", media_type=_FILES, headers=(_ETAG,)),
                304: Answer("You have it already.", headers=(_ETAG,)),
                412: Answer("It is not what `If-Match` says.", media_type=PROBLEM),
                416: Answer("There is no such part.", media_type=PROBLEM),
                **_COMMON,
                **refusals(404, 503),
            },
            is_open=True,
        ),
        Operation(
            "get",
            "/.well-known/jwks.json",
            "getSigningKeys",
            "The keys of fal's webhooks",
            answers={200: Answer("May be kept for an hour.", SigningKeys), **_COMMON, **refusals(503)},
            is_open=True,
        ),
        Operation(
            "get",
            "/healthz",
            "isAlive",
            "Liveness",
            answers={200: Answer("The process ", Alive), **_COMMON},
            is_open=True,
        ),
        Operation(
            "get",
            "/readyz",
            "isReady",
            "Readiness",
            answers={
                200: Answer("Calls are taken.", Ready),
                503: Answer("Calls would be refused.", Unready),
                **_COMMON,
            },
            is_open=True,
        ),
        Operation(
            "get",
            "/metrics",
            "getMetrics",
            "Figures for Prometheus",
            answers={200: Answer("In Prometheus's text format.", str, "text/plain"), **_COMMON, **refusals(503)},
            is_open=True,
        ),
        Operation(
            "get",
            "/openapi.json",
            "getDocument",
            "This document",
            answers={
                200: Answer("OpenAPI 3.1.", dict[str, Any], headers=(_ETAG,)),
                304: Answer("You have it already.", headers=(_ETAG,)),
                **_COMMON,
            },
            is_open=True,
        ),
        Operation(
            "get",
            "/docs",
            "readDocument",
            "This document, for people",
            answers={200: Answer("A page.", str, "text/html"), **_COMMON},
            is_open=True,
        ),
        Operation(
            "get",
            "/docs/{name}",
            "getPartOfPage",
            "What that page consists of",
            answers={
                200: Answer("A script, a style sheet or an icon.", media_type="text/javascript, text/css, image/png"),
                304: Answer("You have it already."),
                **_COMMON,
                **refusals(404),
            },
            is_open=True,
        ),
    ),
)
