"""Names of Redis keys and channels, for reads that need no script. `redis-keys.md` is the catalogue of all of them."""

from __future__ import annotations

#: All keys of the farm have this prefix, also Celery's own.
PREFIX = "srpo:"

JOBS = PREFIX + "jobs"
OUTBOX = PREFIX + "outbox"
WAITING_COUNT = PREFIX + "waiting_count"
LEASES = PREFIX + "leases"
DELAYED = PREFIX + "delayed"
START_DEADLINE = PREFIX + "start_deadline"
RENDER_DEADLINE = PREFIX + "render_deadline"
ABANDON_DEADLINE = PREFIX + "abandon_deadline"
EXPIRY = PREFIX + "expiry"
PREPARING = PREFIX + "preparing"
PREPARING_AGAIN = PREFIX + "preparing_again"
WORKERS = PREFIX + "workers"
WORKER_FACTS = PREFIX + "worker_facts"
MODELS = PREFIX + "models"
TOTALS = PREFIX + "totals"
WORK = PREFIX + "work"
PACE = PREFIX + "pace"
CALLER_IMAGES = PREFIX + "caller_images"
DAILY_USAGE = PREFIX + "daily_usage"
PAUSED = PREFIX + "paused"
PAUSED_GROUPS = PREFIX + "paused_groups"
DELIVERIES = PREFIX + "deliveries"
DELIVERY_QUEUES = PREFIX + "delivery_queues"
DELIVERY_FAILURES = PREFIX + "delivery_failures"
SIGNING_KEY = PREFIX + "signing_key"
PUBLIC_URL = PREFIX + "public_url"
SCHEMA = PREFIX + "schema"
FARM_ID = PREFIX + "farm_id"
PROCESSES = PREFIX + "processes"
STORAGE = PREFIX + "storage"
STORAGE_ERRORS = PREFIX + "storage_errors"
SWEEP_LOCK = PREFIX + "sweep:lock"
SWEEP_CURSOR = PREFIX + "sweep:cursor"
API_KEYS = PREFIX + "api_keys"
BULK_DUE = PREFIX + "bulk_due"
ENHANCEMENTS = PREFIX + "enhancements"
#: The prefix of the channels of previews.
PREVIEWS = PREFIX + "previews:"
#: The prefix of Celery's own keys.
CELERY = PREFIX + "celery:"

STOP_CHANNEL = PREFIX + "stop"
DELIVERY_DUE_CHANNEL = PREFIX + "delivery_due"
UNPREPARED_CHANNEL = PREFIX + "unprepared"
BULK_DUE_CHANNEL = BULK_DUE
ENHANCEMENTS_CHANNEL = ENHANCEMENTS

#: Stands in place of the model in the names of queues of unprepared jobs.
UNPREPARED = "unprepared"


def changes_channel(job_id: str) -> str:
    """Return the channel of a job's changes."""
    return f"{PREFIX}changes:{job_id}"


def previews_channel(job_id: str) -> str:
    """Return the channel of a job's previews."""
    return f"{PREVIEWS}{job_id}"


def job_of_channel(channel: str) -> str:
    """Return the id of the job whose channel of changes or previews this is."""
    return channel.rpartition(":")[2]


def job(job_id: str) -> str:
    return f"{PREFIX}job:{job_id}"


def jobs_of(caller: str | None, dialect: str | None = None) -> str:
    """Return the index of one caller's jobs (None: of all callers), of all dialects or of one that lists its own."""
    parts = [JOBS, *([] if caller is None else [caller]), *([] if dialect is None else [dialect])]
    return ":".join(parts)


def queue_name(model: str, priority: str) -> str:
    """Return the name of a job queue."""
    return f"{model}:{priority}"


def queue(model: str, priority: str) -> str:
    return f"{PREFIX}queue:{queue_name(model, priority)}"


def queue_by_age(model: str, priority: str) -> str:
    return f"{PREFIX}queue_by_age:{queue_name(model, priority)}"


def paused_jobs(caller: str) -> str:
    """Return the key of a paused caller's waiting jobs, which are in no queue."""
    return f"{PREFIX}paused_jobs:{caller}"


def idempotency(caller: str, key: str) -> str:
    """Return the key that names the job of a caller's Idempotency-Key."""
    return f"{PREFIX}idempotency:{caller}:{key}"


def usage(caller: str) -> str:
    return f"{PREFIX}usage:{caller}"


def daily_usage(caller: str, day: int) -> str:
    """Return the key of a caller's usage of a day, which is counted in days since 1970."""
    return f"{DAILY_USAGE}:{caller}:{day}"


def worker(worker_id: str) -> str:
    return f"{PREFIX}worker:{worker_id}"


def idle_workers(model: str) -> str:
    return f"{PREFIX}idle_workers:{model}"


def drained_process(host: str, pid: int) -> str:
    """Return the key that tells a supervisor that its worker was told to drain."""
    return f"{PREFIX}drained_process:{host}:{pid}"


def delivery(delivery_id: str) -> str:
    return f"{PREFIX}delivery:{delivery_id}"


def delivery_attempts(delivery_id: str) -> str:
    return f"{PREFIX}delivery_attempts:{delivery_id}"


def deliveries_of(caller: str | None) -> str:
    """Return the index of one caller's deliveries (None: of all callers')."""
    return f"{DELIVERIES}:{caller}" if caller is not None else DELIVERIES


def webhook_secret(caller: str) -> str:
    return f"{PREFIX}webhook_secret:{caller}"


def upload(ticket_id: str) -> str:
    return f"{PREFIX}upload:{ticket_id}"


def upload_parts(ticket_id: str) -> str:
    return f"{PREFIX}upload_parts:{ticket_id}"


def uploaded_bytes(caller: str) -> str:
    return f"{PREFIX}uploaded_bytes:{caller}"


def uploads_started(caller: str) -> str:
    return f"{PREFIX}uploads_started:{caller}"


def api_key(key_id: str) -> str:
    return f"{PREFIX}api_key:{key_id}"


def enhanced(question_id: str) -> str:
    """Return the key of the answer to a question of an API process."""
    return f"{PREFIX}enhanced:{question_id}"


def bulk(bulk_id: str) -> str:
    return f"{PREFIX}bulk:{bulk_id}"


def bulk_open(bulk_id: str) -> str:
    """Return the key of a bulk's jobs that have not ended."""
    return f"{PREFIX}bulk_open:{bulk_id}"


def bulk_line_errors(bulk_id: str) -> str:
    """Return the key of the errors of lines that could not become jobs."""
    return f"{PREFIX}bulk_line_errors:{bulk_id}"


def bulks_of(caller: str) -> str:
    return f"{PREFIX}bulks:{caller}"


def bulk_file(file_id: str) -> str:
    return f"{PREFIX}bulk_file:{file_id}"


def bulk_files_of(caller: str) -> str:
    return f"{PREFIX}bulk_files:{caller}"
