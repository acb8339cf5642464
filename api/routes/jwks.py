"""`/.well-known/jwks.json`: the public key of fal's webhooks. No key is asked for: receivers have none."""

from __future__ import annotations

import flask

from farm.dialects.answers.fal import SigningKeys
from farm.webhooks import signing
from farm.webhooks.secrets import Secrets

#: Receivers may keep the answer for so long, in seconds; fal's say at most a day.
MAX_AGE = 3600


def routes(secrets: Secrets) -> flask.Blueprint:
    blueprint = flask.Blueprint("jwks", __name__)

    @blueprint.get("/.well-known/jwks.json")
    def keys() -> tuple[SigningKeys, int, dict[str, str]]:
        return signing.jwks(secrets.signing_key()), 200, {"Cache-Control": f"public, max-age={MAX_AGE}"}

    return blueprint
