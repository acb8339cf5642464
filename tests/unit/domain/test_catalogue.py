"""The models and the ids by which callers name them."""

from __future__ import annotations

from collections import Counter

import pytest

from farm.domain import catalogue
from farm.domain.catalogue import MODELS, Model, Range, Task, find, for_images

#: The ids that callers rely on.
IDS = {
    "fal-ai/flux/srpo": "srpo",
    "wavespeed-ai/flux-srpo": "srpo",
    "wavespeed-ai/flux-1-srpo": "srpo",
    "flux/srpo": "srpo",
    "flux/srpo/text-to-image": "srpo",
    "flux-1-srpo-text-to-image": "srpo",
    "srpo": "srpo",
    "fal-ai/flux/srpo/image-to-image": "srpo-image-to-image",
    "wavespeed-ai/flux-srpo-image-to-image": "srpo-image-to-image",
    "wavespeed-ai/flux-srpo/image-to-image": "srpo-image-to-image",
    "wavespeed-ai/flux-1-srpo/image-to-image": "srpo-image-to-image",
    "fal-ai/flux-pro/kontext/text-to-image": "kontext-text-to-image",
    "fal-ai/flux-pro/kontext/max/text-to-image": "kontext-text-to-image",
    "fal-ai/flux-pro/kontext": "kontext",
    "fal-ai/flux-pro/kontext/max": "kontext",
    "kontext": "kontext",
    "fal-ai/flux-pro/kontext/multi": "kontext-multi",
    "fal-ai/flux-pro/kontext/max/multi": "kontext-multi",
}


@pytest.mark.parametrize(("model_id", "name"), IDS.items())
def test_every_id_of_the_contract_means_its_model(model_id: str, name: str) -> None:
    model = find(model_id)

    assert model is not None
    assert model.name == name


def test_no_id_means_two_models() -> None:
    counted = Counter(model_id for model in MODELS for model_id in model.ids)

    assert [model_id for model_id, count in counted.items() if count > 1] == []


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_each_providers_ids_bear_its_name(model: Model) -> None:
    assert all(model_id.startswith("fal-ai/") for model_id in model.of("fal"))
    assert all(model_id.startswith("wavespeed-ai/") for model_id in model.of("wavespeed"))


@pytest.mark.parametrize(
    "unknown", ["", "SRPO", "srpo ", "fal-ai/flux/srpo/", "fal-ai/flux/dev", "fal-ai/flux-pro/kontext/redux"]
)
def test_any_other_id_means_nothing(unknown: str) -> None:
    assert find(unknown) is None


def test_presets_keep_within_the_limits() -> None:
    for width, height in catalogue.SIZE_PRESETS.values():
        assert catalogue.MIN_SIDE <= min(width, height) <= max(width, height) <= catalogue.MAX_SIDE
        assert width * height <= catalogue.MAX_PIXELS


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_defaults_lie_within_their_ranges_and_only_image_to_image_has_a_strength(model: Model) -> None:
    for parameters in (model.parameters, *model.parameters_of.values()):
        ranges: list[Range[int] | Range[float]] = [parameters.steps, parameters.guidance]
        ranges += [parameters.strength] if parameters.strength else []
        assert all(span.min <= span.default <= span.max for span in ranges)
        assert parameters.steps.max <= catalogue.MAX_STEPS
        assert parameters.guidance.max <= catalogue.MAX_GUIDANCE
        assert (parameters.strength is not None) == (model.task is Task.IMAGE_TO_IMAGE)


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("srpo", ["srpo", "srpo-image-to-image", "srpo-image-to-image"]),
        ("kontext", ["kontext-text-to-image", "kontext", "kontext-multi", "kontext-multi", "kontext-multi"]),
    ],
)
def test_the_number_of_input_images_selects_the_model_of_a_family(family: str, names: list[str]) -> None:
    """More images than any of them takes mean the one that takes the most, which refuses them."""
    found = [for_images(family, images) for images in range(len(names))]

    assert [model.name for model in found if model] == names


def test_an_unknown_family_has_no_model() -> None:
    assert for_images("sdxl", 0) is None
