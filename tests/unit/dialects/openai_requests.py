"""Calls of `/v1` for tests of its dialects: what each field does, or that it is refused by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from farm.dialects.openai_common import REFUSED as NOT_OFFERED
from farm.dialects.openai_common import Call

SPARE = 1_234_567

#: What is sent, and what follows from it.
Taken = tuple[dict[str, Any], dict[str, Any]]
#: What is sent, and the name that the refusal must give.
Refused = tuple[dict[str, Any], str]


def size(width: int, height: int) -> dict[str, int]:
    return {"width": width, "height": height}


def brief(value: object) -> str:
    return repr(value)[:60]


#: Of every call, in every dialect.
TAKEN: list[Taken] = [
    ({"prompt": "🦊"}, {"prompt": "🦊"}),
    ({"prompt": "a" * 4000}, {"prompt": "a" * 4000}),
    ({"n": 4}, {"images": 4}),
    ({"n": 2.0}, {"images": 2}),
    ({"num_images": 3}, {"images": 3}),
    ({"n": 3, "num_images": 3}, {"images": 3}),
    ({"n": None, "size": None, "seed": None, "response_format": None, "user": None, "style": None}, {}),
    ({"guidance_scale": None, "output_format": None, "sync_mode": None, "stream": None}, {}),
    ({"seed": 1}, {"seed": 1}),
    ({"seed": 2**32 - 1}, {"seed": 2**32 - 1}),
    ({"guidance_scale": 1}, {"guidance": 1.0}),
    ({"guidance_scale": 20}, {"guidance": 20.0}),
    ({"response_format": "url"}, {}),
    ({"enhance_prompt": True}, {"enhance": True}),
    ({"enhance_prompt": False}, {}),
    ({"user": "u-1"}, {}),
    ({"safety_identifier": "u-1"}, {}),
    ({"quality": "auto"}, {}),
    ({"quality": "standard"}, {}),
    ({"background": "opaque"}, {}),
    ({"moderation": "auto"}, {}),
    ({"stream": False}, {}),
    ({"partial_images": 0}, {}),
    ({"sync_mode": False}, {}),
]

REFUSED: list[Refused] = [
    ({"prompt": ""}, "prompt"),
    ({"prompt": "a" * 4001}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"prompt": 5}, "prompt"),
    ({"n": 0}, "n"),
    ({"n": 5}, "n"),
    ({"n": "2"}, "n"),
    ({"n": True}, "n"),
    ({"num_images": 2.5}, "num_images"),
    ({"n": 1, "num_images": 2}, "n"),
    ({"sync_mode": True, "response_format": "url"}, "sync_mode"),
    ({"seed": -1}, "seed"),
    ({"seed": 2**32}, "seed"),
    ({"seed": "7"}, "seed"),
    ({"guidance_scale": 0.99}, "guidance_scale"),
    ({"guidance_scale": 20.01}, "guidance_scale"),
    ({"guidance_scale": float("nan")}, "guidance_scale"),
    ({"response_format": "webp"}, "response_format"),
    ({"sync_mode": "true"}, "sync_mode"),
    ({"enhance_prompt": 1}, "enhance_prompt"),
    ({"output_format": "webp"}, "output_format"),
    ({"user": 5}, "user"),
    ({"safety_identifier": {}}, "safety_identifier"),
    ({"quality": "hd"}, "quality"),
    ({"background": "transparent"}, "background"),
    ({"moderation": "low"}, "moderation"),
    ({"stream": True}, "stream"),
    ({"partial_images": 2}, "partial_images"),
    ({"negative_prompt": "rain"}, "negative_prompt"),
    ({"negative_prompt": None}, "negative_prompt"),
    *[({name: "x"}, name) for name in NOT_OFFERED],
]

#: Of every call for SRPO.
SRPO_TAKEN: list[Taken] = [
    ({"num_inference_steps": 50.0}, {"steps": 50}),
    ({"enable_safety_checker": True}, {"safety": True}),
    ({"enable_safety_checker": False}, {"safety": False}),
    ({"acceleration": "none"}, {}),
    ({"acceleration": "high"}, {"acceleration": "high"}),
    ({"size": "512x768"}, size(512, 768)),
    ({"size": "square_hd"}, size(1024, 1024)),
    ({"image_size": "portrait_16_9"}, size(576, 1024)),
    ({"image_size": size(512, 544)}, size(512, 544)),
    ({"image_size": {"width": 512.0, "height": 544.0}}, size(512, 544)),
    ({"size": "512x544", "image_size": size(512, 544)}, size(512, 544)),
]
SRPO_REFUSED: list[Refused] = [
    ({"num_inference_steps": 51}, "num_inference_steps"),
    ({"num_inference_steps": 0}, "num_inference_steps"),
    ({"num_inference_steps": 5.5}, "num_inference_steps"),
    ({"enable_safety_checker": "false"}, "enable_safety_checker"),
    ({"acceleration": "fast"}, "acceleration"),
    ({"size": "0x0"}, "size"),
    ({"size": "512X512"}, "size"),
    ({"size": "512*512"}, "size"),
    ({"size": "1024"}, "size"),
    ({"size": ""}, "size"),
    ({"size": "５１２x512"}, "size"),
    ({"size": 1024}, "size"),
    ({"size": {"width": 512, "height": 512}}, "size"),
    ({"size": "99999999999x512"}, "size"),
    ({"image_size": "1024x768"}, "image_size"),
    ({"image_size": 1024}, "image_size"),
    ({"image_size": {"width": "512", "height": 512}}, "image_size.width"),
    ({"image_size": {"width": 512, "height": 512, "depth": 3}}, "image_size.depth"),
]


def untried(kind: type[Call], taken: Iterable[Taken], refused: Iterable[Refused]) -> set[str]:
    """Fields of a schema of which no value is taken above, or none refused."""
    tried = {name for sent, _ in taken for name in sent} & {named.partition(".")[0] for _, named in refused}
    return set(kind.model_fields) - tried - {"model"}


def without_effect(taken: Sequence[Taken]) -> set[str]:
    """Fields that change nothing, whatever is sent."""
    return {name for sent, _ in taken for name in sent} - {name for sent, changes in taken if changes for name in sent}
