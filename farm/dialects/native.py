"""The farm's own dialect: `/farm/v1`. Fields under fal's names; errors as problem details (RFC 9457). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from farm import catalogue, clock
from farm.dialects.fields import (
    Count,
    Flag,
    Guidance,
    Input,
    OffOnly,
    Prompt,
    Side,
    Steps,
    Whole,
    check_pixels,
    parse,
)
from farm.errors import FarmError, InvalidRequest
from farm.job import Image, Job
from farm.request import SEEDS, Acceleration, OutputFormat, Priority, Request

Preset = Literal["square_hd", "square", "portrait_4_3", "portrait_16_9", "landscape_4_3", "landscape_16_9"]


class Size(Input):
    """A size in pixels; a missing side is 512, as at fal."""

    width: Side = 512
    height: Side = 512


def _branch(value: object) -> str:
    return "Size" if isinstance(value, dict | Size) else "Preset"


ImageSize = Annotated[Annotated[Preset, Tag("Preset")] | Annotated[Size, Tag("Size")], Discriminator(_branch)]


class SrpoInput(Input):
    """The body of a submit for SRPO text to image."""

    model: str
    prompt: Prompt
    image_size: ImageSize = "landscape_4_3"
    num_inference_steps: Steps = 28
    seed: Annotated[Whole, Field(ge=0, lt=SEEDS)] | None = None
    guidance_scale: Guidance = 4.5
    num_images: Count = 1
    enable_safety_checker: Flag = True
    output_format: OutputFormat = "jpeg"
    acceleration: Acceleration = "none"
    priority: Priority = "normal"
    sync_mode: OffOnly = False
    enhance_prompt: OffOnly = False


def read(body: Mapping[str, Any], *, model: str, spare_seed: int) -> tuple[Request, Priority]:
    """A submit's body as a request for `model`. `spare_seed` is taken where the caller gives none."""
    fields = parse(SrpoInput, body)
    width, height = _pixels(fields.image_size)
    check_pixels("image_size", width, height)
    request = Request(
        model=model,
        prompt=fields.prompt,
        width=width,
        height=height,
        steps=fields.num_inference_steps,
        guidance=fields.guidance_scale,
        seed=spare_seed if fields.seed is None else fields.seed,
        images=fields.num_images,
        acceleration=fields.acceleration,
        output_format=fields.output_format,
        safety=fields.enable_safety_checker,
    )
    return request, fields.priority


def _pixels(size: Preset | Size) -> tuple[int, int]:
    return (size.width, size.height) if isinstance(size, Size) else catalogue.SIZE_PRESETS[size]


def accepted(job_id: str, base: str) -> dict[str, Any]:
    """The answer to a submit."""
    url = f"{base}/farm/v1/jobs/{job_id}"
    urls = {"get": url, "cancel": f"{url}/cancel", "events": f"{url}/events"}
    return {"id": job_id, "status": "created", "urls": urls}


def view(job: Job, base: str) -> dict[str, Any]:
    """A job as its caller sees it. Times in UTC, timings in seconds; what is not known yet is null."""
    result = job.result
    return {
        "id": job.id,
        "model": job.endpoint,
        "status": job.state.value,
        "code": job.code or None,
        "error": job.error or None,
        "priority": job.priority,
        "prompt": job.request.prompt,
        "num_images": job.request.images,
        "progress": {"step": job.steps if result else job.step, "steps": job.steps},
        "images": [_image(image, base) for image in result.images] if result else [],
        "seed": job.request.seed,
        "has_nsfw_concepts": list(result.flagged) if result else [],
        "timings": result.timings if result else {},
        "warnings": list(result.warnings) if result else [],
        "build": result.build if result else None,
        "created_at": clock.iso(job.created_us),
        "started_at": clock.iso(job.started_us) if job.started_us else None,
        "finished_at": clock.iso(job.finished_us) if job.finished_us else None,
    }


def _image(image: Image, base: str) -> dict[str, Any]:
    return {
        "url": f"{base}/files/{image.key}",
        "width": image.width,
        "height": image.height,
        "content_type": image.content_type,
        "file_size": image.bytes,
    }


def problem(status: int, title: str, error: FarmError) -> dict[str, Any]:
    """Problem details; `errors` names each wrong field."""
    body: dict[str, Any] = {"type": "about:blank", "title": title, "status": status, "code": error.code}
    body["detail"] = str(error)
    if isinstance(error, InvalidRequest):
        body["errors"] = [{"field": item.field, "message": item.message, "type": item.kind} for item in error.problems]
    return body
