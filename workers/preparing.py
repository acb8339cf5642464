"""The preparer: makes jobs ready for a GPU. It fetches, checks and copies their images and enhances their prompts.

It works in threads of the background worker. Whatever dies or answers late, the record decides: a job is prepared
once, by the first preparer to say so, and what another preparer has stored for it is removed.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from urllib.parse import urljoin, urlsplit

import structlog

from farm import clock
from farm.celery import WakeUps
from farm.concurrency.leased_pool import LeasedPool, Taken
from farm.concurrency.retry import retrying
from farm.domain.error_codes import Code
from farm.domain.errors import (
    FarmError,
    ForbiddenAddress,
    NotFound,
    StorageError,
    StorageUnavailable,
    StoreUnavailable,
    TooLarge,
    Unreachable,
    with_detail,
)
from farm.domain.job import Job
from farm.domain.request import Request
from farm.images import content_encoding, decode
from farm.images.decode import UnusableImage
from farm.jobstore.store import JobStore
from farm.ssrf_safe_http import Reply, SsrfSafeClient
from farm.storage.storage import Storage, new_input_key, parse_key
from farm.tracing import tracer
from farm.tracing.span import Fact, Span
from workers.enhancer import Enhancer, Interrupted, enhanced
from workers.sizing import sized

#: Jobs that one process prepares concurrently.
MAX_CONCURRENT_JOBS = 8
#: Of these, most of one caller: other callers find a thread, however slow that one's image hosts are.
MAX_JOBS_PER_CALLER = 6
#: Time limit for fetching an image, in seconds, redirects and retries included.
FETCH_SECONDS = 30.0
#: How long calls to a storage that does not answer are retried, in seconds.
STORAGE_SECONDS = 300.0
#: Redirects that are followed.
MAX_REDIRECTS = 3

_REDIRECT_STATUSES = (301, 302, 303, 307, 308)
#: Statuses that are worth a retry.
_TRANSIENT_STATUSES = (429, 500, 502, 503, 504)
#: Attempts at a host that gives no good answer, and for how long it is retried, in seconds.
_MAX_ATTEMPTS = 3
_HOST_SECONDS = 10.0

_log = structlog.get_logger(__name__)


class _Ended(Exception):
    """A job that ended while it was prepared."""


class Preparer:
    """Prepares waiting jobs."""

    def __init__(
        self,
        store: JobStore,
        *,
        storage: Storage,
        outbound: SsrfSafeClient,
        enhancer: Enhancer,
        wake_ups: WakeUps,
        lease_seconds: float,
        worker: str = "",
    ) -> None:
        """`worker` is the id of this process, by which its death is reported."""
        self._store = store
        self._storage = storage
        self._outbound = outbound
        self._enhancer = enhancer
        self._wake_ups = wake_ups
        self._lease_seconds = lease_seconds
        self._worker = worker
        self._pool = LeasedPool("prepare", MAX_CONCURRENT_JOBS, take=self._take, handle=self._handle)
        self._draining = self._pool.draining
        #: The jobs in progress, with their callers.
        self._in_progress: dict[str, str] = {}
        self._lock = threading.Lock()

    def work(self) -> None:
        """Start preparing jobs until no more wait or all threads are busy."""
        self._pool.work()

    def hold(self) -> None:
        """Renew the leases on the jobs in progress: a periodic task, to run well within a lease."""
        with self._lock:
            job_ids = list(self._in_progress)
        if job_ids:
            self._store.renew_unprepared(job_ids, self._lease_seconds)

    def drain(self) -> None:
        """Start no more jobs. Safe in a signal handler."""
        self._pool.drain()

    def close(self) -> None:
        """Drain: wait for the image in progress of each job, and release the rest."""
        self._pool.drain()
        self._enhancer.close()
        self._pool.close()

    def _take(self) -> Taken[Job] | None:
        with self._lock:  # between the claim and the count no other thread may claim
            jobs_of = Counter(self._in_progress.values())
            not_of = [caller for caller, jobs in jobs_of.items() if jobs >= MAX_JOBS_PER_CALLER]
            taken = self._store.claim_unprepared(1, self._lease_seconds, not_of=not_of, worker=self._worker)
            self._in_progress |= {job.id: job.caller for job in taken}
        return Taken(taken[0]) if taken else None

    def _handle(self, job: Job) -> bool:
        facts: dict[str, Fact] = {"job": job.id, "model": job.request.model, "images": job.request.images}
        try:
            with tracer.start("prepare job", job.origin.traceparent, facts) as span:
                self._prepare(job, span)
        finally:
            with self._lock:
                del self._in_progress[job.id]
        return True

    def _prepare(self, job: Job, span: Span) -> None:
        try:
            request = self._prepare_with_retry(job)
        except _Ended:
            return
        except (StorageUnavailable, Interrupted):
            if self._draining.is_set():
                self._store.release_unprepared(job.id)
            else:
                self._store.renew_unprepared([job.id], 0)  # any preparer may have it at once
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is, the job ends
            span.fail(self._refuse(job, error))
            return
        if self._store.finish_preparation(job.id, request, origin=job.origin):
            self._wake_ups.send(1)
            self._remove(_own_sources(job))
        else:  # it was cancelled, or another preparer was faster
            self._remove(request.inputs)

    def _prepare_with_retry(self, job: Job) -> Request:
        """Return the request as it is rendered, retrying while the storage is away."""
        retry = retrying(StorageUnavailable, max_seconds=STORAGE_SECONDS, max_pause=10, stop_event=self._draining)
        return retry(self._attempt, job)

    def _attempt(self, job: Job) -> Request:
        copies: list[str] = []
        try:
            return self._prepared(job, copies)
        except Exception:
            self._remove(copies)
            raise

    def _prepared(self, job: Job, copies: list[str]) -> Request:
        """Return the request as it is rendered. The keys of what is stored for it are added to `copies`."""
        request = job.request
        for number in range(len(request.sources)):
            self._stop_if_unwanted(job)
            content, size = self._copy(request, number)
            key = new_input_key(job.id, number, "png")
            copies.append(key)
            self._storage.put(key, content)
            if number == 0:
                request = sized(request, *size)
        kept = {
            original: copy
            for original, copy in zip(request.sources, copies, strict=True)
            if original in _own_sources(job)
        }
        sources = tuple(kept.get(source, source) for source in request.sources)
        request = request.model_copy(update={"sources": sources, "inputs": tuple(copies)})
        return enhanced(request, self._enhancer) if request.enhance else request

    def _stop_if_unwanted(self, job: Job) -> None:
        """Raise Interrupted while this process drains, and _Ended if the job was cancelled or deleted meanwhile."""
        if self._draining.is_set():
            raise Interrupted
        with suppress(StoreUnavailable):
            current = self._store.get(job.id)
            if current is None or current.state.is_terminal:
                raise _Ended

    def _copy(self, request: Request, number: int) -> tuple[bytes, tuple[int, int]]:
        """Return the farm's copy of a source and its upright size. Raises UnusableImage, which names the source."""
        source = request.sources[number]
        try:
            return decode.prepared(self._read_source(source))
        except UnusableImage as error:
            raise UnusableImage(error.code, f"{_source_name(request, number)}: {error}", error.context) from error

    def _read_source(self, source: str) -> bytes:
        if parse_key(source) is None:
            return fetch(self._outbound, source, self._draining)
        try:
            return self._storage.read(source)
        except NotFound as error:
            raise UnusableImage(Code.FILE_DOWNLOAD_ERROR, "the farm no longer has this file") from error

    def _refuse(self, job: Job, error: Exception) -> str:
        """End the job, and return the code with which it ended."""
        if not isinstance(error, FarmError):
            _log.error("preparation failed", job=job.id, exc_info=error)
            error = FarmError()
        self._store.fail_preparation(job.id, error.code, str(error), cause=with_detail(error))
        return str(error.code)

    def _remove(self, stored: Iterable[str]) -> None:
        for key in stored:
            with suppress(StorageError):  # the sweeper finds it
                self._storage.remove(key)


