"""Every field of every dialect: its effect, or its rejection by name."""

from __future__ import annotations

from typing import Any

import pytest

from farm.dialects.openai_common import REFUSED, TOLERATED
from farm.domain.catalogue import MODELS
from farm.domain.errors import InvalidRequest
from tests.unit.dialects.endpoints import ENDPOINTS, FOX, V1, Body, Endpoint, brief, size

EVERY_ENDPOINT = pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=str)
EVERY_FIELD = pytest.mark.parametrize(
    ("endpoint", "name"),
    [(endpoint, name) for endpoint in ENDPOINTS.values() for name in endpoint.fields],
    ids=str,
)
#: Every field of every dialect, names that providers have elsewhere, and one that no encoding has.
KNOWN_NAMES = {name for endpoint in ENDPOINTS.values() for name in endpoint.schema.model_fields}
OTHER_NAMES = ("negative_prompt", "num_image", "input", "mask_url", "raw", "image_prompt_strength", "logs", "images")


@EVERY_ENDPOINT
def test_defaults(endpoint: Endpoint) -> None:
    assert endpoint.read() == endpoint.expected({})


def test_every_model_of_the_catalogue_is_tested() -> None:
    for model in MODELS:
        assert f"native {model.name}" in ENDPOINTS
        assert f"fal {model.name}" in ENDPOINTS


@EVERY_FIELD
def test_a_field_has_its_effect_and_no_other(endpoint: Endpoint, name: str) -> None:
    nulls: list[tuple[Any, Any]] = [(None, {})] if name in endpoint.nullable else []

    for sent, changes in (*endpoint.fields[name].accepted, *nulls):
        assert endpoint.read({name: sent}) == endpoint.expected(changes), sent


#: Names of fields that are the URLs of images.
IMAGE_FIELDS = {"image", "images", "image_url", "image_urls"}
IMAGE_FIELDS_OF_ENDPOINTS = [
    (endpoint, name) for endpoint in ENDPOINTS.values() for name in endpoint.fields if name in IMAGE_FIELDS
]


@pytest.mark.parametrize(("endpoint", "name"), IMAGE_FIELDS_OF_ENDPOINTS, ids=str)
def test_white_space_around_the_url_of_an_image_is_removed(endpoint: Endpoint, name: str) -> None:
    urls = [(sent, changes) for sent, changes in endpoint.fields[name].accepted if sent and _surrounded(sent) != sent]

    assert urls
    for sent, changes in urls:
        assert endpoint.read({name: _surrounded(sent)}) == endpoint.expected(changes), sent


def _surrounded(sent: Any) -> Any:
    """Return URLs, wherever they are, with white space around them."""
    match sent:
        case str():
            return f" \t{sent}\r\n"
        case list():
            return [_surrounded(item) for item in sent]
        case dict():
            return {name: _surrounded(value) for name, value in sent.items()}
    return sent


@EVERY_FIELD
def test_a_value_that_a_field_does_not_accept_is_rejected_by_name(endpoint: Endpoint, name: str) -> None:
    field = endpoint.fields[name]
    nulls = [] if name in endpoint.nullable else [None]

    for sent in (*field.rejected, *nulls):
        assert [problem.field for problem in endpoint.problems({name: sent})] == [name], sent
    for part, values in field.rejected_in.items():
        for sent in values:
            assert [problem.field for problem in endpoint.problems({name: sent})] == [f"{name}.{part}"], sent


@EVERY_ENDPOINT
def test_a_field_that_the_model_does_not_have_is_rejected_by_name(endpoint: Endpoint) -> None:
    for name in sorted(KNOWN_NAMES - set(endpoint.schema.model_fields)) + list(OTHER_NAMES):
        for sent in (FOX, 1, None):
            if name not in endpoint.schema.model_fields:
                assert [problem.field for problem in endpoint.problems({name: sent})] == [name], sent
    assert [problem.field for problem in endpoint.problems({"\ud800": 1})] == [""]


@EVERY_ENDPOINT
def test_a_missing_field_is_named(endpoint: Endpoint) -> None:
    for name in endpoint.minimum.keys() - endpoint.tried_elsewhere:
        with pytest.raises(InvalidRequest) as caught:
            endpoint.call({other: value for other, value in endpoint.minimum.items() if other != name})
        assert [(problem.field, problem.kind) for problem in caught.value.problems] == [(name, "missing")]


