"""The image storage: put, get, sign and delete a small image, each with the time it took."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar, cast

import redis
import urllib3

from farm import clock
from farm.bootstrap import storage_for
from farm.doctor.clocks import clock_finding
from farm.doctor.finding import Finding, good, wrong
from farm.doctor.machine import existing
from farm.domain.errors import StorageError
from farm.jobstore import redis_keys
from farm.retention.sweeper import REMEDY
from farm.settings import Settings
from farm.storage.storage import Storage, StoredFile, mark_of, new_key

T = TypeVar("T")

_FETCH_SECONDS = 5.0
_CONTENT = b"Written by `farm doctor`, and removed by it."
#: The times of S3's objects are whole seconds.
_BLUR_SECONDS = 1.0
#: What mends it, by a word of the error.
_REMEDIES = {
    "RequestTimeTooSkewed": "sudo timedatectl set-ntp true: the store refuses signatures of another time",
    "SignatureDoesNotMatch": "set AWS_SECRET_ACCESS_KEY to the secret of AWS_ACCESS_KEY_ID",
    "InvalidAccessKeyId": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to a key that the store knows",
    "AccessDenied": "let this key read, write, list and delete in the bucket, or use another key",
    "NoSuchBucket": "make the bucket, or name another one in FARM_STORAGE_URL",
}


class Mistaken(StorageError):
    """The storage says that all is well, but it is not."""


def storage(settings: Settings, data_dir: Path, client: redis.Redis | None = None) -> Iterator[Finding]:
    try:
        with _storage(settings, data_dir) as store:
            steps, stored, put_at = _use(store)
            marks = store.marks()
    except (StorageError, OSError) as error:
        yield wrong("storage", str(error), remedy(str(error), settings, data_dir))
        return
    where = settings.storage_url or str(data_dir / "images")
    yield good("storage", f"{where}; " + ", ".join(f"{step} {seconds * 1e3:.1f} ms" for step, seconds in steps.items()))
    if client is not None:
        yield from others(marks, cast(str | None, client.get(redis_keys.FARM)))
    apart = stored.stored_at.timestamp() - put_at
    yield clock_finding("the storage's clock", apart, blur=_BLUR_SECONDS + steps["put"])


def others(marks: set[str], farm_id: str | None) -> Iterator[Finding]:
    """Whether farms but this one have marked the storage. A farm that never ran has no id yet."""
    if names := sorted(map(mark_of, marks - {farm_id})):
        text = f"it bears marks of other farms ({', '.join(names)}), so images that are nobody's stay"
        yield wrong("storage", text, REMEDY)


def remedy(message: str, settings: Settings, data_dir: Path) -> str:
    if settings.storage_url is None:
        return f"make {data_dir} a folder that this user may write to, or use another one with --data-dir"
    known = (known for word, known in _REMEDIES.items() if word in message)
    return next(known, "start that store, or correct AWS_ENDPOINT_URL and FARM_STORAGE_URL")


@contextmanager
def _storage(settings: Settings, data_dir: Path) -> Iterator[Storage]:
    """The farm's own; where there is no farm's folder yet, one for a moment, since looking should leave nothing."""
    with ExitStack() as stack:
        if settings.storage_url is None and not data_dir.exists():
            data_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=existing(data_dir))))
        yield storage_for(settings, data_dir)


def _use(store: Storage) -> tuple[dict[str, float], StoredFile, float]:
    """The steps with their seconds, what the storage said of the image, and when it was asked to take it."""
    key = new_key(str(uuid.uuid4()), 0, 0, "png")
    steps: dict[str, float] = {}

    def timed(step: str, act: Callable[[], T]) -> T:
        began = clock.monotonic()
        result = act()
        steps[step] = clock.monotonic() - began
        return result

    put_at = clock.now_us() / 1e6
    timed("put", lambda: store.put(key, _CONTENT))
    try:
        if timed("get", lambda: store.read(key)) != _CONTENT:
            raise Mistaken("What the storage gave back is not what it was given.")
        stored = store.find(key)
        if url := store.url(key):
            timed("signed address", lambda: fetch(url))
    finally:
        timed("delete", lambda: store.remove(key))
    if stored is None or store.find(key) is not None:
        raise Mistaken("The storage does not know what it holds: an image was there, or was not, against its word.")
    return steps, stored, put_at


def fetch(url: str) -> None:
    """As a caller of the farm would, who has nothing but the address. It is not shown: who has it may read."""
    try:
        answer = urllib3.request("GET", url, retries=False, timeout=_FETCH_SECONDS)
    except urllib3.exceptions.HTTPError as error:
        raise Mistaken(f"The bucket's signed addresses do not work from here: {type(error).__name__}.") from None
    if answer.data != _CONTENT:
        raise Mistaken(f"The bucket's signed addresses do not work: status {answer.status}.")
