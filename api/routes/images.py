"""Routes of `/v1`: the image calls of OpenAI's libraries, in OpenAI's, AI/ML API's or Siraya's dialect."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import flask

from api.context import ApiContext
from api.http import errors, multipart, query
from api.http.body import IMAGES_BODY, RequestBody, read_body
from api.http.request_id import set_request_id
from farm import clock
from farm.auth.api_keys import Caller
from farm.dialects import openai_common, registry
from farm.dialects.answers.images import ListedModel, ListedModels
from farm.dialects.openai_common import ImagesDialect, ParsedCall

_PREFIX = "/v1/"
#: Longest `Retry-After` that a library may wait for by itself, in seconds: OpenAI's for JavaScript waits for any.
MAX_RETRY_AFTER = 60


def routes(context: ApiContext) -> flask.Blueprint:
    authenticator, calls = context.authenticator, context.image_calls
    blueprint = flask.Blueprint("images", __name__, url_prefix="/v1")
    blueprint.after_app_request(_with_request_id)

    @blueprint.post("/images/generations", strict_slashes=False)
    def generations() -> flask.Response:
        caller = authenticator.submitter()
        query.refuse_others()
        body = read_body("generations")
        dialect, model_id = select(body.fields)
        return _answer(context, caller, dialect, _repeatable(calls.generation(body.fields, dialect, model_id), body))

    @blueprint.post("/images/edits", strict_slashes=False)
    def edits() -> flask.Response:
        caller = authenticator.submitter()
        query.refuse_others()
        body = _form() if flask.request.mimetype == multipart.TYPE else read_body("edits", max_bytes=IMAGES_BODY)
        dialect, model_id = select(body.fields)
        return _answer(context, caller, dialect, _repeatable(calls.edit(body.fields, model_id, body.files), body))

    @blueprint.get("/models", strict_slashes=False)
    def models() -> ListedModels:
        authenticator.caller()
        query.refuse_others()
        return {"object": "list", "data": [_listed(model_id) for model_id in calls.served()]}

    @blueprint.get("/models/<path:model_id>", strict_slashes=False)
    def model(model_id: str) -> ListedModel:
        authenticator.caller()
        query.refuse_others()
        if model_id not in calls.served():
            raise calls.unknown(model_id)
        return _listed(model_id)

    def select(fields: Mapping[str, Any]) -> tuple[ImagesDialect, str]:
        """Return the dialect of a call, in which its errors are answered, too, and its model id without an alias."""
        dialect, model_id = calls.dialect(fields)
        flask.g.dialect = registry.by_name(dialect.NAME)
        return dialect, model_id

    return blueprint


def _repeatable(call: ParsedCall, body: RequestBody) -> ParsedCall:
    """Return the call with what its body says of repetitions."""
    order = replace(call.order, idempotency_key=body.idempotency_key, body_digest=body.digest)
    return replace(call, order=order)


def _answer(context: ApiContext, caller: Caller, dialect: ImagesDialect, call: ParsedCall) -> flask.Response:
    """Have a call rendered, and return the response to it: its images or its error."""
    job = context.held_calls.job(caller, call.order)
    flask.g.request_id = job.id
    if job.result:
        default_format = context.farm.settings.openai_response_format
        result_format = default_format if call.result_format == "both" else call.result_format
        response = flask.jsonify(dialect.answer(job, job.result, result_format, context.links))
        response.status_code = dialect.SUCCESS
        return response
    if job.state.is_terminal:
        return errors.answer(*openai_common.failure(job))
    return errors.answer(*openai_common.timed_out(job.id, context.links.base))


def _with_request_id(response: flask.Response) -> flask.Response:
    """Name the call in its response, and in the body of an error."""
    if not flask.request.path.startswith(_PREFIX):
        return response
    job_id = flask.g.get("request_id")
    request_id = set_request_id(job_id or str(uuid.uuid4()))
    if response.status_code >= 400:
        facts = openai_common.call_facts(flask.request.path, request_id, clock.now_us())
        response.set_data(flask.json.dumps((response.get_json(silent=True) or {}) | facts))
        if job_id:  # a retry of an accepted call would create a second job
            response.headers["X-Should-Retry"] = "false"
            response.headers.pop("Retry-After", None)
        elif response.headers.get("Retry-After", 0, int) > MAX_RETRY_AFTER:
            response.headers["X-Should-Retry"] = "false"
    return response


def _form() -> RequestBody:
    form = multipart.read_form("edits", max_bytes=IMAGES_BODY)
    return replace(form, fields=openai_common.form_fields(form.fields))


def _listed(model_id: str) -> ListedModel:
    """Build the answer that shows a model. Its time of creation is unknown."""
    return {"id": model_id, "object": "model", "created": 0, "owned_by": "srpo-farm"}
