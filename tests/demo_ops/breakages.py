"""Breakages: what is broken, how it is mended, and which alert must tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.demo_ops.breakable_farm import BreakableFarm, kill, revive


@dataclass(frozen=True, slots=True)
class Breakage:
    """A fault, the alert that must fire, and the way back."""

    what: str
    alert: str
    break_it: Callable[[BreakableFarm], None]
    mend: Callable[[BreakableFarm], None]


BREAKAGES = (
    Breakage(
        "the only worker is killed, and jobs wait",
        "FarmNobodyConsumes",
        lambda farm: kill(farm.worker),
        lambda farm: revive(farm.worker),
    ),
    Breakage(
        "the storage refuses connections",
        "FarmStorageErrors",
        lambda farm: farm.storage.go_down(),
        lambda farm: farm.storage.come_up(),
    ),
    Breakage(
        "Redis is stopped",
        "FarmStoreDown",
        lambda farm: farm.redis.stop(),
        lambda farm: farm.redis.start(),
    ),
    Breakage(
        "the webhook worker is killed, and webhooks are due",
        "FarmWebhooksOverdue",
        lambda farm: kill(farm.webhook_worker),
        lambda farm: revive(farm.webhook_worker),
    ),
    Breakage(
        "the API is killed",
        "FarmAbsent",
        lambda farm: kill(farm.api),
        lambda farm: revive(farm.api),
    ),
)
