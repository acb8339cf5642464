"""`docs/limits.md`: the limits and defaults of every dialect and model, generated from the catalogue."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from farm.domain.catalogue import (
    CLIP_MARGINS,
    KONTEXT_SIZES,
    MAX_IMAGES,
    MAX_INPUTS,
    MAX_PIXELS,
    MAX_PROMPT,
    MAX_UPLOAD,
    MODELS,
    SAFETY_THRESHOLDS,
    SAFETY_TOLERANCE,
    SIZE_PRESETS,
    TERMS,
    Model,
    Range,
)

_TITLES = {
    "native": "`/farm/v1`",
    "fal": "fal",
    "openai": "OpenAI",
    "aimlapi": "AI/ML API",
    "siraya": "Siraya",
    "wavespeed": "WaveSpeed",
}

_HEAD = f"""\
# Limits and defaults

What each dialect and model accepts, and what it assumes if a field is left out. Other values are rejected at submit
with an error that names the field, the value and what is allowed. `/openapi.json` says the same for programs.

`make docs` generates this page from `farm/domain/catalogue.py`.

Everywhere: prompts of 1–{MAX_PROMPT} characters; 1–{MAX_IMAGES} images per request (WaveSpeed: 1); up to
{MAX_PIXELS / 1e6} megapixels per image; up to {MAX_INPUTS} input images where a model takes several; uploads of up to
{MAX_UPLOAD // 2**20} MiB.
"""


def page() -> str:
    """Return docs/limits.md."""
    return "\n".join(
        [
            _HEAD,
            "## Dialects\n",
            *_table(
                (
                    "dialect",
                    "sides of an image",
                    "size by default",
                    "seeds",
                    "format by default",
                    "`acceleration` by default",
                ),
                _dialects(),
            ),
            "\nThe seed −1 asks WaveSpeed's dialect for a random one. Presets of sizes: "
            + ", ".join(f"`{name}` {_size(size)}" for name, size in SIZE_PRESETS.items())
            + ".\n",
            "## Models\n",
            *_table(("model", "dialect", "input images", "steps", "guidance", "strength", "safety check"), _models()),
            "\nA fixed value cannot be set. Image to image takes its size from the input by default.\n",
            "## Sizes of Kontext\n",
            *_table(("`aspect_ratio`", "pixels"), ((ratio, _size(size)) for ratio, size in KONTEXT_SIZES.items())),
            "\n## Safety tolerance\n",
            f"`safety_tolerance` of Kontext, {SAFETY_TOLERANCE.default} by default: an image is blacked out if the\n"
            "[checker](safety.md#tolerance) finds it unsafe with at least this probability; with the checker `clip`,\n"
            "if a cosine exceeds a concept's threshold by more than this margin. No value turns the check off.\n",
            *_table(("tolerance", "probability", "margin of `clip`"), _thresholds()),
            "",
        ]
    )


def _thresholds() -> Iterator[Sequence[object]]:
    for tolerance, threshold in SAFETY_THRESHOLDS.items():
        yield tolerance, threshold, f"{CLIP_MARGINS[tolerance]:g}".replace("-", "−")


def _dialects() -> Iterator[Sequence[object]]:
    for dialect, title in _TITLES.items():
        terms = TERMS[dialect]
        default = f"{terms.size}, {_size(SIZE_PRESETS[terms.size])}"
        seeds = f"{terms.min_seed}–{terms.max_seed}".replace("-", "−")
        yield title, terms.sides, default, seeds, terms.output_format, f"`{terms.acceleration}`"


def _models() -> Iterator[Sequence[object]]:
    for model in MODELS:
        for dialects in _alike(model):
            parameters = model.parameters_in(dialects[0])
            yield (
                f"`{model.name}`",
                ", ".join(_TITLES[dialect] for dialect in dialects),
                _inputs(model),
                _range(parameters.steps),
                _range(parameters.guidance),
                _range(parameters.strength),
                _check(model, dialects[0]),
            )


def _alike(model: Model) -> list[list[str]]:
    """Return the dialects that serve the model, in groups with the same parameters and the same safety check."""
    groups: dict[object, list[str]] = {}
    for dialect in _TITLES:
        if dialect == "native" or model.of(dialect):
            groups.setdefault((model.parameters_in(dialect), _check(model, dialect)), []).append(dialect)
    return list(groups.values())


def _check(model: Model, dialect: str) -> str:
    if model.always_checked_in(dialect):
        return "always"
    return "by default" if TERMS[dialect].safety else "on request"


def _inputs(model: Model) -> str:
    return f"{model.min_inputs}" if model.min_inputs == model.max_inputs else f"{model.min_inputs}–{model.max_inputs}"


def _range(span: Range[int] | Range[float] | None) -> str:
    if span is None:
        return ""
    return f"{span.min}, fixed" if span.min == span.max else f"{span.min}–{span.max}; {span.default}"


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), "utf-8")
