"""Every model in every dialect: how a request to it is read, its defaults, and what each of its fields accepts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from pydantic import BaseModel

from farm.dialects import aimlapi, fal, native, openai, openai_common, siraya, wavespeed
from farm.dialects.fields import FIELDS
from farm.domain.errors import InvalidRequest, Problem
from farm.domain.job import Order, Source, State, Webhook
from farm.domain.request import Request

Body = Mapping[str, Any]
#: What a value changes: in the request, in the order around it, or in `answered`, how the images are returned.
Changes = Mapping[str, Any]
#: Reads a body; returns its order, and how it is answered.
Read = Callable[[Body], tuple[Order, str]]

#: The seed of a request that names none.
DEFAULT_SEED = 1_234_567
FOX, OWL = "https://example.com/fox.png", "https://example.com/owl.png"
DATA = "data:image/png;base64,iVBORw0KGgo="
HOOK = "https://hook.example/x"
NAN, INFINITE = float("nan"), float("inf")
#: What is no whole number.
NOT_WHOLE: tuple[Any, ...] = (2.5, "2", True, [2], {})
ORDER_FIELDS = ("endpoint", "priority", "webhook", "inline", "sources")


def size(width: int, height: int) -> dict[str, int]:
    return {"width": width, "height": height}


def brief(value: object) -> str:
    """Return the id of a parametrised case."""
    return repr(value)[:50]


@dataclass(frozen=True, slots=True)
class Field:
    """The values that a field accepts, each with what it changes, and those that it rejects.

    `rejected_in`: values that are rejected under the name of a part of the field.
    """

    accepted: Sequence[tuple[Any, Changes]]
    rejected: Sequence[Any]
    rejected_in: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    @property
    def has_effect(self) -> bool:
        return any(changes for _, changes in self.accepted)

    def but(self, accepted: Sequence[tuple[Any, Changes]] = (), *, rejected: Sequence[Any] = ()) -> Field:
        """Return this field with further values."""
        return replace(self, accepted=[*self.accepted, *accepted], rejected=[*self.rejected, *rejected])


def whole(attribute: str, low: int, high: int) -> Field:
    """Return a field of whole numbers. JSON has one kind of number: 5.0 is one."""
    accepted = [(value, {attribute: int(value)}) for value in (low, high, float(low + 1))]
    return Field(accepted, [low - 1, high + 1, 10**300, 1e300, *NOT_WHOLE])


def number(attribute: str, low: float, high: float) -> Field:
    accepted = [(value, {attribute: float(value)}) for value in (low, high, (low + high) / 2)]
    return Field(accepted, [low - 0.001, high + 0.001, str(low), True, NAN, INFINITE, 10**400])


def switch(attribute: str, *, default: bool) -> Field:
    return Field([(default, {}), (not default, {attribute: not default})], ["true", "false", 1, 0])


def choice(attribute: str, default: str, *others: str) -> Field:
    return Field([(default, {}), *((other, {attribute: other}) for other in others)], ["", "other", default.upper(), 1])


def no_effect(*accepted: Any, rejected: Sequence[Any]) -> Field:
    """Return a field that is accepted for the sake of clients that send it."""
    return Field([(value, {}) for value in accepted], rejected)


PROMPT = Field(
    [("🦊", {"prompt": "🦊"}), ("a" * 4000, {"prompt": "a" * 4000})],
    ["", "a" * 4001, None, 5, ["a fox"], "\ud800"],
)
SEED = whole("seed", 0, 2**32 - 1)
IMAGES = whole("images", 1, 4)
GUIDANCE = number("guidance", 1, 20)
FORMAT = choice("output_format", "jpeg", "png").but(rejected=["webp"])
PNG_OR_JPEG = choice("output_format", "png", "jpeg").but(rejected=["webp", "gif", "url"])
ENHANCE = switch("enhance", default=False)
ACCELERATION = choice("acceleration", "none", "regular", "high").but(rejected=["fast"])
SAFETY = switch("safety", default=True)
TOLERANCE = Field(
    [("1", {"safety_tolerance": 1}), (2, {}), (3.0, {"safety_tolerance": 3}), ("6", {"safety_tolerance": 6})],
    ["0", 0, "7", 7, 2.5, "x", True],
)
RATIOS = {
    "21:9": (1568, 672),
    "16:9": (1392, 752),
    "4:3": (1184, 880),
    "3:2": (1248, 832),
    "1:1": (1024, 1024),
    "2:3": (832, 1248),
    "3:4": (880, 1184),
    "9:16": (752, 1392),
    "9:21": (672, 1568),
}
RATIO = Field([(ratio, size(*sides) | {"sizing": "asked"}) for ratio, sides in RATIOS.items()], ["5:4", "", 1, [1, 1]])
#: An object or a preset, as fal takes it.
IMAGE_SIZE = Field(
    [
        ("square_hd", size(1024, 1024)),
        ("square", size(512, 512)),
        ("portrait_4_3", size(768, 1024)),
        ("portrait_16_9", size(576, 1024)),
        ("landscape_4_3", size(1024, 768)),
        ("landscape_16_9", size(1024, 576)),
        (size(256, 2560), size(256, 2560)),
        (size(301, 299), size(301, 299)),
        (size(2560, 1093), size(2560, 1093)),
        ({"width": 300.0, "height": 400.0}, size(300, 400)),
        ({"width": 300}, size(300, 512)),
        ({"height": 300}, size(512, 300)),
        ({}, size(512, 512)),
    ],
    ["huge", "1024x768", 1024, [1024, 768], size(2560, 1094), size(1674, 1674)],
    {
        "width": [size(255, 256), size(2561, 256), {"width": None}, *({"width": value} for value in NOT_WHOLE)],
        "height": [size(256, 255), size(256, 2561)],
        "depth": [{"width": 300, "depth": 3}],
    },
)


def strength(low: float) -> Field:
    return number("strength", low, 1)


def one_image(name: str) -> Field:
    """Return the field of one input image. It is passed on as named; the submit checks whether it can be read."""
    urls = (DATA, "HTTP://x", "no url")
    return Field([(url, {"sources": (Source(name, url),)}) for url in urls], ["", 5, [FOX], {"url": FOX}])


def some_images(name: str) -> Field:
    def sources(*urls: str) -> Changes:
        return {"sources": tuple(Source(f"{name}.{number}", url) for number, url in enumerate(urls))}

    accepted = [(list(urls), sources(*urls)) for urls in ((OWL,), (DATA, FOX, DATA, OWL))]
    return Field(accepted, [FOX, [], [FOX] * 5], {"1": [[FOX, ""], [FOX, None], [FOX, 5]]})


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A model in a dialect. `name` is for people.

    `minimum` is the least that a request must say, and `request` what that asks for. A null stands for a field that is
    left out in those of `nullable`; everywhere else it is rejected. The fields of `tried_elsewhere` have tests of
    their own, because they cannot be sent alone.
    """

    name: str
    dialect: str
    id: str
    call: Read
    schema: type[BaseModel]
    minimum: Body
    request: Request
    fields: Mapping[str, Field]
    nullable: frozenset[str]
    sources: tuple[Source, ...] = ()
    answered: str = ""
    tolerated: frozenset[str] = frozenset()
    tried_elsewhere: frozenset[str] = frozenset()

    def read(self, body: Body = {}) -> tuple[Order, str]:  # noqa: B006  # nothing writes to it
        return self.call({**self.minimum, **body})

    def expected(self, changes: Changes) -> tuple[Order, str]:
        """Return the order of the smallest request, with these changes."""
        of_the_order = {name: changes[name] for name in ORDER_FIELDS if name in changes}
        request = {name: value for name, value in changes.items() if name not in (*ORDER_FIELDS, "answered")}
        order = Order(self.id, self.request.model_copy(update=request), dialect=self.dialect, sources=self.sources)
        return replace(order, **of_the_order), changes.get("answered", self.answered)

    def problems(self, body: Body) -> list[Problem]:
        """Return the problems for which the smallest request with these fields is rejected."""
        with pytest.raises(InvalidRequest) as caught:
            self.read(body)
        return caught.value.problems

    def __str__(self) -> str:
        return self.name


