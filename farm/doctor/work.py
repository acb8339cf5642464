"""The work: who renders, what waits for nothing, and what nobody prepares or delivers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from farm import __version__, clock
from farm.doctor.finding import Finding, good, note, wrong
from farm.jobstore.stats import Queue, StoreStats, Worker

#: A job that waits for longer although a worker stands idle is stuck: bells are rung again every second.
_IDLE_SECONDS = 10.0
#: Before it is called stuck it is looked at again, after so long: it may just have come back from a dead worker.
_SECOND_LOOK_SECONDS = 1.5
#: For so long may a due delivery, or a job that is to be prepared, wait until somebody takes it.
_OVERDUE_SECONDS = 60.0

START = "farm up, or farm worker beside a farm that runs"
_START_WEBHOOKS = "farm worker --webhooks; farm up has one"


def workers(found: Sequence[Worker], *, lease_seconds: float, are_expected: bool) -> Iterator[Finding]:
    """`are_expected`: without a worker something is wrong, not just not started yet."""
    silent = [worker for worker in found if worker.silent_seconds > lease_seconds]
    yield from (_silent(worker) for worker in silent)
    heard = [worker for worker in found if worker not in silent]
    warm, loading = _in_state("warm", heard), _in_state("loading", heard)
    if warm:
        coming = f", {len(loading)} loading" if loading else ""
        yield good("workers", f"{len(warm)} warm{coming}: " + "; ".join(sorted({_loaded(worker) for worker in warm})))
    elif loading:
        yield note("workers", f"none is warm yet, {len(loading)} loading", "wait; what keeps them is in the farm's log")
    elif not silent:
        yield wrong("workers", "none", START) if are_expected else note("workers", "none", START)
    others = sorted({str(worker.facts.get("version")) for worker in heard} - {__version__})
    if others:
        yield note("workers", f"some are of version {', '.join(others)}, this is {__version__}", "start the farm again")


def queue(stats: StoreStats, *, lease_seconds: float) -> Iterator[Finding]:
    """What waits, by model. Looks twice before it calls something stuck beside an idle worker."""
    findings = list(_queue(stats, lease_seconds))
    if any(finding.remedy for finding in findings):
        clock.pause(_SECOND_LOOK_SECONDS)
        findings = list(_queue(stats, lease_seconds))
    return iter(findings)


def _queue(stats: StoreStats, lease_seconds: float) -> Iterator[Finding]:
    if stats.is_paused():
        text = f"the farm is paused: {stats.waiting()} wait, {stats.processing()} in work"
        yield note("queue", text, "farm resume")
        return
    alive = [worker for worker in stats.workers() if worker.silent_seconds <= lease_seconds]
    waiting = [lane for lane in stats.queues() if lane.jobs]
    yield from (lane_finding(lane, _in_state("warm", alive)) for lane in waiting)
    if not waiting:
        yield good("queue", f"no job waits, {stats.processing()} in work")


def lane_finding(lane: Queue, warm: Sequence[Worker]) -> Finding:
    """The jobs of one model and priority, and the workers that could take them."""
    able = [worker for worker in warm if lane.model in worker.facts.get("models", "").split(",")]
    idle = [worker for worker in able if worker.facts.get("jobs") == "0"]
    text = f"{lane.jobs} of {lane.model} ({lane.priority}) waiting, the oldest for {lane.oldest_seconds:.0f} s"
    if not able:
        return wrong("queue", f"{text}, and no warm worker has that model", START)
    if idle and lane.oldest_seconds > _IDLE_SECONDS:
        return wrong("queue", f"{text}, though {idle[0].id} stands idle", _end(idle[0], "TERM"))
    return good("queue", text)


def webhooks(stats: StoreStats) -> Finding:
    waiting = stats.totals().get("deliveries:waiting", 0)
    return webhooks_finding(int(waiting), stats.overdue_seconds(), couriers=stats.couriers())


def webhooks_finding(waiting: int, overdue_seconds: float, *, couriers: int) -> Finding:
    """`couriers`: the webhook workers that listen for new deliveries."""
    text = f"deliveries waiting: {waiting}; webhook workers: {couriers}"
    if overdue_seconds > _OVERDUE_SECONDS:
        return wrong("webhooks", f"{text}; for {overdue_seconds:.0f} s nobody has taken what is due", _START_WEBHOOKS)
    return good("webhooks", text) if couriers or not waiting else note("webhooks", text, _START_WEBHOOKS)


def preparation(stats: StoreStats) -> Finding:
    return preparation_finding(stats.unprepared(), stats.unattended_seconds(), preparers=stats.couriers())


def preparation_finding(jobs: int, unattended_seconds: float, *, preparers: int) -> Finding:
    """`preparers`: the webhook workers, which prepare jobs, too."""
    text = f"jobs to be prepared: {jobs}; webhook workers, which do that: {preparers}"
    if unattended_seconds > _OVERDUE_SECONDS:
        return wrong("preparation", f"{text}; for {unattended_seconds:.0f} s nobody has taken one", _START_WEBHOOKS)
    return good("preparation", text) if preparers or not jobs else note("preparation", text, _START_WEBHOOKS)


def _in_state(state: str, found: Sequence[Worker]) -> list[Worker]:
    return [worker for worker in found if worker.facts.get("state") == state]


def _loaded(worker: Worker) -> str:
    return f"{worker.facts.get('weights')} for {worker.facts.get('models')}"


def _silent(worker: Worker) -> Finding:
    text = f"{worker.id} has given no sign of life for {worker.silent_seconds:.0f} s; its jobs go to others"
    return wrong("workers", text, _end(worker, "KILL"))


def _end(worker: Worker, signal: str) -> str:
    facts = worker.facts
    return f"on {facts.get('host')}: kill -{signal} {facts.get('pid')}; farm up starts another, else: farm worker"
