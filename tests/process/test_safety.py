"""Real weights beside a safety checker of their own: a whole farm, with small weights in the published formats."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from farm.process.child import EXIT_CONFIG
from tests.checker_folders import red_classifier
from tests.farms import RunningFarm, farm_command, free_port, running_farm, wait_for
from workers.pipelines import miniature

TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the settings of small weights: FLUX.1-dev with SRPO's transformer, Kontext, and a classifier."""
    folder = tmp_path_factory.mktemp("weights")
    for name in ("FLUX.1-dev", "FLUX.1-Kontext-dev"):
        shutil.copytree(miniature.HOME, folder / name)
    tensors = load_file(folder / "FLUX.1-dev" / TRANSFORMER)
    save_file({name: tensor * 1.1 for name, tensor in tensors.items()}, folder / "srpo.safetensors")
    (folder / "FLUX.1-dev" / TRANSFORMER).unlink()
    return {
        "FARM_PIPELINE": "flux",
        "FARM_FLUX_DIR": str(folder / "FLUX.1-dev"),
        "FARM_SRPO_FILE": str(folder / "srpo.safetensors"),
        "FARM_KONTEXT_DIR": str(folder / "FLUX.1-Kontext-dev"),
        "FARM_ACCEPT_LICENSES": "flux-1-dev-non-commercial,tencent-srpo",
        "FARM_SAFETY": "vit",
        "FARM_SAFETY_DIR": str(red_classifier(folder / "classifier")),
    }


@pytest.fixture(scope="module")
def farm(weights: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    with running_farm(tmp_path_factory.mktemp("checked") / "data", **weights) as farm:
        yield farm


def data_url(colour: str) -> str:
    file = io.BytesIO()
    Image.new("RGB", (256, 256), colour).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def is_black(farm: RunningFarm, url: str) -> bool:
    with Image.open(io.BytesIO(farm.fetch(url))) as image:
        return image.convert("RGB").getextrema() == ((0, 0),) * 3


def prediction(farm: RunningFarm, path: str, **fields: object) -> dict[str, Any]:
    """Make a prediction at WaveSpeed's routes, and return it when it has ended."""
    answer = farm.call("POST", f"/api/v3/{path}", {"prompt": "x"} | fields)
    assert answer.status == 200, answer.body
    result = f"/api/v3/predictions/{answer.json['data']['id']}/result"

    def ended() -> dict[str, Any] | None:
        data: dict[str, Any] = farm.call("GET", result).json["data"]
        return data if data["status"] in ("completed", "failed") else None

    found = wait_for(ended, seconds=100)
    assert found is not None
    return found


def test_everything_is_announced(farm: RunningFarm) -> None:
    models = farm.call("GET", "/farm/v1/models").json["models"]

    assert {model["name"] for model in models if model["served"]} == {model["name"] for model in models}
    assert {model["safety"] for model in models} == {"vit"}
    assert "kontext" in {model["id"] for model in farm.call("GET", "/v1/models").json["data"]}


@pytest.mark.parametrize(("colour", "is_flagged"), [("red", True), ("blue", False)])
def test_wavespeeds_images_are_checked(farm: RunningFarm, colour: str, is_flagged: bool) -> None:
    """At strength 0 the output is the input: the answer of the planted classifier is known."""
    made = prediction(farm, "wavespeed-ai/flux-srpo/image-to-image", image=data_url(colour), strength=0)

    assert made["status"] == "completed"
    assert made["has_nsfw_contents"] == [is_flagged]
    assert is_black(farm, made["outputs"][0]) == is_flagged


@pytest.mark.timeout(300)
def test_kontext_is_served(farm: RunningFarm) -> None:
    answer = farm.call("POST", "/farm/v1/jobs", {"model": "kontext-text-to-image", "prompt": "a circle"})
    view = farm.wait_for_end(answer.json["id"], seconds=200)

    assert view["status"] == "completed"
    assert is_black(farm, view["images"][0]["url"]) == view["has_nsfw_concepts"][0]


def test_a_classifier_without_unsafe_labels_stops_the_start(weights: dict[str, str], tmp_path: Path) -> None:
    settings = weights | {"FARM_SAFETY_DIR": str(red_classifier(tmp_path / "animals", "cat", "dog"))}
    folder = ["--data-dir", str(tmp_path / "data")]

    started = farm_command("up", "--port", str(free_port()), *folder, environment=settings)
    doctor = farm_command("doctor", *folder, environment=settings)

    assert started.returncode == EXIT_CONFIG
    assert "Traceback" not in started.stderr
    for output in (started.stderr, " ".join(doctor.stdout.split())):
        assert "has none of the labels nsfw, unsafe" in output
        assert "set FARM_SAFETY_LABELS, of: cat, dog" in output
