"""Upload tickets in Redis: what a caller may upload, and what has arrived. Each expires by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import cast

import redis

from farm.domain.errors import StoreUnavailable, TooManyUploads, UploadQuotaExceeded
from farm.jobstore import redis_keys
from farm.jobstore.connection import translated
from farm.jobstore.disk_guard import Guard, no_guard
from farm.jobstore.memory_guard import MemoryGuard

#: How long a ticket is valid after its last use, in seconds.
TICKET_SECONDS = 3600
#: Tickets per caller in the time for which one is valid: all callers share the job store's memory.
MAX_TICKETS_PER_CALLER = 100_000


@dataclass(frozen=True, slots=True)
class Ticket:
    """The right to upload one file. Its `id` is unguessable and grants the right.

    `content_type` and `size` in bytes are those announced; size 0: none was. `settled` is the digest of the complete
    upload, empty until then.
    """

    id: str
    caller: str
    key: str
    content_type: str
    size: int = 0
    in_parts: bool = False
    settled: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a file that has arrived; its size in bytes."""

    digest: str
    size: int


class UploadQuota:
    """The bytes that each caller may upload in a fixed window, so that no caller fills the storage for all.

    The window begins with the first upload. What is kept from the end of one window and the start of the next may add
    up to twice the quota.
    """

    def __init__(self, client: redis.Redis, *, max_bytes: int, seconds: float) -> None:
        self._redis = client
        self._max_bytes = max_bytes
        self._seconds = max(1, round(seconds))

    def refuse_when_spent(self, caller: str) -> None:
        """Raise UploadQuotaExceeded if nothing is left of the quota."""
        with translated():
            used = self._redis.get(redis_keys.uploaded_bytes(caller))
        if int(cast(str, used) or 0) >= self._max_bytes:
            raise self._refusal()

    @contextmanager
    def charge(self, caller: str, count: int) -> Iterator[None]:
        """Charge bytes to the caller's quota; refund them if the block fails. Raises UploadQuotaExceeded.

        Of several files at once, each is charged in full before it is checked.
        """
        total = self._add(caller, count)
        try:
            if total > self._max_bytes:
                raise self._refusal()
            yield
        except BaseException:
            with suppress(StoreUnavailable):
                self._add(caller, -count)
            raise

    def _add(self, caller: str, count: int) -> int:
        name = redis_keys.uploaded_bytes(caller)
        with translated(), self._redis.pipeline() as pipeline:
            pipeline.set(name, 0, ex=self._seconds, nx=True)
            pipeline.incrby(name, count)
            return cast(int, pipeline.execute()[1])

    def _refusal(self) -> UploadQuotaExceeded:
        return UploadQuotaExceeded(
            f"The upload quota of {self._max_bytes / 1e9:g} GB in {self._seconds / 3600:g} hours is used up; "
            "try again later, or pass images by URL."
        )


class Tickets:
    """The tickets in Redis. Thread-safe."""

    def __init__(self, client: redis.Redis, guard: Guard = no_guard) -> None:
        self._redis = client
        self._guard = guard
        self._memory = MemoryGuard(client)

    def issue(self, ticket: Ticket) -> None:
        """Store a new ticket. Raises StoreFull or StoreDiskFull, and TooManyUploads if its caller has too many."""
        self._guard("issue_ticket")
        with translated():
            self._memory.refuse_when_full()
        if self._count(ticket.caller) > MAX_TICKETS_PER_CALLER:
            raise TooManyUploads
        with translated(), self._redis.pipeline() as pipeline:
            pipeline.hset(
                redis_keys.upload(ticket.id),
                mapping={
                    "caller": ticket.caller,
                    "key": ticket.key,
                    "content_type": ticket.content_type,
                    "size": ticket.size,
                    "in_parts": int(ticket.in_parts),
                },
            )
            pipeline.expire(redis_keys.upload(ticket.id), TICKET_SECONDS)
            pipeline.execute()

    def _count(self, caller: str) -> int:
        """Count a ticket of the caller; return how many it has requested in this window."""
        name = redis_keys.uploads_started(caller)
        with translated(), self._redis.pipeline() as pipeline:
            pipeline.set(name, 0, ex=TICKET_SECONDS, nx=True)
            pipeline.incr(name)
            return cast(int, pipeline.execute()[1])

    def get(self, ticket_id: str) -> Ticket | None:
        """Return the ticket of this id; None if it has expired."""
        with translated():
            fields = cast(dict[str, str], self._redis.hgetall(redis_keys.upload(ticket_id)))
        if "key" not in fields:
            return None
        return Ticket(
            id=ticket_id,
            caller=fields["caller"],
            key=fields["key"],
            content_type=fields["content_type"],
            size=int(fields["size"]),
            in_parts=fields["in_parts"] == "1",
            settled=fields.get("settled", ""),
        )

    def settle(self, ticket_id: str, digest: str) -> bool:
        """Complete the ticket with the content of this digest. Returns False if it is complete with other content."""
        self._guard("settle_ticket")
        with translated(), self._redis.pipeline() as pipeline:
            pipeline.hsetnx(redis_keys.upload(ticket_id), "settled", digest)
            pipeline.hget(redis_keys.upload(ticket_id), "settled")
            pipeline.expire(redis_keys.upload(ticket_id), TICKET_SECONDS)
            _, settled, _ = pipeline.execute()
        return cast(str, settled) == digest

    def parts(self, ticket_id: str) -> dict[int, Part]:
        """Return the parts that have arrived, by number."""
        with translated():
            return _parts(self._redis.hgetall(redis_keys.upload_parts(ticket_id)))

    def add_part(self, ticket_id: str, number: int, part: Part) -> dict[int, Part]:
        """Record a part, replacing an earlier one of its number. Returns all parts that have arrived."""
        self._guard("add_part")
        with translated(), self._redis.pipeline() as pipeline:
            pipeline.hset(redis_keys.upload_parts(ticket_id), str(number), f"{part.digest} {part.size}")
            pipeline.hgetall(redis_keys.upload_parts(ticket_id))
            for name in (redis_keys.upload(ticket_id), redis_keys.upload_parts(ticket_id)):
                pipeline.expire(name, TICKET_SECONDS)
            return _parts(pipeline.execute()[1])

    def remove_part(self, ticket_id: str, number: int) -> None:
        with translated():
            self._redis.hdel(redis_keys.upload_parts(ticket_id), str(number))


def _parts(fields: object) -> dict[int, Part]:
    texts = {int(number): text.split(" ") for number, text in cast(dict[str, str], fields).items()}
    return {number: Part(digest, int(size)) for number, (digest, size) in texts.items()}
