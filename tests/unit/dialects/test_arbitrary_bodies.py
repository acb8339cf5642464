"""Arbitrary bodies: each dialect makes an order of them or reports what is wrong, in its own format, and soon."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from api.http.json import FastJson
from farm.dialects import (
    aimlapi,
    fal,
    fal_storage,
    native,
    openai,
    openai_common,
    registry,
    siraya,
    wavespeed,
    wavespeed_media,
)
from farm.dialects.fields import Input, decode, parse
from farm.domain.catalogue import MODELS
from farm.domain.errors import InvalidRequest

Body = Mapping[str, Any]
Read = Callable[[Body], object]
SEED = 7


def _v1(read: Callable[..., object], ids: Iterable[str], *files: object) -> Read:
    """Return a reader at `/v1` for the dialect that the model id selects."""
    model_id = min(ids)
    return lambda body: read({**body, "model": model_id}, *files, default_seed=SEED)


def _of_a_form(body: Body, files: Any, *, default_seed: int) -> object:
    return openai.edit(openai_common.form_fields(body), files, default_seed=default_seed)


def _fals_headers(body: Body) -> object:
    return fal.conditions(lambda name: text if isinstance(text := body.get(name), str) else None, max_keep_seconds=60)


def _a_wish(body: Body) -> object:
    return fal_storage.read_keep_seconds(
        lambda name: text if isinstance(text := body.get(name), str) else None, max_seconds=60
    )


def _of_model(read: Callable[..., object], dialect: str) -> dict[str, Read]:
    """Return a reader for each model that the dialect names."""

    def bind(model: str, endpoint: str) -> Read:
        words = {"model": model, "default_seed": SEED}
        if dialect == "native":
            return lambda body: read(body, **words)
        return lambda body: read(body, **words, endpoint=endpoint)

    named = [(model.name, ids[0]) for model in MODELS if (ids := model.of(dialect))]
    return {f"{dialect} {name}": bind(name, endpoint) for name, endpoint in named}


def _waves(body: Body, **words: Any) -> object:
    query = "&".join(f"{name}={value}" for name, value in body.items() if isinstance(value, str))
    return wavespeed.read(body, query.encode(errors="replace").decode(), **words)


#: Dialect and what is read → the reader.
READERS: dict[str, Read] = {
    **_of_model(native.read, "native"),
    **_of_model(fal.read, "fal"),
    **_of_model(_waves, "wavespeed"),
    "wavespeed list": lambda body: wavespeed.read_listing(body, ""),
    "wavespeed delete": wavespeed.read_deletion,
    "wavespeed upload": lambda body: parse(wavespeed_media.Announcement, body),
    "openai generation": _v1(openai.generation, openai.GENERATES),
    "openai edit": _v1(openai.edit, openai.EDITS, ()),
    "openai form": _v1(_of_a_form, openai.EDITS, (("image", b"x"),)),
    "aimlapi generation": _v1(aimlapi.generation, aimlapi.GENERATES),
    "siraya generation": _v1(siraya.generation, siraya.GENERATES),
    "fal headers": _fals_headers,
    "fal wish": _a_wish,
    "fal upload": lambda body: parse(fal_storage.Announcement, body),
    "fal parts": fal_storage.read_parts,
}


def _inputs(kind: type[BaseModel] = Input) -> Iterator[type[BaseModel]]:
    for one in kind.__subclasses__():
        yield one
        yield from _inputs(one)


#: Every field that any dialect has, and every header that is read.
NAMES = sorted(
    {field.alias or name for kind in _inputs() for name, field in kind.model_fields.items()}
    | {fal.REQUEST_TIMEOUT, fal.NO_RETRY, fal.STORE_IO, fal.RUNNER_HINT, *fal_storage.LIFECYCLES}
)
#: The ids by which models are called at /v1.
MODEL_IDS = sorted({model_id for dialect in (openai, aimlapi, siraya) for model_id in dialect.GENERATES})
#: Texts that mean something somewhere, or nearly.
WORDS = [
    *MODEL_IDS, "srpo", "1024x768", "1024*768", "1024x", "x", "*", "-1x-1", "9" * 500 + "x1", "auto", "1:1", "0:0",
    "square", "regular", "none", "png", "b64_json", "data:,", "data:;base64,", "data:image/png;base64,x", "http://",
    "http://[", "https://you.example/fox.png", "file:///etc/passwd", "1", "1e999", "-0", "nan", "²", "٣", "true", "\0",
    "\ud800", "🦊" * 99, '{"a":' * 99, "30", '{"expiration_duration_seconds": 1e999}', "2026-01-01", "a" * 5000,
    '{"initial_acl": {"default": 1}}',
]  # fmt: skip

plain = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 1, 2.0, 2.5, 10**30, -(10**400), 1e308, -0.0, float("nan"), float("inf")])
    | st.floats()
    | st.sampled_from(WORDS)
    | st.text(st.characters(exclude_categories=()), max_size=40)
)
values = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.sampled_from(NAMES) | st.text(), inner, max_size=4),
    max_leaves=8,
)
bodies = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=20), values, max_size=6)
#: What makes a body whole, so that what else it says is looked at.
BASES = st.sampled_from([{}, {"prompt": "a fox"}, {"prompt": "a fox", "model": "srpo", "image_url": "data:,"}])


def result(name: str, error: InvalidRequest) -> str:
    """Return the error response."""
    assert error.problems
    dialect = registry.by_name(name.split()[0])
    body: str = FastJson.dumps(None, dict(dialect.error_response(422, error).body))  # type: ignore[arg-type]  # needs no app
    return body


def outcome(name: str, body: Body) -> str:
    """Return the error response to the body; empty if it is accepted."""
    try:
        READERS[name](body)
    except InvalidRequest as error:
        json.loads(result(name, error))
        return result(name, error)
    return ""


@pytest.mark.parametrize("name", READERS)
@given(base=BASES, result=bodies)
@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
def test_a_body_is_read_or_refused(name: str, base: dict[str, Any], result: dict[str, Any]) -> None:
    assert len(outcome(name, base | result)) < 100_000


@given(text=st.binary(max_size=200) | bodies.map(lambda body: json.dumps(body).encode()))
@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
def test_bytes_are_an_object_or_refused(text: bytes) -> None:
    try:
        assert isinstance(decode(text), dict)
    except InvalidRequest as error:
        json.loads(result("native", error))


@pytest.mark.parametrize("name", READERS)
def test_a_long_text_is_read_or_refused_soon(name: str) -> None:
    """In every field, and made of what its grammar may stumble over."""
    began = time.process_time()
    for text in ("9" * 40_000, "1x" * 20_000, " " * 40_000, "data:" * 8_000, "http://" + "a." * 20_000):
        outcome(name, {"prompt": "a fox"} | dict.fromkeys(NAMES, text))

    assert time.process_time() - began < 5
