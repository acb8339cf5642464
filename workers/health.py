"""The health of a worker: the kind of its engine's errors, and how many came in a row. No torch here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from enum import Enum, auto

import structlog

from farm import clock

#: Failures without a success in between after which the worker counts as faulty, and not the jobs.
MAX_FAILURES_IN_A_ROW = 5
#: Pause after the second failure in a row, in seconds, doubled with each further one: other workers come first.
_FIRST_PAUSE = 0.5
#: How long a worker that has gone is taken for one that starts again, in seconds: it loads its weights.
RESTART_SECONDS = 300.0

#: Parts of error messages for exhausted memory: of torch on CUDA and on the CPU, and of cuBLAS.
_NO_MEMORY = ("out of memory", "outofmemoryerror", "cublas_status_alloc_failed", "can't allocate memory")
#: What torch raises for errors of the device itself. After most of them the process can no longer use the device: a
#: failed assertion in a kernel, an illegal address, an uncorrectable ECC error, a launch that failed
#: (https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html).
_DEVICE_LOST = ("cuda error", "hip error", "acceleratorerror")

_log = structlog.get_logger(__name__)


class Fault(Enum):
    """The meaning of an engine's error for the device."""

    #: Nothing certain: the job may be to blame, or the worker.
    UNKNOWN = auto()
    #: The job did not fit into its memory.
    OUT_OF_MEMORY = auto()
    #: This process can no longer use it.
    DEVICE_LOST = auto()


def fault_of(error: Exception) -> Fault:
    """Return the fault behind an error, judged by its type's name and its message: engines have no finer types."""
    words = f"{type(error).__name__}: {error}".lower()
    if isinstance(error, MemoryError) or any(part in words for part in _NO_MEMORY):
        return Fault.OUT_OF_MEMORY
    return Fault.DEVICE_LOST if any(part in words for part in _DEVICE_LOST) else Fault.UNKNOWN


class FailureCounter:
    """Counts failures in a row that may be this worker's own, and stops a faulty worker: a circuit breaker.

    Thread-safe: rendering and publishing both report here.
    """

    def __init__(self, leave: Callable[[], None], *, has_others: Callable[[], bool], device: str = "cpu") -> None:
        """Call `leave` once the worker is faulty. `has_others` says whether others serve the same models."""
        self._leave = leave
        self._has_others = has_others
        self._device = device
        self._lock = threading.Lock()
        self._failures_in_a_row = 0
        self._failed: set[str] = set()
        self._others_until = 0.0
        self.is_faulty = False

    @property
    def pause_seconds(self) -> float:
        """Seconds to wait before the next claim."""
        return _FIRST_PAUSE * 2 ** (self._failures_in_a_row - 2) if self._failures_in_a_row > 1 else 0.0

    def record_success(self) -> None:
        """Reset the count: a job was completed, so the jobs that failed before were to blame."""
        with self._lock:
            self._failures_in_a_row = 0
            self._failed.clear()

    def fail(self, job_ids: Collection[str]) -> None:
        """Count a failure of these jobs, rendered together, that may be this worker's fault."""
        with self._lock:
            self._failures_in_a_row += 1
            self._failed.update(job_ids)
            is_last = self._failures_in_a_row >= MAX_FAILURES_IN_A_ROW
        if is_last:
            self.mark_faulty(f"{MAX_FAILURES_IN_A_ROW} failures in a row")

    def mark_faulty(self, reason: str) -> None:
        """Have this worker leave."""
        with self._lock:
            if self.is_faulty:
                return
            self.is_faulty = True
        _log.critical("this worker is faulty and exits", device=self._device, reason=reason)
        self._leave()

    def failed_here_before(self, job_id: str) -> bool:
        """Return True if another failure of this job here proves nothing, and other workers may do better.

        It failed here before, as everything since did. So no worker uses up the attempts of a job alone, also while the
        others restart: a job that kills its workers may be the cause. To be asked at each failure.
        """
        now = clock.monotonic()
        if self._has_others():
            self._others_until = now + RESTART_SECONDS
        return job_id in self._failed and now < self._others_until
