"""A farm without a safety checker (`FARM_SAFETY=off`), and with one: what it announces, refuses and says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient

from farm.bootstrap import Farm
from tests.service.api.calls import EDITS, FAL_QUEUE, GENERATIONS, WAVESPEED, WAVESPEED_IMAGE, refusal
from tests.service.jobstore.jobs import FACTS

EVERYTHING = "srpo,srpo-image-to-image,kontext,kontext-multi,kontext-text-to-image"
IMAGE = "https://a.example/a.png"
KONTEXT = "/fal/queue/fal-ai/flux-pro/kontext"


@pytest.fixture
def api(open_api: Callable[..., FlaskClient], farm: Farm) -> FlaskClient:
    api = open_api(safety="off", settings=farm.settings.model_copy(update={"hold_seconds": 0.05}))
    farm.store.renew("w", FACTS | {"models": EVERYTHING, "safety": "off"}, [])
    return api


#: What is always checked, or checked unless the caller turns it off.
CHECKED: list[tuple[str, dict[str, Any], int]] = [
    ("/farm/v1/jobs", {"model": "kontext", "image_url": IMAGE}, 400),
    ("/farm/v1/jobs", {"model": "kontext-text-to-image"}, 400),
    ("/farm/v1/jobs", {"model": "srpo"}, 422),
    (KONTEXT, {"image_url": IMAGE}, 400),
    (f"{KONTEXT}/max/text-to-image", {}, 400),
    (FAL_QUEUE, {}, 422),
    (WAVESPEED, {}, 400),
    (WAVESPEED, {"image": IMAGE}, 400),
    (WAVESPEED_IMAGE, {"image": IMAGE}, 400),
    (GENERATIONS, {"model": "kontext"}, 400),
    (EDITS, {"model": "kontext", "image_url": IMAGE}, 400),
    (GENERATIONS, {"model": "srpo"}, 400),
    (GENERATIONS, {"model": "flux/srpo"}, 400),
]


@pytest.mark.parametrize(("path", "body", "status"), CHECKED)
def test_a_request_to_check_is_refused_with_the_setting_that_is_missing(
    api: FlaskClient, path: str, body: dict[str, Any], status: int
) -> None:
    message = refusal(api.post(path, json={"prompt": "a fox"} | body), status, path=path)

    assert "this farm runs without a safety checker (FARM_SAFETY=off)" in message
    assert "Its operator must set FARM_SAFETY to a checker" in message


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/farm/v1/jobs", {"model": "srpo", "enable_safety_checker": False}),
        (FAL_QUEUE, {"enable_safety_checker": False}),
        (GENERATIONS, {"model": "srpo", "enable_safety_checker": False}),
        (GENERATIONS, {"model": "flux/srpo", "enable_safety_checker": False}),
        (GENERATIONS, {"model": "flux-1-srpo-text-to-image"}),
        (EDITS, {"model": "srpo", "image_url": IMAGE, "enable_safety_checker": False}),
    ],
)
def test_a_request_without_the_check_is_accepted(api: FlaskClient, path: str, body: dict[str, Any]) -> None:
    assert api.post(path, json={"prompt": "a fox"} | body).status_code in (200, 202, 504)


def test_a_model_that_is_always_checked_is_not_listed(api: FlaskClient) -> None:
    listed = {model["id"] for model in api.get("/v1/models").get_json()["data"]}
    own = {model["name"]: model for model in api.get("/farm/v1/models").get_json()["models"]}

    assert {name for name in listed if "kontext" in name} == set()
    assert {"srpo", "flux/srpo", "flux-1-srpo-text-to-image"} <= listed
    assert {name for name, model in own.items() if model["served"]} == {"srpo", "srpo-image-to-image"}
    assert [model_id for model_id in own["srpo"]["ids"] if "wavespeed" in model_id] == []
    assert "fal-ai/flux/srpo" in own["srpo"]["ids"]


@pytest.fixture
def checked(open_api: Callable[..., FlaskClient], farm: Farm) -> FlaskClient:
    """Return the API of a farm with real weights and a checker."""
    api = open_api(safety="vit", settings=farm.settings.model_copy(update={"hold_seconds": 0.05}))
    farm.store.renew("w", FACTS | {"models": EVERYTHING, "weights": "flux-1-dev + srpo", "safety": "vit"}, [])
    return api


@pytest.mark.parametrize(("path", "body"), [(path, body) for path, body, _ in CHECKED])
def test_with_a_checker_all_of_it_is_accepted(checked: FlaskClient, path: str, body: dict[str, Any]) -> None:
    assert checked.post(path, json={"prompt": "a fox"} | body).status_code in (200, 202, 504)


def test_with_a_checker_all_of_it_is_announced(checked: FlaskClient) -> None:
    listed = {model["id"] for model in checked.get("/v1/models").get_json()["data"]}
    own = {model["name"]: model for model in checked.get("/farm/v1/models").get_json()["models"]}

    assert "kontext" in listed
    assert "fal-ai/flux-pro/kontext" in own["kontext"]["ids"]
    assert "wavespeed-ai/flux-srpo" in own["srpo"]["ids"]
    assert {name for name, model in own.items() if model["served"]} == set(EVERYTHING.split(","))
    assert {model["safety"] for model in own.values()} == {"vit"}


@pytest.mark.parametrize("path", ["/farm/v1/jobs", WAVESPEED])
def test_no_error_offers_what_is_not_announced(api: FlaskClient, path: str) -> None:
    message = refusal(api.post(path, json={"model": "kontext", "prompt": "a fox"}), 400, path=path)

    served = message.partition("Served here: ")[2]
    assert "fal-ai/flux/srpo" in served
    assert "kontext" not in served
    assert "wavespeed" not in served
