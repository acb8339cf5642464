"""The ends of jobs that a worker does not render: cancelled, released, failed, or to be tried again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

import structlog

from farm.domain.error_codes import Code
from farm.domain.errors import FarmError, OutOfMemory, RenderError, StorageError, with_detail
from farm.jobstore.store import JobStore, Retry
from workers.health import FailureCounter, Fault, fault_of
from workers.lease import Lease
from workers.publish import retry_store_call
from workers.run import RenderRun

_log = structlog.get_logger(__name__)


class Unrendered:
    """Records in the job store how runs end that are rendered no further. Thread-safe."""

    def __init__(
        self, store: JobStore, *, lease: Lease, failure_counter: FailureCounter, draining: threading.Event
    ) -> None:
        self._store = store
        self._lease = lease
        self._failure_counter = failure_counter
        self._draining = draining

    def cancel(self, run: RenderRun) -> None:
        """End a job that was stopped, or lost to another worker."""
        cancel = partial(self._store.fail, run.job, Code.CANCELLED, "The job was cancelled.")
        self._end(run, cancel, outcome=Code.CANCELLED)

    def release(self, run: RenderRun) -> None:
        """Hand a job back, uncounted."""
        self._end(run, partial(self._store.release, run.job), outcome="released")

    def fail(self, run: RenderRun, error: FarmError, *, retry: Retry) -> None:
        """Fail a job, or have it tried again."""
        cause = with_detail(error)
        fail = partial(self._store.fail, run.job, error.code, str(error), retry=retry, cause=cause)
        self._end(run, fail, outcome=error.code, is_error=True)

    def fail_inputs(self, run: RenderRun, error: StorageError) -> None:
        """Have a job without inputs tried again; a worker that drains releases it, uncounted."""
        if self._draining.is_set():
            self.release(run)
        else:
            self.fail(run, error, retry="again")

    def fail_rendering(self, runs: Sequence[RenderRun], error: Exception, *, were_alone: bool) -> None:
        """Have the runs of images that were computed together tried again, each alone."""
        _log.error("rendering failed", jobs=[run.job.id for run in runs], exc_info=error)
        fault = fault_of(error)
        for run in runs:
            if fault is Fault.OUT_OF_MEMORY:
                self._fail_out_of_memory(run, error, was_alone=were_alone)
            else:
                message = _caller_message("The pipeline could not render the image", error)
                self._fail_alone(run, RenderError(message, detail=str(error)))
        if fault is Fault.DEVICE_LOST:
            self._failure_counter.mark_faulty(f"{type(error).__name__}: {error}")
        else:
            self._failure_counter.fail([run.job.id for run in runs])

    def _fail_out_of_memory(self, run: RenderRun, cause: Exception, *, was_alone: bool) -> None:
        """Have the job tried alone, where it may fit. One that was alone is tried once more."""
        message = _caller_message("The image did not fit into the memory of the device", cause)
        error = OutOfMemory(message, detail=str(cause))
        if was_alone:
            self.fail(run, error, retry="again" if run.job.attempt == 1 else "never")
        else:
            self.fail(run, error, retry="alone")

    def _fail_alone(self, run: RenderRun, error: RenderError) -> None:
        """Have the job tried alone, and on other workers, too: the job or this worker is to blame."""

        def record() -> None:
            if self._failure_counter.failed_here_before(run.job.id):
                self._store.release(run.job)
            else:
                self._store.fail(run.job, error.code, str(error), retry="alone", cause=with_detail(error))

        self._end(run, record, outcome=error.code, is_error=True)

    def _end(self, run: RenderRun, record: Callable[[], object], *, outcome: str, is_error: bool = False) -> None:
        """Render the job no further, and `record` its end in the job store. If that fails, its lease expires."""
        run.output.end(outcome, is_error=is_error)
        try:
            retry_store_call(record, self._draining)
        except FarmError as error:
            _log.error("end of job not recorded", job=run.job.id, error=with_detail(error))
        self._lease.remove(run.job)


def _caller_message(sentence: str, error: Exception) -> str:
    """Return what a caller is told of a pipeline's error; of an engine's own only the type: its text may name files."""
    return str(error) if isinstance(error, FarmError) else f"{sentence} ({type(error).__name__})."
