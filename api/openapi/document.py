"""The OpenAPI document, generated from the descriptions of the routes.

The schemas are pydantic's, of the same types that read requests and build answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib import import_module
from typing import Any, Literal

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from api.openapi import batches, keys, public, uploads, usage
from api.openapi.operation import UNREADABLE, Body, Operation, Parameter, Response, Section
from farm import __version__
from farm.dialects.registry import DIALECTS

_DESCRIBED: tuple[Section, ...] = (
    *(
        import_module(f"api.openapi.{module}").SECTION
        for module in dict.fromkeys(dialect.routes for dialect in DIALECTS)
    ),
    batches.SECTION,
    keys.SECTION,
    usage.SECTION,
    uploads.SECTION,
    public.SECTION,
)
#: In the order of the document.
SECTIONS = tuple(
    replace(
        section,
        operations=tuple(replace(item, responses={**UNREADABLE, **item.responses}) for item in section.operations),
    )
    for section in _DESCRIBED
)

_DESCRIPTION = """Renders FLUX SRPO and FLUX.1 Kontext on this farm's own GPUs, through the APIs of several providers.

Unknown fields are rejected with an error that names them. Every request for images creates a job, and `/farm/v1` acts
on the jobs of every dialect. While the farm listens on localhost only, any API key is accepted.

A farm without real weights renders with `miniature`, a small network trained on drawn shapes: its images show that the
farm works, not what SRPO or Kontext can do. `GET /farm/v1/models` names the weights that are loaded."""

_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, created with `farm keys create NAME`."},
    "key": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "The same key after `Key `, as fal's clients send it, or on its own.",
    },
}
_GUARDED: list[dict[str, list[str]]] = [{"bearer": []}, {"key": []}]

#: Pydantic's names for the limits of types with custom validators, and JSON Schema's.
_LIMITS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}

#: Requests are validated, responses are serialised.
_Mode = Literal["validation", "serialization"]


class _Schemas:
    """The schemas of all types in the document, generated together so that shared models appear once."""

    def __init__(self, sections: Iterable[Section]) -> None:
        operations = (item for section in sections for item in (*section.operations, *section.webhooks))
        adapters = {key: TypeAdapter(key[0]) for operation in operations for key in _types(operation)}
        schemas, common = TypeAdapter.json_schemas(
            [(key, key[1], adapter) for key, adapter in adapters.items()],
            ref_template="#/components/schemas/{model}",
            schema_generator=_SchemaGenerator,
        )
        self._schemas = {key: schema for (key, _), schema in schemas.items()}
        self.components: dict[str, Any] = common["$defs"]

    def of(self, type_: Any, mode: _Mode) -> dict[str, Any]:
        """Return the schema of a type; without a type, the schema that allows anything."""
        return {} if type_ is None else self._schemas[type_, mode]


class _SchemaGenerator(GenerateJsonSchema):
    """Leaves out the titles of fields, which repeat their names, and gives limits JSON Schema's names."""

    def field_title_should_be_set(self, _: Any) -> bool:
        return False

    def generate_inner(self, schema: Any) -> dict[str, Any]:
        return {_LIMITS.get(name, name): value for name, value in super().generate_inner(schema).items()}


def document(base: str) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of the API at the URL `base`."""
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
        "info": {"title": "srpo-farm", "version": __version__, "description": _DESCRIPTION},
        "servers": [{"url": base}],
        "tags": [{"name": section.name, "description": section.description} for section in SECTIONS],
        "paths": paths,
        "webhooks": webhooks,
        "components": {"schemas": schemas.components, "securitySchemes": _KEYS},
    }


def _types(operation: Operation) -> Iterator[tuple[Any, _Mode]]:
    for parameter in operation.parameters:
        yield parameter.type, "validation"
    if operation.body:
        yield from ((type_, "validation") for type_ in (operation.body.type, operation.body.form) if type_ is not None)
    for response in operation.responses.values():
        if response.type is not None:
            yield response.type, "serialization"
        for header in response.headers:
            yield header.type, "serialization"


def _operation(operation: Operation, tag: str, schemas: _Schemas) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [tag],
        "security": [] if operation.is_open else _GUARDED,
        "responses": {
            str(status): _response(response, schemas) for status, response in sorted(operation.responses.items())
        },
    }
    if parameters := [*_path_parameters(operation), *(_parameter(item, schemas) for item in operation.parameters)]:
        described["parameters"] = parameters
    if operation.body:
        described["requestBody"] = _body(operation.body, schemas)
    return described


def _path_parameters(operation: Operation) -> Iterator[dict[str, Any]]:
    """Yield the parameters in braces in the path; all of them are strings."""
    for name in re.findall(r"{(\w+)}", operation.path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _parameter(parameter: Parameter, schemas: _Schemas) -> dict[str, Any]:
    head = {"name": parameter.name, "in": parameter.where, "required": parameter.is_required}
    return head | _description_and_schema(parameter, schemas, "validation")


def _description_and_schema(parameter: Parameter, schemas: _Schemas, mode: _Mode) -> dict[str, Any]:
    description = {"description": parameter.description} if parameter.description else {}
    return {**description, "schema": schemas.of(parameter.type, mode)}


def _body(body: Body, schemas: _Schemas) -> dict[str, Any]:
    content: dict[str, Any] = {body.media_type: {"schema": schemas.of(body.type, "validation")}}
    if body.example:
        content[body.media_type]["example"] = body.example
    if body.form is not None:
        content["multipart/form-data"] = {"schema": schemas.of(body.form, "validation")}
    return {"required": body.is_required, "content": content}


def _response(response: Response, schemas: _Schemas) -> dict[str, Any]:
    described: dict[str, Any] = {"description": response.description}
    if response.headers:
        described["headers"] = {
            header.name: {
                "required": header.is_required,
                **_description_and_schema(header, schemas, "serialization"),
            }
            for header in response.headers
        }
    if response.media_types:
        content = {"schema": schemas.of(response.type, "serialization")}
        described["content"] = dict.fromkeys(response.media_types, content)
    return described
