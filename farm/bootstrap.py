"""Composition root: build the objects of a process from its settings. No other module constructs them."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import redis
import structlog
from celery import Celery

from farm.auth.api_keys import ApiKeyStore
from farm.bulk.files import BulkFiles
from farm.bulk.service import BulkService
from farm.bulk.store import BulkStore
from farm.celery import WakeUps, application
from farm.concurrency.background_thread import call_in_thread
from farm.concurrency.retry import retrying
from farm.dialects.links import Links
from farm.dialects.unknown_fields import UnknownFields
from farm.domain.errors import (
    ConfigurationError,
    NotReady,
    StorageError,
    StorageRefused,
    StorageUnavailable,
    with_detail,
)
from farm.domain.job import Job
from farm.domain.limits import Limits
from farm.image_calls import ImageCalls
from farm.images.intake import Intake
from farm.jobstore import redis_keys, schema
from farm.jobstore.connection import check, connect, connect_to_listen, translated
from farm.jobstore.disk_guard import DiskGuard, Guard, no_guard
from farm.jobstore.enhancements import Enhancements
from farm.jobstore.event_feed import EventFeed
from farm.jobstore.notifications import JobChanges
from farm.jobstore.peers import Kind, Peers
from farm.jobstore.stats import Served, StoreStats
from farm.jobstore.store import JobStore, Terms
from farm.jobstore.tally import Tally
from farm.process import embedded_redis
from farm.process.listen import listening_error, reachable
from farm.retention.ownership import OtherStorage, Ownership
from farm.retention.sweep_state import SweepState
from farm.retention.sweeper import Sweeper
from farm.service import Service
from farm.settings import Settings
from farm.ssrf_safe_http import SsrfSafeClient
from farm.storage.local import LocalStorage
from farm.storage.measured import MeasuredStorage
from farm.storage.owned import OwnedStorage
from farm.storage.probe import Probe
from farm.storage.storage import Storage
from farm.tracing import tracer
from farm.uploads.tickets import Tickets, UploadQuota
from farm.uploads.uploads import Uploads
from farm.webhooks import signing
from farm.webhooks.secrets import Secrets
from farm.webhooks.store import DeliveryStore
from farm.weights.checkpoints import Checkpoints
from farm.weights.lora_files import Lora
from farm.weights.memory_plan import Choice

#: Time limit of the trial of the storage when a process starts.
STORAGE_SECONDS = 5.0
#: How long a process waits for another one of its farm to mark the storage that both reach, in seconds.
_MARK_SECONDS = 3.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Farm:
    """The objects that every process of the farm uses."""

    settings: Settings
    data_dir: Path
    redis_url: str
    redis: redis.Redis
    celery: Celery
    store: JobStore
    stats: StoreStats
    callers: ApiKeyStore
    storage: Storage
    ownership: Ownership
    sweeper: Sweeper
    uploads: Uploads
    wake_ups: WakeUps
    deliveries: DeliveryStore
    enhancements: Enhancements
    secrets: Secrets
    outbound: SsrfSafeClient
    service: Service
    tally: Tally
    bulks: BulkStore
    bulk_files: BulkFiles

    @property
    def image_calls(self) -> ImageCalls:
        return ImageCalls(self.service, UnknownFields(self.settings.unknown_fields))

    @property
    def bulk_service(self) -> BulkService:
        return BulkService(self.bulks, files=self.bulk_files, outbound=self.outbound)

    def peers(self, kind: Kind) -> Peers:
        """Return the processes that share this Redis, this one of this kind among them."""
        return Peers(self.redis, kind, self.settings, disk_guard(self.settings, self.data_dir))

    def links(self, base: str) -> Links:
        """Return the links to images and jobs for callers that reach the farm at `base`."""
        return Links(base, file=lambda key: self.storage.url(key) or f"{base}/files/{key}", content=self.storage.read)

    def links_of(self, job: Job) -> Links:
        """Return the links for a job's webhook: at the base that its caller used, else that of the API."""
        return self.links_from(job.base)

    def links_from(self, base: str) -> Links:
        """Return the links at the base that a caller used, else at that of the API. Raises NotReady."""
        known = base or base_of_the_api(self.settings, self.redis)
        if known is None:
            raise NotReady("The address of this farm is unknown: no API has been started yet. Set FARM_PUBLIC_URL.")
        return self.links(known)


