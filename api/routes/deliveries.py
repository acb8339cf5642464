"""`/farm/v1/deliveries`: what was told to webhooks, of jobs of every dialect, with every try."""

from __future__ import annotations

from typing import Any

import flask

from api.auth import Doorman
from api.http import query
from api.http.body import read_bytes
from farm.dialects import native
from farm.dialects.fields import Input, decode, parse
from farm.webhooks.service import Desk


class Trial(Input):
    """A receiver to be tried."""

    url: str


def routes(desk: Desk, *, doorman: Doorman) -> flask.Blueprint:
    blueprint = flask.Blueprint("deliveries", __name__, url_prefix="/farm/v1")

    @blueprint.get("/deliveries")
    def page() -> dict[str, Any]:
        caller = doorman.caller()
        query.refuse_others("limit", "before")
        count, before = query.page()
        found = desk.page(caller, before_us=before, count=count)
        following = found[-1].created_us if len(found) == count else None
        return {"deliveries": [native.delivery(item) for item in found], "before": following}

    @blueprint.get("/deliveries/<delivery_id>")
    def get(delivery_id: str) -> dict[str, Any]:
        caller = doorman.caller()
        query.refuse_others()
        return native.delivery(desk.get(caller, delivery_id))

    @blueprint.post("/deliveries/<delivery_id>/redeliver")
    def redeliver(delivery_id: str) -> tuple[dict[str, Any], int]:
        caller = doorman.caller()
        query.refuse_others()
        return native.delivery(desk.redeliver(caller, delivery_id)), 202

    @blueprint.post("/deliveries")
    def test() -> tuple[dict[str, Any], int]:
        caller = doorman.caller()
        query.refuse_others()
        trial = parse(Trial, decode(read_bytes()))
        return native.delivery(desk.test(caller, trial.url)), 202

    @blueprint.get("/webhook_secret")
    def secret() -> dict[str, str]:
        caller = doorman.caller()
        query.refuse_others()
        return {"secret": desk.secret(caller)}

    return blueprint
