"""The registry of dialects, through which the rest of the farm uses them. Pure.

A dialect is a module here that translates, a module `api.routes.{routes}` that takes its calls, and a module
`api.openapi.{routes}` that describes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from farm.dialects import aimlapi, fal, native, openai, openai_common, siraya, wavespeed
from farm.dialects.error_response import ErrorResponse
from farm.dialects.links import Links
from farm.domain.delivery import Due
from farm.domain.errors import FarmError
from farm.domain.job import Job

#: Builds the body of a webhook.
WebhookBody = Callable[[Job, Due, Links], Mapping[str, Any]]
#: Builds the response to an error, by HTTP status.
ErrorResponseBuilder = Callable[[int, FarmError], ErrorResponse]


@dataclass(frozen=True, slots=True)
class Dialect:
    """A dialect. `prefix` is the start of its paths, `routes` the module that serves them."""

    name: str
    prefix: str
    routes: str
    error_response: ErrorResponseBuilder
    #: The module of a dialect at `/v1`, where the model id selects the dialect.
    images: openai_common.ImagesDialect | None = None
    #: Its name for the URL of a webhook, and its format (None: it has no webhooks) and signature.
    webhook_field: str = ""
    webhook_body: WebhookBody | None = None
    signature: Literal["standard", "fal", "wavespeed"] = "standard"


NATIVE = Dialect(
    "native", "/", "native", native.error_response, webhook_field="webhook_url", webhook_body=native.webhook_body
)

DIALECTS = (
    Dialect("fal", "/fal/", "fal", fal.error_response, None, "fal_webhook", fal.webhook_body, "fal"),
    Dialect(
        "wavespeed",
        "/api/v3/",
        "wavespeed",
        wavespeed.error_response,
        None,
        "webhook",
        wavespeed.webhook_body,
        "wavespeed",
    ),
    # These share a path: the first answers calls that name no valid model.
    Dialect("openai", "/v1/", "images", openai_common.error_response, openai),
    Dialect("aimlapi", "/v1/", "images", openai_common.error_response, aimlapi),
    Dialect("siraya", "/v1/", "images", siraya.error_response, siraya),
    NATIVE,
)

_BY_NAME = {dialect.name: dialect for dialect in DIALECTS}


def dialect_for_path(path: str) -> Dialect:
    """Return the dialect of a path; the farm's own if the path belongs to no provider."""
    if path.startswith("/files/") and "/multipart/" in path:  # the parts of fal's uploads
        return by_name("fal")
    return next(dialect for dialect in DIALECTS if path.startswith(dialect.prefix))


def by_name(name: str) -> Dialect:
    """Return the dialect of this name; the farm's own if there is no such dialect."""
    return _BY_NAME.get(name, NATIVE)
