"""The files of bulks: what callers upload, and the results that the farm writes. Private to their caller."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import chain
from typing import BinaryIO, Literal, NamedTuple, cast

import redis

from farm.auth.api_keys import Caller
from farm.bulk.result_images import with_images
from farm.bulk.store import FULL_RETRY_SECONDS
from farm.domain.bulk import BulkFile, Purpose, new_file_id
from farm.domain.errors import LimitReached, NotFound, StorageError
from farm.jobstore import redis_keys, redis_time
from farm.jobstore.connection import translated
from farm.jobstore.disk_guard import Guard, no_guard
from farm.jobstore.memory_guard import MemoryGuard
from farm.jobstore.scripts import Scripts
from farm.storage.storage import Storage, new_bulk_key
from farm.uploads.uploads import ReceivedFile

#: A file is kept for at least so long, in seconds: longer than OpenAI's completion window.
MIN_KEEP_SECONDS = 2 * 86400.0
#: Most files of a caller, uploads and results, with which it may upload one more: a bulk has up to three.
MAX_FILES_PER_CALLER = 30_000
#: Records that are read at a time.
_CHUNK = 1000
#: How many of a caller's oldest records one call looks at, to forget those that are gone.
_LOOKED_AT = 100
#: Files that are created at the same time: both results of a bulk.
_SAME_TIME = 2
#: How long a deleted file can be named as the end of a page, in seconds.
CURSOR_SECONDS = 3600


class Cursor(NamedTuple):
    """A place in the list of a caller's files: the time at which a file was created, and its id."""

    created_us: int
    file_id: str


