"""The judge's rules, each on records that break one guarantee."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.chaos.judge import findings
from tests.chaos.pixels import image, is_right
from tests.chaos.records import (
    Acceptance,
    CallAgain,
    Cancel,
    Deletion,
    Fetch,
    Given,
    Injection,
    Observations,
    Oddity,
    Overheard,
    ReceivedWebhook,
    Record,
    Sight,
)
from tests.chaos.requests import ALL_HABITS, CALLERS, WAYS, Ask, asks, number_in
from tests.chaos.table import recovery_seconds, rows
from tests.images import sample_image

#: A job that is completed, one that is cancelled, and a third that is deleted.
DONE, STOPPED, GONE = (f"{digit * 8}-3c52-4f0e-9d55-6a1f5f7f2c11" for digit in "123")
NAME = f"{DONE}-7-0-0123456789abcdef.png"
OTHER = f"{DONE}-9-0-fedcba9876543210.png"
STRANGER = "44444444-3c52-4f0e-9d55-6a1f5f7f2c11"


def an_ask(number: int, **changes: object) -> Ask:
    ask = Ask(number, "ada", "native", f"fox {number} of run 1", 256, 256, 2, 7, webhook=True, key=f"key {number}")
    return replace(ask, **changes)  # type: ignore[arg-type]


def a_webhook(job: str, ask: int, state: str, **changes: object) -> ReceivedWebhook:
    webhook = ReceivedWebhook("ada", ask, 5.0, 200, job, "end", state, f"{job}-3", genuine=True)
    return replace(webhook, **changes)  # type: ignore[arg-type]


def a_good_run() -> Observations:
    """Return records that break nothing: a job completed although its worker died, one cancelled, one deleted."""
    records = (
        Record(DONE, "ada", "fox 1 of run 1, enhanced", "completed", "", (NAME,), 4.0),
        Record(STOPPED, "ada", "fox 2 of run 1", "failed", "cancelled", (), 1.5),
    )
    return Observations(
        asks={1: an_ask(1), 2: an_ask(2), 3: an_ask(3, webhook=False)},
        accepted=[
            Acceptance(1, DONE, 1.0),
            Acceptance(1, DONE, 1.1),
            Acceptance(2, STOPPED, 1.0),
            Acceptance(3, GONE, 1),
        ],
        sights=[
            Sight(DONE, 1.0, "created"),
            Sight(DONE, 2.0, "processing", started=1.5),
            Sight(DONE, 3.0, "created"),
            Sight(DONE, 4.5, "completed", images=(NAME,), started=4.0),
            Sight(STOPPED, 4.0, "failed", "cancelled"),
            Sight(GONE, 2.0, "completed", images=(f"{GONE}-8-0-0123456789abcdef.png",)),
            Sight(GONE, 3.0, "unknown"),
        ],
        fetches=[Fetch(DONE, 0, 4.6, 200, right=True), Fetch(GONE, 0, 3.0, 404, right=False)],
        cancels=[Cancel(STOPPED, 2.0, "stopping")],
        cancelling={STOPPED},
        deletions=[Deletion(GONE, 2.5)],
        webhooks=[
            a_webhook(DONE, 1, "created", event="created 1", event_id=f"{DONE}-1"),
            a_webhook(DONE, 1, "completed", answered=500, images=(NAME,)),
            a_webhook(DONE, 1, "completed", images=(NAME,)),
            a_webhook(STOPPED, 2, "failed"),
        ],
        overheard=[Overheard("ada", DONE, "processing"), Overheard("ada", DONE, "completed")],
        injections=[Injection("kill worker", 2.5, (DONE,))],
        records={record.job: record for record in records},
        stored={NAME, f"{DONE}-input-0-0123456789abcdef.png", "farm-id-unknown"},
    )


def test_a_good_run_is_found_good() -> None:
    assert findings(a_good_run()) == []


def _record(job: str, **changes: object) -> Callable[[Observations], object]:
    def change(run: Observations) -> None:
        run.records[job] = replace(run.records[job], **changes)  # type: ignore[arg-type]

    return change


def _add_record(job: str, prompt: str, state: str) -> Callable[[Observations], object]:
    return lambda run: run.records.update({job: Record(job, "ada", prompt, state, "", (), 0.0)})


def give(run: Observations, *jobs: str) -> None:
    """Have direct calls of the first request answered with the images of these jobs."""
    run.asks[1] = an_ask(1, way="fal run", key="", webhook=False)
    run.given += [Given(1, job) for job in jobs]


def call_again(run: Observations, *, sent: int = 1, ended: float = 24.5) -> None:
    """Have the caller of the first request hang up on its direct call, and make it again: each made a job."""
    run.asks[1] = an_ask(1, way="fal run", key="", webhook=False)
    for job, created in ((DONE, 20.5), (STRANGER, 23.1)):
        images = run.records[DONE].images
        run.records[job] = Record(job, "ada", "fox 1 of run 1", "completed", "", images, 24.0, created, ended)
    run.calls_again.append(CallAgain(1, began=20.0, hung_up=21.0, again=23.0, answered=25.0, sent=sent))


#: What is done to the log of the good run → the rule by which the judge reports it.
BROKEN: dict[str, tuple[Callable[[Observations], object], str]] = {
    "an accepted job is not there": (lambda run: run.records.pop(STOPPED), "lost"),
    "an accepted job never ends": (_record(STOPPED, state="processing", code=""), "unfinished"),
    "a job whose acceptance was lost never ends": (_add_record(STRANGER, "fox 3 of run 1", "created"), "unfinished"),
    "an accepted job was not there for a while": (
        lambda run: run.sights.append(Sight(DONE, 1.5, "unknown")),
        "lost for a while",
    ),
    "an end is followed by work": (lambda run: run.sights.append(Sight(DONE, 6.0, "processing")), "end changed"),
    "an end is followed by another": (lambda run: run.sights.append(Sight(DONE, 6.0, "failed")), "end changed"),
    "the last word is another end": (
        lambda run: run.sights.append(Sight(STOPPED, 3.9, "completed")),
        "end changed",
    ),
    "the images are others later": (
        lambda run: run.sights.append(Sight(DONE, 6.0, "completed", images=(OTHER,))),
        "end changed",
    ),
    "the images are others at last": (_record(DONE, images=(OTHER,)), "end changed"),
    "an image could not be read": (
        lambda run: run.fetches.append(Fetch(DONE, 0, 4.6, 404, right=False)),
        "told too early",
    ),
    "an image shows something else": (
        lambda run: run.fetches.append(Fetch(DONE, 0, 4.6, 200, right=False)),
        "wrong image",
    ),
    "an image is not in storage": (lambda run: run.stored.remove(NAME), "image missing"),
    "a job has too few images": (lambda run: run.asks.update({1: an_ask(1, images=2)}), "image missing"),
    "a job has none": (_record(DONE, images=()), "image missing"),
    "an end was never told": (lambda run: run.webhooks.pop(), "webhook missing"),
    "an end was told, and not taken": (
        lambda run: run.webhooks.__setitem__(-1, replace(run.webhooks[-1], answered=500)),
        "webhook missing",
    ),
    "an end was told under two ids": (
        lambda run: run.webhooks.append(a_webhook(STOPPED, 2, "failed", event_id="another")),
        "webhook doubled",
    ),
    "two ends were told under one id": (
        lambda run: run.webhooks.append(a_webhook(STOPPED, 2, "failed", event_id=f"{DONE}-3")),
        "webhook doubled",
    ),
    "a signature is not good": (
        lambda run: run.webhooks.append(a_webhook(DONE, 1, "completed", genuine=False)),
        "webhook forged",
    ),
    "another caller was told": (
        lambda run: run.webhooks.append(a_webhook(DONE, 1, "completed", caller="bob")),
        "webhook astray",
    ),
    "another ask's receiver was told": (
        lambda run: run.webhooks.append(a_webhook(DONE, 2, "completed")),
        "webhook astray",
    ),
    "another end was told": (lambda run: run.webhooks.append(a_webhook(DONE, 1, "failed")), "webhook contradicts"),
    "other images were told": (
        lambda run: run.webhooks.append(a_webhook(DONE, 1, "completed", images=(OTHER,))),
        "webhook contradicts",
    ),
    "a stopped job was rendered": (
        lambda run: run.cancels.append(Cancel(DONE, 2.0, "stopping")),
        "rendered after cancel",
    ),
    "a cancelled job was started": (
        lambda run: run.cancels.append(Cancel(STOPPED, 1.4, "cancelled")),
        "rendered after cancel",
    ),
    "a failed job has images": (_record(STOPPED, images=(NAME,)), "rendered after cancel"),
    "a key made two jobs": (_add_record(STRANGER, "fox 1 of run 1", "completed"), "doubled"),
    "a key was told as two jobs": (lambda run: run.accepted.append(Acceptance(1, GONE, 1.2)), "doubled"),
    "the images of a call that was answered were given away again": (lambda run: give(run, DONE, DONE), "given twice"),
    "a call that was hung up and made again made two jobs": (lambda run: call_again(run), "doubled"),
    "a job was cancelled that nobody cancelled": (lambda run: run.cancelling.clear(), "failed for nothing"),
    "a job was given up too early": (_record(STOPPED, code="attempts_exhausted"), "failed for nothing"),
    "a job failed with no reason": (_record(STOPPED, code="internal_error"), "failed for nothing"),
    "a lease is left": (lambda run: setattr(run, "left_behind", {"leases": 1}), "left behind"),
    "an image is an orphan": (lambda run: run.stored.add(OTHER), "orphan"),
    "an input is an orphan": (lambda run: run.stored.add(f"{GONE}-input-0-0123456789abcdef.png"), "orphan"),
    "a stream told another caller": (
        lambda run: run.overheard.append(Overheard("bob", DONE, "created")),
        "shown to another",
    ),
    "a stream told another end": (lambda run: run.overheard.append(Overheard("ada", DONE, "failed")), "end changed"),
    "somebody was answered oddly": (
        lambda run: run.oddities.append(Oddity("odd answer", "ask 1", "500")),
        "odd answer",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_promise_is_found(how: str) -> None:
    break_it, rule = BROKEN[how]
    run = a_good_run()
    break_it(run)

    assert rule in {finding.rule for finding in findings(run)}


def test_a_job_may_be_given_up_when_workers_died_often_enough() -> None:
    run = a_good_run()
    run.cancels.clear()
    _record(STOPPED, code="attempts_exhausted")(run)
    run.injections += [Injection("stop worker", 3.0, (STOPPED,)), Injection("kill worker", 3.5, (STOPPED,))]

    assert findings(run) == []


def test_calls_may_each_have_a_job() -> None:
    run = a_good_run()
    give(run, DONE, STRANGER)

    assert findings(run) == []


@pytest.mark.parametrize("kind", ["stop api", "pause redis", "full disk"])
def test_a_second_job_is_no_fault_if_the_farm_could_not_notice_the_disconnect(kind: str) -> None:
    run = a_good_run()
    call_again(run)
    run.injections.append(Injection(kind, 20.2))

    assert findings(run) == []


@pytest.mark.parametrize(("ended", "number"), [(20.9, 0), (19.5, 1), (21.1, 1)])
def test_a_second_job_is_no_fault_if_the_first_was_being_answered(ended: float, number: int) -> None:
    run = a_good_run()
    call_again(run, ended=ended)

    assert len(findings(run)) == number


def test_a_second_job_is_no_fault_if_the_answer_to_the_second_call_was_lost() -> None:
    run = a_good_run()
    call_again(run, sent=2)

    assert findings(run) == []


def test_recovery_is_from_the_death_to_the_next_start() -> None:
    assert recovery_seconds(a_good_run()) == ([0.5], [1.5])


def test_the_table_counts() -> None:
    run = a_good_run()
    run.records.pop(STOPPED)

    table = dict(rows(run, findings(run), seed=5))

    assert (table["seed"], table["completed"], table["lost"], table["doubled"]) == ("5", "1", "1", "0")
    assert table["done to it: kill worker"] == "1"


def test_the_same_seed_asks_the_same() -> None:
    first, again, other = (list(asks(1000, seed, ALL_HABITS)) for seed in (1, 1, 2))

    assert first == again != other
    assert {ask.way for ask in first} == set(WAYS)
    assert {ask.caller for ask in first} == set(CALLERS)
    assert [number_in(ask.prompt) for ask in first] == list(range(1000))
    special = (
        "key",
        "cancel_after",
        "webhook",
        "image",
        "enhance",
        "start_within",
        "runner_hint",
        "deletes",
        "hang_up_after",
        "call_again_after",
        "hosted",
    )
    assert all(any(getattr(ask, name) for ask in first) for name in special)


PLAIN_ASK = an_ask(1)
JPEG_ASK = an_ask(1, form="jpeg", image=sample_image(256, 256, colour="teal"), strength=0.5)


def file_of(ask: Ask, prompt: str, number: int = 0) -> bytes:
    content = io.BytesIO()
    image(ask, number, prompt).save(content, ask.form.upper())
    return content.getvalue()


@pytest.mark.parametrize("ask", [PLAIN_ASK, JPEG_ASK], ids=["png", "jpeg from an image"])
def test_wrong_pixels_are_detected(ask: Ask) -> None:
    content = file_of(ask, ask.prompt)

    assert is_right(ask, 0, ask.prompt, content)
    assert not is_right(ask, 1, ask.prompt, content), "another image of the job"
    assert not is_right(ask, 0, ask.prompt + ".", content), "another prompt"
    assert not is_right(replace(ask, seed=8), 0, ask.prompt, content), "another seed"
    assert not is_right(replace(ask, width=320), 0, ask.prompt, content), "another size"
    assert not is_right(ask, 0, ask.prompt, content[:-200]), "a part of the file"
    assert not is_right(ask, 0, ask.prompt, b"no image")
