"""The judge: which guarantees a run broke, from what its callers and receivers recorded.

It asks nothing of the farm itself, knows none of its code, and takes none of its events for the truth.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.chaos.records import ENDS, UNKNOWN, CallAgain, Observations, ReceivedWebhook, Record
from tests.chaos.requests import number_in

#: A cancel that was answered so must be the end.
_STOPPED = ("cancelled", "stopping", "accepted")
#: An image's name tells its job.
_NAME = re.compile(r"([0-9a-f-]{36})-([0-9]+|input)-.*")
#: So many of a job's workers must have died before it may be given up for it; of preparers, so many in all.
_DEATHS = 2
_LOSSES = 5
#: How long a fault lasts at most, with what follows from it, in seconds.
_LONGEST_FAULT = 8.0
#: How long the answer to a direct call may take after its job's end, in seconds.
_ANSWERING = 1.0


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken guarantee: the rule's name, the job or thing, and what was observed."""

    rule: str
    subject: str
    what: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.subject}: {self.what}"


def findings(observations: Observations) -> list[Finding]:
    """Return everything that was broken, by rule; empty if nothing was."""
    return [finding for rule in _RULES for finding in rule(observations)]


def _lost(observations: Observations) -> Iterator[Finding]:
    """Find accepted jobs that are unknown or never ended."""
    deleted = {one.job for one in observations.deletions}
    for job, ask in observations.jobs.items():
        record = observations.records.get(job)
        if record is None and job not in deleted:
            yield Finding("lost", job, f"ask {ask.number} ({ask.way}) was accepted; the farm does not know it")
        elif record is not None and record.state not in ENDS:
            yield Finding("unfinished", job, f"ask {ask.number} ({ask.way}) is {record.state} after all was over")


def _disappeared(observations: Observations) -> Iterator[Finding]:
    """Find accepted jobs that were unknown for a while."""
    deleted = {one.job for one in observations.deletions}
    missed = {one.job for one in observations.sights if one.state == UNKNOWN} - deleted
    for job in sorted(missed & observations.records.keys()):
        yield Finding("lost for a while", job, "it was accepted, then not known, and known again")


def _unfinished_strangers(observations: Observations) -> Iterator[Finding]:
    """Find jobs that never ended although their acceptance was lost."""
    for job, record in observations.records.items():
        if job not in observations.jobs and record.state not in ENDS:
            yield Finding("unfinished", job, f"nobody was told of it; it is {record.state} after all was over")


def _changed_end(observations: Observations) -> Iterator[Finding]:
    """Find jobs with more than one end: the first one seen must stay."""
    ended: dict[str, str] = {}
    images: dict[str, tuple[str, ...]] = {}
    for sight in sorted(observations.sights, key=lambda one: one.at):
        first = ended.get(sight.job)
        if first and sight.state not in (first, UNKNOWN):
            yield Finding("end changed", sight.job, f"it was {first}, and {sight.state} later")
        if sight.state in ENDS:
            ended.setdefault(sight.job, sight.state)
        if sight.images and sight.images != images.setdefault(sight.job, sight.images):
            yield Finding("end changed", sight.job, "its images were others later")
    for record in observations.records.values():
        if ended.get(record.job, record.state) != record.state:
            yield Finding("end changed", record.job, f"it was {ended[record.job]}, and is {record.state}")
        elif record.images != images.get(record.job, record.images):
            yield Finding("end changed", record.job, "its images are others at last")


def _images(observations: Observations) -> Iterator[Finding]:
    """Find completed jobs whose images were missing or wrong."""
    deleted = {one.job for one in observations.deletions}
    for fetch in observations.fetches:
        if fetch.status == 404 and fetch.job not in deleted:
            yield Finding("told too early", fetch.job, f"completed, but image {fetch.number} could not be read")
        elif fetch.status == 200 and not fetch.right:
            yield Finding("wrong image", fetch.job, f"image {fetch.number} is not what its seed demands")
    for record in observations.records.values():
        missing = [name for name in record.images if name not in observations.stored]
        if missing:
            yield Finding("image missing", record.job, f"{', '.join(missing)} is not in storage")
        if record.state == "completed" and not record.images:
            yield Finding("image missing", record.job, "completed without images")


