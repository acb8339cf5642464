"""Bodies that are no JSON object are invalid, whatever they are; and names that only the catalogue has, too."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import get_args

import pytest

from farm import dialects
from farm.dialects.fal_lifecycle import parse_keep_seconds
from farm.dialects.fields import FIELDS, AspectRatio, Input, ModelFields, Preset, decode, parse
from farm.domain import catalogue
from farm.domain.errors import InvalidRequest, Problem
from tests.unit.dialects.endpoints import of

DEPTH = 200_000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"prompt",
        b'{"prompt": "a fox"',
        b'{"prompt": "a fox"} {"prompt": "another"}',
        b'{"prompt": "a fox",}',
        b"{'prompt': 'a fox'}",
        b"prompt=a+fox",
        b"\x00",
        b"\xff\xfe\xfd",
        b'{"prompt": "\xff"}',
        b'{"seed": 1' + b"0" * 5000 + b"}",
        b'{"a":' * DEPTH + b"1" + b"}" * DEPTH,
        b'{"prompt": ' + b"[" * DEPTH + b"]" * DEPTH + b"}",
        b"[" * DEPTH,
    ],
    ids=lambda body: repr(body[:24]),
)
def test_a_body_that_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="not JSON") as caught:
        decode(body)

    assert [problem.kind for problem in caught.value.problems] == ["json_invalid"]


@pytest.mark.parametrize("body", [b"[]", b"null", b'"a fox"', b"1", b"true", b'[{"prompt": "a fox"}]'])
def test_a_body_that_is_not_an_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="must be a JSON object"):
        decode(body)


def test_a_number_of_too_many_digits_has_a_message_of_our_own() -> None:
    with pytest.raises(InvalidRequest, match=r"a number in it has too many digits$"):
        decode(b'{"seed": 1' + b"0" * 5000 + b"}")


@pytest.mark.parametrize(
    ("body", "sent"), [('{"seed": 1, "n": 1, "seed": 2}', 2), ('{"size": {"seed": 1, "seed": 1}}', 1)]
)
def test_a_field_that_is_given_twice_is_refused_by_name(body: str, sent: int) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(body.encode())

    (problem,) = caught.value.problems
    assert (problem.field, problem.kind, problem.value) == ("seed", "too_many", [1, sent])


def test_an_object_has_at_most_a_hundred_fields() -> None:
    """Each may be a problem of its own: without a limit the answer takes gigabytes."""
    fields = [f'"field{number}": 1' for number in range(101)]

    assert len(decode(f"{{{', '.join(fields[:-1])}}}".encode())) == 100
    with pytest.raises(InvalidRequest, match="101 fields; allowed: up to 100"):
        decode(f"{{{', '.join(fields)}}}".encode())


def test_a_body_of_many_small_values_is_refused_before_it_is_read() -> None:
    assert decode(b'{"prompt": "' + b"," * 4000 + b'"}')
    with pytest.raises(InvalidRequest, match="more than 100000 commas"):
        decode(b"[" + b"0," * 100_001)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"Size": 1}, "Size"),
        ({"Preset": 1}, "Preset"),
        ({"image_size": {"Size": 1}}, "image_size.Size"),
        ({"image_size": {"width": 1}}, "image_size.width"),
        ({"image_size": "huge"}, "image_size"),
    ],
)
def test_a_field_is_named_as_the_caller_named_it(fields: dict[str, object], named: str) -> None:
    assert [problem.field for problem in refused(FIELDS["srpo"], prompt="x", **fields)] == [named]


def test_a_long_name_is_not_repeated_in_full() -> None:
    (problem,) = refused(FIELDS["srpo"], prompt="x", **{"x" * 1_000_000: 1})

    assert len(problem.field) == 80
    assert len(problem.message) < 1000


def test_a_nested_body_that_can_be_parsed_can_be_refused() -> None:
    """Depth makes no difference: Python may parse what it cannot serialise."""
    readable = 0
    for depth in range(1, 1200):
        try:
            body = decode(b'{"prompt": "x", "seed": ' + b"[" * depth + b"]" * depth + b"}")
        except InvalidRequest:
            break
        assert [problem.field for problem in refused(FIELDS["srpo"], **body)] == ["seed"]
        readable = depth
    assert 100 < readable < 1199


@pytest.mark.parametrize("wish", ["[]", "null", "60", '{"initial_acl": 1}'])
def test_a_lifecycle_preference_that_is_no_object_has_a_message_of_our_own(wish: str) -> None:
    with pytest.raises(InvalidRequest, match="must be a JSON object") as caught:
        parse_keep_seconds(wish, max_seconds=60)

    assert "instance" not in str(caught.value)


def refused(model: type[ModelFields], **fields: object) -> list[Problem]:
    """Return what is wrong with these fields."""
    with pytest.raises(InvalidRequest) as caught:
        parse(model, fields)
    return caught.value.problems


def test_an_object_is_read() -> None:
    assert decode('{"prompt": "füchschen \U0001f98a", "n": 1.0}'.encode()) == {"prompt": "füchschen 🦊", "n": 1.0}


def test_sizes_and_ratios_are_those_of_the_catalogue() -> None:
    assert get_args(Preset) == tuple(catalogue.SIZE_PRESETS)
    assert get_args(AspectRatio) == tuple(catalogue.KONTEXT_SIZES)


@pytest.mark.parametrize("size", ["512x512", "big", 512])
def test_a_refused_size_tells_that_sides_are_allowed(size: str | int) -> None:
    (srpo,) = (endpoint for endpoint in of(["native"]) if endpoint.id == "srpo")

    (problem,) = srpo.problems({"image_size": size})

    assert "'landscape_16_9', or width and height in pixels; sent: " in problem.message


def _models() -> Iterator[type[Input]]:
    """Yield the shape of every body, query and header that the dialects read."""
    for module in pkgutil.iter_modules(dialects.__path__, f"{dialects.__name__}."):
        for member in vars(importlib.import_module(module.name)).values():
            if isinstance(member, type) and issubclass(member, Input):
                yield member


def _endless_lists(schema: object, path: str = "") -> Iterator[str]:
    """Yield where a JSON schema has a list of any length: each of its elements may be wrong, and is named then."""
    if isinstance(schema, dict):
        if schema.get("type") == "array" and "maxItems" not in schema:
            yield path
        for name, part in schema.items():
            yield from _endless_lists(part, f"{path}.{name}")
    elif isinstance(schema, list):
        for part in schema:
            yield from _endless_lists(part, path)


def test_every_list_that_a_caller_sends_has_a_greatest_length() -> None:
    found = {model: list(_endless_lists(model.model_json_schema())) for model in _models()}

    assert len(found) > 30
    assert {model: lists for model, lists in found.items() if lists} == {}
