"""The schema of what a farm keeps in Redis, and which versions may work side by side on one Redis.

Each version of the farm writes one schema, and names the oldest one beside which it works: it reads what that one
writes, and writes nothing that would break it. Both are recorded in Redis when a process starts. So a version can be
replaced process by process, forwards and back, as long as either accepts the other; else the start is refused.

A new key or field needs no new schema. One that older versions must not meet, or that they must have written, does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import redis

from farm.domain.errors import ConfigurationError
from farm.jobstore import redis_keys
from farm.jobstore.connection import translated
from farm.jobstore.scripts import Scripts


@dataclass(frozen=True, slots=True)
class Schema:
    """A schema, and the oldest one beside which the version that writes it works."""

    number: int
    oldest: int

    def problem_beside(self, found: Schema) -> str | None:
        """Return why this version cannot use a Redis that another one has written; None if it can."""
        if found.number < self.oldest:
            return (
                f"Redis holds schema {found.number} of the farm's data, and this version works with schema "
                f"{self.oldest} or later; start a version between them first, or use an empty Redis"
            )
        if self.number < found.oldest:
            return (
                f"Redis was used by a newer version of the farm (schema {found.number}), beside which schema "
                f"{found.oldest} or later works, and this version has schema {self.number}; start the newer version"
            )
        return None


#: What this version writes. Farms of before it have no number: theirs counts as 0.
CURRENT = Schema(number=1, oldest=0)


def declare(client: redis.Redis, current: Schema = CURRENT) -> None:
    """Record that a version with this schema uses the Redis. Raises ConfigurationError, and records nothing, if not."""
    with translated():
        found = Schema(*map(int, Scripts(client).run("declare_schema", current.number, current.oldest)))
    if problem := current.problem_beside(found):
        raise ConfigurationError(problem)


def read(client: redis.Redis) -> Schema | None:
    """Return the newest schema that was used on this Redis; None: no farm has used it."""
    with translated():
        number, oldest = cast(list[str | None], client.hmget(redis_keys.SCHEMA, "number", "oldest"))
        if number is None or oldest is None:
            return Schema(0, 0) if client.exists(redis_keys.JOBS) else None
    return Schema(int(number), int(oldest))