@EVERY_ENDPOINT
def test_every_problem_is_reported_at_once(endpoint: Endpoint) -> None:
    problems = endpoint.problems({"prompt": "", "guidance_scale": 0, "seed": "x", "output_format": "webp"})

    assert {problem.field for problem in problems} == {"prompt", "guidance_scale", "seed", "output_format"}


@EVERY_ENDPOINT
def test_a_long_value_is_not_repeated(endpoint: Endpoint) -> None:
    (problem,) = endpoint.problems({"prompt": "a" * 5000})

    assert len(problem.message) < 200


@EVERY_ENDPOINT
def test_every_field_is_tested(endpoint: Endpoint) -> None:
    """A new field fails here until its values stand in the table of endpoints."""
    assert set(endpoint.fields) == set(endpoint.schema.model_fields) - endpoint.tried_elsewhere
    assert all(field.accepted or name in endpoint.nullable for name, field in endpoint.fields.items())
    assert all(field.rejected for field in endpoint.fields.values())


@EVERY_ENDPOINT
def test_fields_without_effect_are_listed_as_tolerated(endpoint: Endpoint) -> None:
    without = {name for name, field in endpoint.fields.items() if field.accepted and not field.has_effect}

    assert without == endpoint.tolerated


#: Fields that are accepted together, and what they change.
TOGETHER: list[tuple[str, Body, dict[str, Any]]] = [
    ("wavespeed srpo", {"size": "300*400", "width": 300, "height": 400}, size(300, 400)),
    ("wavespeed srpo", {"size": "300*400", "width": 300}, size(300, 400)),
    ("wavespeed srpo", {"size": "300*400", "height": 400}, size(300, 400)),
    ("wavespeed srpo", {"width": 256, "height": 1536}, size(256, 1536)),
    ("wavespeed srpo", {"image": None, "strength": 0.3}, {}),
    *((endpoint.name, {"n": 3, "num_images": 3}, {"images": 3}) for endpoint in V1),
    *((endpoint.name, {"style": None, "mask": None, "stream": None, "n": None}, {}) for endpoint in V1),
    *(
        (endpoint.name, {"output_format": "jpeg", "output_compression": sent}, {"output_format": "jpeg"} | quality)
        for endpoint in V1
        for sent, quality in (
            (100, {}),
            (96.0, {}),
            (95, {}),
            (50, {"jpeg_quality": 50}),
            (0, {"jpeg_quality": 1}),
        )
    ),
    *(
        (endpoint.name, {"output_format": "png", "output_compression": 100}, {"output_format": "png"})
        for endpoint in V1
    ),
    ("openai srpo", {"size": "512x544", "image_size": size(512, 544)}, size(512, 544)),
    ("openai kontext", {"size": "1248x832", "aspect_ratio": "3:2"}, size(1248, 832) | {"sizing": "asked"}),
    ("openai kontext-edit", {"size": "1248x832", "aspect_ratio": "3:2"}, size(1248, 832) | {"sizing": "asked"}),
    ("aimlapi srpo", {"size": "1024x768", "image_size": "landscape_4_3"}, {}),
    (
        "aimlapi srpo",
        {"response_format": "b64_json", "sync_mode": True},
        {"answered": "b64_json", "inline": True},
    ),
    ("siraya srpo", {"size": "square", "image_size": "square_hd"}, size(1024, 1024)),
    ("siraya srpo", {"size": "300x400", "image_size": size(301, 401)}, size(301, 401)),
    ("siraya srpo", {"output_format": "b64_json", "response_format": "url"}, {}),
    *(
        (
            "siraya srpo",
            {"output_format": form, "response_format": "b64_json"},
            {"output_format": encoded, "answered": "b64_json", "inline": True},
        )
        for form, encoded in (("url", "png"), ("jpeg", "jpeg"))
    ),
]
#: Fields that disagree, and the one that is named.
CONFLICTS: list[tuple[str, Body, str]] = [
    ("native srpo", {"webhook_events": ["job.failed"]}, "webhook_url"),
    ("wavespeed srpo", {"size": "300*400", "width": 400, "height": 300}, "size"),
    ("wavespeed srpo", {"size": "300*400", "width": 301}, "size"),
    ("wavespeed srpo", {"size": "300*400", "height": 401}, "size"),
    *((endpoint.name, {"n": 1, "num_images": 2}, "n") for endpoint in V1),
    *((endpoint.name, {"sync_mode": True, "response_format": "url"}, "sync_mode") for endpoint in V1),
    *(
        (endpoint.name, {"output_format": form, "output_compression": sent}, "output_compression")
        for endpoint in V1
        for form, sent in (("png", 99), ("jpeg", -1), ("jpeg", 101), ("jpeg", "50"), ("jpeg", 2.5), ("png", True))
    ),
    ("openai srpo", {"size": "300x400", "image_size": "square"}, "size"),
    ("openai kontext", {"size": "1248x832", "aspect_ratio": "1:1"}, "size"),
    ("openai kontext", {"size": "1536x1024", "aspect_ratio": "3:2"}, "size"),
    ("aimlapi srpo", {"size": "512x512", "image_size": "square_hd"}, "size"),
    ("siraya srpo", {"size": "no", "image_size": "square"}, "size"),
]