class BulkFiles:
    """The files and their records in Redis. Thread-safe."""

    def __init__(self, client: redis.Redis, storage: Storage, guard: Guard = no_guard, *, keep_seconds: float) -> None:
        self._redis = client
        self._guard = guard
        self._scripts = Scripts(client)
        self._storage = storage
        self._keep_seconds = max(keep_seconds, MIN_KEEP_SECONDS)
        self._memory = MemoryGuard(client)

    def add(self, caller: str, received: ReceivedFile, *, name: str, keep_seconds: int = 0) -> BulkFile:
        """Store an uploaded file, for as long as the farm keeps files, or for less. Raises StoreFull, LimitReached."""
        self._guard("add_file")
        with translated():
            self._memory.refuse_when_full()
            self._refuse_too_many(redis_keys.bulk_files_of(caller))
        now_us = self._now_us()
        seconds = min(keep_seconds or self._keep_seconds, self._keep_seconds)
        key = new_bulk_key(until=int(now_us / 1e6 + seconds))
        self._storage.put_file(key, received.file)
        expires_us = now_us + round(seconds * 1e6)
        file = BulkFile(new_file_id(), caller, name, "batch", received.size, received.size, key, now_us, expires_us)
        self._record(file)
        return file

    def add_results(self, file: BulkFile, content: BinaryIO) -> None:
        """Store a result file under the key of its record, which replaces that of an earlier try."""
        self._guard("add_results")
        self._storage.put_file(file.key, content)
        self._record(file)

    def get(self, caller: Caller, file_id: str) -> BulkFile:
        """Return a file. Raises NotFound, also for another caller's: the two must look alike."""
        with translated():
            fields = cast(dict[str, str], self._redis.hgetall(redis_keys.bulk_file(file_id)))
        file = _file(file_id, fields) if "key" in fields else None
        if file is None or not (caller.is_admin or file.caller == caller.id):
            raise NotFound(f"No file has the id '{file_id[:100]}'.")
        return file

    def cursor(self, caller: Caller, file_id: str) -> Cursor:
        """Return the place of a file in the list, also of one that was just deleted. Raises NotFound."""
        with translated():
            owner, created_us = self._redis.hmget(redis_keys.bulk_file(file_id), "caller", "created_us")
        if created_us is None or not (caller.is_admin or owner == caller.id):
            raise NotFound(f"No file has the id '{file_id[:100]}'.")
        return Cursor(int(created_us), file_id)

    def page(
        self, caller: str, *, after: Cursor | None, count: int, order: Literal["asc", "desc"], purpose: str | None
    ) -> list[BulkFile]:
        """Return up to `count` of the caller's files, by their time of creation, behind `after`."""
        found: list[BulkFile] = []
        for file in self._in_order(caller, after, order):
            if purpose in (None, file.purpose):
                found.append(file)
            if len(found) == count:
                break
        return found

    def delete(self, caller: Caller, file_id: str) -> None:
        """Delete a file. The bytes of one whose lines may still be read stay in storage until it would have expired."""
        file, name = self.get(caller, file_id), redis_keys.bulk_file(file_id)
        with translated(), self._redis.pipeline() as pipeline:
            pipeline.hget(name, "used")
            pipeline.delete(name)
            pipeline.zrem(redis_keys.bulk_files_of(file.caller), file_id)
            # For those who delete while they list.
            pipeline.hset(name, mapping={"caller": file.caller, "created_us": file.created_us})
            pipeline.expire(name, CURSOR_SECONDS)
            is_used, *_ = pipeline.execute()
        if not is_used:
            with suppress(StorageError):  # the sweeper removes it
                self._storage.remove(file.key)

    def content(self, file: BulkFile) -> Iterator[bytes]:
        """Return the bytes of a file, piece by piece, with the images that its lines name.

        The first piece is read at once: a storage that fails early does so while an error can still be answered.
        """
        pieces = self._pieces(file)
        if file.purpose == "batch_output":
            pieces = with_images(pieces, self._storage.read)
        first = next(pieces, b"")
        return _resumed(first, pieces)

    def _now_us(self) -> int:
        """Return the time by Redis's clock: by another one, files could expire as soon as they are there."""
        return redis_time.now_us(self._redis)

    def _pieces(self, file: BulkFile) -> Iterator[bytes]:
        with closing(self._storage.open(file.key, 0, file.stored_bytes)) as chunks:
            yield from chunks

    def _in_order(self, caller: str, after: Cursor | None, order: Literal["asc", "desc"]) -> Iterator[BulkFile]:
        """Yield the caller's files, reading no more records than are wanted, or a few more."""
        while ids := self._ids(redis_keys.bulk_files_of(caller), after, order):
            with translated(), self._redis.pipeline(transaction=False) as pipeline:
                for _, file_id in ids:
                    pipeline.hgetall(redis_keys.bulk_file(file_id))
                records = pipeline.execute()
            for (_, file_id), fields in zip(ids, records, strict=True):
                if "key" in fields:
                    yield _file(file_id, fields)
            after = ids[-1]

    def _ids(self, index: str, after: Cursor | None, order: Literal["asc", "desc"]) -> list[Cursor]:
        """Return the next files of an index, behind `after` and those created with it."""
        bound, count = after.created_us if after else None, _CHUNK + _SAME_TIME
        with translated():
            if order == "asc":
                found = self._redis.zrangebyscore(index, bound or "-inf", "+inf", start=0, num=count, withscores=True)
            else:
                found = self._redis.zrevrangebyscore(index, bound or "+inf", "-inf", 0, count, withscores=True)
        places = [Cursor(round(score), file_id) for file_id, score in cast(list[tuple[str, float]], found)]
        return [one for one in places if after is None or (one > after if order == "asc" else one < after)]

    def _record(self, file: BulkFile) -> None:
        """Write the record of a file, which Redis deletes in its time, and forget those of the caller that are gone."""
        with translated():
            self._scripts.run(
                "record_bulk_file",
                file.id,
                file.caller,
                file.created_us,
                file.expires_us,
                _LOOKED_AT,
                *chain.from_iterable(_fields(file).items()),
            )

    def _refuse_too_many(self, index: str) -> None:
        """Raise LimitReached if the index of a caller's files has too many that have not expired."""
        if self._redis.zcard(index) < MAX_FILES_PER_CALLER:
            return
        gone = self._expired(index)
        if not gone:
            message = f"You have {MAX_FILES_PER_CALLER} files, as many as are kept; delete some, then try again."
            raise LimitReached(message, seconds=FULL_RETRY_SECONDS)
        self._redis.zrem(index, *gone)

    def _expired(self, index: str) -> list[str]:
        """Return ids in the index whose records are gone: of the oldest ones, as many as one call should look at."""
        oldest = cast(list[str], self._redis.zrange(index, 0, _LOOKED_AT - 1))
        with self._redis.pipeline(transaction=False) as pipeline:
            for file_id in oldest:
                pipeline.exists(redis_keys.bulk_file(file_id))
            return [file_id for file_id, exists in zip(oldest, pipeline.execute(), strict=True) if not exists]


def _resumed(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _fields(file: BulkFile) -> dict[str, str | int]:
    return {
        "caller": file.caller,
        "name": file.name,
        "purpose": file.purpose,
        "bytes": file.bytes,
        "stored_bytes": file.stored_bytes,
        "key": file.key,
        "created_us": file.created_us,
        "expires_us": file.expires_us,
    }


def _file(file_id: str, fields: dict[str, str]) -> BulkFile:
    return BulkFile(
        id=file_id,
        caller=fields["caller"],
        name=fields["name"],
        purpose=cast(Purpose, fields["purpose"]),
        bytes=int(fields["bytes"]),
        stored_bytes=int(fields["stored_bytes"]),
        key=fields["key"],
        created_us=int(fields["created_us"]),
        expires_us=int(fields["expires_us"]),
    )