def fetch(outbound: SsrfSafeClient, url: str, draining: threading.Event) -> bytes:
    """Return what is at `url`, following redirects. Each address on the way is checked.

    Raises UnusableImage, and Interrupted where a retry would be due but `draining` is set.
    """
    until = clock.monotonic() + FETCH_SECONDS
    retry = retrying(Unreachable, max_attempts=_MAX_ATTEMPTS, max_seconds=_HOST_SECONDS, stop_event=draining)
    try:
        return retry(_follow_redirects, outbound, url, until)
    except (Unreachable, ForbiddenAddress) as error:
        if draining.is_set():
            raise Interrupted from error
        raise _download_error(str(error)) from error


def _follow_redirects(outbound: SsrfSafeClient, url: str, until: float) -> bytes:
    """Return what is at the end of the redirects. Raises Unreachable for what a retry may bring."""
    for _ in range(MAX_REDIRECTS + 1):
        reply = _get(outbound, url, max(0.0, until - clock.monotonic()))
        if reply.status == 200:
            return content_encoding.plain(reply.body, reply.headers.get("content-encoding", ""))
        if reply.status in _TRANSIENT_STATUSES:
            raise Unreachable(f"{_host(url)} answered {reply.status}.")
        location = reply.headers.get("location")
        if reply.status not in _REDIRECT_STATUSES or not location:
            raise _download_error(f"{_host(url)} answered {reply.status}.")
        url = _redirect_target(url, location)
    raise _download_error(f"It leads elsewhere more than {MAX_REDIRECTS} times.")


def _get(outbound: SsrfSafeClient, url: str, seconds: float) -> Reply:
    try:
        return outbound.get(url, limit=decode.MAX_BYTES, seconds=seconds)
    except TooLarge as error:
        raise decode.file_too_large("the image is too large") from error


def _redirect_target(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError as error:  # brackets without an address in them, say
        raise _download_error(f"{_host(url)} redirects to an invalid URL.") from error


def _download_error(why: str) -> UnusableImage:
    return UnusableImage(Code.FILE_DOWNLOAD_ERROR, f"the image could not be fetched. {why}")


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


def _source_name(request: Request, number: int) -> str:
    """Return the name of a source in errors: its field, and its host if it has one."""
    field, source = request.source_fields[number], request.sources[number]
    return f"{field} ({_host(source)})" if parse_key(source) is None else field


def _own_sources(job: Job) -> list[str]:
    """Return the sources that were stored for this job alone."""
    return [source for source in job.request.sources if (name := parse_key(source)) and name.job_id == job.id]
