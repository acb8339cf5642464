"""`/openapi.json` describes every route and no other; `/docs` shows it without external resources.

That every answer is as described, `tests.service.api.openapi_conformance` hears in all tests of the API.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from flask.testing import FlaskClient
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import TypeAdapter

from api.openapi.document import SECTIONS, document
from api.openapi.operation import Operation
from farm.dialects import openai_batch, registry
from farm.dialects.fields import FIELDS
from farm.domain.job import State
from farm.webhooks import signing
from tests.service.api.openapi_conformance import described
from tests.service.jobstore.jobs import BASE
from tests.unit.dialects.samples import A_DUE, LINKS, a_job, a_result

OPERATIONS = [operation for section in SECTIONS for operation in section.operations]
WEBHOOKS = {webhook.path: webhook for section in SECTIONS for webhook in section.webhooks}


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return document(BASE)


def test_the_document_is_openapi_3_1(result: dict[str, Any]) -> None:
    assert result["openapi"].startswith("3.1")
    assert [error.message for error in OpenAPIV31SpecValidator(result).iter_errors()] == []


def test_every_route_is_described_and_every_description_has_a_route(api: FlaskClient) -> None:
    """A new route fails here until it is described in `api.openapi`."""
    url_map = api.application.url_map
    routed = {(rule.endpoint, method) for rule in url_map.iter_rules() for method in rule.methods or ()}

    assert set(described(url_map)) == {(view, method) for view, method in routed if method not in ("HEAD", "OPTIONS")}


def test_no_two_operations_share_a_name_or_a_place() -> None:
    names = [operation.name for operation in OPERATIONS]
    places = [(operation.method, operation.path) for operation in OPERATIONS]

    assert len(set(names)) == len(names)
    assert len(set(places)) == len(places)


def test_a_key_is_asked_for_where_the_document_says_so(keyed: FlaskClient) -> None:
    for operation in OPERATIONS:
        path = operation.path.replace("{", "").replace("}", "")
        status = keyed.open(path, method=operation.method, json=operation.body and operation.body.example).status_code
        assert (status == 401) is not operation.is_open, operation.name


@pytest.mark.parametrize(
    "operation",
    [operation for operation in OPERATIONS if operation.body and operation.body.example],
    ids=lambda operation: operation.name,
)
def test_an_example_is_what_the_route_takes(operation: Operation) -> None:
    assert operation.body is not None

    TypeAdapter(operation.body.type).validate_python(operation.body.example)


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/fal/run/fal-ai/flux/srpo", "srpo"),
        ("/fal/queue/fal-ai/flux/srpo/image-to-image", "srpo-image-to-image"),
        ("/fal/queue/fal-ai/flux-pro/kontext/max/multi", "kontext-multi"),
    ],
)
def test_a_model_is_described_with_its_own_fields_and_their_limits(
    result: dict[str, Any], path: str, model: str
) -> None:
    reference = result["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    schema = result["components"]["schemas"][reference.rpartition("/")[2]]

    assert set(schema["properties"]) == set(FIELDS[model].model_fields)
    assert schema["additionalProperties"] is False
    assert (schema["properties"]["num_images"]["minimum"], schema["properties"]["num_images"]["maximum"]) == (1, 4)


def test_the_form_of_a_file_of_requests_is_described_with_every_field_that_it_takes(result: dict[str, Any]) -> None:
    form = result["paths"]["/v1/files"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    schema = result["components"]["schemas"][form["$ref"].rpartition("/")[2]]

    assert set(schema["properties"]) == {"file", *openai_batch.FileForm.model_fields}
    assert set(schema["required"]) == {"file", "purpose"}


@pytest.mark.parametrize(
    ("dialect", "webhook"), [("native", "job"), ("fal", "falRequest"), ("wavespeed", "wavespeedPrediction")]
)
@pytest.mark.parametrize("state", [State.COMPLETED, State.FAILED])
def test_a_webhook_is_described_as_it_is_sent(dialect: str, webhook: str, state: State) -> None:
    described = registry.by_name(dialect)
    assert described.webhook_body is not None
    result = a_result() if state is State.COMPLETED else None
    webhook_body = described.webhook_body(a_job(state, dialect=dialect, result=result), A_DUE, LINKS)

    body = WEBHOOKS[webhook].body
    assert body is not None
    TypeAdapter(body.type).validate_python(webhook_body)


def test_the_headers_of_webhooks_are_those_that_are_sent() -> None:
    key, secret = signing.read_key(signing.new_key()), signing.new_secret()
    sent = {
        "job": signing.standard(secret, message_id="m", timestamp=1, body=b""),
        "test": signing.standard(secret, message_id="m", timestamp=1, body=b""),
        "batch": signing.standard(secret, message_id="m", timestamp=1, body=b""),
        "falRequest": signing.fal(key, request_id="r", user_id="u", timestamp=1, body=b""),
        "wavespeedPrediction": signing.wavespeed(secret, message_id="m", timestamp=1, body=b""),
    }

    assert {name: {header.name for header in item.parameters} for name, item in WEBHOOKS.items()} == {
        name: set(headers) for name, headers in sent.items()
    }


def test_the_document_is_served_at_the_farms_own_address(keyed: FlaskClient, result: dict[str, Any]) -> None:
    response = keyed.get("/openapi.json")

    assert (response.status_code, response.mimetype) == (200, "application/json")
    assert response.get_json() == result
    assert result["servers"] == [{"url": BASE}]


@pytest.mark.parametrize("path", ["/openapi.json", "/docs/swagger-ui.css", "/docs/start.js"])
def test_an_unchanged_page_is_answered_with_304(keyed: FlaskClient, path: str) -> None:
    etag = keyed.get(path).headers["ETag"]

    again = keyed.get(path, headers={"If-None-Match": etag})

    assert (again.status_code, again.data) == (304, b"")
    assert keyed.get(path, headers={"If-None-Match": '"another"'}).status_code == 200


def test_the_page_and_all_its_parts_come_from_here(keyed: FlaskClient) -> None:
    page = keyed.get("/docs")

    named = re.findall(r'(?:href|src)="([^"]+)"', page.text)
    assert len(named) == 5
    assert [keyed.get(f"/{path}").status_code for path in named] == [200] * 5
    assert 'url: "openapi.json"' in keyed.get("/docs/start.js").text


def test_the_page_may_reach_nothing_but_the_farm(keyed: FlaskClient) -> None:
    policy = dict(part.split(" ", 1) for part in keyed.get("/docs").headers["Content-Security-Policy"].split("; "))

    assert policy["default-src"] == "'none'"
    assert (policy["script-src"], policy["connect-src"]) == ("'self'", "'self'")
    assert not any(word in allowed for allowed in policy.values() for word in ("*", "http", "unsafe"))


@pytest.mark.parametrize(
    ("name", "media_type"),
    [("swagger-ui.css", "text/css"), ("swagger-ui-bundle.js", "text/javascript"), ("favicon-32x32.png", "image/png")],
)
def test_a_part_of_the_page_has_its_type(keyed: FlaskClient, name: str, media_type: str) -> None:
    response = keyed.get(f"/docs/{name}")

    assert (response.mimetype, response.headers["X-Content-Type-Options"]) == (media_type, "nosniff")
    assert len(response.data) > 500


@pytest.mark.parametrize("name", ["index.template.html", "..%2f__init__.py", "swagger-ui.js", "VERSION", "x"])
def test_nothing_else_of_the_wheel_is_served(keyed: FlaskClient, name: str) -> None:
    assert keyed.get(f"/docs/{name}").status_code == 404


@pytest.mark.parametrize("accept", ["*/*", "application/json", ""])
def test_the_root_is_a_404_in_json_for_programs(keyed: FlaskClient, accept: str) -> None:
    response = keyed.get("/", headers={"Accept": accept})

    assert (response.status_code, response.is_json, "/docs" in response.text) == (404, True, True)
