"""The cost of a call in Redis: the commands that it runs, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import redis

#: What connections are opened and kept with; threads of the tests do so at any time.
_NO_WORK = ("info", "config", "client", "hello", "ping", "auth", "select", "subscribe", "command")


def cost_of(act: Callable[[], object], client: redis.Redis) -> dict[str, int]:
    """Return how often each command runs during `act`, those of scripts included.

    The least of three times: what other threads do now and then can only add to it.
    """
    return min((_once(act, client) for _ in range(3)), key=lambda counted: sum(counted.values()))


def _once(act: Callable[[], object], client: redis.Redis) -> dict[str, int]:
    client.config_resetstat()
    act()
    stats: dict[str, dict[str, Any]] = client.info("commandstats")
    counted = {name.removeprefix("cmdstat_"): figures["calls"] for name, figures in stats.items()}
    return {name: calls for name, calls in counted.items() if not name.startswith(_NO_WORK)}
