"""Webhook signatures as each provider's receivers verify them: headers made of a key, a time and the body. Pure."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from farm.dialects.answers.fal import SigningKeys
from farm.domain.errors import ConfigurationError

_PREFIX = "whsec_"
_SEED_BYTES = 32


def new_secret() -> str:
    """Return a new secret for sender and receiver to share."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def standard(secret: str, *, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers of Standard Webhooks, version 1: the key is the decoded secret."""
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    signature = base64.b64encode(_mac(key, message_id, timestamp, body).digest()).decode()
    return _headers(message_id, timestamp, f"v1,{signature}")


def wavespeed(secret: str, *, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return WaveSpeed's headers, version 3: the same, but the key is the secret's text, and the signature is hex."""
    key = secret.removeprefix(_PREFIX).encode()
    return _headers(message_id, timestamp, f"v3,{_mac(key, message_id, timestamp, body).hexdigest()}")


def fal(key: Ed25519PrivateKey, *, request_id: str, user_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return fal's headers: an ED25519 signature over four lines, the last of which is the SHA-256 of the body."""
    lines = [request_id, user_id, str(timestamp), hashlib.sha256(body).hexdigest()]
    return {
        "X-Fal-Webhook-Request-Id": request_id,
        "X-Fal-Webhook-User-Id": user_id,
        "X-Fal-Webhook-Timestamp": str(timestamp),
        "X-Fal-Webhook-Signature": key.sign("\n".join(lines).encode()).hex(),
    }


def jwks(key: Ed25519PrivateKey, *, padded: bool = False) -> SigningKeys:
    """Return the public half of `key` as the JWKS that receivers fetch.

    RFC 8037 has no padding in `x`; with `padded` it is there, for receivers that need it.
    """
    x = _base64url(key.public_key().public_bytes_raw())
    # RFC 7638: the members that the key type requires, in the order of their names, without spaces.
    thumbprint = hashlib.sha256(f'{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}'.encode()).digest()
    shown = x + "=" * (-len(x) % 4) if padded else x
    key_id = _base64url(thumbprint)
    return {"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": key_id, "x": shown, "use": "sig", "alg": "EdDSA"}]}


def new_key() -> str:
    """Return a new ED25519 key as text: its seed in base64."""
    return base64.b64encode(secrets.token_bytes(_SEED_BYTES)).decode()


def read_key(text: str) -> Ed25519PrivateKey:
    """Return the key that `text` holds. Raises ConfigurationError, which does not show the text."""
    try:
        return Ed25519PrivateKey.from_private_bytes(base64.b64decode(text, validate=True))
    except ValueError:
        raise ConfigurationError(
            f"FARM_SIGNING_KEY cannot be used; allowed: {_SEED_BYTES} bytes in base64, as "
            f"`openssl rand -base64 {_SEED_BYTES}` makes them"
        ) from None


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _mac(key: bytes, message_id: str, timestamp: int, body: bytes) -> hmac.HMAC:
    return hmac.new(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)


def _headers(message_id: str, timestamp: int, signature: str) -> dict[str, str]:
    return {"webhook-id": message_id, "webhook-timestamp": str(timestamp), "webhook-signature": signature}
