"""The health of a worker: the kinds of its engine's errors, and failures in a row."""

from __future__ import annotations

import pytest

from farm import clock
from workers.health import MAX_FAILURES_IN_A_ROW, RESTART_SECONDS, FailureCounter, Fault, fault_of


class OutOfMemoryError(RuntimeError):
    """Named like torch's own."""


class AcceleratorError(RuntimeError):
    """Named like torch's own."""


@pytest.mark.parametrize(
    "error",
    [
        # As torch 2.x words them.
        OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.25 GiB"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_memory_that_is_short_is_known(error: Exception) -> None:
    assert fault_of(error) is Fault.OUT_OF_MEMORY


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: unspecified launch failure"),
        RuntimeError("CUDA error: uncorrectable ECC error encountered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(...)`"),
        RuntimeError("HIP error: an illegal memory access was encountered"),
        AcceleratorError("device-side assert triggered"),
    ],
)
def test_a_device_that_is_lost_is_known(error: Exception) -> None:
    assert fault_of(error) is Fault.DEVICE_LOST


@pytest.mark.parametrize("error", [ValueError("a CUDA graph cannot"), IndexError(), RuntimeError("expected a tensor")])
def test_other_errors_say_nothing_of_the_device(error: Exception) -> None:
    assert fault_of(error) is Fault.UNKNOWN


class Bench:
    """A worker's failure counter, and how often it was told to leave."""

    def __init__(self, *, has_others: bool = True) -> None:
        self.left = 0
        self.has_others = has_others
        self.failure_counter = FailureCounter(self._leave, has_others=lambda: self.has_others)

    def _leave(self) -> None:
        self.left += 1

    def fail(self, times: int, job_id: str = "a") -> None:
        for _ in range(times):
            self.failure_counter.fail([job_id])


def test_a_worker_is_faulty_after_too_many_failures_in_a_row() -> None:
    bench = Bench()
    bench.fail(MAX_FAILURES_IN_A_ROW - 1)
    before = bench.failure_counter.is_faulty

    bench.fail(2)

    assert (before, bench.failure_counter.is_faulty, bench.left) == (False, True, 1)


def test_a_success_in_between_counts() -> None:
    bench = Bench()
    for _ in range(3):
        bench.fail(MAX_FAILURES_IN_A_ROW - 1)
        bench.failure_counter.record_success()

    assert not bench.failure_counter.is_faulty


def test_a_lost_device_is_enough() -> None:
    bench = Bench()

    bench.failure_counter.mark_faulty("device-side assert")
    bench.failure_counter.mark_faulty("device-side assert")

    assert bench.failure_counter.is_faulty
    assert bench.left == 1


def test_the_pause_grows_with_each_failure_in_a_row() -> None:
    bench = Bench()
    pauses = []
    for _ in range(MAX_FAILURES_IN_A_ROW):
        pauses.append(bench.failure_counter.pause_seconds)
        bench.fail(1)
    bench.failure_counter.record_success()

    assert pauses == [0, 0, 0.5, 1, 2]
    assert bench.failure_counter.pause_seconds == 0


@pytest.mark.parametrize("has_others", [True, False])
def test_the_second_failure_of_a_job_here_proves_nothing_while_there_are_others(has_others: bool) -> None:
    bench = Bench(has_others=has_others)
    assert not bench.failure_counter.failed_here_before("a")

    bench.fail(1)

    assert bench.failure_counter.failed_here_before("a") is has_others
    assert not bench.failure_counter.failed_here_before("b")


def test_other_workers_that_restart_count_as_others_for_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that kills its workers leaves a faulty one alone again and again, with the attempts of all others."""
    bench = Bench()
    now = clock.monotonic()
    monkeypatch.setattr(clock, "monotonic", lambda: now)
    assert not bench.failure_counter.failed_here_before("a")
    bench.fail(1)
    bench.has_others = False

    now += RESTART_SECONDS - 1
    assert bench.failure_counter.failed_here_before("a")

    now += 2
    assert not bench.failure_counter.failed_here_before("a")


def test_a_success_of_another_job_clears_an_earlier_failure() -> None:
    bench = Bench()
    bench.fail(1)
    bench.failure_counter.record_success()

    assert not bench.failure_counter.failed_here_before("a")