SRPO_TEXT = Request(model="srpo", prompt="a fox", width=1024, height=768, steps=28, guidance=4.5, seed=DEFAULT_SEED)
SQUARE = SRPO_TEXT.model_copy(update=size(1024, 1024))
#: The defaults at fal, which the farm's own dialect shares.
REQUESTS = {
    "srpo": SRPO_TEXT,
    "srpo-image-to-image": SQUARE.model_copy(update={"steps": 40, "strength": 0.95, "sizing": "input"}),
    "kontext-text-to-image": SQUARE.model_copy(update={"guidance": 3.5}),
    "kontext": SQUARE.model_copy(update={"guidance": 3.5, "sizing": "ratio"}),
    "kontext-multi": SQUARE.model_copy(update={"guidance": 3.5, "sizing": "ratio"}),
}
MINIMUM: Mapping[str, Body] = {
    "srpo": {"prompt": "a fox"},
    "srpo-image-to-image": {"prompt": "a fox", "image_url": FOX},
    "kontext-text-to-image": {"prompt": "a fox"},
    "kontext": {"prompt": "a fox", "image_url": FOX},
    "kontext-multi": {"prompt": "a fox", "image_urls": [FOX, OWL]},
}
_ANY = {
    "prompt": PROMPT,
    "seed": SEED,
    "num_images": IMAGES,
    "guidance_scale": GUIDANCE,
    "output_format": FORMAT,
    "sync_mode": switch("inline", default=False),
    "enhance_prompt": ENHANCE,
}
_SRPO = _ANY | {"enable_safety_checker": SAFETY, "acceleration": ACCELERATION}
_KONTEXT = _ANY | {"safety_tolerance": TOLERANCE, "aspect_ratio": RATIO}
#: Fields under fal's names.
FAL_FIELDS: Mapping[str, Mapping[str, Field]] = {
    "srpo": _SRPO | {"image_size": IMAGE_SIZE, "num_inference_steps": whole("steps", 1, 50)},
    "srpo-image-to-image": _SRPO
    | {"image_url": one_image("image_url"), "strength": strength(0.01), "num_inference_steps": whole("steps", 10, 50)},
    "kontext-text-to-image": _KONTEXT,
    "kontext": _KONTEXT | {"image_url": one_image("image_url")},
    "kontext-multi": _KONTEXT | {"image_urls": some_images("image_urls")},
}
_NULLABLE = {model: frozenset({"seed"}) for model in FAL_FIELDS} | dict.fromkeys(
    ("kontext", "kontext-multi"), frozenset({"seed", "aspect_ratio"})
)


