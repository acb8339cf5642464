"""Types of fields that several dialects share, and pydantic's complaints as the farm's problems. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Strict, Tag, ValidationError
from pydantic_core import PydanticCustomError

from farm.catalogue import (
    MAX_GUIDANCE,
    MAX_IMAGES,
    MAX_PIXELS,
    MAX_PROMPT,
    MAX_SIDE,
    MAX_STEPS,
    MIN_SIDE,
    SIZE_PRESETS,
)
from farm.errors import InvalidRequest, Problem
from farm.request import SEEDS, Acceleration, OutputFormat, Request

M = TypeVar("M", bound=BaseModel)

#: The kind of problem that a parameter in the URL is which nobody knows.
UNKNOWN_PARAMETER = "unknown_parameter"
#: Longest piece of a sent value that an error repeats, in characters.
_SHOWN = 80


class Input(BaseModel):
    """A body: nothing is converted, and a field nobody knows is refused."""

    model_config = ConfigDict(strict=True, extra="forbid")


def _whole(value: object) -> object:
    """JSON has one kind of number: 2.0 is the integer 2."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _not_offered(value: object) -> object:
    if value is True:
        raise PydanticCustomError("feature_not_supported", "this farm does not offer it; leave it out or send false")
    return value


Whole = Annotated[int, Strict(), BeforeValidator(_whole)]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Flag = Annotated[bool, Strict()]
#: A switch that exists in the dialect and cannot be turned on here.
OffOnly = Annotated[bool, Strict(), BeforeValidator(_not_offered)]

Prompt = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT)]
Side = Annotated[Whole, Field(ge=MIN_SIDE, le=MAX_SIDE)]
Steps = Annotated[Whole, Field(ge=1, le=MAX_STEPS)]
Guidance = Annotated[Number, Field(ge=1, le=MAX_GUIDANCE)]
Count = Annotated[Whole, Field(ge=1, le=MAX_IMAGES)]
Seed = Annotated[Whole, Field(ge=0, lt=SEEDS)]

#: fal's names of sizes.
Preset = Literal["square_hd", "square", "portrait_4_3", "portrait_16_9", "landscape_4_3", "landscape_16_9"]


class Size(Input):
    """A size in pixels; a missing side is 512, as at fal."""

    width: Side = 512
    height: Side = 512


def _branch(value: object) -> str:
    return "Size" if isinstance(value, dict | Size) else "Preset"


ImageSize = Annotated[Annotated[Preset, Tag("Preset")] | Annotated[Size, Tag("Size")], Discriminator(_branch)]


class SrpoFields(Input):
    """What SRPO text to image takes, under fal's names and with fal's defaults."""

    prompt: Prompt
    image_size: ImageSize = "landscape_4_3"
    num_inference_steps: Steps = 28
    seed: Seed | None = None
    guidance_scale: Guidance = 4.5
    num_images: Count = 1
    enable_safety_checker: Flag = True
    output_format: OutputFormat = "jpeg"
    acceleration: Acceleration = "none"
    sync_mode: Flag = False
    enhance_prompt: OffOnly = False

    def request(self, model: str, *, spare_seed: int) -> Request:
        """The same, dialect-neutral. `spare_seed` is taken where the caller gives none. Raises InvalidRequest."""
        width, height = pixels("image_size", self.image_size)
        return Request(
            model=model,
            prompt=self.prompt,
            width=width,
            height=height,
            steps=self.num_inference_steps,
            guidance=self.guidance_scale,
            seed=spare_seed if self.seed is None else self.seed,
            images=self.num_images,
            acceleration=self.acceleration,
            output_format=self.output_format,
            safety=self.enable_safety_checker,
        )


def decode(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`. Raises InvalidRequest for anything else, however odd."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidRequest([Problem("", f"the body is not JSON: {reason}", "json_invalid")]) from error
    if not isinstance(value, dict):
        raise InvalidRequest([Problem("", "the body must be a JSON object", "dict_type", value)])
    return value


def parse(model: type[M], body: Mapping[str, Any]) -> M:
    """`body` as `model`. Raises InvalidRequest with every problem there is."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise InvalidRequest([_problem(model, item) for item in error.errors(include_url=False)]) from error


def pixels(field: str, size: Preset | Size) -> tuple[int, int]:
    """Width and height. Raises InvalidRequest for more pixels than an image may have."""
    if not isinstance(size, Size):
        return SIZE_PRESETS[size]
    if size.width * size.height > MAX_PIXELS:
        asked = f"{size.width}x{size.height}"
        message = f"{asked} is {size.width * size.height} pixels; allowed: up to {MAX_PIXELS}"
        raise InvalidRequest([Problem(field, message, "image_too_large", asked, {"max_pixels": MAX_PIXELS})])
    return size.width, size.height


def _problem(model: type[BaseModel], item: Any) -> Problem:
    # Branches of a union are pydantic's business, not the caller's.
    field = ".".join(str(part) for part in item["loc"] if str(part) not in ("Preset", "Size"))
    kind = item["type"]
    if kind == "missing":
        return Problem(field, "this field is required", kind)
    if kind == "extra_forbidden":
        allowed = ", ".join(sorted(_siblings(model, item["loc"])))
        return Problem(
            field, f"there is no such field; allowed: {allowed}; sent: {_shown(item['input'])}", kind, item["input"]
        )
    return Problem(field, f"{item['msg']}; sent: {_shown(item['input'])}", kind, item["input"], item.get("ctx"))


def _siblings(model: type[BaseModel], location: tuple[int | str, ...]) -> Iterable[str]:
    """Names of the fields beside the one at `location`, which may lie in a model within the model."""
    for part in location[:-1]:
        if field := model.model_fields.get(str(part)):
            model = next((kind for kind in _kinds(field.annotation) if _is_model(kind)), model)
    return model.model_fields


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _kinds(annotation: Any) -> list[Any]:
    """The plain types that an annotation is made of."""
    inner = [kind for part in get_args(annotation) for kind in _kinds(part)]
    return inner or [annotation]


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
