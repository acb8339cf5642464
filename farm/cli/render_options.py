"""The options of `farm render` by the fields that they set: the API's errors name fields, the person typed options."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from farm.client.http import CallFailed

#: Field → option.
OPTIONS = {
    "prompt": "PROMPT",
    "model": "--model",
    "num_images": "-n",
    "image_size": "--size",
    "num_inference_steps": "--steps",
    "guidance_scale": "--guidance",
    "seed": "--seed",
    "acceleration": "--acceleration",
    "output_format": "--format",
    "image_url": "--image",
    "image_urls": "--image",
    "strength": "--strength",
    "aspect_ratio": "--aspect-ratio",
    "enhance_prompt": "--enhance",
    "enable_safety_checker": "--safety-checker",
    "safety_tolerance": "--safety-tolerance",
}

_NO_SUCH_OPTION = "this model has no such option"


def in_options(error: CallFailed) -> CallFailed:
    """Return the error with each wrong field named by the option that sets it."""
    if not error.errors:
        return error
    return CallFailed("; ".join(_in_options(problem) for problem in error.errors), error.errors)


def _in_options(problem: dict[str, Any]) -> str:
    field, _, part = str(problem["field"]).partition(".")
    option = OPTIONS.get(field, field)
    if problem["type"] == "extra_forbidden":
        return f"{option}: {_NO_SUCH_OPTION}"
    return f"{option}{f' ({part})' if part else ''}: {problem['message']}"


def naming_options(text: str, fields: Iterable[str]) -> str:
    """Return a text of `field: problem; field: problem` with each of these fields named by the option that sets it."""
    names = "|".join(OPTIONS.keys() & set(fields))
    if not names:
        return text
    problem = rf"(?:^|(?<=; ))({names})([.\w]*: )(unknown field; allowed: [\w, ]+(?=; sent: ))?"
    return re.sub(problem, _named, text)


def _named(found: re.Match[str]) -> str:
    return OPTIONS[found[1]] + found[2] + (_NO_SUCH_OPTION if found[3] else "")
