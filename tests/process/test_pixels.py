"""Same in, same out: through the whole farm, with the miniature."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from PIL import Image

from tests.farms import RunningFarm, picture_facts, running_farm

SIZE = {"width": 300, "height": 260}


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    with running_farm(tmp_path_factory.mktemp("miniature") / "data", 2, FARM_PIPELINE="flux") as farm:
        yield farm


def test_the_same_seed_gives_the_same_pixels_alone_and_in_company(miniature: RunningFarm) -> None:
    """One job alone; then the same beside others, and as one of four images, on whichever worker."""
    asked = {"image_size": SIZE, "num_inference_steps": 4, "output_format": "png", "prompt": "a red fox"}
    alone = miniature.wait_for_end(miniature.submit(seed=7, **asked))
    crowd = [miniature.submit(seed=seed, **asked) for seed in (1, 7, 2, 7, 3, 7, 4, 7)]
    several = miniature.wait_for_end(miniature.submit(seed=5, num_images=4, **asked))
    beside = [miniature.wait_for_end(job_id) for job_id in crowd]

    wanted = pixels(miniature, alone)
    assert [pixels(miniature, view) == wanted for view in beside] == [False, True] * 4
    assert [pixels(miniature, several, number) == wanted for number in range(4)] == [False, False, True, False]
    assert len({view["build"] for view in [alone, several, *beside]}) == 1


def test_the_picture_has_the_size_asked_for(miniature: RunningFarm) -> None:
    view = miniature.wait_for_end(miniature.submit(image_size=SIZE, num_inference_steps=1))

    assert picture_facts(miniature.picture(view)) == ((300, 260), "JPEG")


def test_a_prompt_longer_than_the_encoder_takes_warns(miniature: RunningFarm) -> None:
    view = miniature.wait_for_end(miniature.submit(prompt="fox " * 1000, num_inference_steps=1))

    assert view["status"] == "completed"
    assert "512" in view["warnings"][0]


def test_the_miniature_is_named_for_what_it_is(miniature: RunningFarm) -> None:
    served = {model["name"]: model for model in miniature.call("GET", "/farm/v1/models").json["models"]}

    assert {model["weights"] for model in served.values()} == {"miniature"}


def pixels(farm: RunningFarm, view: dict[str, object], number: int = 0) -> bytes:
    """The picture's pixels, without the metadata around them."""

    with Image.open(io.BytesIO(farm.picture(view, number))) as picture:
        return picture.tobytes()
