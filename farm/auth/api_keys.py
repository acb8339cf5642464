"""API keys in Redis. A key is shown once and stored as a digest."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from dataclasses import fields as fields_of
from typing import Any, cast

import redis

from farm import clock
from farm.domain.errors import ConfigurationError
from farm.domain.job import UNKNOWN_ORIGIN, Origin
from farm.domain.limits import USUAL, Limits, Quota
from farm.jobstore import redis_keys
from farm.jobstore.connection import translated
from farm.jobstore.disk_guard import Guard, no_guard
from farm.loopback import is_loopback
from farm.settings import Settings

_KEY = re.compile(r"farm_([0-9a-f]{8})_([0-9A-Za-z_-]{43})")
_TOKEN = re.compile(r"farmtoken_([0-9a-f]{8})_([0-9]{10})_[0-9a-f]{64}")
#: The digest of no secret: compared if there is no such key, so that the comparison takes as long.
_NO_DIGEST = "-" * 64
_LIMITS = tuple(part.name for part in fields_of(Limits))
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request, identified by the name of its key: a renewed key of that name sees the same jobs.

    An admin may see every caller's jobs. `limits` are those of its key.
    """

    id: str
    is_admin: bool = False
    limits: Limits = USUAL
    #: The id of the key; empty: there are no keys.
    key_id: str = field(default="", compare=False)
    #: The base of this farm's URLs as a submit reached it; empty: unknown.
    base: str = field(default="", compare=False)
    #: The call that the caller makes.
    origin: Origin = field(default=UNKNOWN_ORIGIN, compare=False)
    #: Called before each image of a submit is read: True if nobody waits for the answer.
    has_disconnected: Callable[[], bool] = field(default=lambda: False, compare=False, repr=False)
    #: Called with what a submit has left of the limits.
    report_quotas: Callable[[tuple[Quota, ...]], object] = field(
        default=lambda _quotas: None, compare=False, repr=False
    )


#: The one caller while keys are off.
LOCAL = Caller("local", is_admin=True)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """The record of a key."""

    id: str
    name: str
    is_admin: bool
    created_us: int
    limits: Limits = USUAL


