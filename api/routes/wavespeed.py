"""`/api/v3`: WaveSpeed's submit and result. Its SDKs take exactly 200 for an accepted submit."""

from __future__ import annotations

from typing import Any

import flask

from api.auth import Doorman
from api.body import read_body
from farm.catalogue import Model
from farm.dialects import wavespeed
from farm.errors import InvalidRequest, Problem, UnknownModel
from farm.service import Order, Service, random_seed


def routes(service: Service, *, doorman: Doorman, base: str) -> flask.Blueprint:
    """The blueprint; `base` begins every URL it hands out."""
    blueprint = flask.Blueprint("wavespeed", __name__, url_prefix="/api/v3")

    @blueprint.post("/<path:endpoint>")
    def submit(endpoint: str) -> dict[str, Any]:
        caller = doorman.caller()
        endpoint = endpoint.rstrip("/")
        model = _model(service, endpoint)
        _refuse_query()
        body = read_body()
        request = wavespeed.read(body.fields, model=model.name, spare_seed=random_seed())
        order = Order(endpoint, request, idempotency_key=body.idempotency_key, body_digest=body.digest)
        accepted = service.submit(caller, order)
        return wavespeed.envelope(wavespeed.prediction(service.get(caller, accepted.id), base))

    @blueprint.get("/predictions/<job_id>")
    @blueprint.get("/predictions/<job_id>/result")
    def result(job_id: str) -> dict[str, Any]:
        return wavespeed.envelope(wavespeed.prediction(service.get(doorman.caller(), job_id), base))

    return blueprint


def _model(service: Service, endpoint: str) -> Model:
    model = service.model(endpoint)
    if endpoint not in model.wavespeed:
        raise UnknownModel(f"'{endpoint}' is no WaveSpeed id here; allowed: {', '.join(model.wavespeed)}")
    return model


def _refuse_query() -> None:
    for name in flask.request.args:
        message = "this farm does not send webhooks yet; poll the result" if name == "webhook" else "unknown parameter"
        raise InvalidRequest([Problem(name, message, "feature_not_supported")])
