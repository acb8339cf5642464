"""The fields of each model under fal's names, and the translation of pydantic's errors. Pure.

Dialects with other names share the types of the fields.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Strict,
    StringConstraints,
    Tag,
    ValidationError,
    create_model,
)
from pydantic_core import PydanticCustomError

from farm.domain.catalogue import (
    KONTEXT,
    KONTEXT_MULTI,
    KONTEXT_SIZES,
    KONTEXT_TEXT,
    MAX_IMAGES,
    MAX_INPUTS,
    MAX_PIXELS,
    MAX_PROMPT,
    MAX_SIDE,
    MIN_SIDE,
    MODELS,
    SAFETY_THRESHOLDS,
    SAFETY_TOLERANCE,
    SEEDS,
    SIZE_PRESETS,
    SRPO,
    SRPO_IMAGE,
    TERMS,
    Acceleration,
    Kind,
    Model,
    OutputFormat,
    Parameters,
    Range,
    named,
)
from farm.domain.errors import InvalidRequest, Problem
from farm.domain.field_descriptions import DESCRIPTIONS
from farm.domain.job import Source
from farm.domain.request import Request, Sizing

M = TypeVar("M", bound=BaseModel)

_TERMS = TERMS["fal"]
_TOLERANCES = range(SAFETY_TOLERANCE.min, SAFETY_TOLERANCE.max + 1)

#: The type of error of an unknown query parameter.
UNKNOWN_PARAMETER = "unknown_parameter"
#: fal's names for pydantic's types of errors.
_KINDS = {"too_short": "sequence_too_short", "too_long": "sequence_too_long"}
#: Maximum length of a sent value, or of a field's name, in an error message, in characters.
_MAX_SHOWN_NAME = 80
#: Maximum number of fields of an object, and of commas in the whole body. Each unknown field is an error of its own and
#: each value takes many times its size: without a limit, a body of a few megabytes would take gigabytes.
MAX_FIELDS = 100
MAX_COMMAS = 100_000
#: Most digits of a whole number: a fraction has no more before its point.
MAX_DIGITS = 400


def _explain(schema: dict[str, Any]) -> None:
    """Add the description of each field to a model's JSON Schema, where it has none of its own."""
    for name, field in schema.get("properties", {}).items():
        if name in DESCRIPTIONS:
            field.setdefault("description", DESCRIPTIONS[name])


class Input(BaseModel):
    """A request body: values are not converted, and unknown fields are errors."""

    model_config = ConfigDict(strict=True, extra="forbid", json_schema_extra=_explain)


