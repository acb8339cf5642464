"""Calls to the API from tests, and the shapes of its refusals."""

from __future__ import annotations

from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from farm.domain.errors import StorageUnavailable
from farm.storage.local import LocalStorage

FOX: dict[str, Any] = {"model": "srpo", "prompt": "a red fox", "image_size": {"width": 256, "height": 256}}
WAVESPEED = "/api/v3/wavespeed-ai/flux-srpo"
WAVESPEED_IMAGE = "/api/v3/wavespeed-ai/flux-srpo-image-to-image"
FAL_QUEUE = "/fal/queue/fal-ai/flux/srpo"
FAL_RUN = "/fal/run/fal-ai/flux/srpo"
GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"
UNKNOWN_ID = "0b0f3d1e-3c52-4f0e-9d55-6a1f5f7f2c11"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def post_job(api: FlaskClient, *, headers: dict[str, str] | None = None, **fields: Any) -> TestResponse:
    return api.post("/farm/v1/jobs", json=FOX | fields, headers=headers)


def post_prediction(api: FlaskClient, *, headers: dict[str, str] | None = None, **fields: Any) -> TestResponse:
    return api.post(WAVESPEED, json={"prompt": "a red fox", "size": "256*256"} | fields, headers=headers)


def post_request(api: FlaskClient, path: str = FAL_QUEUE, /, **fields: Any) -> TestResponse:
    """Return a request in fal's dialect."""
    return api.post(path, json={"prompt": "a red fox", "image_size": {"width": 256, "height": 256}} | fields)


def submit(api: FlaskClient, *, headers: dict[str, str] | None = None, **fields: Any) -> str:
    """Return the id of a new job."""
    response = post_job(api, headers=headers, **fields)
    assert response.status_code == 202, response.text
    job_id: str = response.get_json()["id"]
    return job_id


def problem(response: TestResponse, status: int) -> dict[str, Any]:
    """Check an error in the farm's own shape, and return it."""
    assert response.status_code == status, response.text
    assert response.mimetype == "application/problem+json"
    body: dict[str, Any] = response.get_json()
    assert (
        {"type", "title", "status", "code", "detail"}
        <= set(body)
        <= {
            "type",
            "title",
            "status",
            "code",
            "detail",
            "errors",
        }
    )
    assert (body["status"], bool(body["title"]), bool(body["detail"])) == (status, True, True)
    return body


def gateway_error(response: TestResponse, status: int) -> dict[str, Any]:
    """Check an error in WaveSpeed's shape, and return it."""
    assert response.status_code == status, response.text
    assert response.mimetype == "application/json"
    body: dict[str, Any] = response.get_json()
    assert set(body) == {"code", "message", "error", "error_code", "data"}
    assert (body["code"], bool(body["message"]), type(body["data"]["code"])) == (status, True, int)
    return body


def fal_error(response: TestResponse, status: int) -> dict[str, Any]:
    """Check an error in fal's shape, with a text for clients that read `detail` and for those that read `message`."""
    assert response.status_code == status, response.text
    assert response.mimetype == "application/json"
    body: dict[str, Any] = response.get_json()
    assert {"detail", "message"} <= set(body) <= {"detail", "message", "error_type", "status"}
    assert isinstance(body["detail"], list) or body["detail"] == body["message"]
    assert body["message"]
    assert response.headers.get("X-Fal-Error-Type") == body.get("error_type")
    return body


def openai_error(response: TestResponse, status: int) -> dict[str, Any]:
    """Check an error of `/v1`, where AI/ML API's callers find the same at the top; return OpenAI's object."""
    assert response.status_code == status, response.text
    assert response.mimetype == "application/json"
    body: dict[str, Any] = response.get_json()
    assert set(body) == {"error", "message", "path", "requestId", "statusCode", "timestamp"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] == body["message"]
    assert (bool(body["message"]), body["statusCode"], bool(error["code"])) == (True, status, True)
    assert body["requestId"] == response.headers["x-request-id"]
    return error


def refusal(response: TestResponse, status: int, *, path: str) -> str:
    """Return the text of an error, in the dialect of `path`."""
    if path.startswith("/fal/") or "/multipart/" in path:
        return str(fal_error(response, status)["message"])
    if path.startswith("/api/v3/"):
        return str(gateway_error(response, status)["message"])
    if path.startswith("/v1/"):
        return str(openai_error(response, status)["message"])
    return str(problem(response, status)["detail"])


class UnreadableStorage(LocalStorage):
    """A storage that is down for reads."""

    def read(self, key: str) -> bytes:
        raise StorageUnavailable
