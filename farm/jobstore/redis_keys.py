"""Names of what lies in Redis, for the reads that need no script. The catalogue of all keys heads `lua/prelude.lua`."""

from __future__ import annotations

#: Everything of the farm's lies under this prefix, Celery's own keys included.
PREFIX = "srpo:"

OUTBOX = PREFIX + "outbox"
STOP = PREFIX + "stop"
JOBS = PREFIX + "jobs"
LEASES = PREFIX + "leases"
RENDER_BY = PREFIX + "render_by"
DELAYED = PREFIX + "delayed"
PREPARING = PREFIX + "preparing"
SUSPECTS = PREFIX + "suspects"
START_BY = PREFIX + "start_by"
LETTING_GO = PREFIX + "letting_go"
EXPIRY = PREFIX + "expiry"
WORKERS = PREFIX + "workers"
MODELS = PREFIX + "models"
TOTALS = PREFIX + "totals"
#: While it stands, no worker takes anything.
PAUSED = PREFIX + "paused"
DUE = PREFIX + "due"
#: The channel on which it is told that a job is to be prepared; and what stands in place of the model in the lanes of
#: such jobs.
UNPREPARED = PREFIX + "unprepared"
PREPARATION = "unprepared"
LINES = PREFIX + "lines"
DELIVERIES = PREFIX + "deliveries"
#: The ED25519 key of fal's webhooks, and the address under which the API says it is reached.
SIGNING_KEY = PREFIX + "signing_key"
BASE = PREFIX + "base"
#: Who this farm is among those that share a storage by mistake.
FARM = PREFIX + "farm"
SWEEP_TURN = PREFIX + "sweep:turn"
SWEEP_REACHED = PREFIX + "sweep:reached"
CELERY = PREFIX + "celery:"
#: API keys: id → name, digest, admin, created.
API_KEYS = PREFIX + "keys"


def job(job_id: str) -> str:
    return f"{PREFIX}job:{job_id}"


def changes(job_id: str) -> str:
    """The channel on which a job's changes are told."""
    return f"{PREFIX}changes:{job_id}"


def jobs_of(caller: str | None) -> str:
    """The index of one caller's jobs, or of everybody's."""
    return f"{JOBS}:{caller}" if caller is not None else JOBS


def idempotency(caller: str, key: str) -> str:
    """The job that came of a caller's Idempotency-Key."""
    return f"{PREFIX}idempotency:{caller}:{key}"


def spent(caller: str) -> str:
    """What a caller has used up of its limits."""
    return f"{PREFIX}spent:{caller}"


def delivery(delivery_id: str) -> str:
    return f"{PREFIX}delivery:{delivery_id}"


def attempts(delivery_id: str) -> str:
    return f"{PREFIX}attempts:{delivery_id}"


def deliveries_of(caller: str | None) -> str:
    """The index of one caller's deliveries, or of everybody's."""
    return f"{DELIVERIES}:{caller}" if caller is not None else DELIVERIES


def secret(caller: str) -> str:
    """The secret that signs a caller's webhooks."""
    return f"{PREFIX}secret:{caller}"


def lane(model: str, priority: str) -> str:
    """A line of waiting jobs."""
    return f"{model}:{priority}"


def waiting(model: str, priority: str) -> str:
    return f"{PREFIX}waiting:{lane(model, priority)}"


def since(model: str, priority: str) -> str:
    return f"{PREFIX}since:{lane(model, priority)}"


def idle(model: str) -> str:
    return f"{PREFIX}idle:{model}"


def upload(ticket_id: str) -> str:
    return f"{PREFIX}upload:{ticket_id}"


def uploaded(caller: str) -> str:
    """How many bytes a caller has uploaded within the time for which uploads are kept."""
    return f"{PREFIX}uploaded:{caller}"


def uploads_begun(caller: str) -> str:
    """How many uploads a caller has begun of late."""
    return f"{PREFIX}uploads_begun:{caller}"


def upload_parts(ticket_id: str) -> str:
    """The parts of an upload that have come."""
    return f"{PREFIX}upload_parts:{ticket_id}"


def worker(worker_id: str) -> str:
    return f"{PREFIX}worker:{worker_id}"


def dismissed(host: str, pid: int) -> str:
    """What tells a supervisor that a worker of its was told to leave."""
    return f"{PREFIX}dismissed:{host}:{pid}"


def api_key(key_id: str) -> str:
    return f"{PREFIX}key:{key_id}"