def checkpoints_of(settings: Settings) -> Checkpoints:
    """Return the checkpoints that the settings name."""
    return Checkpoints(settings.flux_dir, settings.srpo_file, settings.kontext_dir)


def loras_of(settings: Settings) -> tuple[Lora, ...]:
    """Return the LoRA files that the settings name."""
    return tuple(Lora(path, strength) for path, strength in settings.lora)


def memory_choice(settings: Settings) -> Choice:
    """Return how the settings want weights to be kept."""
    return Choice(settings.quantize, settings.offload)


def base_of_the_api(settings: Settings, client: redis.Redis) -> str | None:
    """Return the base of the API's URLs without a trailing slash, or None if no API has been started yet."""
    with translated():
        base = settings.public_url or cast(str | None, client.get(redis_keys.PUBLIC_URL))
    return reachable(base).rstrip("/") if base else None


def redis_url(settings: Settings, data_dir: Path) -> str:
    """Return the URL of the farm's Redis: FARM_REDIS_URL, or the embedded one that runs for `data_dir`."""
    url = settings.redis_url or embedded_redis.address(data_dir)
    if url is None:
        raise ConfigurationError(
            f"No farm runs on {data_dir}: start one with `farm up --data-dir {data_dir}`, or set FARM_REDIS_URL"
        )
    return url


def reach(settings: Settings, data_dir: Path) -> redis.Redis:
    """Connect to the farm's Redis and check it."""
    client = connect(redis_url(settings, data_dir))
    check(client, unsafe=settings.redis_unsafe or settings.redis_url is None)
    schema.declare(client)
    return client


def storage_for(settings: Settings, data_dir: Path) -> Storage:
    """Return the image storage of the settings: a folder or a bucket."""
    if settings.storage_url is None:
        return LocalStorage(data_dir / "images")
    # Importing boto3 costs half a second and 30 MB, which a farm without a bucket saves.
    from farm.storage.s3 import Bucket, S3Storage

    bucket = Bucket.at(settings.storage_url, checksums=settings.s3_checksums, addressing=settings.s3_addressing)
    return S3Storage(
        bucket,
        url_seconds=settings.result_ttl if settings.files == "presigned" else None,
        public_endpoint=settings.s3_public_endpoint,
    )


def say_if_storage_fails(storage: Storage, ownership: Ownership | None = None) -> None:
    """Try the storage and log why it cannot be used, before the process says that it is ready.

    The process starts all the same: finished images wait for a storage that is away. Raises ConfigurationError if only
    its operator can help, or if it is not the storage that this farm uses.
    """
    try:
        call_in_thread("storage probe", partial(_try, storage, ownership)).result(STORAGE_SECONDS)
    except TimeoutError:
        _log.warning("the storage does not answer yet", seconds=STORAGE_SECONDS, see="farm doctor")
    except StorageError as error:
        if isinstance(error, StorageRefused) or not isinstance(error, StorageUnavailable):
            raise ConfigurationError(f"The storage cannot be used: {with_detail(error)}; see farm doctor") from error
        _log.warning("the storage cannot be used yet", reason=with_detail(error), see="farm doctor")


def _try(storage: Storage, ownership: Ownership | None) -> None:
    with closing(storage):  # idle connections are of no use to a process that reads or writes much later
        if ownership:
            retrying(OtherStorage, max_seconds=_MARK_SECONDS)(ownership.establish)
        Probe().run(storage)


def ownership_of(storage: Storage, store: JobStore, client: redis.Redis) -> Ownership:
    """Return what ties the farm of this Redis to a storage."""
    return Ownership(storage, store=store, sweep_state=SweepState(client))


def job_store(settings: Settings, client: redis.Redis, guard: Guard = no_guard) -> JobStore:
    """Return the job store with the limits of the settings."""
    return JobStore(
        client,
        Terms(
            lease_seconds=settings.lease_seconds,
            max_attempts=settings.max_attempts,
            queue_limit=settings.queue_limit,
            result_ttl_seconds=settings.result_ttl,
            rate_limit=settings.rate_limit or 0,
            images_per_day=settings.images_per_day or 0,
            render_seconds=settings.render_seconds,
            usage_seconds=settings.usage_ttl,
        ),
        guard,
    )


