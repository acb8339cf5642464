"""Webhook signatures, verified by the published library and by the providers' own sample receivers."""

from __future__ import annotations

import base64
import json
import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from farm.domain.errors import ConfigurationError
from farm.webhooks import signing
from tests.webhook_verification import is_from_fal, is_from_wavespeed

BODY = '{"type":"job.completed","prompt":"füchschen 🦊"}'.encode()
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
SEED = base64.b64encode(bytes(range(32))).decode()


def standard(*, secret: str = SECRET, timestamp: int | None = None) -> dict[str, str]:
    return signing.standard(secret, message_id="evt_1", timestamp=timestamp or int(time.time()), body=BODY)


def test_the_published_library_takes_a_standard_signature() -> None:
    assert Webhook(SECRET).verify(BODY, standard()) == json.loads(BODY)


def test_a_new_secret_is_one_for_the_published_library() -> None:
    secret = signing.new_secret()

    Webhook(secret).verify(BODY, standard(secret=secret))
    assert len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 32
    assert secret.startswith("whsec_")
    assert secret != signing.new_secret()


def test_a_standard_signature_does_not_fit_another_body() -> None:
    with pytest.raises(WebhookVerificationError, match="No matching signature"):
        Webhook(SECRET).verify(BODY + b" ", standard())


def test_a_standard_signature_does_not_fit_another_secret() -> None:
    with pytest.raises(WebhookVerificationError, match="No matching signature"):
        Webhook(signing.new_secret()).verify(BODY, standard())


def test_a_standard_signature_does_not_fit_another_id() -> None:
    with pytest.raises(WebhookVerificationError, match="No matching signature"):
        Webhook(SECRET).verify(BODY, standard() | {"webhook-id": "evt_2"})


def test_a_standard_signature_grows_old() -> None:
    with pytest.raises(WebhookVerificationError, match="too old"):
        Webhook(SECRET).verify(BODY, standard(timestamp=int(time.time()) - 301))


def test_a_standard_signature_does_not_fit_another_time() -> None:
    headers = standard(timestamp=int(time.time()) - 200)

    with pytest.raises(WebhookVerificationError, match="No matching signature"):
        Webhook(SECRET).verify(BODY, headers | {"webhook-timestamp": str(int(time.time()))})


def test_wavespeeds_vector() -> None:
    headers = signing.wavespeed(
        "whsec_farm-test-secret",
        message_id="pred-1",
        timestamp=1760000000,
        body=b'{"id":"pred-1","status":"completed"}',
    )

    assert headers == {
        "webhook-id": "pred-1",
        "webhook-timestamp": "1760000000",
        "webhook-signature": "v3,bb51899c6060e42c7059d8a811b57d9a5dd9d2413d711dda902b7f53484c5951",
    }


def test_wavespeeds_receiver_takes_it_and_nothing_else() -> None:
    secret = signing.new_secret()
    headers = signing.wavespeed(secret, message_id="pred-1", timestamp=1760000000, body=BODY)

    assert is_from_wavespeed(secret, headers, BODY)
    assert not is_from_wavespeed(secret, headers, BODY + b" ")
    assert not is_from_wavespeed(signing.new_secret(), headers, BODY)
    assert not is_from_wavespeed(secret, headers | {"webhook-timestamp": "1760000001"}, BODY)


def fal(*, key: str, user_id: str = "user-1", timestamp: int = 1760000000, body: bytes = BODY) -> dict[str, str]:
    return signing.fal(signing.read_key(key), request_id="req-1", user_id=user_id, timestamp=timestamp, body=body)


def test_fals_vector() -> None:
    body = b'{"request_id":"req-1","gateway_request_id":"req-1","status":"OK","payload":{"images":[]}}'

    assert fal(key=SEED, body=body) == {
        "X-Fal-Webhook-Request-Id": "req-1",
        "X-Fal-Webhook-User-Id": "user-1",
        "X-Fal-Webhook-Timestamp": "1760000000",
        "X-Fal-Webhook-Signature": "e79491e7f32176d70385093e2a1fb58e0613496b2cbe963828cfda921f0fb5317"
        "ac8029200e60417b4d151cbd752bdaf42fdc168823efa97d533d85544463a00",
    }


def test_fals_public_key() -> None:
    (key,) = signing.jwks(signing.read_key(SEED))["keys"]

    assert (key["kty"], key["crv"]) == ("OKP", "Ed25519")
    assert key["x"] == "A6EHv_POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg"
    assert key == signing.jwks(signing.read_key(SEED))["keys"][0]
    assert key["kid"] != signing.jwks(signing.read_key(signing.new_key()))["keys"][0]["kid"]


def test_the_id_of_a_key_is_its_thumbprint() -> None:
    """RFC 8037, appendix A.3: key and thumbprint."""
    seed = base64.urlsafe_b64decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=")

    (key,) = signing.jwks(signing.read_key(base64.b64encode(seed).decode()))["keys"]

    assert key["x"] == "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
    assert key["kid"] == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_padding_changes_nothing_but_the_padding() -> None:
    (padded,) = signing.jwks(signing.read_key(SEED), padded=True)["keys"]

    assert padded | {"x": padded["x"].removesuffix("=")} == signing.jwks(signing.read_key(SEED))["keys"][0]
    assert base64.urlsafe_b64decode(padded["x"])  # as fal's sample does


def test_fals_receiver_takes_it_and_nothing_else() -> None:
    key = signing.new_key()
    keys, headers = (
        signing.jwks(signing.read_key(key)),
        fal(key=key, user_id="user-3", timestamp=1760000003),
    )

    assert is_from_fal(keys, headers, BODY)
    assert not is_from_fal(keys, headers, BODY + b" ")
    assert not is_from_fal(keys, headers | {"X-Fal-Webhook-User-Id": "user-2"}, BODY)
    assert not is_from_fal(keys, headers | {"X-Fal-Webhook-Timestamp": "1760000001"}, BODY)
    assert not is_from_fal(signing.jwks(signing.read_key(signing.new_key())), headers, BODY)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "not base64!",
        base64.b64encode(bytes(31)).decode(),
        base64.b64encode(bytes(33)).decode(),
        SEED + "\n",
        "schlüssel",
    ],
)
def test_an_invalid_signing_key_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        signing.read_key(text)

    assert "FARM_SIGNING_KEY" in str(refused.value)
    assert "32 bytes in base64" in str(refused.value)
    assert len(text) < 5 or text not in str(refused.value)
