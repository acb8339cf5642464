"""`/farm/v1`: the farm's own dialect."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from api.http import query
from api.openapi.operation import (
    GUARDED,
    IDEMPOTENCY_KEY,
    PROBLEM,
    RATE_LIMITS,
    Answer,
    Body,
    Operation,
    Parameter,
    Section,
    ServerSentEvent,
    Shape,
    absent,
    any_of,
    named,
    webhook,
)
from api.openapi.operation import refusals as refused
from api.routes.deliveries import Trial
from farm.dialects import native
from farm.domain.catalogue import MODELS
from farm.domain.delivery import Outcome
from farm.domain.job import State
from farm.domain.request import Priority

PREFIX = "/farm/v1"


class Problem(Shape):
    """Problem details (RFC 9457), with a stable `code` for programs."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    errors: list[WrongField] = absent()


class WrongField(Shape):
    """One thing that is wrong with one field; an empty name means the whole body."""

    field: str
    message: str
    type: str


class JobUrls(Shape):
    """Where to go on from a submit."""

    get: str
    cancel: str
    events: str


class AcceptedJob(Shape):
    """A job that is on record."""

    id: str
    status: Literal["created"]
    urls: JobUrls


class JobImage(Shape):
    """An image; `url` is a data URI where the job asked for `sync_mode`."""

    url: str
    width: int
    height: int
    content_type: str
    file_size: int


class Progress(Shape):
    """Denoising steps done, of those to do, all images together."""

    step: int
    steps: int


class FarmJob(Shape):
    """A job. What is not known, or not yet, is null or empty. Times in UTC, timings in seconds.

    `prompt` is the one that is rendered; where it was rewritten, `original_prompt` is the caller's. `retry_of` is the
    failed job that this one repeats, `retried_as` the one that repeats this one.
    """

    id: str
    model: str
    status: State
    code: str | None
    error: str | None
    priority: Priority
    prompt: str
    original_prompt: str | None
    inputs: list[str]
    strength: float | None
    num_images: int
    progress: Progress
    images: list[JobImage]
    seed: int
    has_nsfw_concepts: list[bool]
    timings: dict[str, float]
    warnings: list[str]
    build: str | None
    retry_of: str | None
    retried_as: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None


class FarmJobs(Shape):
    """A page of jobs. `before` leads to the next page; null: this was the last."""

    jobs: list[FarmJob]
    before: int | None


class CancelOutcome(Shape):
    """`cancelled`: it never started. `stopping`: it will end `failed`, code `cancelled`. `ended`: it was too late."""

    id: str
    outcome: Literal["cancelled", "stopping", "ended"]


class Lane(Shape):
    """The jobs of one model and priority that wait."""

    model: str
    priority: Priority
    jobs: int
    oldest_seconds: float


class FarmQueue(Shape):
    """What is to be prepared first, what waits for a GPU, and what is being rendered.

    `paused`: no worker takes anything new.
    """

    paused: bool
    unprepared: int
    waiting: int
    processing: int
    queues: list[Lane]


class FarmWorker(Shape):
    """A worker, with whatever it tells of itself."""

    model_config = ConfigDict(extra="allow")

    id: str
    silent_seconds: float


class FarmWorkers(Shape):
    """The workers that have shown themselves lately."""

    workers: list[FarmWorker]


class DrainingWorker(Shape):
    """A worker that takes nothing more, and leaves when it has ended or handed back what it holds."""

    id: str
    draining: Literal[True]


class Pause(Shape):
    """Whether workers take anything new."""

    paused: bool


class FarmModel(Shape):
    """A model that the farm knows.

    `served`: a worker has it loaded. `weights`: what is loaded, `miniature` where none of SRPO's or Kontext's are.
    `safety`: its image checker, `off` where there is none.
    """

    name: str
    title: str
    ids: list[str]
    served: bool
    weights: str | None
    safety: str | None


class FarmModels(Shape):
    """The models that the farm knows."""

    models: list[FarmModel]


class Try(Shape):
    """One try to deliver: what came back, or why nothing did."""

    at: str
    seconds: float
    status: int | None
    error: str | None
    answer: str | None


