"""Calls for images at `/v1`, single or in a bulk file: the dialect that a call is in, and the order that it means."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from farm.dialects import openai, registry
from farm.dialects.openai_common import ImagesDialect, ParsedCall
from farm.dialects.unknown_fields import UnknownFields
from farm.domain.catalogue import Model, find
from farm.domain.errors import InvalidRequest, Problem, UnknownModel
from farm.service import Service, random_seed

_DIALECTS = tuple(dialect.images for dialect in registry.DIALECTS if dialect.images)
#: The models of each dialect at these paths, by their ids.
_IDS = (*(dialect.GENERATES for dialect in _DIALECTS), openai.EDITS)

Fields = Mapping[str, Any]


class ImageCalls:
    """Parses calls: the model id selects the dialect, and an alias stands for another id."""

    def __init__(self, service: Service, unknown_fields: UnknownFields) -> None:
        self._service = service
        self._unknown_fields = unknown_fields

    def dialect(self, fields: Fields) -> tuple[ImagesDialect, str]:
        """Return the dialect that the model id selects, and that id without an alias.

        Raises InvalidRequest and UnknownModel.
        """
        model_id = fields.get("model")
        if not isinstance(model_id, str):
            message = f"a model id is required, as a string; served here: {', '.join(self.served())}"
            raise InvalidRequest(
                [Problem("model", message, "missing" if model_id is None else "string_type", model_id)]
            )
        target = self._without_alias(model_id)
        dialects = [dialect for dialect in _DIALECTS if target in dialect.GENERATES]
        if not dialects and target not in openai.EDITS:
            raise self.unknown(model_id)
        return dialects[0] if dialects else openai, target

    def generation(self, fields: Fields, dialect: ImagesDialect, model_id: str) -> ParsedCall:
        """Parse a generation in the dialect of its model. Raises InvalidRequest and what `Service.model` raises."""
        _refuse_other_path(model_id, dialect.GENERATES, "needs an image; send it to /v1/images/edits")
        return self._read(dialect.generation, fields, model_id)

    def edit(self, fields: Fields, model_id: str, files: Sequence[tuple[str, bytes]] = ()) -> ParsedCall:
        """Parse an edit and its files, each with its field's name. Raises what `generation` raises."""
        _refuse_other_path(model_id, openai.EDITS, "takes no image; send it to /v1/images/generations")
        return self._read(partial(openai.edit, files=files), fields, model_id)

    def served(self) -> list[str]:
        """Return the ids of the served models, in every dialect at these paths."""
        served = [(model_id, model) for ids in _IDS for model_id, model in ids.items() if self._service.offers(model)]
        aliases = [alias for _, model in served for alias in self._service.aliases(model)]
        return list(dict.fromkeys([*(model_id for model_id, _ in served), *aliases]))

    def unknown(self, model_id: str) -> UnknownModel:
        """Return the error for an id that no model has."""
        return UnknownModel(
            f"No model has the id '{model_id[:100]}'; served here: {', '.join(self.served()) or 'nothing yet'}"
        )

    def _without_alias(self, model_id: str) -> str:
        """Return the id at these paths that an alias stands for: the model's name if it means an id of other paths."""
        target = self._service.target(model_id)
        if target == model_id or any(target in ids for ids in _IDS):
            return target
        return model.name if (model := find(target)) else target

    def _read(self, parse: Callable[..., ParsedCall], fields: Fields, model_id: str) -> ParsedCall:
        """Parse a call that may name its model by an alias; `model_id` is the id that the dialect knows."""
        seeded = partial(parse, default_seed=random_seed())
        call, warnings = self._unknown_fields.read(seeded, {**fields, "model": model_id})
        self._service.model(call.order.request.model)
        return replace(call, order=replace(call.order.with_notes(warnings), endpoint=fields["model"]))


def _refuse_other_path(model_id: str, models: Mapping[str, Model], message: str) -> None:
    if model_id not in models:
        raise InvalidRequest([Problem("model", f"'{model_id}' {message}", "model_not_here", model_id)])
