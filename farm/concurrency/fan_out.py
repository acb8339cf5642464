"""One call for each of many items, several at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def for_each(items: Iterable[T], handle: Callable[[T], None], *, threads: int) -> None:
    """Call `handle` with each item, in so many threads, and return when all have been handled.

    Items are taken one by one, as they are needed. Raises the first error; items that were not taken by then are left.
    """
    taken, lock, is_over = iter(items), threading.Lock(), threading.Event()

    def work() -> None:
        try:
            while not is_over.is_set():
                with lock:
                    item = next(taken, is_over)
                if item is is_over:
                    return
                handle(item)  # type: ignore[arg-type]  # it is not the mark of the end
        except BaseException:
            is_over.set()
            raise

    with ThreadPoolExecutor(threads, thread_name_prefix="fan out") as pool:
        try:
            for future in [pool.submit(work) for _ in range(threads)]:
                future.result()
        finally:
            is_over.set()