class FarmDelivery(Shape):
    """What was told to a webhook, with its last tries. `job` is null for a test."""

    id: str
    job: str | None
    event: str
    sequence: int
    receiver: str
    status: Outcome
    created_at: str
    next_try_at: str | None
    attempts: list[Try]


class FarmDeliveries(Shape):
    """A page of deliveries. `before` leads to the next page; null: this was the last."""

    deliveries: list[FarmDelivery]
    before: int | None


class WebhookSecret(Shape):
    """What signs the caller's webhooks."""

    secret: str


class FarmEvent(Shape):
    """What a webhook is told: what happened when, as which of the job's changes, and the whole present state."""

    type: native.EventName
    timestamp: str
    sequence: int
    data: FarmJob


class TestEvent(Shape):
    """What a receiver is sent to be tried."""

    type: Literal["test"]
    timestamp: str
    sequence: int
    data: dict[str, Any]


#: What a submit takes: the model decides.
JobBody = any_of(named(native.INPUTS[model.name], model.ids) for model in MODELS)
LIMIT = Parameter("limit", "How many to show.", Annotated[int, Field(ge=1, le=query.MAX_PAGE)])
BEFORE = Parameter("before", "What is older than this, as the page before said.", Annotated[int, Field(ge=0, le=2**53)])


def refusals(*statuses: int) -> dict[int, Answer]:
    """Refusals in the farm's own shape."""
    return refused(Problem, *statuses, media_type=PROBLEM)


_REPLAYED = (Parameter("Idempotent-Replayed", "The job was there already.", Literal["true"], "header"),)
_COMMON = refusals(*GUARDED, 422)
_NAMED = refusals(*GUARDED, 404, 422)
_STREAM = Answer(
    "Server-sent events; a comment every 15 s while nothing happens.", ServerSentEvent, "text/event-stream"
)
_LAST_SEEN = (
    Parameter("Last-Event-ID", "The `id` of the last event that was seen: the stream goes on after it.", str, "header"),
    Parameter("last_event_id", "The same, for programs that cannot send the header."),
)
_SIGNED = {
    "webhook-id": "Of the event: the same at every try.",
    "webhook-timestamp": "Of this try, in seconds since the epoch.",
    "webhook-signature": "`v1,` and the signature in base64, as Standard Webhooks has it.",
}

