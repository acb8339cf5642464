"""Signing secrets of webhooks: one per caller, and one ED25519 key for fal's. Created once, kept in Redis."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import redis
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from farm.jobstore import redis_keys
from farm.jobstore.connection import translated
from farm.jobstore.disk_guard import Guard, no_guard
from farm.webhooks import signing


class Secrets:
    """The secrets, the same for every replica."""

    def __init__(self, client: redis.Redis, guard: Guard = no_guard, *, signing_key: str | None) -> None:
        self._redis = client
        self._guard = guard
        self._configured_key = signing.read_key(signing_key) if signing_key else None

    def of(self, caller: str) -> str:
        """Return the caller's secret, `whsec_…`."""
        return self._get_or_create(redis_keys.webhook_secret(caller), signing.new_secret)

    def signing_key(self) -> Ed25519PrivateKey:
        return self._configured_key or signing.read_key(self._get_or_create(redis_keys.SIGNING_KEY, signing.new_key))

    def _get_or_create(self, name: str, make: Callable[[], str]) -> str:
        with translated():
            known = cast(str | None, self._redis.get(name))
            if known is None:
                self._guard("create_secret")
                self._redis.set(name, make(), nx=True)  # another process may have been quicker
                known = cast(str, self._redis.get(name))
        return known
