"""Routes of API keys, for admins: what `farm keys` does, over HTTP."""

from __future__ import annotations

from typing import Annotated

import flask
from pydantic import Field

from api.auth import Authenticator
from api.http import query
from api.http.body import read_bytes
from farm import clock
from farm.auth.api_keys import ApiKey, ApiKeyStore
from farm.dialects.answers.native import ApiKeyFacts, ApiKeys, NewApiKey, RevokedKeys
from farm.dialects.fields import Flag, Input, Whole, decode, parse
from farm.domain.errors import InvalidRequest, NotFound, Problem
from farm.domain.limits import MAX_COUNT, MAX_RATE, Limits


class WantedKey(Input):
    """The API key to create. A limit that is absent or null is the farm's default; 0 means no limit."""

    name: str
    admin: Flag = False
    rate: Annotated[Whole, Field(ge=0, le=MAX_RATE)] | None = None
    waiting: Annotated[Whole, Field(ge=0, le=MAX_COUNT)] | None = None
    images_per_day: Annotated[Whole, Field(ge=0, le=MAX_COUNT)] | None = None


def routes(callers: ApiKeyStore, *, authenticator: Authenticator) -> flask.Blueprint:
    blueprint = flask.Blueprint("keys", __name__, url_prefix="/farm/v1")

    @blueprint.get("/keys")
    def page() -> ApiKeys:
        authenticator.refuse_all_but_admins("manage keys")
        query.refuse_others()
        return {"keys": [_shown(key) for key in callers.all()]}

    @blueprint.post("/keys")
    def create() -> tuple[NewApiKey, int]:
        authenticator.refuse_all_but_admins("manage keys")
        query.refuse_others()
        wanted = parse(WantedKey, decode(read_bytes()))
        limits = Limits(wanted.rate, wanted.waiting, wanted.images_per_day)
        try:
            key = callers.create(wanted.name, is_admin=wanted.admin, limits=limits)
        except ValueError as error:
            raise InvalidRequest([Problem("name", str(error), "string_pattern_mismatch", wanted.name)]) from error
        return {"name": wanted.name, "key": key}, 201

    @blueprint.delete("/keys")
    def revoke() -> RevokedKeys:
        authenticator.refuse_all_but_admins("manage keys")
        query.refuse_others("name")
        name = flask.request.args.get("name")
        if not name:
            raise InvalidRequest([Problem("name", "a key's name or id is required", "missing")])
        revoked = callers.revoke(name)
        if not revoked:
            raise NotFound("No key has this name or id.")
        return {"revoked": revoked}

    return blueprint


def _shown(key: ApiKey) -> ApiKeyFacts:
    return {
        "id": key.id,
        "name": key.name,
        "admin": key.is_admin,
        "rate": key.limits.rate,
        "waiting": key.limits.waiting,
        "images_per_day": key.limits.images_per_day,
        "created_at": clock.iso(key.created_us),
    }