SECTION = Section(
    name="The farm's own dialect",
    about="Acts on jobs of every dialect. Fields have fal's names; errors are problem details.",
    operations=(
        Operation(
            "post",
            f"{PREFIX}/jobs",
            "submitJob",
            "Submit a job",
            body=Body(JobBody, {"model": "srpo", "prompt": "a red fox in fresh snow"}),
            parameters=(IDEMPOTENCY_KEY,),
            answers={
                202: Answer(
                    "The job is on record: from here on it is not lost.",
                    AcceptedJob,
                    headers=(*_REPLAYED, *RATE_LIMITS),
                ),
                **refusals(*GUARDED, 404, 413, 422, 429),
            },
        ),
        Operation(
            "get",
            f"{PREFIX}/jobs",
            "listJobs",
            "Your jobs, newest first",
            parameters=(LIMIT, BEFORE, Parameter("status", "Only those of the page that stand so.", State)),
            answers={200: Answer("A page of jobs.", FarmJobs), **_COMMON},
        ),
        Operation(
            "get",
            f"{PREFIX}/jobs/{{job_id}}",
            "getJob",
            "One job",
            answers={200: Answer("The job.", FarmJob), **_NAMED},
        ),
        Operation(
            "delete",
            f"{PREFIX}/jobs/{{job_id}}",
            "deleteJob",
            "Delete a finished job: record, prompt and images",
            answers={204: Answer("It is gone."), **refusals(*GUARDED, 404, 409, 422)},
        ),
        Operation(
            "post",
            f"{PREFIX}/jobs/{{job_id}}/cancel",
            "cancelJob",
            "Cancel a job",
            answers={
                200: Answer("It never started, or it had ended.", CancelOutcome),
                202: Answer("It runs, and stops within one denoising step.", CancelOutcome),
                **_NAMED,
            },
        ),
        Operation(
            "post",
            f"{PREFIX}/jobs/{{job_id}}/retry",
            "retryJob",
            "Ask for a failed job once more",
            answers={
                202: Answer(
                    "A new job for the same request; repeated, the same one again.",
                    AcceptedJob,
                    headers=(*_REPLAYED, *RATE_LIMITS),
                ),
                **refusals(*GUARDED, 400, 404, 409, 422, 429),
            },
        ),
        Operation(
            "get",
            f"{PREFIX}/jobs/{{job_id}}/events",
            "watchJob",
            "A job's changes, until it ends",
            parameters=_LAST_SEEN,
            answers={200: _STREAM, 204: Answer("You have seen its end."), **_NAMED, **refusals(429)},
        ),
        Operation(
            "get",
            f"{PREFIX}/events",
            "watchAllJobs",
            "Changes of all your jobs, endlessly",
            parameters=_LAST_SEEN,
            answers={200: _STREAM, **_COMMON, **refusals(429)},
        ),
        Operation(
            "get",
            f"{PREFIX}/queue",
            "getQueue",
            "What waits, of all callers",
            answers={200: Answer("Depth and age of each line.", FarmQueue), **_COMMON},
        ),
        Operation(
            "get",
            f"{PREFIX}/workers",
            "listWorkers",
            "The workers; with an admin's key",
            answers={200: Answer("What each of them tells of itself.", FarmWorkers), **_COMMON},
        ),
        Operation(
            "post",
            f"{PREFIX}/workers/{{worker_id}}/drain",
            "drainWorker",
            "Have a worker finish or hand back what it holds, and leave; with an admin's key",
            answers={202: Answer("It takes nothing more.", DrainingWorker), **_NAMED},
        ),
        Operation(
            "post",
            f"{PREFIX}/pause",
            "pauseFarm",
            "Have no worker take anything new; with an admin's key",
            answers={200: Answer("What is submitted waits, what is rendered goes on.", Pause), **_COMMON},
        ),
        Operation(
            "post",
            f"{PREFIX}/resume",
            "resumeFarm",
            "Let the workers go on; with an admin's key",
            answers={200: Answer("They do.", Pause), **_COMMON},
        ),
        Operation(
            "get",
            f"{PREFIX}/models",
            "listFarmModels",
            "The models, their ids in every dialect, and which are served",
            answers={200: Answer("All models.", FarmModels), **_COMMON},
        ),
        Operation(
            "get",
            f"{PREFIX}/deliveries",
            "listDeliveries",
            "What was told to your webhooks, newest first",
            parameters=(LIMIT, BEFORE),
            answers={200: Answer("A page of deliveries.", FarmDeliveries), **_COMMON},
        ),
        Operation(
            "post",
            f"{PREFIX}/deliveries",
            "testReceiver",
            "Send a test event to a receiver, once",
            body=Body(Trial, {"url": "https://you.example/hook"}),
            answers={202: Answer("It is on its way.", FarmDelivery), **_COMMON, **refusals(413, 429)},
        ),
        Operation(
            "get",
            f"{PREFIX}/deliveries/{{delivery_id}}",
            "getDelivery",
            "One delivery with its tries",
            answers={200: Answer("The delivery.", FarmDelivery), **_NAMED},
        ),
        Operation(
            "post",
            f"{PREFIX}/deliveries/{{delivery_id}}/redeliver",
            "redeliver",
            "Tell it once more, from the beginning of the schedule",
            answers={202: Answer("It is on its way, under the same id.", FarmDelivery), **_NAMED},
        ),
        Operation(
            "get",
            f"{PREFIX}/webhook_secret",
            "getWebhookSecret",
            "What signs your webhooks",
            answers={200: Answer("The secret.", WebhookSecret), **_COMMON},
        ),
    ),
    webhooks=(
        webhook("job", "A job changed its state: as Standard Webhooks has it", FarmEvent, _SIGNED),
        webhook("test", "A receiver is tried by hand, once", TestEvent, _SIGNED),
    ),
)
