"""A thread that makes calls one after another."""

from __future__ import annotations

import threading

import pytest

from farm.concurrency.call_thread import CallThread


class Ended(BaseException):
    """Fatal error that ends a process."""


def test_calls_are_made_in_order_beside_the_caller() -> None:
    thread, may_go_on = CallThread[int]("test"), threading.Event()
    first = thread.submit(lambda: 1 if may_go_on.wait(20) else 0)
    second = thread.submit(threading.get_ident)
    assert not first.done()

    may_go_on.set()

    assert first.result(20) == 1
    assert second.result(20) != threading.get_ident()
    thread.close()


@pytest.mark.parametrize("error", [ValueError, Ended])
def test_an_error_of_any_kind_is_an_outcome_and_ends_no_thread(error: type[BaseException]) -> None:
    def fail() -> int:
        raise error

    thread = CallThread[int]("test")

    with pytest.raises(error):
        thread.submit(fail).result(20)
    assert thread.submit(lambda: 2).result(20) == 2
    thread.close()