def _sources(minimum: Body) -> tuple[Source, ...]:
    """Return the input images of a request."""
    if "image_urls" in minimum:
        return tuple(Source(f"image_urls.{number}", url) for number, url in enumerate(minimum["image_urls"]))
    return tuple(Source(name, minimum[name]) for name in ("image_url", "image") if name in minimum)


def _fal(model: str) -> Endpoint:
    endpoint = "fal-ai/flux/srpo"
    return Endpoint(
        name=f"fal {model}",
        dialect="fal",
        id=endpoint,
        call=lambda body: (fal.read(body, endpoint=endpoint, model=model, default_seed=DEFAULT_SEED), ""),
        schema=FIELDS[model],
        minimum=MINIMUM[model],
        request=REQUESTS[model].model_copy(update={"model": model}),
        fields=FAL_FIELDS[model],
        nullable=_NULLABLE[model],
        sources=_sources(MINIMUM[model]),
    )


_OF_THE_JOB = {
    "model": Field([("any id", {"endpoint": "any id"})], [5]),
    "priority": choice("priority", "normal", "low").but(rejected=["high"]),
    "webhook_url": Field([(HOOK, {"webhook": Webhook(HOOK, frozenset(State))})], ["", 1]),
    "webhook_events": Field([], [[], "job.failed"], {"0": [["job.cancelled"]]}),
}


