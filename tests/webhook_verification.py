"""Verification of webhooks as the providers' sample receivers do it, written without the farm's own code."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def is_from_wavespeed(secret: str, headers: Mapping[str, str], body: bytes) -> bool:
    """Verify as WaveSpeed's sample receiver does: the key is the secret's text after its prefix, not decoded."""
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = hmac.new(secret.removeprefix("whsec_").encode(), signed, hashlib.sha256).hexdigest()
    version, _, signature = headers["webhook-signature"].partition(",")
    return version == "v3" and hmac.compare_digest(signature, expected)


def is_from_fal(jwks: Mapping[str, Any], headers: Mapping[str, str], body: bytes) -> bool:
    """Verify as fal's sample receiver does, which tries every key; the padding that it needs is added to `x`."""
    sent = {name.lower(): value for name, value in headers.items()}
    facts = [sent[f"x-fal-webhook-{name}"] for name in ("request-id", "user-id", "timestamp")]
    signed = "\n".join([*facts, hashlib.sha256(body).hexdigest()]).encode()
    signature = bytes.fromhex(sent["x-fal-webhook-signature"])
    return any(_verifies(key["x"], signature, signed) for key in jwks["keys"])


def _verifies(key: str, signature: bytes, signed: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(key + "==")).verify(signature, signed)
    except InvalidSignature:
        return False
    return True