def check_values(settings: Settings) -> None:
    """Raise ConfigurationError for a value that has the form of its setting, and cannot be used."""
    SsrfSafeClient(settings.webhook_allow)
    tracer.check()
    if settings.signing_key:
        signing.read_key(settings.signing_key)
    if settings.metrics_port is not None and (error := listening_error(settings.metrics_host, port=0)):
        raise ConfigurationError(
            f"FARM_METRICS_HOST={settings.metrics_host} is not an address of this machine ({error.strerror}); "
            "set it to one, or to 0.0.0.0 for all"
        )


def disk_guard(settings: Settings, data_dir: Path) -> Guard:
    """Return the guard of the disk on which the embedded Redis of this data folder writes."""
    return no_guard if settings.redis_url else DiskGuard(data_dir / "redis")


def build(settings: Settings, data_dir: Path, *, listens: bool = False) -> Farm:
    """Build the objects, connected and checked. `listens`: callers wait for changes in this process."""
    url = redis_url(settings, data_dir)
    client = reach(settings, data_dir)
    celery = application(url)
    guard = disk_guard(settings, data_dir)
    store = job_store(settings, client, guard)
    stats = StoreStats(client)
    ownership = ownership_of(storage_for(settings, data_dir), store, client)
    tally = Tally(client, guard)
    storage = MeasuredStorage(OwnedStorage(ownership.storage, ownership.establish_once), partial(_count_storage, tally))
    wake_ups = WakeUps(celery)
    outbound = SsrfSafeClient(settings.webhook_allow)
    usual = Limits(settings.rate_limit or 0)
    service = Service(
        store,
        stats=stats,
        storage=storage,
        wake_ups=wake_ups,
        intake=Intake(storage, outbound=outbound, base=lambda: base_of_the_api(settings, client)),
        changes=JobChanges(connect_to_listen(url)) if listens else None,
        feed=EventFeed(connect_to_listen(url)) if listens else None,
        outbound=outbound,
        aliases=settings.model_aliases,
        expected=_expected(settings),
    )
    return Farm(
        settings=settings,
        data_dir=data_dir,
        redis_url=url,
        redis=client,
        celery=celery,
        store=store,
        stats=stats,
        callers=ApiKeyStore(client, guard),
        storage=storage,
        ownership=ownership,
        sweeper=Sweeper(store, storage=storage, sweep_state=SweepState(client), ownership=ownership),
        uploads=_uploads(settings, client, guard, storage, spool=data_dir / "uploads"),
        wake_ups=wake_ups,
        deliveries=DeliveryStore(client, guard, limits=usual),
        enhancements=Enhancements(client, guard, limits=usual),
        secrets=Secrets(client, guard, signing_key=settings.signing_key),
        outbound=outbound,
        service=service,
        tally=tally,
        bulks=BulkStore(client, guard, result_ttl_seconds=settings.result_ttl),
        bulk_files=BulkFiles(client, storage, guard, keep_seconds=settings.result_ttl),
    )


def _expected(settings: Settings) -> dict[str, Served]:
    """Return the models that workers will bring (FARM_SERVES), which count as served before that."""
    safety = settings.safety or "bundled"
    return {name: Served("", safety=safety, build="", seen_us=0) for name in settings.serves}


def _uploads(settings: Settings, client: redis.Redis, guard: Guard, storage: Storage, *, spool: Path) -> Uploads:
    quota = UploadQuota(client, max_bytes=round(settings.upload_gigabytes * 1e9), seconds=settings.upload_ttl)
    return Uploads(Tickets(client, guard), quota=quota, storage=storage, spool=spool, keep_seconds=settings.upload_ttl)


def _count_storage(tally: Tally, operation: str, seconds: float, error: BaseException | None) -> None:
    tally.add("storage_operations", operation, "error" if error else "ok")
    if error:
        tally.storage_errors.note(operation, with_detail(error))
    tally.observe("storage_operation_seconds", operation, value=seconds)