def _too_few_images(observations: Observations) -> Iterator[Finding]:
    for job, ask in observations.jobs.items():
        record = observations.records.get(job)
        if record and record.state == "completed" and len(record.images) != ask.images:
            yield Finding("image missing", job, f"{len(record.images)} of {ask.images} images")


def _webhooks(observations: Observations) -> Iterator[Finding]:
    """Find ends that were not delivered to their receiver: once, under one id, signed, and as they are."""
    deleted = {one.job for one in observations.deletions}
    result = {one.job for one in observations.webhooks if one.is_terminal and 200 <= one.answered < 300}
    for job, ask in observations.jobs.items():
        if ask.webhook and job not in result and job not in deleted:
            yield Finding("webhook missing", job, f"the receiver of ask {ask.number} ({ask.way}) was not told its end")
    ids: dict[tuple[str, str], set[str]] = defaultdict(set)
    events: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for webhook in observations.webhooks:
        ids[webhook.job, webhook.event].add(webhook.event_id)
        events[webhook.event_id].add((webhook.job, webhook.event))
        yield from _webhook(observations, webhook)
    for (job, event), several in ids.items():
        if len(several) > 1:
            yield Finding("webhook doubled", job, f"{event} came under {len(several)} ids: {sorted(several)}")
    for event_id, different in events.items():
        if len(different) > 1:
            yield Finding("webhook doubled", event_id, f"one id for {sorted(different)}")


def _webhook(observations: Observations, webhook: ReceivedWebhook) -> Iterator[Finding]:
    if not webhook.genuine:
        yield Finding("webhook forged", webhook.job, f"the signature of {webhook.event} is not good")
    record = observations.records.get(webhook.job)
    if record is None:
        return
    if (record.caller, number_in(record.prompt)) != (webhook.caller, webhook.ask):
        yield Finding("webhook astray", webhook.job, f"{record.caller}'s came to {webhook.caller}, ask {webhook.ask}")
    if webhook.is_terminal and webhook.state != record.state:
        yield Finding("webhook contradicts", webhook.job, f"it said {webhook.state}, the job is {record.state}")
    if webhook.is_terminal and webhook.images and webhook.images != record.images:
        yield Finding("webhook contradicts", webhook.job, "it named other images than the job has")


def _overheard(observations: Observations) -> Iterator[Finding]:
    """Find events in a caller's stream that are about other callers' jobs, or about an end that a job does not have."""
    for one in observations.overheard:
        record = observations.records.get(one.job)
        if record and record.caller != one.caller:
            yield Finding("shown to another", one.job, f"{one.caller} was told of {record.caller}'s job by its stream")
        elif record and one.state in ENDS and one.state != record.state:
            yield Finding("end changed", one.job, f"its stream said {one.state}, and it is {record.state}")


def _cancelled(observations: Observations) -> Iterator[Finding]:
    """Find images that were rendered after a cancel."""
    for cancel in observations.cancels:
        record = observations.records.get(cancel.job)
        if record is None or cancel.outcome not in _STOPPED:
            continue
        if (record.state, record.code) != ("failed", "cancelled"):
            yield Finding("rendered after cancel", cancel.job, f"answered {cancel.outcome}, is {_end(record)}")
        if cancel.outcome == "cancelled" and record.started > cancel.at:
            yield Finding("rendered after cancel", cancel.job, "it was started after it was cancelled")
    for record in observations.records.values():
        if record.state == "failed" and record.images:
            yield Finding("rendered after cancel", record.job, f"{_end(record)}, with images")


