"""Tickets for uploads, in Redis: what a caller may send, and what has come of it. Each goes when its time is over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import cast

import redis

from farm.domain.errors import StoreUnavailable, TooManyUploads, UploadQuotaExceeded
from farm.jobstore import redis_keys
from farm.jobstore.connection import translated
from farm.jobstore.memory_guard import MemoryGuard

#: How long a ticket is good for after it was last used, in seconds.
GOOD_SECONDS = 3600
#: Tickets that a caller is given in the time for which one is good: the job store's memory is everybody's.
MOST_OF_A_CALLER = 100_000


@dataclass(frozen=True, slots=True)
class Ticket:
    """The right to upload one file. Nobody can guess its `id`: whoever knows it has the right.

    `content_type` and `size` in bytes are what was announced; 0: no size was. `settled` is the digest of what has come,
    empty until all of it has.
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
    """A part of a file that has come; its size in bytes."""

    digest: str
    size: int


class Allowance:
    """The bytes that each caller may upload within some seconds, so that nobody fills the storage for all.

    They are counted from the first on, and forgotten together: of two times that follow each other, the ends may lie
    in storage at once, and no more.
    """

    def __init__(self, client: redis.Redis, *, max_bytes: int, seconds: float) -> None:
        self._redis = client
        self._max_bytes = max_bytes
        self._seconds = max(1, round(seconds))

    def refuse_when_spent(self, caller: str) -> None:
        """Raise UploadQuotaExceeded where nothing is left of the quota."""
        with translated():
            spent = self._redis.get(redis_keys.uploaded(caller))
        if int(cast(str, spent) or 0) >= self._max_bytes:
            raise self._refusal()

    @contextmanager
    def spent(self, caller: str, count: int) -> Iterator[None]:
        """So many bytes are the caller's, if what is done with them meanwhile succeeds. Raises UploadQuotaExceeded.

        Of a caller who sends several files at once, each is counted whole before it is judged.
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
        name = redis_keys.uploaded(caller)
        with translated(), self._redis.pipeline() as both:
            both.set(name, 0, ex=self._seconds, nx=True)
            both.incrby(name, count)
            return cast(int, both.execute()[1])

    def _refusal(self) -> UploadQuotaExceeded:
        return UploadQuotaExceeded(
            f"You may upload {self._max_bytes / 1e9:g} GB in {self._seconds / 3600:g} hours, and have used that up; "
            "try again later, or name images by URL."
        )


class Tickets:
    """One client's view of the tickets. Thread-safe."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._memory = MemoryGuard(client)

    def issue(self, ticket: Ticket) -> None:
        """Make it good. Raises StoreFull, and TooManyUploads where its caller has started too many."""
        with translated():
            self._memory.refuse_when_full()
        if self._count(ticket.caller) > MOST_OF_A_CALLER:
            raise TooManyUploads
        with translated(), self._redis.pipeline() as both:
            both.hset(
                redis_keys.upload(ticket.id),
                mapping={
                    "caller": ticket.caller,
                    "key": ticket.key,
                    "content_type": ticket.content_type,
                    "size": ticket.size,
                    "in_parts": int(ticket.in_parts),
                },
            )
            both.expire(redis_keys.upload(ticket.id), GOOD_SECONDS)
            both.execute()

    def _count(self, caller: str) -> int:
        """How many tickets it has asked for since it first did, or since that count was forgotten."""
        name = redis_keys.uploads_begun(caller)
        with translated(), self._redis.pipeline() as both:
            both.set(name, 0, ex=GOOD_SECONDS, nx=True)
            both.incr(name)
            return cast(int, both.execute()[1])

    def get(self, ticket_id: str) -> Ticket | None:
        """The ticket of this id, if it is still good."""
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
        """Use the ticket up for what has this digest. False: it was used up for something else."""
        with translated(), self._redis.pipeline() as all_at_once:
            all_at_once.hsetnx(redis_keys.upload(ticket_id), "settled", digest)
            all_at_once.hget(redis_keys.upload(ticket_id), "settled")
            all_at_once.expire(redis_keys.upload(ticket_id), GOOD_SECONDS)
            _, settled, _ = all_at_once.execute()
        return cast(str, settled) == digest

    def parts(self, ticket_id: str) -> dict[int, Part]:
        """The parts that have come, by their numbers."""
        with translated():
            return _parts(self._redis.hgetall(redis_keys.upload_parts(ticket_id)))

    def add_part(self, ticket_id: str, number: int, part: Part) -> dict[int, Part]:
        """Record a part, in place of one that came before it under its number. All that have come now."""
        with translated(), self._redis.pipeline() as all_at_once:
            all_at_once.hset(redis_keys.upload_parts(ticket_id), str(number), f"{part.digest} {part.size}")
            all_at_once.hgetall(redis_keys.upload_parts(ticket_id))
            for name in (redis_keys.upload(ticket_id), redis_keys.upload_parts(ticket_id)):
                all_at_once.expire(name, GOOD_SECONDS)
            return _parts(all_at_once.execute()[1])

    def remove_part(self, ticket_id: str, number: int) -> None:
        with translated():
            self._redis.hdel(redis_keys.upload_parts(ticket_id), str(number))


def _parts(fields: object) -> dict[int, Part]:
    said = {int(number): text.split(" ") for number, text in cast(dict[str, str], fields).items()}
    return {number: Part(digest, int(size)) for number, (digest, size) in said.items()}
