"""Answers at `/v1`, in OpenAI's, AI/ML API's and Siraya's dialects."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from farm.domain.catalogue import OutputFormat


class ErrorObject(TypedDict, closed=True):
    """OpenAI's error object. `code` is a word; for Siraya's callers it is the HTTP status."""

    message: str
    type: str
    param: str | None
    code: str | int | None


class ErrorBody(TypedDict):
    """OpenAI's error object, and next to it the fields in which AI/ML API describes an error."""

    error: ErrorObject
    message: str
    statusCode: int


class CallFacts(TypedDict):
    """AI/ML API's description of the failed call."""

    path: str
    requestId: str
    timestamp: str


class ImagesError(ErrorBody, CallFacts, closed=True):
    """An error: OpenAI's object, and next to it AI/ML API's fields."""


class ImageData(TypedDict, closed=True):
    """An image: its URL (a data URI with `sync_mode`), its bytes, or both. Other fields are left out."""

    url: NotRequired[str]
    b64_json: NotRequired[str]


class GeneratedImage(TypedDict, closed=True):
    """An image: its URL (a data URI with `sync_mode`), its bytes, or both; `revised_prompt` is there if rewritten."""

    url: NotRequired[str]
    b64_json: NotRequired[str]
    revised_prompt: NotRequired[str]


class GeneratedImages(TypedDict, closed=True):
    """The images, in OpenAI's dialect."""

    created: int
    data: list[GeneratedImage]
    output_format: OutputFormat
    size: str
    seed: int
    #: Left out if the images were not checked.
    has_nsfw_concepts: NotRequired[list[bool]]
    warnings: NotRequired[list[str]]


class SirayaImage(TypedDict, closed=True):
    """An image; `revised_prompt` is empty if the prompt was not rewritten."""

    url: NotRequired[str]
    b64_json: NotRequired[str]
    revised_prompt: str


class SirayaImages(TypedDict, closed=True):
    """The images, in Siraya's dialect."""

    created: int
    data: list[SirayaImage]
    seed: int
    #: Left out if the images were not checked.
    has_nsfw_concepts: NotRequired[list[bool]]
    warnings: NotRequired[list[str]]


class AimlapiImage(TypedDict, closed=True):
    """An image, in AI/ML API's dialect."""

    url: NotRequired[str]
    b64_json: NotRequired[str]
    width: int
    height: int
    content_type: str


class InferenceSeconds(TypedDict, closed=True):
    """Seconds."""

    inference: float


class AimlapiUsage(TypedDict, closed=True):
    """The tokens that AI/ML API would bill."""

    tokens_used: int


class AimlapiMeta(TypedDict, closed=True):
    """Facts about the call."""

    usage: AimlapiUsage


class AimlapiImages(TypedDict, closed=True):
    """The images, in AI/ML API's dialect: the same list twice, as `images` and as `data`."""

    images: list[AimlapiImage]
    timings: InferenceSeconds
    seed: int
    has_nsfw_concepts: list[bool]
    prompt: str
    data: list[AimlapiImage]
    meta: AimlapiMeta
    warnings: NotRequired[list[str]]


class ListedModel(TypedDict, closed=True):
    """A model that a worker has loaded. `created` is not known, so it is 0."""

    id: str
    object: Literal["model"]
    created: Literal[0]
    owned_by: Literal["srpo-farm"]


class ListedModels(TypedDict, closed=True):
    """The ids that are valid as `model`."""

    object: Literal["list"]
    data: list[ListedModel]