class ApiKeyStore:
    """The API keys. With 256 random bits a plain SHA-256 is enough: no slow password hash is needed."""

    def __init__(self, client: redis.Redis, guard: Guard = no_guard) -> None:
        self._redis = client
        self._guard = guard

    def create(self, name: str, *, is_admin: bool = False, limits: Limits = USUAL) -> str:
        """Create a key and return it in plain text, which is not stored. Raises ValueError for an invalid name."""
        if not _NAME.fullmatch(name):
            raise ValueError(
                "a name has letters, digits, '.', '_' and '-', at most 64, and begins with a letter or digit"
            )
        self._guard("create_key")
        key_id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
        # In one step: a key that is valid but not listed could not be revoked.
        with translated(), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.hset(
                redis_keys.api_key(key_id),
                mapping={
                    "name": name,
                    "admin": int(is_admin),
                    "digest": _digest(secret),
                    "created_us": clock.now_us(),
                    **_limit_fields(limits),
                },
            )
            pipeline.sadd(redis_keys.API_KEYS, key_id)
            pipeline.execute()
        return f"farm_{key_id}_{secret}"

    def all(self) -> list[ApiKey]:
        """Return all valid keys, by name."""
        with translated():
            ids = cast(set[str], self._redis.smembers(redis_keys.API_KEYS))
            records = {key_id: cast(dict[str, str], self._redis.hgetall(redis_keys.api_key(key_id))) for key_id in ids}
        found = [
            ApiKey(key_id, fields["name"], fields["admin"] == "1", int(fields["created_us"]), _limits(fields))
            for key_id, fields in records.items()
            if fields
        ]
        return sorted(found, key=lambda key: (key.name, key.created_us))

    def name_of(self, name_or_id: str) -> str:
        """Return the name of the key with this id; anything else is a name itself."""
        return next((key.name for key in self.all() if key.id == name_or_id), name_or_id)

    def revoke(self, name_or_id: str) -> int:
        """Make every key of this name or id invalid. Returns how many there were."""
        self._guard("revoke_key")
        revoked = self._ids_of(name_or_id)
        with translated():
            for key_id in revoked:
                self._redis.delete(redis_keys.api_key(key_id))
                self._redis.srem(redis_keys.API_KEYS, key_id)
        return len(revoked)

    def limit(self, name_or_id: str, limits: Limits) -> int:
        """Give every key of this name or id these limits from now on. Returns how many there are."""
        self._guard("limit_key")
        key_ids = self._ids_of(name_or_id)
        with translated(), self._redis.pipeline(transaction=True) as pipeline:
            for key_id in key_ids:
                pipeline.hdel(redis_keys.api_key(key_id), *_LIMITS)
                if fields := _limit_fields(limits):
                    pipeline.hset(redis_keys.api_key(key_id), mapping=fields)
            pipeline.execute()
        return len(key_ids)

    def identify(self, key: str) -> Caller | None:
        """Return the caller of this key, or None. The comparison takes constant time."""
        match = _KEY.fullmatch(key)
        if not match:
            return None
        fields = self._record(match[1])
        if not hmac.compare_digest(fields.get("digest", _NO_DIGEST), _digest(match[2])):
            return None
        return _caller(match[1], fields)

    def token(self, key: str, *, until: int) -> str | None:
        """Return a token for a valid key that expires at `until` (seconds since the epoch); None if the key is invalid.

        It is derived from the record of the key, and revoked with it.
        """
        match = _KEY.fullmatch(key)
        if not match or self.identify(key) is None:
            return None
        return _token(match[1], until, _digest(match[2]))

    def identify_token(self, token: str) -> Caller | None:
        """Return the caller of the key that this token stands for, or None."""
        match = _TOKEN.fullmatch(token)
        if not match or int(match[2]) * 1_000_000 <= clock.now_us():
            return None
        fields = self._record(match[1])
        genuine = _token(match[1], int(match[2]), fields.get("digest", ""))
        return _caller(match[1], fields) if fields and hmac.compare_digest(genuine, token) else None

    def _ids_of(self, name_or_id: str) -> list[str]:
        return [key.id for key in self.all() if name_or_id in (key.name, key.id)]

    def _record(self, key_id: str) -> dict[str, str]:
        with translated():
            return cast(dict[str, str], self._redis.hgetall(redis_keys.api_key(key_id)))


def _caller(key_id: str, fields: dict[str, str]) -> Caller:
    return Caller(fields["name"], fields["admin"] == "1", _limits(fields), key_id)


def _limits(fields: Mapping[str, str]) -> Limits:
    return Limits(**{name: int(fields[name]) for name in _LIMITS if name in fields})


def _limit_fields(limits: Limits) -> dict[Any, Any]:
    """Return the fields that store a key's limits."""
    return {name: value for name, value in asdict(limits).items() if value is not None}


def _token(key_id: str, until: int, digest: str) -> str:
    signature = hmac.new(digest.encode(), f"token {key_id} {until}".encode(), hashlib.sha256).hexdigest()
    return f"farmtoken_{key_id}_{until}_{signature}"


def wants_keys(settings: Settings, host: str) -> bool:
    """Return True if requests need a key: everywhere but on loopback, unless FARM_AUTH says otherwise."""
    return settings.auth == "keys" or (settings.auth is None and not is_loopback(host))


def refuse_without_keys(settings: Settings, callers: ApiKeyStore, host: str) -> None:
    """Raise ConfigurationError for an API that would listen beyond loopback without keys."""
    if is_loopback(host):
        return
    if settings.auth == "off":
        raise ConfigurationError(f"FARM_AUTH=off is for loopback only, not for {host}; leave it unset")
    if not callers.all():
        raise ConfigurationError(f"No API key exists, so nobody could call {host}; run `farm keys create NAME` first")


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
