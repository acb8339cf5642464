"""Route of the public key that verifies fal's webhooks, without an API key: receivers have none."""

from __future__ import annotations

import flask

from farm.dialects.answers.fal import SigningKeys
from farm.webhooks import signing
from farm.webhooks.secrets import Secrets

#: Cache time of the keys, in seconds. fal's receivers cache them for up to a day.
MAX_AGE = 3600


def routes(secrets: Secrets, *, padded: bool) -> flask.Blueprint:
    blueprint = flask.Blueprint("jwks", __name__)

    @blueprint.get("/.well-known/jwks.json")
    def keys() -> tuple[SigningKeys, int, dict[str, str]]:
        return signing.jwks(secrets.signing_key(), padded=padded), 200, {"Cache-Control": f"public, max-age={MAX_AGE}"}

    return blueprint