@pytest.mark.parametrize(("name", "sent", "changes"), TOGETHER, ids=brief)
def test_fields_that_agree_are_accepted_together(name: str, sent: Body, changes: dict[str, Any]) -> None:
    assert ENDPOINTS[name].read(sent) == ENDPOINTS[name].expected(changes)


@pytest.mark.parametrize(("name", "sent", "named"), CONFLICTS, ids=brief)
def test_fields_that_disagree_are_rejected(name: str, sent: Body, named: str) -> None:
    assert [problem.field for problem in ENDPOINTS[name].problems(sent)] == [named]


@pytest.mark.parametrize("endpoint", V1, ids=str)
def test_parameters_of_openai_that_are_not_offered_are_rejected_with_what_to_do_instead(endpoint: Endpoint) -> None:
    for name, reason in REFUSED.items():
        (problem,) = endpoint.problems({name: "x"})
        assert (problem.field, problem.kind) == (name, "feature_not_supported")
        assert reason
        assert reason in problem.message


@pytest.mark.parametrize("endpoint", V1, ids=str)
def test_openais_default_of_a_parameter_that_is_not_offered_changes_nothing(endpoint: Endpoint) -> None:
    assert endpoint.read({"input_fidelity": "low"}) == endpoint.expected({})
    assert [problem.field for problem in endpoint.problems({"input_fidelity": ["low"]})] == ["input_fidelity"]


@pytest.mark.parametrize("reason", TOLERATED.values())
def test_every_tolerated_field_has_its_reason(reason: str) -> None:
    assert reason


@pytest.mark.parametrize(
    ("name", "sent", "value", "allowed"),
    [
        ("native srpo", {"num_images": 5}, "5", "4"),
        ("native srpo", {"num_inference_steps": 2.5}, "2.5", "integer"),
        ("native srpo", {"seed": "2"}, '"2"', "integer"),
        ("native srpo", {"guidance_scale": 20.5}, "20.5", "20"),
        ("native srpo", {"output_format": "webp"}, '"webp"', "'jpeg' or 'png'"),
        ("native srpo", {"image_size": "huge"}, '"huge"', "landscape_16_9"),
        ("native srpo", {"image_size": {"width": 255}}, "255", "256"),
        ("native srpo", {"image_size": size(2560, 1094)}, "2560x1094", "2800000"),
        ("native srpo", {"image_size": {"depth": 3}}, "", "height, width"),
        ("native srpo", {"negative_prompt": "a dog"}, "", "num_images"),
        ("native srpo", {"enhance_prompt": "on"}, '"on"', "boolean"),
        ("wavespeed srpo", {"size": "9*9"}, "9*9", "256–1536"),
        ("wavespeed srpo", {"size": "300*400", "width": 301}, "300*400", "one of the two"),
        ("wavespeed srpo", {"width": 2000}, "2000", "1536"),
        ("wavespeed srpo", {"strength": 1.5}, "1.5", "1"),
        ("wavespeed srpo", {"image": 5}, "5", "string"),
        ("wavespeed srpo", {"num_images": 2}, "", "num_inference_steps"),
        ("openai srpo", {"output_format": "webp"}, "webp", "'jpeg' or 'png'"),
        ("openai srpo", {"size": "99x99"}, "99x99", "256–2560"),
        ("openai kontext", {"size": "2560x256"}, "2560x256", "from 9:21 to 21:9"),
        ("aimlapi srpo", {"size": "500x512"}, "500x512", "512–1536 pixels a side, in multiples of 32"),
        ("aimlapi srpo", {"image_size": size(500, 512)}, "500x512", "512–1536 pixels a side, in multiples of 32"),
    ],
    ids=brief,
)
def test_a_problem_shows_the_value_and_what_is_allowed(name: str, sent: Body, value: str, allowed: str) -> None:
    (problem,) = ENDPOINTS[name].problems(sent)

    assert value in problem.message
    assert allowed in problem.message
