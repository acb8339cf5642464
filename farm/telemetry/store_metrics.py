"""Metrics of the whole farm, made from one reading of the job store: every API tells the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from prometheus_client.core import Metric

from farm.domain.catalogue import MODELS
from farm.domain.measures import MEASURES, MILLIONTHS, SUM, Measure
from farm.domain.scheduling import PRIORITIES
from farm.jobstore.reading import Reading, Totals
from farm.jobstore.stats import Worker
from farm.telemetry import worker_metrics
from farm.telemetry.families import Family, Samples, Scope

#: State → what workers in it do.
WORKER_STATES = ("loading", "warm", "draining", "faulty", "lost")

_MODEL_AND_PRIORITY = tuple((model.name, priority) for model in MODELS for priority in PRIORITIES)
_MODELS = tuple(model.name for model in MODELS)


def _one(value: float) -> Samples:
    return [((), value)]


def _waiting(reading: Reading) -> Samples:
    return [(queue, reading.waiting(*queue)) for queue in _MODEL_AND_PRIORITY]


def _oldest(reading: Reading) -> Samples:
    return [(queue, reading.oldest_seconds(*queue)) for queue in _MODEL_AND_PRIORITY]


def _unprepared(reading: Reading) -> Samples:
    return [((model,), reading.unprepared(model)) for model in _MODELS]


def _paused_groups(reading: Reading) -> Samples:
    paused = {(one.group.kind, one.group.name) for one in reading.paused_groups}
    named = [("model", model) for model in _MODELS] + [("priority", priority) for priority in PRIORITIES]
    callers = sum(kind == "caller" for kind, _ in paused)
    return [*((group, group in paused) for group in named), (("caller", ""), callers)]


def _paused_jobs(reading: Reading) -> Samples:
    return [(queue, reading.paused_jobs(*queue)) for queue in _MODEL_AND_PRIORITY]


def _images_waiting(reading: Reading) -> Samples:
    work = reading.work
    places = ("waiting", "unprepared")
    return [((model,), sum(work.get(f"{place}:{model}:images", 0) for place in places)) for model in _MODELS]


def _unaccounted(reading: Reading) -> Samples:
    accepted, completed, failed = map(reading.total, ("jobs_accepted", "jobs_completed", "jobs_failed"))
    return _one(accepted - completed - failed - reading.held)


def _workers(reading: Reading) -> Samples:
    found = Counter(worker.facts.get("state", "unknown") for worker in reading.workers)
    return [((state,), found[state]) for state in dict.fromkeys([*WORKER_STATES, *found])]


#: Gauges, and what each is in a reading.
GAUGES: Mapping[Family, Callable[[Reading], Samples]] = {
    Family("farm_paused", "1 while the farm is paused: workers take no jobs"): lambda r: _one(r.is_paused),
    Family(
        "farm_paused_groups",
        "1 while the jobs of a model or a priority are paused; of callers, how many are paused",
        ("kind", "name"),
    ): _paused_groups,
    Family("farm_jobs_paused", "Those waiting jobs that no worker may take", ("model", "priority")): _paused_jobs,
    Family("farm_jobs_waiting", "Prepared jobs that wait in a queue", ("model", "priority")): _waiting,
    Family(
        "farm_jobs_oldest_waiting_seconds",
        "Age of the oldest of these jobs since it was accepted",
        ("model", "priority"),
    ): _oldest,
    Family("farm_jobs_unprepared", "Jobs whose inputs or prompts are not prepared yet", ("model",)): _unprepared,
    Family("farm_jobs_delayed", "Jobs that wait for the pause before their next attempt to end"): (
        lambda r: _one(r.delayed)
    ),
    Family("farm_jobs_processing", "Jobs that workers hold"): lambda r: _one(r.processing),
    Family("farm_jobs_unaccounted", "Jobs accepted minus those ended and those held; anything but 0 is a fault"): (
        _unaccounted
    ),
    Family("farm_images_waiting", "Images of the jobs that have not started, unprepared ones included", ("model",)): (
        _images_waiting
    ),
    Family("farm_workers", "Render workers by state; `lost`: silent for longer than their lease", ("state",)): _workers,
    Family("farm_webhook_workers", "Webhook workers, which also prepare jobs"): lambda r: _one(r.webhook_workers),
    Family("farm_webhooks_waiting", "Webhook deliveries that are due now or later"): (
        lambda r: _one(r.total("webhooks_waiting"))
    ),
    Family("farm_webhook_overdue_seconds", "For how long the first due delivery has waited for a webhook worker"): (
        lambda r: _one(r.overdue_seconds)
    ),
    Family("farm_webhook_failing_receivers", "Receivers of a caller whose last attempt failed"): (
        lambda r: _one(r.failing_receivers)
    ),
    Family("farm_redis_memory_used_bytes", "Memory that Redis uses"): lambda r: _one(r.memory[0]),
    Family("farm_redis_memory_max_bytes", "Memory that Redis may use; 0: no limit"): lambda r: _one(r.memory[1]),
}


def _family(name: str, measure: Measure) -> Family:
    full_name = f"farm_{name}" if measure.buckets else f"farm_{name}_total"
    scope: Scope = "caller" if measure.is_by_caller else "farm"
    return Family(full_name, measure.help, tuple(measure.labels), measure.buckets, scope)


#: The family of each measure of the store.
COUNTED: Mapping[str, Family] = {name: _family(name, measure) for name, measure in MEASURES.items()}


def sources(reading: Reading) -> Iterator[tuple[Family, Callable[[], Metric]]]:
    """Yield each family, and what makes its metric; that raises an error if the store refused its part."""
    for family, read in GAUGES.items():
        yield family, partial(_gauge, family, read, reading)
    for name, family in COUNTED.items():
        if family.scope == "farm":
            yield family, partial(counted, family, name, reading)
    yield from worker_metrics.sources(partial(_shown_workers, reading))


def _shown_workers(reading: Reading) -> Sequence[Worker]:
    """Return the workers that are reported one by one: none where they are very many."""
    workers = reading.workers
    return workers if len(workers) <= worker_metrics.MAX_WORKERS else []


def _gauge(family: Family, read: Callable[[Reading], Samples], reading: Reading) -> Metric:
    return family.metric(read(reading))


def counted(family: Family, name: str, reading: Reading) -> Metric:
    """Return the metric of a measure: all known label values from 0 on, and those that another version wrote."""
    measure, totals = MEASURES[name], reading.totals.get(name, {})
    if measure.buckets:
        return family.histogram(_distributions(measure, totals))
    unit = 1 / MILLIONTHS if measure.is_fraction else 1
    known = dict.fromkeys(measure.combinations(), 0)
    return family.metric((labels, value * unit) for labels, value in {**known, **totals}.items())


def _distributions(measure: Measure, totals: Totals) -> Iterator[tuple[tuple[str, ...], tuple[list[int], float]]]:
    known = dict.fromkeys([*measure.combinations(), *(labels[:-1] for labels in totals)])
    for labels in known:
        counts = [totals.get((*labels, str(bucket)), 0) for bucket in range(len(measure.buckets) + 1)]
        yield labels, (counts, totals.get((*labels, SUM), 0) / MILLIONTHS)
