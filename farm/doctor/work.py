"""Check the work: workers, queue, preparation and webhook deliveries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from farm import __version__, clock
from farm.doctor.finding import Finding, good, note, wrong
from farm.jobstore.peers import differences
from farm.jobstore.stats import Queue, StoreStats, Worker

#: A job that waits for longer although a worker is idle is stuck: wake-ups are repeated every second.
_IDLE_SECONDS = 10.0
#: Delay before a second look: the job may just have returned from a dead worker.
_SECOND_LOOK_SECONDS = 1.5
#: How long a due delivery, or a job to be prepared, may wait for a webhook worker.
_OVERDUE_SECONDS = 60.0

START = "farm up, or farm worker beside a running farm"
_START_WEBHOOKS = "farm worker --webhooks; farm up starts one"


def processes(found: Mapping[str, Mapping[str, str]]) -> Iterator[Finding]:
    """Check that the processes on this Redis have the same settings."""
    for line in differences(found):
        remedy = "give all processes of a farm the same settings, and each farm a Redis of its own, or another database"
        yield wrong("processes", line, remedy)


def workers(found: Sequence[Worker], *, lease_seconds: float, are_expected: bool) -> Iterator[Finding]:
    """Check the workers. `are_expected`: the farm runs, so having none is an error."""
    silent = [worker for worker in found if worker.silent_seconds > lease_seconds]
    yield from (_silent(worker) for worker in silent)
    heard = [worker for worker in found if worker not in silent]
    warm, loading = _in_state("warm", heard), _in_state("loading", heard)
    if warm:
        coming = f", {len(loading)} loading" if loading else ""
        yield good("workers", f"{len(warm)} warm{coming}: " + "; ".join(sorted({_loaded(worker) for worker in warm})))
    elif loading:
        yield note("workers", f"none is warm yet, {len(loading)} loading", "wait, or see the log")
    elif not silent:
        yield wrong("workers", "none", START) if are_expected else note("workers", "none", START)
    others = sorted({str(worker.facts.get("version")) for worker in heard} - {__version__})
    if others:
        yield note("workers", f"some run version {', '.join(others)}, this is {__version__}", "restart the farm")


def queue(stats: StoreStats, *, lease_seconds: float) -> Iterator[Finding]:
    """Check the queue of each model. Look twice before reporting a job as stuck."""
    findings = list(_queue(stats, lease_seconds))
    if any(finding.remedy for finding in findings):
        clock.pause(_SECOND_LOOK_SECONDS)
        findings = list(_queue(stats, lease_seconds))
    return iter(findings)


def _queue(stats: StoreStats, lease_seconds: float) -> Iterator[Finding]:
    if stats.is_paused():
        text = f"the farm is paused: {stats.waiting()} waiting, {stats.processing()} processing"
        yield note("queue", text, "farm resume")
        return
    groups = [paused.group for paused in stats.paused_groups()]
    yield from (note("queue", f"{group} is paused", f"farm resume --{group.kind} {group.name}") for group in groups)
    alive = [worker for worker in stats.workers() if worker.silent_seconds <= lease_seconds]
    waiting = [backlog for backlog in stats.queues() if backlog.startable]
    yield from (queue_finding(backlog, _in_state("warm", alive)) for backlog in waiting)
    if not waiting:
        yield good("queue", f"no job is waiting for a worker, {stats.processing()} processing")


def queue_finding(backlog: Queue, warm: Sequence[Worker]) -> Finding:
    """Judge the queue of one model and priority, given the warm workers."""
    able = [worker for worker in warm if backlog.model in worker.facts.get("models", "").split(",")]
    idle = [worker for worker in able if worker.facts.get("jobs") == "0"]
    text = (
        f"{backlog.jobs} of {backlog.model} ({backlog.priority}) waiting, the oldest for {backlog.oldest_seconds:.0f} s"
    )
    if not able:
        return wrong("queue", f"{text}, and no warm worker serves this model", START)
    if idle and backlog.oldest_seconds > _IDLE_SECONDS:
        return wrong("queue", f"{text}, although {idle[0].id} is idle", _end(idle[0], "TERM"))
    return good("queue", text)


def webhooks(stats: StoreStats) -> Finding:
    """Check that due deliveries are taken."""
    waiting = stats.totals().get("webhooks_waiting", 0)
    return webhooks_finding(int(waiting), stats.overdue_seconds(), couriers=stats.couriers())


def webhooks_finding(waiting: int, overdue_seconds: float, *, couriers: int) -> Finding:
    """Judge the backlog of deliveries, given the number of webhook workers."""
    text = f"deliveries waiting: {waiting}; webhook workers: {couriers}"
    if overdue_seconds > _OVERDUE_SECONDS:
        return wrong("webhooks", f"{text}; the oldest is {overdue_seconds:.0f} s overdue", _START_WEBHOOKS)
    return good("webhooks", text) if couriers or not waiting else note("webhooks", text, _START_WEBHOOKS)


def preparation(stats: StoreStats) -> Finding:
    """Check that jobs with input images or prompts to rewrite are prepared."""
    return preparation_finding(stats.unprepared(), stats.unattended_seconds(), preparers=stats.couriers())


def preparation_finding(jobs: int, unattended_seconds: float, *, preparers: int) -> Finding:
    """Judge the backlog of jobs to prepare, given the number of webhook workers, which do it."""
    text = f"jobs to prepare: {jobs}; webhook workers, which prepare them: {preparers}"
    if unattended_seconds > _OVERDUE_SECONDS:
        return wrong("preparation", f"{text}; the oldest has waited for {unattended_seconds:.0f} s", _START_WEBHOOKS)
    return good("preparation", text) if preparers or not jobs else note("preparation", text, _START_WEBHOOKS)


def _in_state(state: str, found: Sequence[Worker]) -> list[Worker]:
    return [worker for worker in found if worker.facts.get("state") == state]


def _loaded(worker: Worker) -> str:
    models = worker.facts.get("models", "").replace(",", ", ")
    return f"{worker.facts.get('weights')} for {models}"


def _silent(worker: Worker) -> Finding:
    text = f"no heartbeat from {worker.id} for {worker.silent_seconds:.0f} s; its jobs return to the queue"
    return wrong("workers", text, _end(worker, "KILL"))


def _end(worker: Worker, signal: str) -> str:
    facts = worker.facts
    return f"on {facts.get('host')}: kill -{signal} {facts.get('pid')}; farm up starts another, else run farm worker"