def _native(model: str) -> Endpoint:
    return Endpoint(
        name=f"native {model}",
        dialect="native",
        id=model,
        call=lambda body: (native.read(body, model=model, default_seed=DEFAULT_SEED), ""),
        schema=native.INPUTS[model],
        minimum={"model": model, **MINIMUM[model]},
        request=REQUESTS[model].model_copy(update={"model": model}),
        fields={**FAL_FIELDS[model], **_OF_THE_JOB},
        nullable=_NULLABLE[model] | {"webhook_url", "webhook_events"},
        sources=_sources(MINIMUM[model]),
    )


WAVESPEED_REQUEST = SQUARE.model_copy(update={"guidance": 3.5})
_WAVESPEED = {
    "prompt": PROMPT,
    "size": Field(
        [(text, size(*map(int, text.split("*")))) for text in ("256*1536", "1536*256", "301*299")],
        [
            *("255*256", "256*255", "1537*256", "256*1537", "99999999999*256", "1024x1024", "1024", "1024*", ""),
            *("1024*1024*3", " 1024*1024", "1024.0*1024", "-300*300", "１０２４*1024", 1024, size(300, 300)),
        ],
    ),
    "width": whole("width", 256, 1536),
    "height": whole("height", 256, 1536),
    "num_inference_steps": whole("steps", 1, 50),
    "seed": replace(whole("seed", 0, 2**31 - 1), rejected=[-2, 2**31, *NOT_WHOLE]).but([(-1, {})]),
    "guidance_scale": GUIDANCE,
    "output_format": FORMAT,
    "enable_base64_output": switch("inline", default=False),
    "enable_sync_mode": Field([(False, {}), (True, {"answered": "held"})], ["true", 1]),
    "enhance_prompt": ENHANCE,
}


def _wavespeed(model: str, minimum: Body, request: Request, own: Mapping[str, Field], **changes: Any) -> Endpoint:
    endpoint = f"wavespeed-ai/flux-{model}"

    def call(body: Body) -> tuple[Order, str]:
        submit = wavespeed.read(body, "", endpoint=endpoint, model=model, default_seed=DEFAULT_SEED)
        return submit.order, "held" if submit.held else ""

    return Endpoint(
        name=f"wavespeed {model}",
        dialect="wavespeed",
        id=endpoint,
        call=call,
        schema=wavespeed.INPUTS[model],
        minimum=minimum,
        request=request.model_copy(update={"model": model}),
        fields={**_WAVESPEED, **own},
        sources=_sources(minimum),
        **changes,
    )


#: With an image, text to image is image to image.
_EDITED = {"model": "srpo-image-to-image", "strength": 0.8, "sources": (Source("image", FOX),)}
WAVESPEED = (
    _wavespeed(
        "srpo",
        {"prompt": "a fox"},
        WAVESPEED_REQUEST,
        {
            "image": Field([(FOX, _EDITED)], one_image("image").rejected),
            "strength": no_effect(0, 0.8, 1, rejected=strength(0).rejected),
        },
        nullable=frozenset({"size", "width", "height", "image", "strength"}),
        tolerated=frozenset({"strength"}),
    ),
    _wavespeed(
        "srpo-image-to-image",
        {"prompt": "a fox", "image": FOX},
        WAVESPEED_REQUEST.model_copy(update={"strength": 0.8}),
        {"image": one_image("image"), "strength": strength(0)},
        nullable=frozenset({"size", "width", "height"}),
    ),
)