def _whole(value: object) -> object:
    """Convert 2.0 to 2: JSON has one type of number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _not_offered(value: object) -> object:
    if value is True:
        raise PydanticCustomError("feature_not_supported", "not supported by this farm; leave it out or send false")
    return value


def _digit(value: object) -> object:
    """Convert an integer to text: callers send numbers where fal has text."""
    whole = _whole(value)
    return str(whole) if type(whole) is int else value


Whole = Annotated[int, Strict(), BeforeValidator(_whole)]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Flag = Annotated[bool, Strict()]
#: A boolean of the dialect that must be false here.
OffOnly = Annotated[bool, Strict(), BeforeValidator(_not_offered)]

Prompt = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT)]
Side = Annotated[Whole, Field(ge=MIN_SIDE, le=MAX_SIDE)]
Count = Annotated[Whole, Field(ge=1, le=MAX_IMAGES)]
Seed = Annotated[Whole, Field(ge=0, lt=SEEDS)]

if TYPE_CHECKING:
    Preset = str
    AspectRatio = str
    _Tolerance = str
else:
    #: fal's names of sizes.
    Preset = Literal[tuple(SIZE_PRESETS)]
    #: Ratios of the sides that Kontext knows.
    AspectRatio = Literal[tuple(KONTEXT_SIZES)]
    _Tolerance = Literal[tuple(map(str, _TOLERANCES))]

#: The strictness of the safety checker, from 1 (strictest) to 6, as text or as a number.
SafetyTolerance = Annotated[
    _Tolerance,
    BeforeValidator(_digit, json_schema_input_type=Literal[(*map(str, _TOLERANCES), *_TOLERANCES)]),
    Field(
        description="How strict the safety checker is. An image is blacked out if it is unsafe with this probability: "
        + ", ".join(f"{threshold} at {tolerance}" for tolerance, threshold in SAFETY_THRESHOLDS.items())
        + ". The checker `clip` has thresholds of its own."
    ),
]
#: The URL of an image (http or https), or the image as a data URI. White space around it is removed.
ImageUrl = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Size(Input):
    """A size in pixels; a missing side is 512, as at fal."""

    width: Side = _TERMS.missing_side
    height: Side = _TERMS.missing_side


#: Pydantic's tags of the two types of a size: names that no field has.
PRESET, SIDES = "<preset>", "<sides>"


def _branch(value: object) -> str:
    return SIDES if isinstance(value, dict | Size) else PRESET


ImageSize = Annotated[Annotated[Preset, Tag(PRESET)] | Annotated[Size, Tag(SIDES)], Discriminator(_branch)]


class ModelFields(Input):
    """The fields of every model, with fal's names and defaults."""

    prompt: Prompt
    seed: Seed | None = None
    num_images: Count = 1
    output_format: OutputFormat = _TERMS.output_format
    sync_mode: Flag = False
    enhance_prompt: Flag = False

    def request(self, model: Model, *, default_seed: int) -> Request:
        """Return the request for `model`; without a seed of its own it has `default_seed`. Raises InvalidRequest."""
        return Request(
            model=model.name,
            prompt=self.prompt,
            seed=default_seed if self.seed is None else self.seed,
            images=self.num_images,
            output_format=self.output_format,
            enhance=self.enhance_prompt,
            **self._particulars(model),
        )

    def sources(self) -> tuple[Source, ...]:
        """Return the input images in the caller's order."""
        return ()

    def _particulars(self, model: Model) -> dict[str, Any]:
        """Return the fields of `Request` that differ by model."""
        raise NotImplementedError


class _AnySrpoFields(ModelFields):
    num_inference_steps: Whole
    guidance_scale: Number
    enable_safety_checker: Flag = _TERMS.safety
    acceleration: Acceleration = _TERMS.acceleration

    def _particulars(self, _model: Model) -> dict[str, Any]:
        return {
            "steps": self.num_inference_steps,
            "guidance": self.guidance_scale,
            "safety": self.enable_safety_checker,
            "acceleration": self.acceleration,
        }


class SrpoFields(_AnySrpoFields):
    """The fields of SRPO, text to image."""

    image_size: ImageSize = _TERMS.size

    def _particulars(self, model: Model) -> dict[str, Any]:
        width, height = pixels("image_size", self.image_size)
        return super()._particulars(model) | {"width": width, "height": height}


class SrpoImageFields(_AnySrpoFields):
    """The fields of SRPO, image to image. The output has the input's size."""

    image_url: ImageUrl
    strength: Number

    def sources(self) -> tuple[Source, ...]:
        return (Source("image_url", self.image_url),)

    def _particulars(self, model: Model) -> dict[str, Any]:
        return super()._particulars(model) | {"strength": self.strength} | _sized("input")


class _AnyKontextFields(ModelFields):
    """The fields of every Kontext model. The steps are fixed and the safety checker is always on."""

    guidance_scale: Number
    safety_tolerance: SafetyTolerance = str(SAFETY_TOLERANCE.default)
    aspect_ratio: AspectRatio | None = None

    def _particulars(self, model: Model) -> dict[str, Any]:
        own = {
            "steps": model.parameters.steps.default,
            "guidance": self.guidance_scale,
            "safety_tolerance": int(self.safety_tolerance),
        }
        return own | (_sized("ratio") if self.aspect_ratio is None else _of_ratio(self.aspect_ratio))


