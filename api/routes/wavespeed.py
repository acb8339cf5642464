"""`/api/v3`: WaveSpeed's submit, result, list, delete, webhook secret. Its SDKs take exactly 200 for a submit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import flask

from api.context import ApiContext
from api.http import query
from api.http.body import IMAGES_BODY, read_body, read_bytes
from farm.auth.api_keys import Caller
from farm.dialects import wavespeed
from farm.dialects.answers.wavespeed import (
    SUCCESS,
    DeletedAnswer,
    PredictionAnswer,
    PredictionPageAnswer,
    WaveSpeedSecretAnswer,
)
from farm.dialects.fields import decode
from farm.domain.catalogue import MODELS, Model
from farm.domain.errors import NotFinished, NotFound, UnknownModel
from farm.domain.job import Job
from farm.service import Service, random_seed


def routes(context: ApiContext) -> flask.Blueprint:
    service, authenticator, held_calls, links = (
        context.service,
        context.authenticator,
        context.held_calls,
        context.links,
    )
    blueprint = flask.Blueprint("wavespeed", __name__, url_prefix="/api/v3")

    @blueprint.post("/<other_than('(?:predictions|webhook/secret|media/uploads?)(?:/|$)'):endpoint>")
    def submit(endpoint: str) -> PredictionAnswer:
        caller = authenticator.submitter()
        endpoint = endpoint.rstrip("/")
        model = _model(service, endpoint)
        body = read_body(wavespeed.NAME, endpoint, max_bytes=IMAGES_BODY)
        asked = wavespeed.read(body.fields, _query(), endpoint=endpoint, model=model.name, default_seed=random_seed())
        service.model(asked.order.request.model)  # with an image it is another one
        order = replace(asked.order, idempotency_key=body.idempotency_key, body_digest=body.digest)
        if asked.held:
            return wavespeed.held_answer(held_calls.job(caller, order), links)
        return wavespeed.answer(service.submit_and_get(caller, order), links)

    @blueprint.get("/predictions/<job_id>", strict_slashes=False)
    @blueprint.get("/predictions/<job_id>/result", strict_slashes=False)
    def result(job_id: str) -> PredictionAnswer:
        return wavespeed.answer(service.get(authenticator.caller(), job_id), links)

    @blueprint.route("/predictions", methods=["GET", "POST"], strict_slashes=False)
    def page() -> PredictionPageAnswer:
        caller = authenticator.caller()
        body = read_bytes()
        listing = wavespeed.read_listing(decode(body) if body else {}, _query())
        jobs, total = service.search(caller, listing.search, skip=listing.skip, count=listing.size)
        return wavespeed.page(listing, jobs, total, links)

    @blueprint.post("/predictions/delete", strict_slashes=False)
    def delete() -> DeletedAnswer:
        caller = authenticator.caller()
        query.refuse_others()
        found = list(_known(service, caller, wavespeed.read_deletion(decode(read_bytes()))))
        if unfinished := [job.id for job in found if not job.state.is_terminal]:
            raise NotFinished(f"Nothing was deleted, because these have not ended yet: {', '.join(unfinished)}")
        for job in found:
            with suppress(NotFound):  # somebody else was quicker
                service.delete(caller, job.id)
        return wavespeed.deleted(len(found))

    @blueprint.get("/webhook/secret", strict_slashes=False)
    def secret() -> WaveSpeedSecretAnswer:
        return {**SUCCESS, "data": {"secret": context.farm.secrets.of(authenticator.caller().id)}}

    return blueprint


def _model(service: Service, endpoint: str) -> Model:
    """The model of this id. Raises UnknownModel, also for the id of another dialect; and what the service raises."""
    if not any(endpoint in model.of(wavespeed.NAME) for model in MODELS):
        served = [
            model_id for model in MODELS if model.name in service.served() for model_id in model.of(wavespeed.NAME)
        ]
        raise UnknownModel(f"No model has the id '{endpoint[:100]}'; served here: {', '.join(served) or 'nothing yet'}")
    return service.model(endpoint)


def _known(service: Service, caller: Caller, job_ids: list[str]) -> Iterator[Job]:
    """The caller's jobs among these; at WaveSpeed what is no such job is no error."""
    for job_id in job_ids:
        with suppress(NotFound):
            yield service.get(caller, job_id)


def _query() -> str:
    """The query of the current request's address, as it was sent."""
    return flask.request.query_string.decode(errors="replace")
