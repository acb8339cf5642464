"""From painted images to a completed job: check, encode, store, and only then tell. Beside the render thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import structlog
from PIL import Image as Pillow
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from farm import clock
from farm.errors import FarmError, SafetyError, StorageError, StoreFull, StoreUnavailable
from farm.job import Claimed, Image, Result
from farm.jobstore.store import JobStore
from farm.storage.local import LocalStorage, new_key
from workers.encode import Encoder
from workers.lease import Lease
from workers.pipelines.pipeline import Painted
from workers.safety import Checker

#: Threads that encode and store.
_THREADS = 2
#: Images that may wait for them before the render thread does.
_BACKLOG = 8
#: How long the end of a job is offered to a job store that does not answer, in seconds.
INSIST_SECONDS = 600.0

T = TypeVar("T")

_log = structlog.get_logger(__name__)


def insist(call: Callable[[], T]) -> T:
    """Make `call` until the job store answers. Its lease may run out meanwhile; the fence then decides."""
    retrying = Retrying(
        retry=retry_if_exception_type((StoreUnavailable, StoreFull)),
        wait=wait_random_exponential(multiplier=0.1, max=2),
        stop=stop_after_delay(INSIST_SECONDS),
        reraise=True,
    )
    return retrying(call)


class Sheet:
    """A job's images on their way to storage, and the seconds that each stage took."""

    def __init__(self, job: Claimed) -> None:
        self.job = job
        self.images: dict[int, Image] = {}
        self.flagged: dict[int, bool] = {}
        self.warnings: dict[str, None] = {}  # ordered, each once
        self.timings: dict[str, float] = {"encode": 0.0, "upload": 0.0}
        self.is_over = False
        self.lock = threading.Lock()

    def result(self, build: str) -> Result:
        numbers = range(self.job.request.images)
        return Result(
            images=tuple(self.images[number] for number in numbers),
            flagged=tuple(self.flagged[number] for number in numbers),
            timings={name: round(seconds, 6) for name, seconds in self.timings.items()},
            warnings=tuple(self.warnings),
            build=build,
        )


class Publisher:
    """Takes painted images off the render thread's hands and ends their jobs."""

    def __init__(
        self, store: JobStore, *, storage: LocalStorage, encoder: Encoder, checker: Checker | None, lease: Lease
    ) -> None:
        self._store = store
        self._storage = storage
        self._encoder = encoder
        self._checker = checker
        self._lease = lease
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="publish")
        self._room = threading.BoundedSemaphore(_BACKLOG)

    def take(self, sheet: Sheet, number: int, painted: Painted) -> None:
        """Publish the `number`-th image of a job; its last one completes it. Waits while too many are under way."""
        self._room.acquire()
        self._pool.submit(self._publish, sheet, number, painted)

    def close(self) -> None:
        """Wait until everything taken is published."""
        self._pool.shutdown(wait=True)

    def _publish(self, sheet: Sheet, number: int, painted: Painted) -> None:
        try:
            self._store_image(sheet, number, painted)
            if self._is_last(sheet):
                self._complete(sheet)
        except (StorageError, SafetyError) as error:
            self._fail(sheet, error)
        except Exception as error:  # noqa: BLE001  # the pool would swallow it, and the job would wait for its lease
            _log.error("publishing failed", job=sheet.job.id, exc_info=error)
            self._fail(sheet, FarmError(f"The picture could not be published: {error}"))
        finally:
            self._room.release()

    def _store_image(self, sheet: Sheet, number: int, painted: Painted) -> None:
        request, began = sheet.job.request, clock.monotonic()
        image, flagged = self._checked(sheet, painted)
        content = self._encoder.encode(
            image, of=request.image(number), form=request.output_format, warnings=painted.warnings
        )
        encoded = clock.monotonic()
        key = new_key(sheet.job.id, sheet.job.fence, number, request.output_format)
        self._storage.put(key, content)
        stored = clock.monotonic()
        with sheet.lock:
            sheet.timings["encode"] += encoded - began
            sheet.timings["upload"] += stored - encoded
            sheet.flagged[number] = flagged
            sheet.warnings.update(dict.fromkeys(painted.warnings))
            content_type = f"image/{request.output_format}"
            sheet.images[number] = Image(key, request.width, request.height, content_type, len(content))

    def _checked(self, sheet: Sheet, painted: Painted) -> tuple[Pillow.Image, bool]:
        """The image, or a black one where the checker finds it unsafe. Fails rather than let one pass unchecked."""
        if not sheet.job.request.safety:
            return painted.image, False
        if self._checker is None:
            raise SafetyError("The request asks for checking, and this worker has no picture checker.")
        try:
            flagged = self._checker.check(painted.image)
        except Exception as error:  # whatever a checker raises: unchecked pictures are not published
            raise SafetyError(f"The picture could not be checked: {error}") from error
        return (Pillow.new("RGB", painted.image.size) if flagged else painted.image), flagged

    def _is_last(self, sheet: Sheet) -> bool:
        with sheet.lock:
            return len(sheet.images) == sheet.job.request.images and not sheet.is_over

    def _complete(self, sheet: Sheet) -> None:
        result = sheet.result(self._encoder.build)
        won = insist(partial(self._store.complete, sheet.job, result))
        self._lease.drop(sheet.job)
        _log.info("job completed" if won else "job was no longer ours", job=sheet.job.id, **result.timings)

    def _fail(self, sheet: Sheet, error: FarmError) -> None:
        with sheet.lock:
            first, sheet.is_over = not sheet.is_over, True
        if first:
            state = insist(partial(self._store.fail, sheet.job, error.code, str(error), retry="again"))
            self._lease.drop(sheet.job)
            _log.warning("job not published", job=sheet.job.id, error=str(error), state=state)
