"""Further ids of models (`FARM_MODEL_ALIASES`), in every dialect."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flask.testing import FlaskClient

from farm.bootstrap import Farm
from tests.service.api.calls import EDITS, GENERATIONS, openai_error
from tests.service.jobstore.jobs import FACTS

ALIASES = {
    "dall-e-3": "srpo",
    "gpt-image-1": "kontext",
    "fal-ai/flux/dev": "fal-ai/flux/srpo",
    "wavespeed-ai/flux-dev": "wavespeed-ai/flux-srpo",
    "black-forest-labs/flux": "flux/srpo",
}
EVERYTHING = "srpo,srpo-image-to-image,kontext,kontext-multi,kontext-text-to-image"
FOX = {"prompt": "a fox"}


@pytest.fixture
def api(open_api: Callable[..., FlaskClient], farm: Farm) -> FlaskClient:
    """Return an API with aliases whose calls are answered after 50 ms, since nothing renders."""
    farm.service._aliases = ALIASES
    api = open_api(settings=farm.settings.model_copy(update={"hold_seconds": 0.05}))
    farm.store.renew("w", FACTS | {"models": EVERYTHING}, [])
    return api


@pytest.mark.parametrize(
    ("path", "body", "model", "dialect"),
    [
        ("/farm/v1/jobs", {"model": "dall-e-3"}, "srpo", "native"),
        ("/farm/v1/jobs", {"model": "fal-ai/flux/dev"}, "srpo", "native"),
        ("/fal/queue/fal-ai/flux/dev", {}, "srpo", "fal"),
        ("/fal/run/fal-ai/flux/dev", {}, "srpo", "fal"),
        ("/fal/queue/dall-e-3", {}, "srpo", "fal"),
        ("/api/v3/wavespeed-ai/flux-dev", {}, "srpo", "wavespeed"),
        ("/api/v3/dall-e-3", {"image": "https://a.example/a.png"}, "srpo-image-to-image", "wavespeed"),
        (GENERATIONS, {"model": "dall-e-3"}, "srpo", "openai"),
        (GENERATIONS, {"model": "gpt-image-1"}, "kontext-text-to-image", "openai"),
        (GENERATIONS, {"model": "black-forest-labs/flux"}, "srpo", "aimlapi"),
        (GENERATIONS, {"model": "fal-ai/flux/dev"}, "srpo", "openai"),
        (EDITS, {"model": "gpt-image-1", "image_url": "https://a.example/a.png"}, "kontext", "openai"),
        (EDITS, {"model": "dall-e-3", "image_url": "https://a.example/a.png"}, "srpo-image-to-image", "openai"),
    ],
)
def test_an_alias_names_its_model(
    api: FlaskClient, farm: Farm, path: str, body: dict[str, str], model: str, dialect: str
) -> None:
    """The job keeps the name that its caller used."""
    response = api.post(path, json=FOX | body)

    assert response.status_code in (200, 202, 504), response.text
    (job,) = farm.store.page("local", before_us=None, count=2)
    named = body.get("model") or path.partition("queue/")[2] or path.partition("run/")[2] or path.partition("v3/")[2]
    assert (job.request.model, job.dialect, job.endpoint) == (model, dialect, named)


def test_aliases_are_listed(api: FlaskClient) -> None:
    listed = [model["id"] for model in api.get("/v1/models").get_json()["data"]]
    own = {model["name"]: model["ids"] for model in api.get("/farm/v1/models").get_json()["models"]}

    assert set(ALIASES) <= set(listed)
    assert len(listed) == len(set(listed))
    assert {"dall-e-3", "fal-ai/flux/dev", "wavespeed-ai/flux-dev", "black-forest-labs/flux"} <= set(own["srpo"])
    assert "gpt-image-1" in own["kontext"]
    assert api.get("/v1/models/dall-e-3").get_json()["id"] == "dall-e-3"


def test_an_alias_of_a_model_that_is_not_loaded_is_not_listed(api: FlaskClient, farm: Farm) -> None:
    farm.redis.delete("srpo:models")
    farm.store.renew("w", FACTS, [])
    farm.service._served = (float("-inf"), {})

    listed = [model["id"] for model in api.get("/v1/models").get_json()["data"]]

    assert "dall-e-3" in listed
    assert "gpt-image-1" not in listed
    call = FOX | {"model": "gpt-image-1"}
    assert "dall-e-3" in openai_error(api.post(GENERATIONS, json=call), 400)["message"]


def test_a_wavespeed_id_without_its_model_there_is_unknown(api: FlaskClient) -> None:
    assert api.post("/api/v3/gpt-image-1", json=FOX).status_code == 404