def _doubled(observations: Observations) -> Iterator[Finding]:
    """Find Idempotency-Keys with more than one job."""
    jobs: dict[int, set[str]] = defaultdict(set)
    for record in observations.records.values():
        number = number_in(record.prompt)
        if number is not None:
            jobs[number].add(record.job)
    for one in observations.accepted:
        jobs[one.ask].add(one.job)
    for number, several in jobs.items():
        if observations.asks[number].key and len(several) > 1:
            yield Finding("doubled", f"ask {number}", f"one key, {len(several)} jobs: {sorted(several)}")


def _given_twice(observations: Observations) -> Iterator[Finding]:
    """Find jobs whose images answered several direct calls: each call that is answered has a job of its own."""
    counts = Counter((one.ask, one.job) for one in observations.given if not observations.asks[one.ask].key)
    for (number, job), count in counts.items():
        if count > 1:
            yield Finding("given twice", job, f"its images answered {count} calls of ask {number}")


def _called_again(observations: Observations) -> Iterator[Finding]:
    """Find calls that were hung up and made again, and got another job than the first, although the farm knew that."""
    for one in observations.calls_again:
        jobs = [record for record in observations.records.values() if number_in(record.prompt) == one.ask]
        first = [record for record in jobs if record.created < one.hung_up and record.state == "completed"]
        if any(one.hung_up - _ANSWERING < record.ended < one.hung_up for record in first):
            continue  # the answer was on its way: no server knows that nobody read it
        if first and len(jobs) > one.sent == 1 and not _is_disturbed(observations, one):
            yield Finding("doubled", f"ask {one.ask}", f"hung up and called again, {len(jobs)} jobs: {jobs}")


def _is_disturbed(observations: Observations, call: CallAgain) -> bool:
    """Return True if the farm may have been kept from noticing that the caller hung up."""
    return any(
        call.began - _LONGEST_FAULT < one.at < call.answered and one.kind.endswith(("api", "redis", "disk"))
        for one in observations.injections
    )


def _unexplained(observations: Observations) -> Iterator[Finding]:
    """Find jobs that failed without a cause: neither an act of their caller, nor more faults than attempts."""
    for record in observations.records.values():
        if record.state == "failed" and not _is_explained(observations, record):
            yield Finding("failed for nothing", record.job, f"{_end(record)}, prompt {record.prompt!r}")


def _is_explained(observations: Observations, record: Record) -> bool:
    number = number_in(record.prompt)
    ask = observations.asks.get(number) if number is not None else None
    if record.code == "attempts_exhausted":
        # The first start beside others is not charged, and one may be lost to a stall of the job store.
        return sum(record.job in one.jobs for one in observations.injections) >= _DEATHS
    if record.code == "preparation_failed":
        return sum(one.kind.endswith("webhook worker") for one in observations.injections) >= _LOSSES
    return ask is not None and {
        "cancelled": record.job in observations.cancelling,
        "start_timeout": ask.start_within > 0,
        "client_disconnected": ask.is_direct,
    }.get(record.code, False)


def _left_behind(observations: Observations) -> Iterator[Finding]:
    """Find what is left in the working sets of the job store, and orphans in storage."""
    for name, count in observations.left_behind.items():
        yield Finding("left behind", name, f"{count} entries after all was over")
    wanted = {name for record in observations.records.values() for name in record.images}
    for name in sorted(observations.stored - wanted):
        match = _NAME.fullmatch(name)
        if match and not (match[2] == "input" and match[1] in observations.records):
            yield Finding("orphan", name, "it lies in storage after the sweep, and is no job's image")


def _oddities(observations: Observations) -> Iterator[Finding]:
    for odd in observations.oddities:
        yield Finding(odd.rule, odd.subject, odd.what)


def _end(record: Record) -> str:
    return f"{record.state} ({record.code})" if record.code else record.state


_RULES: tuple[Callable[[Observations], Iterator[Finding]], ...] = (
    _lost,
    _disappeared,
    _unfinished_strangers,
    _changed_end,
    _images,
    _too_few_images,
    _webhooks,
    _overheard,
    _cancelled,
    _doubled,
    _given_twice,
    _called_again,
    _unexplained,
    _left_behind,
    _oddities,
)