#: Of every call at `/v1`.
_V1 = {
    "prompt": PROMPT,
    "n": IMAGES,
    "num_images": IMAGES,
    "seed": SEED,
    "guidance_scale": GUIDANCE,
    "output_format": PNG_OR_JPEG,
    "response_format": Field(
        [("url", {"answered": "url"}), ("b64_json", {"answered": "b64_json", "inline": True})], ["both", "webp", 1]
    ),
    "sync_mode": Field([(False, {}), (True, {"answered": "data", "inline": True})], ["true", 1]),
    "enhance_prompt": ENHANCE,
    "user": no_effect("u-1", rejected=[5]),
    "safety_identifier": no_effect("u-1", rejected=[{}]),
    "quality": no_effect("auto", "low", "medium", "high", "standard", "hd", rejected=["ultra", "", 1]),
    "style": no_effect("vivid", "natural", rejected=["noir", "", 1]),
    "background": no_effect("auto", "opaque", rejected=["transparent"]),
    "moderation": no_effect("auto", "low", rejected=["off", "", 1]),
    "stream": no_effect(False, rejected=[True, "true"]),
    "partial_images": no_effect(0, rejected=[2, -1]),
}
_NO_SIZE = ["0x0", "512X512", "512*512", "1024", "", "５１２x512", 1024, size(512, 512), "99999999999x512", "99x99"]
_SIZE = Field(
    [
        ("auto", {}),
        ("square", size(512, 512)),
        *((text, size(*map(int, text.split("x")))) for text in ("256x2560", "301x299", "512x768")),
    ],
    [*_NO_SIZE, "255x256", "256x2561", "2560x1094"],
)
#: Rejected as a whole, where the sides are numbers.
_V1_IMAGE_SIZE = replace(
    IMAGE_SIZE,
    rejected=[*IMAGE_SIZE.rejected, size(255, 256), size(256, 2561)],
    rejected_in={"width": [{"width": value} for value in NOT_WHOLE], "depth": [{"width": 300, "depth": 3}]},
)
V1_SRPO: Mapping[str, Field] = _V1 | {
    "size": _SIZE,
    "image_size": _V1_IMAGE_SIZE,
    "num_inference_steps": whole("steps", 1, 50),
    "enable_safety_checker": SAFETY,
    "acceleration": ACCELERATION,
}


def _near(ratio: str, width: int, height: int) -> Changes:
    """Return what a size changes that Kontext cannot render."""
    known = RATIOS[ratio]
    rendered = f"Rendered at {known[0]}x{known[1]}, the nearest size that the model knows"
    note = f"{rendered}; scaled and cropped to {width}x{height}."
    return size(*known) | {"sizing": "asked", "output_size": (width, height), "notes": (note,)}


V1_KONTEXT: Mapping[str, Field] = _V1 | {
    "size": Field(
        [
            ("auto", {}),
            ("1248x832", size(1248, 832) | {"sizing": "asked"}),
            ("1536x1024", _near("3:2", 1536, 1024)),
            ("1024x1536", _near("2:3", 1024, 1536)),
            ("512x512", _near("1:1", 512, 512)),
            ("2333x1000", _near("21:9", 2333, 1000)),
        ],
        ["2334x1000", "1000x2334", "2560x1094", "landscape_4_3", *_NO_SIZE],
    ),
    "aspect_ratio": RATIO,
    "safety_tolerance": TOLERANCE,
}


def _asked(field: Field) -> Field:
    """Return a field that sets the size, which would otherwise be the input's."""
    accepted = [(sent, {**changes, "sizing": "asked"} if changes else changes) for sent, changes in field.accepted]
    return replace(field, accepted=accepted)


def _generation(dialect: Any, model_id: str) -> Read:
    def call(body: Body) -> tuple[Order, str]:
        asked = dialect.generation({"model": model_id, **body}, default_seed=DEFAULT_SEED)
        return asked.order, asked.result_format

    return call


def _edit(model_id: str) -> Read:
    def call(body: Body) -> tuple[Order, str]:
        asked = openai.edit({"model": model_id, **body}, [], default_seed=DEFAULT_SEED)
        return asked.order, asked.result_format

    return call


def _v1(name: str, model_id: str, call: Read, schema: type[BaseModel], request: Request, **parts: Any) -> Endpoint:
    fields: Mapping[str, Field] = parts.pop("fields")
    return Endpoint(
        name=name,
        dialect=name.split()[0],
        id=model_id,
        call=call,
        schema=schema,
        minimum={"prompt": "a fox"} | parts.pop("images", {}),
        request=request,
        fields=fields,
        # OpenAI's libraries send null for what is not set.
        nullable=frozenset(fields) - {"prompt"},
        answered="both" if name.startswith("openai") else "url",
        tolerated=frozenset(openai_common.TOLERATED),
        tried_elsewhere=frozenset({"model", "output_compression"} | parts.pop("tried_elsewhere", set())),
        **parts,
    )


