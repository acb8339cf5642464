"""The dialects that this farm speaks: one line each, all that the rest of the farm knows of them. Pure.

A dialect is a module here, which translates, and `api.routes.{routes}`, which takes its calls and which
`api.openapi.{routes}` describes.
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

#: The body of a webhook: what a delivery tells of its job.
WebhookBody = Callable[[Job, Due, Links], Mapping[str, Any]]
#: How an error with an HTTP status is told.
ErrorResponseBuilder = Callable[[int, FarmError], ErrorResponse]


@dataclass(frozen=True, slots=True)
class Dialect:
    """A dialect. `prefix` begins the paths where it is spoken, `routes` is the module that answers them."""

    name: str
    prefix: str
    routes: str
    error_response: ErrorResponseBuilder
    #: At `/v1`, which several share, the module that is chosen by the model's id.
    images: openai_common.ImagesDialect | None = None
    #: What it calls the URL of a webhook, and how one is written (None: it has no webhooks) and signed.
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
    # At one path: the first of them answers who does not get as far as naming a model.
    Dialect("openai", "/v1/", "images", openai_common.error_response, openai),
    Dialect("aimlapi", "/v1/", "images", openai_common.error_response, aimlapi),
    Dialect("siraya", "/v1/", "images", siraya.error_response, siraya),
    NATIVE,
)

_BY_NAME = {dialect.name: dialect for dialect in DIALECTS}


def dialect_for_path(path: str) -> Dialect:
    """The dialect of whoever calls `path`; the farm's own where no provider's is spoken."""
    return next(dialect for dialect in DIALECTS if path.startswith(dialect.prefix))


def by_name(name: str) -> Dialect:
    """The dialect of this name; the farm's own for one that this farm does not speak, or not any more."""
    return _BY_NAME.get(name, NATIVE)
