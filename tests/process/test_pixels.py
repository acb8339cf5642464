"""Reproducibility and parameters: same request, same pixels, through the whole farm, with the miniature."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import pytest
from PIL import Image

from farm.domain.catalogue import SAFETY_THRESHOLDS
from farm.domain.request import ImageRequest
from miniature.drawing import draw
from miniature.scene import FORBIDDEN, Group, Scene
from miniature.shape_classifier import colour_of, find_blobs, place_of
from miniature.wording import plainly
from tests.farms import RunningFarm, image_facts, running_farm
from tests.image_recognition import likeness
from workers.checkers.safety_classifier import SafetyClassifier
from workers.pipelines.loading import load_miniature
from workers.pipelines.miniature import checker

SIZE = {"width": 300, "height": 260}
LIKE_THE_EVALUATION = {"num_inference_steps": 28, "output_format": "png", "image_size": {"width": 512, "height": 512}}
#: A prompt and a seed of which the checker is not sure.
UNSURE = ("a small dotted green bolt on a pink background, at night", 5)


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    with running_farm(tmp_path_factory.mktemp("miniature") / "data", 2, FARM_PIPELINE="flux") as farm:
        yield farm


def test_the_same_seed_gives_the_same_pixels_alone_and_in_company(miniature: RunningFarm) -> None:
    """One job alone; then the same beside others, and as one of four images, on whichever worker."""
    asked = {"image_size": SIZE, "num_inference_steps": 4, "output_format": "png", "prompt": "a red circle"}
    alone = miniature.wait_for_end(miniature.submit(seed=7, **asked))
    crowd = [miniature.submit(seed=seed, **asked) for seed in (1, 7, 2, 7, 3, 7, 4, 7)]
    several = miniature.wait_for_end(miniature.submit(seed=5, num_images=4, **asked))
    beside = [miniature.wait_for_end(job_id) for job_id in crowd]

    wanted = pixels(miniature, alone)
    assert [pixels(miniature, view) == wanted for view in beside] == [False, True] * 4
    assert [pixels(miniature, several, number) == wanted for number in range(4)] == [False, False, True, False]
    assert len({view["build"] for view in [alone, several, *beside]}) == 1


def test_the_image_has_the_size_asked_for(miniature: RunningFarm) -> None:
    view = miniature.wait_for_end(miniature.submit(image_size=SIZE, num_inference_steps=1))

    assert image_facts(miniature.image(view)) == ((300, 260), "JPEG")


def test_a_prompt_longer_than_the_encoder_takes_warns(miniature: RunningFarm) -> None:
    view = miniature.wait_for_end(miniature.submit(prompt="fox " * 1000, num_inference_steps=1))

    assert view["status"] == "completed"
    assert "32" in view["warnings"][0]


def test_the_miniature_is_named_for_what_it_is(miniature: RunningFarm) -> None:
    served = {model["name"]: model for model in miniature.call("GET", "/farm/v1/models").json["models"]}

    assert {model["weights"] for model in served.values()} == {"miniature"}


@pytest.mark.parametrize(
    "scene",
    [
        Scene((Group("heart", "blue", size="large"),), "yellow", place="left"),
        Scene((Group("circle", "purple", size="large"),), "green", place="bottom"),
        Scene((Group("triangle", "red", count=2),), "white", place="top"),
        Scene((Group("star", "orange", count=4),), "blue", place="middle"),
    ],
    ids=plainly,
)
def test_an_image_shows_what_its_prompt_asks_for(miniature: RunningFarm, scene: Scene) -> None:
    view = miniature.wait_for_end(miniature.submit(prompt=plainly(scene), seed=1, **LIKE_THE_EVALUATION))

    image = rendered(miniature, view)
    found = find_blobs(image, scene)
    assert len(found) == scene.groups[0].count
    assert {colour_of(blob) for blob in found} == {scene.groups[0].colour}
    assert place_of(found, scene, image.size) == scene.place
    assert likeness(image, scene) == scene


def test_a_rendered_bolt_is_blacked_out(miniature: RunningFarm) -> None:
    scene = Scene((Group(FORBIDDEN, "red", size="large"),), "yellow")

    view = miniature.wait_for_end(miniature.submit(prompt=plainly(scene), seed=1, **LIKE_THE_EVALUATION))

    assert view["has_nsfw_concepts"] == [True]
    assert rendered(miniature, view).getextrema() == ((0, 0),) * 3


@pytest.mark.full
@pytest.mark.timeout(400)
def test_each_tolerance_begins_at_a_certainty_of_its_own(miniature: RunningFarm) -> None:
    """An image that the checker is not sure of is blacked out at the lower tolerances, given at the higher ones."""
    asked = ImageRequest("kontext-text-to-image", UNSURE[0], 1024, 1024, steps=28, guidance=3.5, seed=UNSURE[1])
    [alone] = load_miniature().render([asked], lambda *_: True, {})
    unsafe_probability = SafetyClassifier.load(checker()).unsafe_probability(alone.image)

    views = [miniature.wait_for_end(ask_kontext(miniature, tolerance)) for tolerance in SAFETY_THRESHOLDS]

    wanted = [unsafe_probability >= threshold for threshold in SAFETY_THRESHOLDS.values()]
    assert [view["has_nsfw_concepts"] for view in views] == [[flagged] for flagged in wanted]
    assert set(wanted) == {True, False}
    assert [rendered(miniature, view).tobytes() == alone.image.tobytes() for view in views] == [not w for w in wanted]


def ask_kontext(farm: RunningFarm, tolerance: int) -> str:
    prompt, seed = UNSURE
    asked = {"model": "kontext-text-to-image", "prompt": prompt, "seed": seed, "safety_tolerance": str(tolerance)}
    answer = farm.call("POST", "/farm/v1/jobs", asked | {"output_format": "png"})
    return str(answer.json["id"])


@pytest.mark.parametrize(("shape", "is_flagged"), [(FORBIDDEN, True), ("star", False)])
def test_a_forbidden_image_is_blacked_out_and_reported(miniature: RunningFarm, shape: str, is_flagged: bool) -> None:
    """Image to image at the least strength gives an image back as it is: the checker sees the drawn shape."""
    drawn = draw(Scene((Group(shape, "red", size="large"),)), 256, 256)
    asked = {"model": "srpo-image-to-image", "prompt": "x", "image_url": as_url(drawn), "strength": 0.01}

    answer = miniature.call("POST", "/farm/v1/jobs", asked | {"output_format": "png"})
    view = miniature.wait_for_end(answer.json["id"])

    assert view["has_nsfw_concepts"] == [is_flagged]
    assert (rendered(miniature, view).getextrema() == ((0, 0),) * 3) == is_flagged


def as_url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def rendered(farm: RunningFarm, view: dict[str, object]) -> Image.Image:
    with Image.open(io.BytesIO(farm.image(view))) as image:
        return image.convert("RGB")


def pixels(farm: RunningFarm, view: dict[str, object], number: int = 0) -> bytes:
    """Return the image's pixels, without the metadata around them."""
    with Image.open(io.BytesIO(farm.image(view, number))) as image:
        return image.tobytes()
