"""Routes of WaveSpeed's dialect, `/api/v3`. Its SDKs accept only 200 as the answer to a submit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from functools import partial

import flask

from api.context import ApiContext
from api.http import query
from api.http.body import IMAGES_BODY, read_body, read_bytes
from farm.auth.api_keys import Caller
from farm.concurrency.slots import Slots
from farm.dialects import wavespeed
from farm.dialects.answers.wavespeed import (
    SUCCESS,
    DeletedAnswer,
    PredictionAnswer,
    PredictionPageAnswer,
    WaveSpeedModelsAnswer,
    WaveSpeedSecretAnswer,
)
from farm.dialects.fields import decode
from farm.domain.catalogue import MODELS, Model
from farm.domain.errors import ConcurrencyLimitReached, NotFinished, NotFound, UnknownModel
from farm.domain.job import Job
from farm.service import Service, random_seed

#: Searches by status or model at a time, one of each caller: each reads the records of all jobs that its caller has.
MAX_SEARCHES = 2
#: How long, and how many at a time, further ones wait.
SEARCH_WAIT_SECONDS, MAX_WAITING_SEARCHES = 10.0, 8

_MODELS = tuple(model for model in MODELS if model.of(wavespeed.NAME))


def routes(context: ApiContext) -> flask.Blueprint:
    service, authenticator, held_calls = (
        context.service,
        context.authenticator,
        context.held_calls,
    )
    searches = Slots(MAX_SEARCHES, per_key=1, max_waiting=MAX_WAITING_SEARCHES)
    blueprint = flask.Blueprint("wavespeed", __name__, url_prefix="/api/v3")

    @blueprint.post("/<path_except('(?:predictions|webhook/secret|media/uploads?)(?:/|$)'):endpoint>")
    def submit(endpoint: str) -> PredictionAnswer:
        caller = authenticator.submitter()
        endpoint = endpoint.rstrip("/")
        model = _model(service, endpoint)
        body = read_body(wavespeed.NAME, endpoint, max_bytes=IMAGES_BODY)
        read = partial(wavespeed.read, query=_query(), endpoint=endpoint, model=model.name, default_seed=random_seed())
        parsed, warnings = context.unknown_fields.read(read, body.fields)
        service.model(parsed.order.request.model, wavespeed.NAME)  # with an image, it is another model
        order = replace(
            parsed.order.with_notes(warnings), idempotency_key=body.idempotency_key, body_digest=body.digest
        )
        if parsed.held:
            return wavespeed.held_answer(held_calls.job(caller, order), context.links)
        return wavespeed.answer(service.submit_and_get(caller, order), context.links)

    @blueprint.get("/predictions/<job_id>", strict_slashes=False)
    @blueprint.get("/predictions/<job_id>/result", strict_slashes=False)
    def result(job_id: str) -> PredictionAnswer:
        job = service.get(authenticator.caller(), job_id)
        query.refuse_others()
        return wavespeed.answer(job, context.links)

    @blueprint.route("/predictions", methods=["GET", "POST"], strict_slashes=False)
    def page() -> PredictionPageAnswer:
        caller = authenticator.caller()
        body = read_bytes()
        listing = wavespeed.read_listing(decode(body) if body else {}, _query())
        if listing.search is None:
            return wavespeed.page(listing, [], 0, context.links)
        with nullcontext() if listing.search.is_by_time_only else searching(caller):
            jobs, total = service.search(caller, listing.search, skip=listing.skip, count=listing.size)
        return wavespeed.page(listing, jobs, total, context.links)

    def searching(caller: Caller) -> AbstractContextManager[None]:
        refusal = ConcurrencyLimitReached(
            "Too many searches by status or model are running; try again when one is done."
        )
        return searches.held(caller.id, timeout=SEARCH_WAIT_SECONDS, refusal=refusal)

    @blueprint.post("/predictions/delete", strict_slashes=False)
    def delete() -> DeletedAnswer:
        caller = authenticator.caller()
        query.refuse_others()
        found = list(_known(service, caller, wavespeed.read_deletion(decode(read_bytes()))))
        if unfinished := [job.id for job in found if not job.state.is_terminal]:
            raise NotFinished(f"Nothing was deleted, since these have not ended yet: {', '.join(unfinished)}")
        for job in found:
            with suppress(NotFound):  # deleted meanwhile
                service.delete(caller, job.id)
        return wavespeed.deleted(len(found))

    @blueprint.get("/models", strict_slashes=False)
    def models() -> WaveSpeedModelsAnswer:
        authenticator.caller()
        query.refuse_others()
        price = context.farm.settings.price_per_image
        return wavespeed.models(_served(service), price=price, base=context.links.base)

    @blueprint.get("/webhook/secret", strict_slashes=False)
    def secret() -> WaveSpeedSecretAnswer:
        caller = authenticator.caller()
        query.refuse_others()
        return {**SUCCESS, "data": {"secret": context.farm.secrets.of(caller.id)}}

    return blueprint


def _model(service: Service, endpoint: str) -> Model:
    """Return the model with this WaveSpeed id. Raises UnknownModel and ModelNotServed."""
    if not any(endpoint in _ids(service, model) for model in _MODELS):
        served = ", ".join(model_id for model_id, _ in _served(service)) or "nothing yet"
        raise UnknownModel(f"No model has the id '{endpoint[:100]}'; served here: {served}")
    return service.model(endpoint, wavespeed.NAME)


def _ids(service: Service, model: Model) -> tuple[str, ...]:
    """Return the ids by which callers of this dialect name a model."""
    return (*model.of(wavespeed.NAME), *service.aliases(model))


def _served(service: Service) -> list[tuple[str, Model]]:
    """Return every id of the models that are served in this dialect, with its model."""
    offered = [model for model in _MODELS if service.offers(model, wavespeed.NAME)]
    return [(model_id, model) for model in offered for model_id in _ids(service, model)]


def _known(service: Service, caller: Caller, job_ids: list[str]) -> Iterator[Job]:
    """Yield the caller's jobs among these ids; WaveSpeed ignores unknown ids."""
    for job_id in job_ids:
        with suppress(NotFound):
            yield service.get(caller, job_id)


def _query() -> str:
    """Return the query string of the current request, as it was sent."""
    return flask.request.query_string.decode(errors="replace")
