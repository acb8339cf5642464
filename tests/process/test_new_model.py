"""A further model on known weights is one entry of the catalogue: every dialect, the CLI and the workers take it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.farms import RunningFarm, farm_command, image_facts, running_farm
from tests.new_model.sketch import SKETCH

FOLDER = Path(__file__).parents[1] / "new_model"
WITH_MODEL = {"PYTHONPATH": f"{FOLDER}:{FOLDER.parents[1]}"}


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    """Yield a farm of the miniature, whose processes all have the made-up model."""
    with running_farm(tmp_path_factory.mktemp("new-model") / "data", FARM_PIPELINE="flux", **WITH_MODEL) as running:
        yield running


@pytest.fixture(scope="module")
def document(farm: RunningFarm) -> dict[str, Any]:
    found: dict[str, Any] = farm.call("GET", "/openapi.json").json
    return found


#: Dialect → the path of a call, its fields beside the prompt, and the dialect's default of the steps.
CALLS: dict[str, tuple[str, dict[str, object], int]] = {
    "native": ("/farm/v1/jobs", {"model": "srpo-sketch", "image_size": "square"}, 3),
    "fal": ("/fal/run/fal-ai/flux/srpo-sketch", {"image_size": "square"}, 3),
    "wavespeed": ("/api/v3/wavespeed-ai/flux-srpo-sketch", {"size": "512*512", "enable_sync_mode": True}, 4),
    "openai": ("/v1/images/generations", {"model": "srpo-sketch", "size": "512x512"}, 3),
    "aimlapi": ("/v1/images/generations", {"model": "flux/srpo-sketch", "image_size": "square"}, 3),
    "siraya": ("/v1/images/generations", {"model": "flux-1-srpo-sketch", "size": "512x512"}, 3),
}


def test_every_dialect_of_the_catalogue_is_tried() -> None:
    assert set(CALLS) == {"native", *SKETCH.ids_of}


@pytest.mark.parametrize("dialect", CALLS)
def test_each_dialect_takes_it_with_its_own_defaults_and_the_worker_renders_it(farm: RunningFarm, dialect: str) -> None:
    path, fields, steps = CALLS[dialect]
    answer = farm.call("POST", path, {"prompt": "a red circle", "seed": 7, **fields})
    assert answer.status in (200, 201, 202), answer.body

    newest = farm.call("GET", "/farm/v1/jobs?limit=1").json["jobs"][0]
    view = farm.wait_for_end(newest["id"])

    assert (view["status"], view["model"]) == (
        "completed",
        SKETCH.of(dialect)[0] if dialect != "native" else SKETCH.name,
    )
    assert view["progress"] == {"step": steps, "steps": steps}
    assert image_facts(farm.image(view))[0] == (512, 512)


@pytest.mark.parametrize("dialect", CALLS)
def test_each_dialect_refuses_what_is_beyond_its_ranges(farm: RunningFarm, dialect: str) -> None:
    path, fields, _ = CALLS[dialect]
    answer = farm.call("POST", path, {"prompt": "a fox", **fields, "num_inference_steps": 10, "guidance_scale": 7})

    assert answer.status in (400, 422)
    assert b"num_inference_steps" in answer.body


def test_an_image_is_no_field_of_it(farm: RunningFarm) -> None:
    """No model of its family takes one."""
    answer = farm.call("POST", CALLS["wavespeed"][0], {"prompt": "a fox", "image": "https://a.example/fox.png"})

    assert answer.status == 400
    assert "image: unknown field" in answer.json["message"]


def test_the_new_model_is_listed(farm: RunningFarm) -> None:
    ids = {model["id"] for model in farm.call("GET", "/v1/models").json["data"]}
    models = {model["name"]: model for model in farm.call("GET", "/farm/v1/models").json["models"]}

    assert {"srpo-sketch", "flux/srpo-sketch", "flux-1-srpo-sketch"} <= ids
    assert (models["srpo-sketch"]["served"], models["srpo-sketch"]["ids"]) == (True, list(SKETCH.ids))


@pytest.mark.parametrize(
    ("path", "steps", "guidance"),
    [
        ("/fal/run/fal-ai/flux/srpo-sketch", (2, 9, 3), (1, 6, 2.5)),
        ("/fal/queue/fal-ai/flux/srpo-sketch", (2, 9, 3), (1, 6, 2.5)),
        ("/api/v3/wavespeed-ai/flux-srpo-sketch", (1, 8, 4), (2, 5, 3.5)),
    ],
)
def test_the_document_has_a_call_for_it(document: dict[str, Any], path: str, steps: Any, guidance: Any) -> None:
    schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    fields = resolved(document, schema)["properties"]

    assert limits(fields["num_inference_steps"]) == steps
    assert limits(fields["guidance_scale"]) == guidance


@pytest.mark.parametrize(
    ("path", "model_id"),
    [("/farm/v1/jobs", model_id) for model_id in SKETCH.ids]
    + [("/v1/images/generations", SKETCH.of(dialect)[0]) for dialect in ("openai", "aimlapi", "siraya")],
)
def test_the_document_names_it_among_the_models_of_a_call(document: dict[str, Any], path: str, model_id: str) -> None:
    schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    fields = resolved(document, {"$ref": schema["discriminator"]["mapping"][model_id]})["properties"]

    assert limits(fields["num_inference_steps"])[2] == 3
    assert limits(fields["guidance_scale"])[2] == 2.5


def test_the_command_line_lists_and_renders_it(farm: RunningFarm, tmp_path: Path) -> None:
    listed = farm.cli("models")
    words = ["a red circle", "--model", "srpo-sketch", "--size", "256x256", "--out", str(tmp_path), "--json"]
    rendered = farm_command("render", *words, environment={"FARM_URL": farm.url, **WITH_MODEL})

    assert "srpo-sketch" in listed.stdout, listed.stderr
    assert rendered.returncode == 0, rendered.stderr
    (file,) = json.loads(rendered.stdout)["files"]
    assert image_facts(Path(file))[0] == (256, 256)


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found


def limits(field: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Return minimum, maximum and default; a nullable field has its limits in its first branch."""
    branch = field["anyOf"][0] if "anyOf" in field else field
    return branch["minimum"], branch["maximum"], field["default"]
