"""The processes that share a farm's Redis, each with the settings that its peers must have, too.

Settings are read by each process for itself, so two farms on one Redis, or a deployment that sets a variable for one
process only, work side by side unnoticed: a caller meets the limits, prices or names of whichever process answers.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Literal, cast

import redis
import structlog

from farm import __version__, clock
from farm.domain.errors import StoreFull, StoreUnavailable
from farm.jobstore import redis_keys, redis_time
from farm.jobstore.clock_skew import MAX_SKEW_SECONDS, REMEDY, clock_skew
from farm.jobstore.connection import translated
from farm.jobstore.disk_guard import Guard, no_guard
from farm.settings import PREFIX, Settings

Kind = Literal["api", "worker", "webhook worker"]

#: How often a process tells that it is there, and after how long without it counts as gone, in seconds.
ANNOUNCE_SECONDS = 10.0
GONE_SECONDS = 30.0
#: The settings that every process uses, whatever it does.
_EVERYWHERE = ("lease_seconds", "max_attempts", "render_seconds", "result_ttl", "upload_ttl", "usage_ttl")
#: Those that all processes of a kind use.
_OF_KIND: Mapping[Kind, tuple[str, ...]] = {
    "api": (
        *("queue_limit", "rate_limit", "images_per_day", "upload_gigabytes", "hold_seconds", "price_per_image"),
        *("model_aliases", "unknown_fields", "openai_response_format", "jwks_padding", "signing_key", "webhook_allow"),
        *("auth", "cors", "files", "public_url", "s3_public_endpoint", "serves"),
    ),
    "worker": ("safety", "safety_labels", "metadata_prompt", "pipeline"),
    "webhook worker": (
        *("webhook_schedule", "webhook_schedule_fal", "webhook_schedule_wavespeed", "webhook_allow", "signing_key"),
        *("enhancer_dir", "files", "public_url", "s3_public_endpoint"),
    ),
}
#: Of this one only a digest is told.
_KEY_SETTING = "signing_key"

_log = structlog.get_logger(__name__)


class Peers:
    """The processes of a farm, one of which is this one. `kind`: what it does."""

    def __init__(self, client: redis.Redis, kind: Kind, settings: Settings, guard: Guard = no_guard) -> None:
        self._redis = client
        self._guard = guard
        self._name = _name(kind)
        self._values = values_of(kind, settings)
        self._announced_at = -ANNOUNCE_SECONDS

    def join(self) -> None:
        """Announce this process, and warn of settings in which it differs from those that run, and of its clock.

        A job store that does not answer, or refuses writes, is no reason to end a process that has loaded its weights.
        """
        with suppress(StoreUnavailable, StoreFull):  # it is announced as soon as that is possible
            self.announce_when_due()
        with suppress(StoreUnavailable):
            self._warn_of_differences()
            self._warn_of_clock()

    def _warn_of_differences(self) -> None:
        if found := list(differences(alive(self._redis) | {self._name: self._values})):
            _log.warning("processes of this farm differ", differences=found, see="farm doctor")

    def _warn_of_clock(self) -> None:
        skew = clock_skew(self._redis)
        if skew.certain_seconds > MAX_SKEW_SECONDS:
            _log.warning("clocks differ", problem=f"Redis's clock is {skew}", remedy=REMEDY)

    def announce_when_due(self) -> None:
        """Tell every few seconds that this process is there: a periodic task."""
        if clock.monotonic() - self._announced_at >= ANNOUNCE_SECONDS:
            self._announced_at = clock.monotonic()
            self._guard("announce")
            self._announce()

    def _announce(self) -> None:
        """Write this process, and remove those that are gone."""
        with translated():
            gone = [name for name, (seconds, _) in _all(self._redis).items() if seconds > GONE_SECONDS]
            entry = json.dumps({"at_us": redis_time.now_us(self._redis), "values": self._values})
            self._redis.hset(redis_keys.PROCESSES, self._name, entry)
            if gone:
                self._redis.hdel(redis_keys.PROCESSES, *gone)


def leave(client: redis.Redis) -> None:
    """Remove this process, whatever it does: one that takes its place may have other settings."""
    with translated():
        client.hdel(redis_keys.PROCESSES, *map(_name, _OF_KIND))


def _name(kind: Kind) -> str:
    return f"{kind} {socket.gethostname()}:{os.getpid()}"


def values_of(kind: Kind, settings: Settings) -> dict[str, str]:
    """Return the settings that processes of this kind share, as text; of a secret its digest, and the version."""
    values = {PREFIX + name.upper(): _text(name, settings) for name in (*_EVERYWHERE, *_OF_KIND[kind])}
    return values | {"version": __version__}


def _text(name: str, settings: Settings) -> str:
    value = getattr(settings, name)
    if name == _KEY_SETTING and value:
        return f"sha256 {hashlib.sha256(value.encode()).hexdigest()[:8]}"
    return ",".join(sorted(value)) if isinstance(value, frozenset) else str(value)


def alive(client: redis.Redis) -> dict[str, dict[str, str]]:
    """Return the processes that are there: name → settings."""
    return {name: values for name, (seconds, values) in _all(client).items() if seconds <= GONE_SECONDS}


def _all(client: redis.Redis) -> dict[str, tuple[float, dict[str, str]]]:
    """Return all processes: name → the seconds since they were there, and their settings."""
    with translated():
        now_us = redis_time.now_us(client)
        found = cast(dict[str, str], client.hgetall(redis_keys.PROCESSES))
    entries = {name: json.loads(text) for name, text in found.items()}
    return {name: ((now_us - entry["at_us"]) / 1e6, entry["values"]) for name, entry in entries.items()}


def differences(processes: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Yield a line about each setting in which processes differ, with the processes of each value."""
    for name in sorted({name for values in processes.values() for name in values}):
        by_value: dict[str, list[str]] = {}
        for process, values in sorted(processes.items()):
            if name in values:
                by_value.setdefault(values[name], []).append(process)
        if len(by_value) > 1:
            yield f"{name} is " + ", and ".join(f"{value!r} of {', '.join(who)}" for value, who in by_value.items())
