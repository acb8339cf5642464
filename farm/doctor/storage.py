"""Check the storage: put, get, sign and delete a small object, and time each step."""

from __future__ import annotations

import errno
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar, cast

import redis
import urllib3

from farm.bootstrap import storage_for
from farm.doctor.clocks import clock_finding
from farm.doctor.finding import Finding, good, refused, wrong
from farm.domain.errors import StorageError, with_detail
from farm.jobstore import redis_keys
from farm.jobstore.clock_skew import ClockSkew
from farm.process.data_dir import existing
from farm.retention.ownership import ADOPT
from farm.retention.sweeper import REMEDY
from farm.settings import Settings
from farm.storage.probe import CONTENT, Inconsistent, Probe
from farm.storage.storage import Storage, mark_of, new_key
from farm.tls_errors import bucket_certificate_problem

T = TypeVar("T")

_FETCH_SECONDS = 5.0
#: S3 gives times in whole seconds.
_BLUR_SECONDS = 1.0
#: The errors of a disk that takes nothing more.
_FULL_DISK = tuple(map(os.strerror, (errno.ENOSPC, errno.EDQUOT)))
#: A word of an error, and the remedy.
_REMEDIES = {
    "RequestTimeTooSkewed": "sudo timedatectl set-ntp true: the clocks of this machine and the store differ",
    "SignatureDoesNotMatch": "set AWS_SECRET_ACCESS_KEY to the secret of AWS_ACCESS_KEY_ID",
    "InvalidAccessKeyId": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to a key of the store",
    "AccessDenied": "allow this key to put, get, list and delete, or use another key",
    "NoSuchBucket": "create the bucket, or name another one in FARM_STORAGE_URL",
}


def storage(settings: Settings, data_dir: Path, client: redis.Redis | None = None) -> Iterator[Finding]:
    """Check the storage, the marks of other farms in it, and its clock."""
    try:
        with _storage(settings, data_dir) as store:
            probe = _use(store)
            marks, place = store.marks(), store.place
    except (StorageError, OSError) as error:
        yield wrong("storage", with_detail(error), remedy(error, settings, data_dir))
        return
    where = settings.storage_url or str(data_dir / "images")
    yield good(
        "storage", f"{where}; " + ", ".join(f"{step} {seconds * 1e3:.1f} ms" for step, seconds in probe.seconds.items())
    )
    if client is not None:
        farm_id, recorded = cast(list[str | None], client.mget(redis_keys.FARM_ID, redis_keys.STORAGE))
        yield from other_storage(marks, farm_id, place=place, recorded=recorded)
        yield from other_farms(marks, farm_id)
    if probe.stored is not None:
        apart = probe.stored.stored_at.timestamp() - probe.put_at
        yield clock_finding("the storage's clock", ClockSkew(apart, blur=_BLUR_SECONDS + probe.seconds["put"]))


def other_storage(marks: set[str], farm_id: str | None, *, place: str, recorded: str | None) -> Iterator[Finding]:
    """Check that this is the storage that the farm of this Redis uses."""
    if recorded is not None and recorded != place and farm_id not in marks:
        text = f"{place} is not the storage of this farm, whose images are in {recorded}"
        remedy = f"set FARM_STORAGE_URL as its processes have it; only if you moved the images, run `{ADOPT}`"
        yield refused("storage", f"{text}; {remedy}")


def other_farms(marks: set[str], farm_id: str | None) -> Iterator[Finding]:
    """Check for marks of other farms. A farm that has never run has no id yet."""
    if names := sorted(map(mark_of, marks - {farm_id})):
        text = f"it has marks of other farms ({', '.join(names)}), so orphaned images are not deleted"
        yield wrong("storage", text, REMEDY)


def remedy(error: Exception, settings: Settings, data_dir: Path) -> str:
    """Return the remedy for an error of the storage."""
    if settings.storage_url is None:
        if any(word in with_detail(error) for word in _FULL_DISK):
            return "free space or inodes on its disk, or raise the quota of the farm's user"
        return f"make {data_dir} a writable folder, or use another one with --data-dir"
    if problem := bucket_certificate_problem(error):
        return problem.remedy
    known = (known for word, known in _REMEDIES.items() if word in with_detail(error))
    return next(known, "start the store, or correct AWS_ENDPOINT_URL and FARM_STORAGE_URL")


@contextmanager
def _storage(settings: Settings, data_dir: Path) -> Iterator[Storage]:
    """Yield the farm's storage. Without a data folder yet, use a temporary one: a check leaves nothing behind."""
    with ExitStack() as stack:
        if settings.storage_url is None and not data_dir.exists():
            data_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=existing(data_dir))))
        yield storage_for(settings, data_dir)


def _use(store: Storage) -> Probe:
    """Return the probe of the storage, with its signed URLs."""
    probe = Probe()

    def follow(key: str) -> None:
        if url := store.url(key):
            probe.step("signed URL", lambda: fetch(url))

    # An image of no job: uploads have no signed URLs.
    probe.run(store, key=new_key(str(uuid.uuid4()), 0, 0, "png"), while_stored=follow)
    return probe


def fetch(url: str) -> None:
    """Download a signed URL as a caller would. Errors do not contain it: it grants access."""
    # Only a bucket has signed URLs: boto3, which is slow to import, is loaded already.
    from farm.storage.s3 import ca_bundle

    try:
        with urllib3.PoolManager(ca_certs=ca_bundle(), retries=False, timeout=_FETCH_SECONDS) as http:
            answer = http.request("GET", url)
    except urllib3.exceptions.HTTPError as error:
        problem = bucket_certificate_problem(error)
        reason = f"their certificate {problem.text}" if problem else type(error).__name__
        raise Inconsistent(f"The bucket's signed URLs do not work from here: {reason}.") from None
    if answer.data != CONTENT:
        raise Inconsistent(f"The bucket's signed URLs do not work: status {answer.status}.")
