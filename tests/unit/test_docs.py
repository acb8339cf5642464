"""What the documentation tells people to copy works."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from farm.webhooks import signing
from tests.docs_snippets import names_in

BODY = b'{"status":"OK"}'
SECRET = signing.new_secret()


@pytest.fixture(scope="module")
def verifiers() -> dict[str, Callable[..., bool]]:
    return names_in("webhooks.md")


def lower(headers: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def test_the_verifier_of_wavespeeds_dialect_knows_genuine_from_forged(verifiers: dict[str, Any]) -> None:
    headers = lower(signing.wavespeed(SECRET, message_id="m", timestamp=1_760_000_000, body=BODY))

    assert verifiers["is_from_wavespeed"](SECRET, headers, BODY)
    assert not verifiers["is_from_wavespeed"](SECRET, headers, BODY + b" ")
    assert not verifiers["is_from_wavespeed"](signing.new_secret(), headers, BODY)


def test_the_verifier_of_fals_dialect_knows_genuine_from_forged(verifiers: dict[str, Any]) -> None:
    key, other = (signing.read_key(signing.new_key()) for _ in range(2))
    headers = lower(signing.fal(key, request_id="r", user_id="u", timestamp=1_760_000_000, body=BODY))

    assert verifiers["is_from_fal"](signing.jwks(key), headers, BODY)
    assert not verifiers["is_from_fal"](signing.jwks(key), headers, BODY + b" ")
    assert not verifiers["is_from_fal"](signing.jwks(other), headers, BODY)
