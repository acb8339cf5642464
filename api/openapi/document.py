"""The OpenAPI document, put together from what is said of each route.

Schemas of calls are pydantic's own, of the very types that read them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib import import_module
from typing import Any, Literal

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from api.openapi import keys, public, uploads
from api.openapi.operation import UNREAD, Answer, Body, Operation, Parameter, Section
from farm import __version__
from farm.dialects.registry import DIALECTS

_SAID: tuple[Section, ...] = (
    *(
        import_module(f"api.openapi.{module}").SECTION
        for module in dict.fromkeys(dialect.routes for dialect in DIALECTS)
    ),
    keys.SECTION,
    uploads.SECTION,
    public.SECTION,
)
#: In the order in which they are read.
SECTIONS = tuple(
    replace(section, operations=tuple(replace(item, answers={**UNREAD, **item.answers}) for item in section.operations))
    for section in _SAID
)

_ABOUT = """Renders FLUX SRPO and FLUX.1 Kontext on this farm's own GPUs, in the words of several providers.

A field is honoured or refused by name. Every call that asks for images makes a job, and `/farm/v1` acts on jobs of
every dialect. While the farm listens on its own machine only, any key does.

A farm without real weights renders with `miniature`, a small network trained on drawn shapes: its images show that
the farm works, and say nothing about SRPO's or Kontext's. `GET /farm/v1/models` names the weights that are loaded."""

_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, as `farm keys create NAME` shows it."},
    "key": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "The same key after `Key `, as fal's clients send it, or alone.",
    },
}
_GUARDED: list[dict[str, list[str]]] = [{"bearer": []}, {"key": []}]

#: What pydantic calls limits of types that have a validator of their own, and what JSON Schema does.
_LIMITS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}

#: A call's body and parameters are read, an answer is written.
_Mode = Literal["validation", "serialization"]


class _Schemas:
    """Schemas of all types that the document names, made together so that each model stands in it once."""

    def __init__(self, sections: Iterable[Section]) -> None:
        said = (item for section in sections for item in (*section.operations, *section.webhooks))
        wanted = {key: TypeAdapter(key[0]) for operation in said for key in _kinds(operation)}
        made, common = TypeAdapter.json_schemas(
            [(key, key[1], adapter) for key, adapter in wanted.items()],
            ref_template="#/components/schemas/{model}",
            schema_generator=_Plain,
        )
        self._made = {key: schema for (key, _), schema in made.items()}
        self.components: dict[str, Any] = common["$defs"]

    def of(self, kind: Any, mode: _Mode) -> dict[str, Any]:
        """The schema of a type; of none, what takes anything."""
        return {} if kind is None else self._made[kind, mode]


class _Plain(GenerateJsonSchema):
    """Without a title for every field, which says its name again; limits under JSON Schema's names."""

    def field_title_should_be_set(self, _: Any) -> bool:
        return False

    def generate_inner(self, schema: Any) -> dict[str, Any]:
        return {_LIMITS.get(name, name): value for name, value in super().generate_inner(schema).items()}


def document(base: str) -> dict[str, Any]:
    """All routes of the API that is reached at `base`, as OpenAPI 3.1."""
    schemas = _Schemas(SECTIONS)
    paths: dict[str, dict[str, Any]] = {}
    webhooks: dict[str, dict[str, Any]] = {}
    for section in SECTIONS:
        for operation in section.operations:
            paths.setdefault(operation.path, {})[operation.method] = _operation(operation, section.name, schemas)
        for call in section.webhooks:
            webhooks[call.path] = {call.method: _operation(call, section.name, schemas)}
    return {
        "openapi": "3.1.0",
        "info": {"title": "srpo-farm", "version": __version__, "description": _ABOUT},
        "servers": [{"url": base}],
        "tags": [{"name": section.name, "description": section.about} for section in SECTIONS],
        "paths": paths,
        "webhooks": webhooks,
        "components": {"schemas": schemas.components, "securitySchemes": _KEYS},
    }


def _kinds(operation: Operation) -> Iterator[tuple[Any, _Mode]]:
    for parameter in operation.parameters:
        yield parameter.kind, "validation"
    if operation.body:
        yield from ((kind, "validation") for kind in (operation.body.kind, operation.body.form) if kind is not None)
    for answer in operation.answers.values():
        if answer.kind is not None:
            yield answer.kind, "serialization"
        for header in answer.headers:
            yield header.kind, "serialization"


def _operation(operation: Operation, tag: str, schemas: _Schemas) -> dict[str, Any]:
    said: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [tag],
        "security": [] if operation.is_open else _GUARDED,
        "responses": {str(status): _answer(answer, schemas) for status, answer in sorted(operation.answers.items())},
    }
    if parameters := [*_in_path(operation), *(_parameter(item, schemas) for item in operation.parameters)]:
        said["parameters"] = parameters
    if operation.body:
        said["requestBody"] = _body(operation.body, schemas)
    return said


def _in_path(operation: Operation) -> Iterator[dict[str, Any]]:
    """What stands in braces in a path; ids and names are all text."""
    for name in re.findall(r"{(\w+)}", operation.path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _parameter(parameter: Parameter, schemas: _Schemas) -> dict[str, Any]:
    place = {"name": parameter.name, "in": parameter.where, "required": parameter.is_required}
    return place | _described(parameter, schemas, "validation")


def _described(parameter: Parameter, schemas: _Schemas, mode: _Mode) -> dict[str, Any]:
    about = {"description": parameter.about} if parameter.about else {}
    return {**about, "schema": schemas.of(parameter.kind, mode)}


def _body(body: Body, schemas: _Schemas) -> dict[str, Any]:
    content: dict[str, Any] = {body.media_type: {"schema": schemas.of(body.kind, "validation")}}
    if body.example:
        content[body.media_type]["example"] = body.example
    if body.form is not None:
        content["multipart/form-data"] = {"schema": schemas.of(body.form, "validation")}
    return {"required": body.is_required, "content": content}


def _answer(answer: Answer, schemas: _Schemas) -> dict[str, Any]:
    said: dict[str, Any] = {"description": answer.about}
    if answer.headers:
        said["headers"] = {
            header.name: {"required": header.is_required, **_described(header, schemas, "serialization")}
            for header in answer.headers
        }
    if answer.media_types:
        content = {"schema": schemas.of(answer.kind, "serialization")}
        said["content"] = dict.fromkeys(answer.media_types, content)
    return said