class KontextTextFields(_AnyKontextFields):
    """The fields of Kontext, text to image."""

    aspect_ratio: AspectRatio = "1:1"


class KontextFields(_AnyKontextFields):
    """The fields of Kontext, edit of one image. Without `aspect_ratio`, the ratio is close to the input's."""

    image_url: ImageUrl

    def sources(self) -> tuple[Source, ...]:
        return (Source("image_url", self.image_url),)


class KontextMultiFields(_AnyKontextFields):
    """The fields of Kontext with several images. Without `aspect_ratio`, the ratio is close to the first image's."""

    image_urls: Annotated[list[ImageUrl], Field(min_length=1, max_length=MAX_INPUTS)]

    def sources(self) -> tuple[Source, ...]:
        return tuple(Source(f"image_urls.{number}", url) for number, url in enumerate(self.image_urls))


def with_parameters(base: type[M], name: str, parameters: Parameters) -> type[M]:
    """Return a subclass of `base` with these ranges and defaults."""
    ranges: dict[str, tuple[Any, Range[int] | Range[float] | None]] = {
        "num_inference_steps": (Whole, parameters.steps),
        "guidance_scale": (Number, parameters.guidance),
        "strength": (Number, parameters.strength),
    }
    own: dict[str, Any] = {
        field: (Annotated[kind, Field(ge=span.min, le=span.max)], span.default)
        for field, (kind, span) in ranges.items()
        if span is not None and field in base.model_fields
    }
    return create_model(name, __base__=base, __doc__=base.__doc__, __module__=base.__module__, **own)


def inputs_by_model(
    base_of: Callable[[Model], type[M]], dialect: str, suffix: str, models: Iterable[Model] = MODELS
) -> dict[str, type[M]]:
    """Return the type of a request's body for each model, by the model's name: its base with its ranges and defaults.

    Models with equal parameters share a class. The first class of each base is named like the base, a later one after
    its model and `suffix`.
    """
    made: dict[tuple[type[M], Parameters], type[M]] = {}
    found = {}
    for model in models:
        base, parameters = base_of(model), model.parameters_in(dialect)
        if (base, parameters) not in made:
            is_first = all(other is not base for other, _ in made)
            name = base.__name__ if is_first else f"{model.name.title().replace('-', '')}{suffix}"
            made[base, parameters] = with_parameters(base, name, parameters)
        found[model.name] = made[base, parameters]
    return found


_BASES: Mapping[Kind, type[ModelFields]] = {
    SRPO.kind: SrpoFields,
    SRPO_IMAGE.kind: SrpoImageFields,
    KONTEXT_TEXT.kind: KontextTextFields,
    KONTEXT.kind: KontextFields,
    KONTEXT_MULTI.kind: KontextMultiFields,
}
#: Model → the type of a request's fields.
FIELDS = inputs_by_model(lambda model: _BASES[model.kind], "fal", "Fields")


def image_field(model: str) -> str | None:
    """Return the field in which requests to this model bring their images; None if it takes none."""
    max_inputs = named(model).max_inputs
    return None if max_inputs == 0 else "image_url" if max_inputs == 1 else "image_urls"


def _of_ratio(ratio: AspectRatio) -> dict[str, Any]:
    width, height = KONTEXT_SIZES[ratio]
    return {"width": width, "height": height}


def _sized(sizing: Sizing) -> dict[str, Any]:
    """Return a default size until the input image, which determines it, has been decoded."""
    return _of_ratio("1:1") | {"sizing": sizing}


