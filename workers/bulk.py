"""The bulk runner: checks the files of bulks, turns their lines into jobs little by little, and writes their results.

It works in threads of the background worker, a thread a bulk. Whatever dies, another process goes on where the record
says: a line has one job, whose id follows from the bulk and the number of the line.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import structlog

from farm.auth.api_keys import Caller
from farm.bulk.files import BulkFiles
from farm.bulk.lines import FileLine, LineReader
from farm.bulk.results import ResultFile, Results
from farm.bulk.store import BulkStore, LeasedBulk, errors_text
from farm.bulk.validation import FileCheck
from farm.concurrency.leased_pool import LeasedPool, Taken
from farm.dialects import openai_batch
from farm.dialects.openai_common import ParsedCall
from farm.domain.bulk import EDITS, BulkFile, BulkState, Ending, LineProblem, Progress
from farm.domain.errors import (
    BulkEnded,
    FarmError,
    LimitReached,
    NotFound,
    NotReady,
    StorageUnavailable,
    StoreFull,
    StoreUnavailable,
)
from farm.domain.job import BulkLine, NewJob
from farm.domain.scheduling import QueuePriority, bulk_priority
from farm.image_calls import ImageCalls
from farm.jobstore.store import JobStore
from farm.service import Service
from farm.storage.storage import Storage, new_bulk_key
from farm.uploads.uploads import Uploads

#: Bulks that one process works on concurrently.
MAX_CONCURRENT_BULKS = 4
#: And, of these, of one caller: each step may take long.
MAX_BULKS_OF_ONE_CALLER = MAX_CONCURRENT_BULKS - 1
#: Most jobs of one bulk that have not ended. More would only wait: workers take a few at a time.
MAX_OPEN_JOBS = 1000
#: After so many lines the progress of a bulk is recorded. A process that dies has as many looked at once more.
LINES_A_STEP = 50
#: Seconds after which a bulk is looked at again: while lines are left; and while a farm, its storage or a limit of its
#: caller keeps lines from becoming jobs.
LOOK_SECONDS = 0.5
RETRY_SECONDS = 5.0
#: And at least as often while all lines are jobs: it may be late for its window.
MAX_LATE_LOOK_SECONDS = 60.0
MAX_LIMIT_PAUSE_SECONDS = 60
#: A bulk fails when its step has failed so often in a row in one process: it would until the end of its window.
MAX_FAULTS = 5

_END: Mapping[Ending | None, BulkState] = {None: BulkState.COMPLETED, "expired": BulkState.EXPIRED}
#: Seconds after which to look at a bulk again. None: when its last job or its completion window ends.
Pause = float | None

#: What may pass, and is not the line's fault.
_PASSING = (LimitReached, NotReady, StorageUnavailable, StoreFull, StoreUnavailable)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class BulkParts:
    """The parts of the farm that a bulk runner uses."""

    bulks: BulkStore
    files: BulkFiles
    results: Results
    jobs: JobStore
    service: Service
    calls: ImageCalls
    storage: Storage
    uploads: Uploads
    #: Most waiting jobs of a caller that has no limit of its own.
    queue_limit: int


class BulkRunner:
    """Works on the bulks that are due."""

    def __init__(self, parts: BulkParts, *, lease_seconds: float, worker: str = "") -> None:
        """`worker` is the id of this process, by which its death is reported."""
        self._parts = parts
        self._lease_seconds = lease_seconds
        self._worker = worker
        self._pool = LeasedPool("bulk", MAX_CONCURRENT_BULKS, take=self._take, handle=self._handle)
        #: The bulks in progress, by their ids.
        self._in_progress: dict[str, LeasedBulk] = {}
        #: How often the step of a bulk has failed here in a row, with no outage to blame.
        self._faults: dict[str, int] = {}
        self._lock = threading.Lock()

    def work(self) -> None:
        """Start working on bulks until none is due or all threads are busy."""
        self._pool.work()

    def hold(self) -> None:
        """Renew the leases on the bulks in progress: a periodic task, to run well within a lease."""
        with self._lock:
            leases = [(leased.id, leased.fence) for leased in self._in_progress.values()]
        if leases:
            self._parts.bulks.renew(leases, self._lease_seconds)

    def drain(self) -> None:
        """Take no more bulks, and stop at the next line. Safe in a signal handler."""
        self._pool.drain()

    def close(self) -> None:
        """Drain, and wait until the bulks in progress have been given back."""
        self._pool.close()

    def _take(self) -> Taken[LeasedBulk] | None:
        with self._lock:  # between the claim and the count no other thread may claim
            bulks_of = Counter(leased.bulk.caller for leased in self._in_progress.values())
            not_of = [caller for caller, bulks in bulks_of.items() if bulks >= MAX_BULKS_OF_ONE_CALLER]
            leased = self._parts.bulks.claim(self._lease_seconds, self._worker, not_of=not_of)
            if leased is None:
                return None
            self._in_progress[leased.id] = leased
        return Taken(leased)

    def _handle(self, leased: LeasedBulk) -> bool:
        pause: Pause = RETRY_SECONDS
        step = BulkStep(self._parts, leased, self._pool.draining.is_set)
        try:
            pause = step.take()
            self._faults.pop(leased.id, None)
        except (FarmError, OSError):  # what may pass
            raise
        except Exception:
            self._faults[leased.id] = self._faults.get(leased.id, 0) + 1
            if self._faults[leased.id] >= MAX_FAULTS:
                step.give_up()
                del self._faults[leased.id]
            raise
        finally:
            with self._lock:
                del self._in_progress[leased.id]
            self._parts.bulks.release(leased, pause_seconds=0 if self._pool.draining.is_set() else pause)
        return True


class BulkStep:
    """The next step of one bulk."""

    def __init__(self, parts: BulkParts, leased: LeasedBulk, is_draining: Callable[[], bool]) -> None:
        self._parts = parts
        self._leased = leased
        self._bulk = leased.bulk
        self._is_draining = is_draining
        self._reader = LineReader(parts.storage, leased.bulk.key, leased.bulk.bytes)

    def take(self) -> Pause:
        """Take the step, and return when to look at the bulk again."""
        try:
            return self._take()
        except NotFound:
            self._fail([LineProblem("file_not_found", "The input file no longer exists.")])
            return 0

    def give_up(self) -> None:
        """End a bulk whose step fails again and again."""
        self._fail(
            [LineProblem("internal_error", "The farm fails on this batch again and again; its log has the reason.")]
        )

    def _take(self) -> Pause:
        is_running = self._bulk.state in (BulkState.VALIDATING, BulkState.IN_PROGRESS)
        if not is_running or self._bulk.ending:
            return self._finish()
        if self._bulk.expires_us <= self._leased.claimed_us:
            self._parts.bulks.end(self._bulk.id, "expired")
            return 0
        if self._bulk.state is BulkState.VALIDATING:
            return self._validate()
        self._keep_up()
        return self._feed()

    def _validate(self) -> Pause:
        """Check the file: the bulk fails, or its lines become jobs from now on."""
        checked = FileCheck(self._bulk.endpoint).check(self._reader.lines(), stop=self._is_draining)
        if checked and checked.problems:
            self._fail(checked.problems)
        elif checked:
            self._change(BulkState.IN_PROGRESS, total=checked.total, model=checked.model)
        return 0

    def _fail(self, problems: Sequence[LineProblem]) -> None:
        _log.info("bulk failed", bulk=self._bulk.id, problems=len(problems))
        self._change(BulkState.FAILED, errors=errors_text(problems))

    # Lines become jobs

    def _keep_up(self) -> None:
        """Have the jobs of a bulk that is late for its window served as single jobs."""
        if self._priority == "bulk":
            return
        open_jobs = self._parts.bulks.open_jobs(self._bulk.id)
        if changed := self._parts.jobs.change_priority(open_jobs, self._priority):
            _log.info("bulk is late", bulk=self._bulk.id, jobs=changed, priority=self._priority)

    @cached_property
    def _priority(self) -> QueuePriority:
        bulk = self._bulk
        passed = (self._leased.claimed_us - bulk.created_us) / 1e6 / self._window_seconds
        return bulk_priority(done=(bulk.completed + bulk.failed) / max(1, bulk.total), passed=passed)

    @property
    def _window_seconds(self) -> float:
        return (self._bulk.expires_us - self._bulk.created_us) / 1e6

    def _feed(self) -> Pause:
        """Turn lines into jobs, no more than may be open, until something keeps them from becoming jobs."""
        lines = self._reader.lines(self._bulk.progress)
        left = self._capacity()
        while left > 0 and not self._is_draining():
            try:
                self._parts.bulks.refuse_when_full()
                progress, count = self._feed_some(lines, min(left, LINES_A_STEP))
            except BulkEnded:
                return 0
            except _PASSING as error:
                return _pause_after(error)
            if progress is None:
                return self._wait_for_jobs()
            left -= count
        return LOOK_SECONDS

    def _capacity(self) -> int:
        """Return how many more jobs there may be: with them, the caller's queue is half full at most."""
        limit = self._bulk.limits.waiting if self._bulk.limits.waiting is not None else self._parts.queue_limit
        queued = self._parts.jobs.waiting_count(self._bulk.caller)
        free = max(1, limit // 2) - queued if limit else MAX_OPEN_JOBS
        return min(MAX_OPEN_JOBS - self._leased.open_jobs, free)

    def _feed_some(self, lines: Iterator[FileLine], count: int) -> tuple[Progress | None, int]:
        """Turn up to `count` lines into jobs, and record it. Return how far the file is read, None at its end."""
        progress, refusals, done = self._bulk.progress, {}, 0
        blocked: Exception | None = None
        for line in lines:
            try:
                refusal = self._submit(line)
            except (BulkEnded, *_PASSING) as error:
                blocked = error
                break
            if refusal:
                refusals[line.number] = refusal
            progress, done = line.end, done + 1
            if done == count:
                break
        if done and not self._parts.bulks.advance(self._leased, progress, refusals):
            raise BulkEnded  # another process works on it
        self._bulk = replace(self._bulk, progress=progress)
        if blocked:
            raise blocked
        return (progress if done else None), done

    def _submit(self, line: FileLine) -> str | None:
        """Submit the job of a line. Return its line of the error file if it cannot become one."""
        assert line.content is not None, "the file was checked"
        request = openai_batch.read_line(line.content, self._bulk.endpoint)
        job_id = self._bulk.job_id(line.number)
        try:
            call = self._parsed(request)
            self._record(job_id, call)
        except (BulkEnded, *_PASSING):
            raise
        except FarmError as error:
            return _refusal(request.custom_id, job_id, error)
        except Exception as error:  # noqa: BLE001  # whatever it is, the other lines go on
            _log.error("line not submitted", bulk=self._bulk.id, line=line.number, exc_info=error)
            return _refusal(request.custom_id, job_id, FarmError())
        return None

    def _parsed(self, request: openai_batch.Line) -> ParsedCall:
        dialect, model_id = self._parts.calls.dialect(request.body)
        if self._bulk.endpoint == EDITS:
            return self._parts.calls.edit(request.body, model_id)
        return self._parts.calls.generation(request.body, dialect, model_id)

    def _record(self, job_id: str, call: ParsedCall) -> None:
        order = replace(call.order, priority=self._priority, inline=False)
        if order.sources and self._parts.jobs.get(job_id):
            return  # it was submitted, but that was not recorded any more; its images are stored
        caller = Caller(self._bulk.caller, limits=self._bulk.limits, base=self._bulk.base)
        line = BulkLine(self._bulk.id, self._bulk.kept_until_us, call.result_format)
        self._parts.service.submit_new(caller, NewJob(job_id, caller.id, order, base=caller.base, line=line))

    def _wait_for_jobs(self) -> Pause:
        """All lines are jobs: go on when the last of them has ended, and see now and then whether they are late."""
        if self._parts.bulks.open_jobs(self._bulk.id):
            return min(MAX_LATE_LOOK_SECONDS, self._window_seconds / 20)
        self._change(BulkState.FINALIZING)
        return 0

    # Results

    def _finish(self) -> Pause:
        """Stop the jobs that are left, if the bulk ends early, and write its results once all have ended."""
        open_jobs = self._parts.bulks.open_jobs(self._bulk.id)
        if open_jobs:
            for job_id in open_jobs:
                self._parts.jobs.cancel(job_id)
            return LOOK_SECONDS
        if self._bulk.state not in (BulkState.FINALIZING, BulkState.CANCELLING):
            self._change(BulkState.FINALIZING)
            return 0
        end = BulkState.CANCELLED if self._bulk.state is BulkState.CANCELLING else _END[self._bulk.ending]
        if not self._bulk.total:  # its file was not checked to the end
            self._change(end)
            return 0
        return self._write_results(end)

    def _write_results(self, end: BulkState) -> Pause:
        with self._parts.uploads.spool() as output_file, self._parts.uploads.spool() as error_file:
            output, errors = ResultFile(output_file), ResultFile(error_file)
            if not self._parts.results.write(self._bulk, self._reader, output, errors, stop=self._is_draining):
                return 0
            files = {"output_file": self._store(output, "output"), "error_file": self._store(errors, "error")}
        self._change(end, completed=output.lines, failed=errors.lines, **files)
        _log.info("bulk ended", bulk=self._bulk.id, state=end, completed=output.lines, failed=errors.lines)
        return 0

    def _store(self, written: ResultFile, kind: Literal["output", "error"]) -> str:
        """Store a result file and return its id; empty for one without lines."""
        if not written.lines:
            return ""
        written.file.seek(0)
        now_us, bulk = self._leased.claimed_us, self._bulk
        expires_us = bulk.kept_until_us
        if bulk.output_seconds:
            expires_us = min(expires_us, now_us + bulk.output_seconds * 1_000_000)
        file = BulkFile(
            bulk.result_file_id(kind),
            bulk.caller,
            f"{bulk.id}_{kind}.jsonl",
            "batch_output",
            written.bytes,
            written.stored_bytes,
            new_bulk_key(until=expires_us // 1_000_000),
            now_us,
            expires_us,
        )
        self._parts.files.add_results(file, written.file)
        return file.id

    def _change(self, state: BulkState, **fields: str | int) -> None:
        self._parts.bulks.change(self._leased, state, **fields)


def _refusal(custom_id: str, job_id: str, error: FarmError) -> str:
    """Return the line of the error file for a request that was refused."""
    return openai_batch.encoded(openai_batch.failed(custom_id, job_id, error.call_failure.status, error)).decode()


def _pause_after(error: FarmError) -> float:
    """Return the seconds after which a line that was refused for a passing reason is tried again."""
    if isinstance(error, LimitReached):
        return float(min(error.retry_after, MAX_LIMIT_PAUSE_SECONDS))
    return RETRY_SECONDS
