"""Routes of `/v1`: the image calls of OpenAI's libraries, in OpenAI's, AI/ML API's or Siraya's dialect."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import flask

from api.context import ApiContext
from api.http import errors, multipart, query
from api.http.body import IMAGES_BODY, RequestBody, read_body
from farm import clock
from farm.auth.api_keys import Caller
from farm.dialects import openai, openai_common, registry
from farm.dialects.answers.images import ListedModel, ListedModels
from farm.dialects.openai_common import ImagesDialect, ParsedCall
from farm.domain.catalogue import Model, find
from farm.domain.errors import InvalidRequest, Problem, UnknownModel
from farm.service import Service, random_seed

_PREFIX = "/v1/"
_DIALECTS = tuple(dialect.images for dialect in registry.DIALECTS if dialect.images)

#: The models of each dialect at this path, by their ids.
_IDS = (*(dialect.GENERATES for dialect in _DIALECTS), openai.EDITS)


def routes(context: ApiContext) -> flask.Blueprint:
    service, authenticator, held_calls = (
        context.service,
        context.authenticator,
        context.held_calls,
    )
    default_format = context.farm.settings.openai_response_format
    blueprint = flask.Blueprint("images", __name__, url_prefix="/v1")

    @blueprint.post("/images/generations", strict_slashes=False)
    def generations() -> flask.Response:
        caller = authenticator.submitter()
        query.refuse_others()
        body = read_body("generations")
        dialect, model_id = _dialect(service, body.fields)
        _refuse_other_path(model_id, dialect.GENERATES, "needs an image; send it to /v1/images/edits")
        return respond(caller, dialect, body, read(dialect.generation, body, model_id))

    @blueprint.post("/images/edits", strict_slashes=False)
    def edits() -> flask.Response:
        caller = authenticator.submitter()
        query.refuse_others()
        body = _form() if flask.request.mimetype == multipart.TYPE else read_body("edits", max_bytes=IMAGES_BODY)
        dialect, model_id = _dialect(service, body.fields)
        _refuse_other_path(model_id, openai.EDITS, "takes no image; send it to /v1/images/generations")
        return respond(caller, dialect, body, read(partial(openai.edit, files=body.files), body, model_id))

    @blueprint.get("/models", strict_slashes=False)
    def models() -> ListedModels:
        authenticator.caller()
        query.refuse_others()
        return {"object": "list", "data": [_listed(model_id) for model_id in _served(service)]}

    @blueprint.get("/models/<path:model_id>", strict_slashes=False)
    def model(model_id: str) -> ListedModel:
        authenticator.caller()
        query.refuse_others()
        if model_id not in _served(service):
            raise _unknown(service, model_id)
        return _listed(model_id)

    def read(parse: Callable[..., ParsedCall], body: RequestBody, model_id: str) -> ParsedCall:
        """Parse a call that may name its model by an alias; `model_id` is the id that the dialect knows."""
        fields = {**body.fields, "model": model_id}
        call, warnings = context.unknown_fields.read(partial(parse, default_seed=random_seed()), fields)
        return replace(call, order=replace(call.order.with_notes(warnings), endpoint=body.fields["model"]))

    def respond(caller: Caller, dialect: ImagesDialect, body: RequestBody, call: ParsedCall) -> flask.Response:
        """Return the response to a call: its images or its error."""
        service.model(call.order.request.model)
        order = replace(
            call.order,
            idempotency_key=body.idempotency_key,
            body_digest=body.digest,
        )
        job = held_calls.job(caller, order)
        flask.g.request_id = job.id
        if job.result:
            result_format = default_format if call.result_format == "both" else call.result_format
            response = flask.jsonify(dialect.answer(job, job.result, result_format, context.links))
            response.status_code = dialect.SUCCESS
            return response
        return errors.answer(
            *(
                openai_common.failure(job)
                if job.state.is_terminal
                else openai_common.timed_out(job.id, context.links.base)
            )
        )

    @blueprint.after_app_request
    def add_request_id(response: flask.Response) -> flask.Response:
        if not flask.request.path.startswith(_PREFIX):
            return response
        job_id = flask.g.get("request_id")
        request_id = response.headers["X-Request-Id"] = job_id or str(uuid.uuid4())
        if response.status_code >= 400:
            facts = openai_common.call_facts(flask.request.path, request_id, clock.now_us())
            response.set_data(flask.json.dumps((response.get_json(silent=True) or {}) | facts))
            if job_id:  # a retry of an accepted call would create a second job
                response.headers["X-Should-Retry"] = "false"
                response.headers.pop("Retry-After", None)
        return response

    return blueprint


def _form() -> RequestBody:
    form = multipart.read_form("edits", max_bytes=IMAGES_BODY)
    return replace(form, fields=openai_common.form_fields(form.fields))


def _dialect(service: Service, body: Mapping[str, Any]) -> tuple[ImagesDialect, str]:
    """Return the dialect that the model id selects, and that id without an alias.

    Raises InvalidRequest and UnknownModel.
    """
    model_id = body.get("model")
    if not isinstance(model_id, str):
        message = f"a model id is required, as a string; served here: {', '.join(_served(service))}"
        raise InvalidRequest([Problem("model", message, "missing" if model_id is None else "string_type", model_id)])
    target = _without_alias(service, model_id)
    dialects = [dialect for dialect in _DIALECTS if target in dialect.GENERATES]
    if not dialects and target not in openai.EDITS:
        raise _unknown(service, model_id)
    dialect = dialects[0] if dialects else openai
    flask.g.dialect = registry.by_name(dialect.NAME)
    return dialect, target


def _without_alias(service: Service, model_id: str) -> str:
    """Return the id at this path that an alias stands for: the model's name if the alias means an id of other paths."""
    target = service.target(model_id)
    if target == model_id or any(target in ids for ids in _IDS):
        return target
    return model.name if (model := find(target)) else target


def _refuse_other_path(model_id: str, models: Mapping[str, Model], message: str) -> None:
    if model_id not in models:
        raise InvalidRequest([Problem("model", f"'{model_id}' {message}", "model_not_here", model_id)])


def _served(service: Service) -> list[str]:
    """Return the ids of the served models, in every dialect at this path."""
    served = [(model_id, model) for ids in _IDS for model_id, model in ids.items() if service.offers(model)]
    aliases = [alias for _, model in served for alias in service.aliases(model)]
    return list(dict.fromkeys([*(model_id for model_id, _ in served), *aliases]))


def _unknown(service: Service, model_id: str) -> UnknownModel:
    return UnknownModel(
        f"No model has the id '{model_id[:100]}'; served here: {', '.join(_served(service)) or 'nothing yet'}"
    )


def _listed(model_id: str) -> ListedModel:
    """Build the answer that shows a model. Its time of creation is unknown."""
    return {"id": model_id, "object": "model", "created": 0, "owned_by": "srpo-farm"}
