"""`/api/v3`: WaveSpeed's submit, result, list and webhook secret. Its SDKs take exactly 200 for an accepted submit."""

from __future__ import annotations

from typing import Any

import flask

from api.body import read_body, read_bytes
from api.house import House
from farm.callers import Caller
from farm.catalogue import Model
from farm.dialects import wavespeed
from farm.dialects.fields import decode
from farm.errors import UnknownModel
from farm.job import Job, Order
from farm.service import Service, random_seed


def routes(house: House) -> flask.Blueprint:
    service, doorman, held, links = house.service, house.doorman, house.held, house.links
    blueprint = flask.Blueprint("wavespeed", __name__, url_prefix="/api/v3")

    @blueprint.post("/<other_than('(?:predictions|webhook/secret)(?:/|$)'):endpoint>")
    def submit(endpoint: str) -> dict[str, Any]:
        caller = doorman.caller()
        endpoint = endpoint.rstrip("/")
        model = _model(service, endpoint)
        body = read_body(wavespeed.NAME, endpoint)
        asked = wavespeed.read(body.fields, _query(), model=model.name, spare_seed=random_seed())
        order = Order(
            endpoint,
            asked.request,
            dialect=wavespeed.NAME,
            webhook=asked.webhook,
            inline=asked.inline,
            idempotency_key=body.idempotency_key,
            body_digest=body.digest,
        )
        if asked.held:
            return wavespeed.envelope(wavespeed.held_prediction(_ended(caller, order), links))
        accepted = service.submit(caller, order)
        return wavespeed.envelope(wavespeed.prediction(service.get(caller, accepted.id), links))

    def _ended(caller: Caller, order: Order) -> Job:
        """The job at its end, or where it stands when it was waited for long enough."""
        with held.place():
            return held.wait(caller, service.submit(caller, order).id)

    @blueprint.get("/predictions/<job_id>", strict_slashes=False)
    @blueprint.get("/predictions/<job_id>/result", strict_slashes=False)
    def result(job_id: str) -> dict[str, Any]:
        return wavespeed.envelope(wavespeed.prediction(service.get(doorman.caller(), job_id), links))

    @blueprint.route("/predictions", methods=["GET", "POST"], strict_slashes=False)
    def page() -> dict[str, Any]:
        caller = doorman.caller()
        body = read_bytes()
        listing = wavespeed.read_listing(decode(body) if body else {}, _query())
        jobs, total = service.search(caller, listing.search, skip=listing.skip, count=listing.size)
        return wavespeed.envelope(wavespeed.page(listing, jobs, total, links))

    @blueprint.get("/webhook/secret", strict_slashes=False)
    def secret() -> dict[str, Any]:
        return wavespeed.envelope({"secret": house.farm.secrets.of(doorman.caller().id)})

    return blueprint


def _model(service: Service, endpoint: str) -> Model:
    model = service.model(endpoint)
    if endpoint not in (ids := model.of(wavespeed.NAME)):
        raise UnknownModel(f"'{endpoint}' is no WaveSpeed id here; allowed: {', '.join(ids)}")
    return model


def _query() -> str:
    """The query of the current request's address, as it was sent."""
    return flask.request.query_string.decode(errors="replace")
