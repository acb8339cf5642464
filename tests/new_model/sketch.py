"""A made-up model on SRPO's weights: the one catalogue entry that a further model takes."""

from __future__ import annotations

from farm.domain.catalogue import Model, Parameters, Range, Task, Weights

SKETCH = Model(
    name="srpo-sketch",
    title="SRPO sketch, text to image",
    weights=Weights.SRPO,
    task=Task.TEXT_TO_IMAGE,
    family="srpo-sketch",
    parameters=Parameters(steps=Range(2, 9, default=3), guidance=Range(1, 6, default=2.5)),
    parameters_of={
        "wavespeed": Parameters(steps=Range(1, 8, default=4), guidance=Range(2, 5, default=3.5)),
    },
    ids_of={
        "openai": ("srpo-sketch",),
        "aimlapi": ("flux/srpo-sketch",),
        "siraya": ("flux-1-srpo-sketch",),
        "fal": ("fal-ai/flux/srpo-sketch",),
        "wavespeed": ("wavespeed-ai/flux-srpo-sketch",),
    },
)
