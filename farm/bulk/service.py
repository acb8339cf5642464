"""Bulk operations for callers: create, get, list, cancel."""

from __future__ import annotations

from farm.auth.api_keys import Caller
from farm.bulk.files import BulkFiles
from farm.bulk.store import BulkStore, no_such_file
from farm.dialects.openai_batch import BatchInput
from farm.domain.bulk import Bulk, BulkFile, BulkState, NewBulk, new_bulk_id
from farm.domain.errors import BulkEnded, InvalidRequest, NotFound, Problem
from farm.ssrf_safe_http import SsrfSafeClient
from farm.webhooks.url_check import check


class BulkService:
    """Lets a caller see its own bulks only, and an admin all. Any other bulk is answered as not found."""

    def __init__(self, store: BulkStore, *, files: BulkFiles, outbound: SsrfSafeClient) -> None:
        self._store = store
        self._files = files
        self._outbound = outbound

    def create(self, caller: Caller, wanted: BatchInput, *, idempotency_key: str, body_digest: str) -> Bulk:
        """Record a bulk, whose file is checked in the background. Raises InvalidRequest and what the store raises."""
        if wanted.webhook_url:
            check(self._outbound, "webhook_url", wanted.webhook_url)
        new = NewBulk(
            new_bulk_id(),
            caller.id,
            wanted.endpoint,
            self._input_file(caller, wanted.input_file_id),
            wanted.completion_window,
            wanted.window_seconds,
            metadata=wanted.metadata or {},
            output_seconds=wanted.output_expires_after.seconds if wanted.output_expires_after else 0,
            webhook=wanted.webhook_url or "",
            limits=caller.limits,
            base=caller.base,
            idempotency_key=idempotency_key,
            body_digest=body_digest,
        )
        return self.get(caller, self._store.create(new))

    def get(self, caller: Caller, bulk_id: str) -> Bulk:
        """Return a bulk. Raises NotFound, also for another caller's: the two must look alike."""
        bulk = self._store.get(bulk_id)
        if bulk is None or not (caller.is_admin or bulk.caller == caller.id):
            raise NotFound(f"No batch has the id '{bulk_id[:100]}'.")
        return bulk

    def page(self, caller: Caller, *, after: Bulk | None, count: int) -> list[Bulk]:
        """Return up to `count` of the caller's bulks, newest first, created before `after`."""
        return self._store.page(caller.id, after=after, count=count)

    def open_bulks(self, caller: Caller) -> list[Bulk]:
        """Return the caller's bulks (an admin's: all) that have not ended, oldest first."""
        return [bulk for bulk in self._store.open_bulks() if caller.is_admin or bulk.caller == caller.id]

    def cancel(self, caller: Caller, bulk_id: str) -> Bulk:
        """Cancel a bulk: no further line becomes a job, and its jobs are stopped. Raises NotFound and BulkEnded."""
        bulk = self.get(caller, bulk_id)
        state = self._store.end(bulk.id, "cancelled")
        if state not in (BulkState.VALIDATING, BulkState.IN_PROGRESS, BulkState.CANCELLING, BulkState.CANCELLED):
            raise BulkEnded(f"The batch is {state}; only one that is validating or in progress can be cancelled.")
        return self.get(caller, bulk_id)

    def _input_file(self, caller: Caller, file_id: str) -> BulkFile:
        if not file_id.isascii():  # JSON may have lone surrogates, which Redis cannot be asked for
            raise no_such_file(file_id)
        try:
            file = self._files.get(caller, file_id)
        except NotFound as error:
            raise no_such_file(file_id) from error
        if file.purpose != "batch":
            message = "the file holds results; upload one with the purpose batch"
            raise InvalidRequest([Problem("input_file_id", message, "invalid_purpose", file_id)])
        return file
