"""Who may call: API keys on Redis. A key is shown once and kept as a digest."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from dataclasses import fields as fields_of
from typing import Any, cast

import redis

from farm import clock
from farm.domain.errors import ConfigurationError
from farm.domain.limits import USUAL, Limits, Quota
from farm.jobstore import redis_keys
from farm.jobstore.connection import translated
from farm.settings import Settings

_KEY = re.compile(r"farm_([0-9a-f]{8})_([0-9A-Za-z_-]{43})")
_TOKEN = re.compile(r"farmtoken_([0-9a-f]{8})_([0-9]{10})_[0-9a-f]{64}")
#: What no secret has as its digest: in place of it where there is no key, so that comparing takes as long.
_NOBODYS = "-" * 64
_LIMITS = tuple(part.name for part in fields_of(Limits))
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever a request comes from: the name of its key, so that a renewed key of the same name sees the same jobs.

    An admin may see every caller's jobs. `limits` are those of its key.
    """

    id: str
    is_admin: bool = False
    limits: Limits = USUAL
    #: Is told what a submit has left of the limits.
    tell: Callable[[tuple[Quota, ...]], object] = field(default=lambda _quotas: None, compare=False, repr=False)


#: The one caller while keys are off.
LOCAL = Caller("local", is_admin=True)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is kept of a key."""

    id: str
    name: str
    is_admin: bool
    created_us: int
    limits: Limits = USUAL


class Callers:
    """The API keys. 256 random bits need no slow hash: SHA-256 cannot be guessed backwards from them."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def create(self, name: str, *, is_admin: bool = False, limits: Limits = USUAL) -> str:
        """A new key in plain text, which is not kept. Raises ValueError for a name that is no name."""
        if not _NAME.fullmatch(name):
            raise ValueError(
                "a name has letters, digits, '.', '_' and '-', at most 64, and begins with a letter or digit"
            )
        key_id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
        # In one step: a key that is valid but not listed could not be revoked.
        with translated(), self._redis.pipeline(transaction=True) as both:
            both.hset(
                redis_keys.api_key(key_id),
                mapping={
                    "name": name,
                    "admin": int(is_admin),
                    "digest": _digest(secret),
                    "created_us": clock.now_us(),
                    **_set(limits),
                },
            )
            both.sadd(redis_keys.API_KEYS, key_id)
            both.execute()
        return f"farm_{key_id}_{secret}"

    def all(self) -> list[ApiKey]:
        """Every key that is valid, by name."""
        with translated():
            ids = cast(set[str], self._redis.smembers(redis_keys.API_KEYS))
            records = {key_id: cast(dict[str, str], self._redis.hgetall(redis_keys.api_key(key_id))) for key_id in ids}
        found = [
            ApiKey(key_id, fields["name"], fields["admin"] == "1", int(fields["created_us"]), _limits(fields))
            for key_id, fields in records.items()
            if fields
        ]
        return sorted(found, key=lambda key: (key.name, key.created_us))

    def revoke(self, name_or_id: str) -> int:
        """Make every key of this name or id invalid. Returns how many there were."""
        doomed = self._called(name_or_id)
        with translated():
            for key_id in doomed:
                self._redis.delete(redis_keys.api_key(key_id))
                self._redis.srem(redis_keys.API_KEYS, key_id)
        return len(doomed)

    def limit(self, name_or_id: str, limits: Limits) -> int:
        """Give every key of this name or id these limits from now on. Returns how many there are."""
        limited = self._called(name_or_id)
        with translated(), self._redis.pipeline(transaction=True) as all_at_once:
            for key_id in limited:
                all_at_once.hdel(redis_keys.api_key(key_id), *_LIMITS)
                if said := _set(limits):
                    all_at_once.hset(redis_keys.api_key(key_id), mapping=said)
            all_at_once.execute()
        return len(limited)

    def identify(self, key: str) -> Caller | None:
        """Whose key this is, or None. One read; the comparison takes the same time whatever is wrong."""
        match = _KEY.fullmatch(key)
        if not match:
            return None
        fields = self._record(match[1])
        if not hmac.compare_digest(fields.get("digest", _NOBODYS), _digest(match[2])):
            return None
        return _caller(fields)

    def token(self, key: str, *, until: int) -> str | None:
        """What stands for a valid key where a token is taken, until then (seconds since the epoch); None: it is none.

        It is made of what is kept of the key, and ends with it.
        """
        match = _KEY.fullmatch(key)
        if not match or self.identify(key) is None:
            return None
        return _token(match[1], until, _digest(match[2]))

    def identify_token(self, token: str) -> Caller | None:
        """Whose key this token stands for, or None."""
        match = _TOKEN.fullmatch(token)
        if not match or int(match[2]) * 1_000_000 <= clock.now_us():
            return None
        fields = self._record(match[1])
        genuine = _token(match[1], int(match[2]), fields.get("digest", ""))
        return _caller(fields) if fields and hmac.compare_digest(genuine, token) else None

    def _called(self, name_or_id: str) -> list[str]:
        return [key.id for key in self.all() if name_or_id in (key.name, key.id)]

    def _record(self, key_id: str) -> dict[str, str]:
        with translated():
            return cast(dict[str, str], self._redis.hgetall(redis_keys.api_key(key_id)))


def _caller(fields: dict[str, str]) -> Caller:
    return Caller(fields["name"], fields["admin"] == "1", _limits(fields))


def _limits(fields: Mapping[str, str]) -> Limits:
    return Limits(**{name: int(fields[name]) for name in _LIMITS if name in fields})


def _set(limits: Limits) -> dict[Any, Any]:
    """What is kept of the limits of a key."""
    return {name: most for name, most in asdict(limits).items() if most is not None}


def _token(key_id: str, until: int, digest: str) -> str:
    signature = hmac.new(digest.encode(), f"token {key_id} {until}".encode(), hashlib.sha256).hexdigest()
    return f"farmtoken_{key_id}_{until}_{signature}"


def is_loopback(host: str) -> bool:
    """Whether this host name or address is this machine's own."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def wants_keys(settings: Settings, host: str) -> bool:
    """Keys are asked for everywhere but on loopback, unless FARM_AUTH says otherwise."""
    return settings.auth == "keys" or (settings.auth is None and not is_loopback(host))


def refuse_open_door(settings: Settings, callers: Callers, host: str) -> None:
    """Refuse to listen beyond this machine without keys."""
    if is_loopback(host):
        return
    if settings.auth == "off":
        raise ConfigurationError(f"FARM_AUTH=off is for loopback only, not for {host}; leave it unset")
    if not callers.all():
        raise ConfigurationError(f"No API key exists, so nobody could call {host}; run `farm keys create NAME` first")


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