def decode(body: bytes) -> dict[str, Any]:
    """Parse the JSON object in `body`. Raises InvalidRequest."""
    if body.count(b",") > MAX_COMMAS:
        raise _odd(f"the body has more than {MAX_COMMAS} commas; send fewer values")
    try:
        value = json.loads(body, object_pairs_hook=_object, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise _odd(f"the body is not JSON: {_reason(error)}") from error
    if not isinstance(value, dict):
        raise InvalidRequest([Problem("", "the body must be a JSON object", "dict_type", value)])
    return value


def _integer(text: str) -> int:
    """Read a whole number: with many digits, which take time by their square, there may be many of them."""
    if len(text) > MAX_DIGITS:
        raise ValueError("too many digits")
    return int(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_FIELDS:
        raise _odd(f"an object in the body has {len(pairs)} fields; allowed: up to {MAX_FIELDS}")
    value = dict(pairs)
    if len(value) < len(pairs):
        values = {name: [sent for other, sent in pairs if other == name] for name in value}
        raise InvalidRequest(
            [
                Problem(_cut(name), "this field was sent more than once", "too_many", sent)
                for name, sent in values.items()
                if len(sent) > 1
            ]
        )
    return value


def _odd(message: str) -> InvalidRequest:
    return InvalidRequest([Problem("", message, "json_invalid")])


def _reason(error: ValueError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    # The only other ValueError is that of `_integer`.
    is_of_json = isinstance(error, json.JSONDecodeError | UnicodeDecodeError)
    return str(error) if is_of_json else "a number in it has too many digits"


def parse(model: type[M], body: Mapping[str, Any]) -> M:
    """Parse `body` into `model`. Raises InvalidRequest with all problems."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise InvalidRequest([_problem(model, item) for item in error.errors(include_url=False)]) from error


def pixels(field: str, size: Preset | Size) -> tuple[int, int]:
    """Return width and height. Raises InvalidRequest for too many pixels."""
    if not isinstance(size, Size):
        return SIZE_PRESETS[size]
    if size.width * size.height > MAX_PIXELS:
        text = f"{size.width}x{size.height}"
        message = f"{text} is {size.width * size.height} pixels; allowed: up to {MAX_PIXELS}"
        raise InvalidRequest([Problem(field, message, "image_too_large", text, {"max_pixels": MAX_PIXELS})])
    return size.width, size.height


def _problem(model: type[BaseModel], item: Any) -> Problem:
    # The tags of a union are internal.
    field = ".".join(_cut(str(part)) for part in item["loc"] if part not in (PRESET, SIDES))
    kind = item["type"]
    if kind == "missing":
        return Problem(field, "this field is required", kind)
    if kind == "extra_forbidden":
        allowed = ", ".join(sorted(_siblings(model, item["loc"])))
        message = f"unknown field; allowed: {allowed}; sent: {_shown(item['input'])}"
        path = tuple(part for part in item["loc"] if part not in (PRESET, SIDES))
        return Problem(field, message, kind, item["input"], unknown=path)
    if kind == "model_type":
        # Pydantic's message would name the class.
        return Problem(field, f"it must be a JSON object; sent: {_shown(item['input'])}", "dict_type", item["input"])
    sides = ", or width and height in pixels" if PRESET in item["loc"] else ""
    message = f"{item['msg']}{sides}; sent: {_shown(item['input'])}"
    return Problem(field, message, _KINDS.get(kind, kind), item["input"], item.get("ctx"))


def _siblings(model: type[BaseModel], location: tuple[int | str, ...]) -> Iterable[str]:
    """Return the names of the fields next to the one at `location`, which may be in a nested model."""
    for part in location[:-1]:
        if field := model.model_fields.get(str(part)):
            model = next((kind for kind in _kinds(field.annotation) if _is_model(kind)), model)
    return model.model_fields


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _kinds(annotation: Any) -> list[Any]:
    """Return the plain types in an annotation."""
    inner = [kind for part in get_args(annotation) for kind in _kinds(part)]
    return inner or [annotation]


def _shown(value: object) -> str:
    try:
        return _cut(json.dumps(value, ensure_ascii=True, default=str))
    except RecursionError:
        # The value is nested too deeply to be encoded.
        return "…"


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN_NAME else text[: _MAX_SHOWN_NAME - 1] + "…"
