"""Routes of webhook deliveries: `/farm/v1/deliveries` and `/farm/v1/webhook_secret`, for jobs of every dialect."""

from __future__ import annotations

import flask

from api.auth import Authenticator
from api.http import query
from api.http.body import read_bytes, refuse_fields
from farm.dialects import native
from farm.dialects.answers.native import FarmDeliveries, FarmDelivery, WebhookSecret
from farm.dialects.fields import Input, decode, parse
from farm.webhooks.service import WebhookService


class Trial(Input):
    """The webhook receiver that a test event is sent to."""

    url: str


def routes(webhook_service: WebhookService, *, authenticator: Authenticator) -> flask.Blueprint:
    blueprint = flask.Blueprint("deliveries", __name__, url_prefix="/farm/v1")

    @blueprint.get("/deliveries")
    def page() -> FarmDeliveries:
        caller = authenticator.caller()
        query.refuse_others("limit", "before")
        count, before = query.page()
        found = webhook_service.page(caller, before_us=before, count=count)
        following = found[-1].created_us if len(found) == count else None
        return {"deliveries": [native.delivery(item) for item in found], "before": following}

    @blueprint.get("/deliveries/<delivery_id>")
    def get(delivery_id: str) -> FarmDelivery:
        caller = authenticator.caller()
        query.refuse_others()
        return native.delivery(webhook_service.get(caller, delivery_id))

    @blueprint.post("/deliveries/<delivery_id>/redeliver")
    def redeliver(delivery_id: str) -> tuple[FarmDelivery, int]:
        caller = authenticator.caller()
        query.refuse_others()
        refuse_fields()
        return native.delivery(webhook_service.redeliver(caller, delivery_id)), 202

    @blueprint.post("/deliveries")
    def test() -> tuple[FarmDelivery, int]:
        caller = authenticator.caller()
        query.refuse_others()
        trial = parse(Trial, decode(read_bytes()))
        return native.delivery(webhook_service.test(caller, trial.url)), 202

    @blueprint.get("/webhook_secret")
    def secret() -> WebhookSecret:
        caller = authenticator.caller()
        query.refuse_others()
        return {"secret": webhook_service.secret(caller)}

    return blueprint
