"""Builds the object graph of a process from its settings. Nothing else constructs these parts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import redis
from celery import Celery

from farm import embedded
from farm.callers import Callers
from farm.celery import Bell, application
from farm.errors import ConfigurationError
from farm.jobstore.census import Census
from farm.jobstore.connection import check, connect, connect_to_listen
from farm.jobstore.hints import Changes
from farm.jobstore.store import JobStore, Terms
from farm.service import Service
from farm.settings import Settings
from farm.storage.local import LocalStorage


@dataclass(frozen=True, slots=True)
class Farm:
    """The parts that every process of the farm has."""

    settings: Settings
    redis_url: str
    redis: redis.Redis
    celery: Celery
    store: JobStore
    census: Census
    callers: Callers
    storage: LocalStorage
    bell: Bell
    service: Service


def redis_url(settings: Settings, data_dir: Path) -> str:
    """The Redis of this farm: one's own, or the embedded one that runs for `data_dir`."""
    url = settings.redis_url or embedded.address(data_dir)
    if url is None:
        raise ConfigurationError(
            f"No Redis is known: run `farm up --data-dir {data_dir}` first, or set FARM_REDIS_URL to your own"
        )
    return url


def reach(settings: Settings, data_dir: Path) -> redis.Redis:
    """The farm's Redis, connected and checked."""
    client = connect(redis_url(settings, data_dir))
    check(client, unsafe=settings.redis_unsafe or settings.redis_url is None)
    return client


def build(settings: Settings, data_dir: Path, *, listens: bool = False) -> Farm:
    """The parts, connected and checked. `listens`: the process lets callers wait for changes."""
    url = redis_url(settings, data_dir)
    client = reach(settings, data_dir)
    celery = application(url)
    store = JobStore(
        client,
        Terms(
            lease_seconds=settings.lease_seconds,
            max_attempts=settings.max_attempts,
            queue_limit=settings.queue_limit,
            result_ttl_seconds=settings.result_ttl,
        ),
    )
    census = Census(client)
    storage = LocalStorage(data_dir / "pictures")
    bell = Bell(celery)
    changes = Changes(connect_to_listen(url)) if listens else None
    service = Service(store, census=census, storage=storage, bell=bell, changes=changes)
    return Farm(settings, url, client, celery, store, census, Callers(client), storage, bell, service)
