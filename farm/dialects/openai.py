"""OpenAI's dialect of `/v1`, for the farm's own model ids: generations and edits, after its Python library. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field

from farm.dialects import openai_common
from farm.dialects.answers.images import GeneratedImage, GeneratedImages, ImageData
from farm.dialects.fields import Flag, ImageUrl, Input, M, Number, inputs_by_model
from farm.dialects.links import Links
from farm.dialects.openai_common import Call, ImageUrls, KontextCall, ParsedCall, ResultFormat, SrpoCall
from farm.domain.catalogue import (
    KONTEXT,
    KONTEXT_MULTI,
    KONTEXT_TEXT,
    MAX_INPUTS,
    MODELS,
    SRPO,
    SRPO_IMAGE,
    TERMS,
    Acceleration,
    Kind,
    Model,
    OutputFormat,
    for_images,
)
from farm.domain.errors import InvalidRequest, Problem
from farm.domain.job import Job, Result, Source

NAME = "openai"
#: The HTTP status of an answer with images.
SUCCESS = 200

_TERMS = TERMS[NAME]

#: Names of files: libraries differ in how they write a list.
_IMAGE_FILE = re.compile(r"image(\[[0-9]*\])?", re.ASCII)

#: Fields with the URLs of input images.
IMAGE_FIELDS = ("image", "image_url", "image_urls", "images")


class _OpenaiCall(Call):
    #: Clients of OpenAI's current models expect base64, older ones a URL, and neither sends `response_format`.
    DEFAULT_FORMAT: ClassVar[ResultFormat] = "both"

    output_format: OutputFormat = _TERMS.output_format


class _AnySrpo(_OpenaiCall, SrpoCall):
    TERMS: ClassVar = _TERMS

    enable_safety_checker: Flag = _TERMS.safety
    acceleration: Acceleration = _TERMS.acceleration


class SrpoGeneration(_AnySrpo):
    """The body of a call for SRPO, text to image."""


class KontextGeneration(_OpenaiCall, KontextCall):
    """The body of a call for Kontext, text to image."""


class ImageReference(Input):
    """An input image of an edit, as OpenAI's JSON calls name it."""

    image_url: ImageUrl


class Edit(_OpenaiCall):
    """The fields of an edit. The input images are URLs in one of four fields, or files of a form."""

    image: ImageUrls | None = None
    image_url: ImageUrl | None = None
    image_urls: ImageUrls | None = None
    images: Annotated[list[ImageReference], Field(max_length=MAX_INPUTS)] | None = None

    def sources(self, files: Sequence[bytes]) -> tuple[Source, ...]:
        """Return the input images in the caller's order, from `files` or from URLs. Raises InvalidRequest."""
        named = {
            "image": self.image,
            "image_url": [self.image_url] if self.image_url else None,
            "image_urls": self.image_urls,
            "images": [reference.image_url for reference in self.images or ()],
        }
        given = [name for name, urls in named.items() if urls]
        if len(given) + bool(files) != 1:
            raise InvalidRequest([_which_images(given, files)])
        if files:
            return tuple(Source(_field_name("image", number, files), content=file) for number, file in enumerate(files))
        (name,) = given
        urls = named[name] or []
        return tuple(Source(_field_name(name, number, urls), url=url) for number, url in enumerate(urls))


def _which_images(given: Sequence[str], files: Sequence[bytes]) -> Problem:
    if not given and not files:
        message = f"an image is required: a file named image, or a URL or data URI in {', '.join(IMAGE_FIELDS)}"
        return Problem("image", message, "missing")
    ways = [*(["files"] if files else []), *given]
    return Problem(given[-1], f"images were sent in several ways ({', '.join(ways)}); use one", "conflict")


def _field_name(name: str, number: int, among: Sequence[object]) -> str:
    return f"{name}.{number}" if len(among) > 1 else name


class SrpoEdit(Edit, _AnySrpo):
    """The body of a call for SRPO, image to image. Without a size, the image has the input's."""

    strength: Number

    def request_fields(self, model: Model) -> dict[str, Any]:
        return super().request_fields(model) | {"strength": self.strength}

    def size_fields(self) -> dict[str, Any]:
        """Return the size as fields of `Request`; a default until the input image has been decoded."""
        return super().size_fields() | ({} if self.requested_size() else {"sizing": "input"})


