"""Whether a worker is fit to render: what its engine's errors say of it, and how many came in a row. No torch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from enum import Enum, auto

import structlog

#: So many failures without an image in between, and nobody believes any more that the jobs are to blame.
MAX_FAILURES_IN_A_ROW = 5
#: How long a worker holds back after its second failure in a row, in seconds; doubled with each. Others come first.
_FIRST_PAUSE = 0.5

#: Parts of what engines say when memory is short: torch on CUDA and on the CPU, and cuBLAS in words of its own.
_NO_MEMORY = ("out of memory", "outofmemoryerror", "cublas_status_alloc_failed", "can't allocate memory")
#: All that torch raises for an error of the device itself. After most of them the process can use the device no more: a
#: failed assertion in a kernel, an illegal address, an uncorrectable ECC error, a launch that failed
#: (https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html).
_DEVICE_LOST = ("cuda error", "hip error", "acceleratorerror")

_log = structlog.get_logger(__name__)


class Fault(Enum):
    """What an engine's error says of the device that it was raised on."""

    #: Nothing: the job may be to blame, or the worker.
    UNKNOWN = auto()
    #: What was asked for did not fit into its memory.
    OUT_OF_MEMORY = auto()
    #: This process cannot use it any more.
    DEVICE_LOST = auto()


def fault_of(error: Exception) -> Fault:
    """Judged by what it is called and says: engines have no types that would tell more, and this module no engine."""
    words = f"{type(error).__name__}: {error}".lower()
    if isinstance(error, MemoryError) or any(part in words for part in _NO_MEMORY):
        return Fault.OUT_OF_MEMORY
    return Fault.DEVICE_LOST if any(part in words for part in _DEVICE_LOST) else Fault.UNKNOWN


class FailureCounter:
    """Keeps count of the failures that may be this worker's own, and has it leave when it is no good.

    Thread-safe: rendering and publishing both report here.
    """

    def __init__(self, leave: Callable[[], None], *, has_others: Callable[[], bool]) -> None:
        """`leave` is called once, by whoever reports the last straw. `has_others`: others serve the same models."""
        self._leave = leave
        self._has_others = has_others
        self._lock = threading.Lock()
        self._failures_in_a_row = 0
        self._failed: set[str] = set()
        self.is_faulty = False

    @property
    def pause_seconds(self) -> float:
        """How long to wait before the next claim."""
        return _FIRST_PAUSE * 2 ** (self._failures_in_a_row - 2) if self._failures_in_a_row > 1 else 0.0

    def record_success(self) -> None:
        """A job was completed: what failed before it was to blame itself."""
        with self._lock:
            self._failures_in_a_row = 0
            self._failed.clear()

    def fail(self, job_ids: Collection[str]) -> None:
        """These jobs, rendered together, failed in a way that may be this worker's fault."""
        with self._lock:
            self._failures_in_a_row += 1
            self._failed.update(job_ids)
            is_last = self._failures_in_a_row >= MAX_FAILURES_IN_A_ROW
        if is_last:
            self.mark_faulty(f"{MAX_FAILURES_IN_A_ROW} failures in a row")

    def mark_faulty(self, reason: str) -> None:
        """This worker is no good."""
        with self._lock:
            if self.is_faulty:
                return
            self.is_faulty = True
        _log.critical("this worker is faulty, and leaves", reason=reason)
        self._leave()

    def failed_here_before(self, job_id: str) -> bool:
        """Whether a failure of this job here proves nothing: it failed here before, as all else since, and others may
        do better. So no worker uses up a job's attempts alone."""
        return job_id in self._failed and self._has_others()