_OPENAI = SQUARE.model_copy(update={"output_format": "png"})
_EDITS: dict[str, Any] = {
    "images": {"image_url": FOX},
    "sources": (Source("image_url", FOX),),
    "tried_elsewhere": set(openai.IMAGE_FIELDS),
}
_SRPO_EDIT = {
    **V1_SRPO,
    "size": _asked(_SIZE),
    "image_size": _asked(_V1_IMAGE_SIZE),
    "num_inference_steps": whole("steps", 10, 50),
    "strength": strength(0.01),
}
_AIMLAPI = {
    **V1_SRPO,
    "seed": whole("seed", 1, 2**32 - 1),
    "output_format": FORMAT.but(rejected=["url"]),
    "acceleration": choice("acceleration", "regular", "none", "high").but(rejected=["fast"]),
    "size": Field(
        [("auto", {}), ("landscape_4_3", {}), ("512x768", size(512, 768)), ("1536x512", size(1536, 512))],
        [*_NO_SIZE, "480x512", "1568x512", "513x512", "512x540"],
    ),
    "image_size": Field(
        [
            ("portrait_16_9", size(576, 1024)),
            (size(512, 544), size(512, 544)),
            (size(1536, 1536), size(1536, 1536)),
            ({"width": 512.0, "height": 544.0}, size(512, 544)),
        ],
        ["1024x768", 1024, size(480, 512), size(512, 1568), size(512, 513)],
        {
            "width": [{"height": 512}, {"width": "512", "height": 512}],
            "height": [{"width": 512}],
            "depth": [{**size(512, 512), "depth": 3}],
        },
    ),
}
_SIRAYA = {
    **V1_SRPO,
    "output_format": Field(
        [
            ("url", {}),
            ("png", {}),
            ("jpeg", {"output_format": "jpeg"}),
            ("b64_json", {"answered": "b64_json", "inline": True}),
        ],
        ["webp", 1],
    ),
    "acceleration": _AIMLAPI["acceleration"],
    "enable_safety_checker": switch("safety", default=False),
}
_SIRAYA_ID = "flux-1-srpo-text-to-image"
V1: Sequence[Endpoint] = (
    _v1("openai srpo", "srpo", _generation(openai, "srpo"), openai.TAKES["srpo"], _OPENAI, fields=V1_SRPO),
    _v1(
        "openai kontext",
        "kontext",
        _generation(openai, "kontext"),
        openai.TAKES["kontext"],
        _OPENAI.model_copy(update={"model": "kontext-text-to-image", "guidance": 3.5}),
        fields=V1_KONTEXT,
    ),
    _v1(
        "openai srpo-edit",
        "srpo",
        _edit("srpo"),
        openai.EDIT_TAKES["srpo"],
        _OPENAI.model_copy(update={"model": "srpo-image-to-image", "steps": 40, "strength": 0.95, "sizing": "input"}),
        fields=_SRPO_EDIT,
        **_EDITS,
    ),
    _v1(
        "openai kontext-edit",
        "kontext",
        _edit("kontext"),
        openai.EDIT_TAKES["kontext"],
        _OPENAI.model_copy(update={"model": "kontext", "guidance": 3.5, "sizing": "ratio"}),
        fields=V1_KONTEXT,
        **_EDITS,
    ),
    _v1(
        "aimlapi srpo",
        "flux/srpo",
        _generation(aimlapi, "flux/srpo"),
        aimlapi.TAKES["flux/srpo"],
        SRPO_TEXT.model_copy(update={"acceleration": "regular"}),
        fields=_AIMLAPI,
    ),
    _v1(
        "siraya srpo",
        _SIRAYA_ID,
        _generation(siraya, _SIRAYA_ID),
        siraya.TAKES[_SIRAYA_ID],
        SRPO_TEXT.model_copy(update={"output_format": "png", "safety": False, "acceleration": "regular"}),
        fields=_SIRAYA,
    ),
)

ENDPOINTS: Mapping[str, Endpoint] = {
    endpoint.name: endpoint for endpoint in (*map(_native, FAL_FIELDS), *map(_fal, FAL_FIELDS), *WAVESPEED, *V1)
}


def of(dialects: Iterable[str]) -> list[Endpoint]:
    """Return the endpoints of these dialects."""
    return [endpoint for endpoint in ENDPOINTS.values() if endpoint.dialect in dialects]