class KontextEdit(Edit, KontextCall):
    """The body of a call for Kontext, one image or several. Without a size, the ratio stays nearly as it is."""

    def size_fields(self) -> dict[str, Any]:
        """Return the size as fields of `Request`; a default until the input image has been decoded."""
        return super().size_fields() | ({} if self.requested_size() else {"sizing": "ratio"})


def _by_id(models: Iterable[Model]) -> dict[str, Model]:
    """Return the models by their ids at one path, where the name of a family means the first of its models."""
    found: dict[str, Model] = {}
    for model in models:
        found.setdefault(model.family, model)
        found |= dict.fromkeys(model.of(NAME), model)
    return found


def _inputs(models: Mapping[str, Model], bases: Mapping[Kind, type[M]], suffix: str) -> dict[str, type[M]]:
    """Return what a call may say, by the id of the model."""
    made = inputs_by_model(lambda model: bases[model.kind], NAME, suffix, dict.fromkeys(models.values()))
    return {model_id: made[model.name] for model_id, model in models.items()}


_MODELS = [model for model in MODELS if model.of(NAME)]
#: The models of each path by the ids that callers may send, and what a call for each of them may say.
GENERATES: Mapping[str, Model] = _by_id(model for model in _MODELS if not model.max_inputs)
EDITS: Mapping[str, Model] = _by_id(model for model in _MODELS if model.max_inputs)
TAKES: Mapping[str, type[Call]] = _inputs(
    GENERATES, {SRPO.kind: SrpoGeneration, KONTEXT_TEXT.kind: KontextGeneration}, "Generation"
)
EDIT_TAKES: Mapping[str, type[Edit]] = _inputs(
    EDITS, {SRPO_IMAGE.kind: SrpoEdit, KONTEXT.kind: KontextEdit, KONTEXT_MULTI.kind: KontextEdit}, "Edit"
)


def generation(body: Mapping[str, Any], *, default_seed: int) -> ParsedCall:
    """Parse the body of a generation; `default_seed` is used if it has no seed. Raises InvalidRequest."""
    model_id = body["model"]
    call = openai_common.parse(TAKES[model_id], body)
    return openai_common.parsed_call(call, GENERATES[model_id], dialect=NAME, default_seed=default_seed)


def edit(body: Mapping[str, Any], files: Sequence[tuple[str, bytes]], *, default_seed: int) -> ParsedCall:
    """Parse the body of an edit and its files, each with its field's name. Raises InvalidRequest."""
    _refuse_other_files(files)
    model = EDITS[body["model"]]
    call = openai_common.parse(EDIT_TAKES[body["model"]], body)
    sources = call.sources([content for _, content in files])
    if len(sources) > model.max_inputs:
        model = for_images(model.family, len(sources)) or model
    _refuse_too_many(sources, model.max_inputs)
    return openai_common.parsed_call(call, model, dialect=NAME, default_seed=default_seed, sources=sources)


def _refuse_other_files(files: Sequence[tuple[str, bytes]]) -> None:
    others = [name for name, _ in files if not _IMAGE_FILE.fullmatch(name)]
    if others:
        reasons = [openai_common.REFUSED.get(name, "files must be named image or image[]") for name in others]
        problems = [
            Problem(name, f"this file is not supported; {reason}", "feature_not_supported")
            for name, reason in zip(others, reasons, strict=True)
        ]
        raise InvalidRequest(problems)


def _refuse_too_many(sources: Sequence[Source], max_images: int) -> None:
    if len(sources) > max_images:
        field = sources[0].field.partition(".")[0]
        message = f"{len(sources)} images; allowed with this model: up to {max_images}"
        raise InvalidRequest([Problem(field, message, "sequence_too_long", len(sources), {"max_length": max_images})])


def answer(job: Job, result: Result, result_format: ResultFormat, links: Links) -> GeneratedImages:
    """Build the answer with the images. Raises StorageError and NotFound."""
    revised = openai_common.revised_prompt(job)
    width, height = job.request.output_size or (job.request.width, job.request.height)
    body: GeneratedImages = {
        "created": openai_common.created(job),
        "data": [_image(openai_common.image_data(image, result_format, links), revised) for image in result.images],
        "output_format": job.request.output_format,
        "size": f"{width}x{height}",
        "seed": job.request.seed,
    }
    if job.request.safety:
        body["has_nsfw_concepts"] = list(result.flagged)
    if result.warnings:
        body["warnings"] = list(result.warnings)
    return body


def _image(data: ImageData, revised_prompt: str | None) -> GeneratedImage:
    return {**data} if revised_prompt is None else {**data, "revised_prompt": revised_prompt}
