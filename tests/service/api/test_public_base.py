"""URLs in answers name the address that the caller used, unless FARM_PUBLIC_URL says otherwise."""

from __future__ import annotations

import re
from typing import Any

import pytest
from flask.testing import FlaskClient

from api.app import create_app
from farm.bootstrap import Farm
from farm.jobstore import redis_keys
from farm.process.listen import ListenAddress
from tests.service.api.calls import FAL_QUEUE, FOX, WAVESPEED, bearer
from tests.service.jobstore import jobs
from tests.service.jobstore.jobs import BASE, FACTS

HOST = "farm.example:9000"
QUEUE_HOST = "queue.farm.example"
URL = re.compile(r"https?://[^/\"]+")
#: Calls of each dialect whose answers hold URLs.
CALLS: dict[str, tuple[str, Any]] = {
    "native": ("/farm/v1/jobs", FOX),
    "fal": (FAL_QUEUE, {"prompt": "a fox"}),
    "WaveSpeed": (WAVESPEED, {"prompt": "a fox"}),
    "fal's uploads": ("/fal/rest/storage/upload/initiate", {"content_type": "image/png", "file_name": "x.png"}),
}


def client_of(farm: Farm, *, host_decides: bool) -> tuple[FlaskClient, dict[str, str]]:
    """Return a client of an API with keys, and its headers."""
    farm.store.renew("w", FACTS, [])
    key = farm.callers.create("ada")
    app = create_app(farm, base=BASE, with_keys=True, max_streams=1, max_held_calls=1, host_decides=host_decides)
    return app.test_client(), bearer(key)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("host_decides", "host", "base"),
    [
        (True, HOST, f"http://{HOST}"),
        (True, "[fd00::1]:8000", "http://[fd00::1]:8000"),
        (False, HOST, BASE),
    ],
)
def test_urls_name_the_address_that_the_caller_used(
    farm: Farm, name: str, host_decides: bool, host: str, base: str
) -> None:
    api, headers = client_of(farm, host_decides=host_decides)
    path, body = CALLS[name]

    answer = api.post(path, json=body, headers=headers | {"Host": host})

    assert answer.status_code in (200, 202), answer.text
    assert set(URL.findall(answer.text)) == {base}


def test_a_webhook_names_the_address_at_which_its_job_was_submitted(farm: Farm) -> None:
    api, headers = client_of(farm, host_decides=True)
    farm.redis.set(redis_keys.PUBLIC_URL, BASE)
    own = api.post("/farm/v1/jobs", json=FOX, headers=headers | {"Host": HOST}).get_json()["id"]
    at_fals = api.post("/fal-ai/flux/srpo", json={"prompt": "a fox"}, headers=headers | {"Host": QUEUE_HOST})
    submitted = [farm.store.get(job_id) for job_id in (own, at_fals.get_json()["request_id"])]

    assert [farm.links_of(job).base for job in submitted if job] == [f"http://{HOST}", f"http://{QUEUE_HOST}"]


@pytest.mark.parametrize("path", ["/storage/upload/initiate", "/storage/upload/initiate-multipart"])
def test_an_upload_begun_at_a_host_name_of_fals_ends_there(farm: Farm, path: str) -> None:
    api, headers = client_of(farm, host_decides=True)
    begun = api.post(path, json={}, headers=headers | {"Host": "rest.farm.example"}).get_json()
    assert set(URL.findall(" ".join(begun.values()))) == {"http://rest.farm.example"}

    if path.endswith("multipart"):
        tag = api.put(f"{begun['upload_url']}/1", data=b"a fox").get_json()
        api.post(f"{begun['upload_url']}/complete", json={"parts": [tag]})
    else:
        api.put(begun["upload_url"], data=b"a fox")

    assert api.get(begun["file_url"], buffered=True).data == b"a fox"


def test_a_token_of_a_host_name_of_fals_leads_to_a_cdn(farm: Farm) -> None:
    api, headers = client_of(farm, host_decides=True)
    cdn = api.post("/storage/auth/token", headers=headers | {"Host": "rest.fal.ai"}).get_json()["base_url"]

    made = api.post(f"{cdn}/files/upload", data=b"a fox", headers=headers).get_json()["access_url"]

    assert (cdn, URL.findall(made)) == ("http://rest.fal.ai/fal/cdn", ["http://rest.fal.ai"])
    assert api.get(made, buffered=True).data == b"a fox"


def test_an_image_of_a_host_name_of_fals_is_there(farm: Farm) -> None:
    api, headers = client_of(farm, host_decides=True)
    made = api.post("/fal-ai/flux/srpo", json={"prompt": "a fox"}, headers=headers | {"Host": QUEUE_HOST}).get_json()
    job = jobs.take_one(farm.store)
    result = jobs.result(job)
    farm.storage.put(result.images[0].key, b"an image")
    farm.store.complete(job, result)

    (image,) = api.get(made["response_url"], headers=headers).get_json()["images"]

    assert URL.findall(image["url"]) == [f"http://{QUEUE_HOST}"]
    assert api.get(image["url"], buffered=True).data == b"an image"


def test_a_missing_file_below_the_callers_own_address_is_not_fetched(farm: Farm) -> None:
    api, headers = client_of(farm, host_decides=True)
    farm.store.renew("w", FACTS | {"models": "srpo,srpo-image-to-image"}, [])
    path, body = "/fal/queue/fal-ai/flux/srpo/image-to-image", {"prompt": "a fox"}

    answer = api.post(
        path, json=body | {"image_url": f"http://{HOST}/files/gone.png"}, headers=headers | {"Host": HOST}
    )

    assert answer.status_code == 422, answer.text
    assert "this farm has no such file" in answer.text


def test_the_documentation_is_the_same_for_every_host(farm: Farm) -> None:
    """It is built once: no caller may choose what the others read."""
    api, _ = client_of(farm, host_decides=True)

    first = api.get("/openapi.json", headers={"Host": "other.example"}).get_json()
    assert first["servers"] == [{"url": "/"}]


@pytest.mark.parametrize(
    ("host", "listens", "reached"),
    [
        ("0.0.0.0", "http://0.0.0.0:8000", "http://127.0.0.1:8000"),
        ("::", "http://[::]:8000", "http://[::1]:8000"),
        ("127.0.0.1", "http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("farm.example", "http://farm.example:8000", "http://farm.example:8000"),
    ],
)
def test_the_ready_line_names_an_address_that_can_be_connected_to(host: str, listens: str, reached: str) -> None:
    address = ListenAddress(host, 8000)
    assert (address.listening_url, address.url) == (listens, reached)
