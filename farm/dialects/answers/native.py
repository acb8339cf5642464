"""Answers of `/farm/v1`, and bodies of its webhooks."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from farm.domain.delivery import Outcome
from farm.domain.job import State
from farm.domain.pause import GroupKind
from farm.domain.scheduling import QueuePriority

EventName = Literal["job.created", "job.processing", "job.completed", "job.failed"]


class FieldError(TypedDict, closed=True):
    """An error of one field; an empty name means the whole body."""

    field: str
    message: str
    type: str


class Problem(TypedDict, closed=True):
    """Problem details (RFC 9457), with a stable `code` for programs."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    errors: NotRequired[list[FieldError]]


class JobUrls(TypedDict, closed=True):
    """URLs to poll, cancel and stream a job."""

    get: str
    cancel: str
    events: str


class AcceptedJob(TypedDict, closed=True):
    """A job that has been recorded."""

    id: str
    status: Literal["created"]
    urls: JobUrls


class JobImage(TypedDict, closed=True):
    """A rendered image; `url` is a data URI if the job was submitted with `sync_mode`."""

    url: str
    width: int
    height: int
    content_type: str
    file_size: int


class Progress(TypedDict, closed=True):
    """Denoising steps done and in total, summed over the job's images."""

    step: int
    steps: int


class FarmJob(TypedDict, closed=True):
    """A job. Values that are unknown, or not known yet, are null or empty. Times are UTC. `timings`:
    seconds of each stage, and `full_steps`, the denoising steps that were computed, of all images together.

    `prompt` is the text that is rendered; if it was rewritten, `original_prompt` is the caller's. `inputs` are the URLs
    of the input images: the caller's own, or those of the farm's copies. `retry_of` is the failed job that this one
    repeats, `retried_as` the job that repeats this one.
    """

    id: str
    model: str
    status: State
    code: str | None
    error: str | None
    priority: QueuePriority
    prompt: str
    original_prompt: str | None
    inputs: list[str]
    strength: float | None
    num_images: int
    progress: Progress
    images: list[JobImage]
    seed: int
    has_nsfw_concepts: list[bool]
    retry_of: str | None
    retried_as: str | None
    timings: dict[str, float]
    warnings: list[str]
    build: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None


class FarmJobs(TypedDict, closed=True):
    """A page of jobs. Pass `before` on for the next page; it is null on the last one."""

    jobs: list[FarmJob]
    before: int | None


class JobRun(TypedDict, closed=True):
    """One run of a job on a worker: until when (null: it goes on), how many steps it came to, and why it ended.

    `reason` is `completed`, a failure code, or what took the job back: `worker_lost`, `drained`, `render_timeout`.
    `worker` and `host`, its machine, are shown to admins only.
    """

    worker: str | None
    host: str | None
    started_at: str
    ended_at: str | None
    step: int
    reason: str | None


class JobHistory(TypedDict, closed=True):
    """History of a job: the call that submitted it, its last ten runs, and its webhook deliveries.

    `attempts` counts the runs that count against the job: neither drains nor crashes of several jobs at once.
    """

    id: str
    caller: str
    key_id: str | None
    request_id: str | None
    dialect: str
    attempts: int
    runs: list[JobRun]
    deliveries: list[FarmDelivery]


class EnhancedPrompt(TypedDict, closed=True):
    """A prompt that was enhanced; if it was not, `warnings` say why."""

    prompt: str
    original_prompt: str
    warnings: list[str]


class CancelOutcome(TypedDict, closed=True):
    """The effect of a cancel.

    `cancelled`: the job never started. `stopping`: it will end `failed` with the code `cancelled`. `ended`: it had
    already ended.
    """

    id: str
    outcome: Literal["cancelled", "stopping", "ended"]


class UsageFigures(TypedDict, closed=True):
    """Figures of completed jobs. `megapixel_steps`: the denoising steps that were computed, times their megapixels;
    what `acceleration` skips does not count. `device_seconds`: what the device worked. `cost`: images times the price.
    """

    images: int
    megapixel_steps: float
    device_seconds: float
    cost: float


class UsageRow(TypedDict, closed=True):
    """The figures of one day (UTC), caller and model."""

    day: str
    caller: str
    model: str
    images: int
    megapixel_steps: float
    device_seconds: float
    cost: float


class FarmUsage(TypedDict, closed=True):
    """Usage by day, caller and model, from the day `since` to the day `until`, and the sum of it all.

    A job counts on the day on which it was completed. `price_per_image` is the present price, also for past days.
    """

    since: str
    until: str
    price_per_image: float
    usage: list[UsageRow]
    total: UsageFigures


class ModelQueue(TypedDict, closed=True):
    """The waiting jobs of one model and priority."""

    model: str
    priority: QueuePriority
    jobs: int
    oldest_seconds: float


class ModelBacklog(TypedDict, closed=True):
    """The work for one model: jobs and images that have not started, and how long one worker would take for it.

    `workers` are those that serve the model, by state; `drained_at` is when the warm ones would have done all of it, if
    they did nothing else, null without one or while the model is paused.

    `work_seconds` is predicted from the jobs that were completed last, and counts what is being rendered. What a pause
    holds back is in `paused_seconds` instead, so that nobody starts workers for it.
    """

    model: str
    waiting_jobs: int
    waiting_images: int
    work_seconds: float
    paused_seconds: float
    oldest_seconds: float
    workers: dict[str, int]
    drained_at: str | None


class PausedGroup(TypedDict, closed=True):
    """A group of jobs of which workers take none: those of a model, a priority or a caller."""

    kind: GroupKind
    name: str
    since: str


class FarmQueue(TypedDict, closed=True):
    """Numbers of jobs: `unprepared` first need their input images fetched or their prompt rewritten.

    While `paused`, workers take no new jobs, and never those of `paused_groups`; which other callers are paused, only
    admins see. `waiting_jobs`, `waiting_images`, `work_seconds` and `paused_seconds` are the sums over the `models`.
    `workers` is the number of workers in each state. `drained_at`: when the warm workers will have done it all, null
    without one or while paused.
    """

    paused: bool
    paused_groups: list[PausedGroup]
    unprepared: int
    waiting: int
    processing: int
    queues: list[ModelQueue]
    waiting_jobs: int
    waiting_images: int
    work_seconds: float
    paused_seconds: float
    oldest_seconds: float
    workers: dict[str, int]
    drained_at: str | None
    models: list[ModelBacklog]


class RunningJob(TypedDict, closed=True):
    """A job that a worker holds: `step` of its `steps` are done, those of all its images together."""

    id: str
    step: int
    steps: int


class FarmWorker(TypedDict, closed=True):
    """A worker as it last described itself, at `seen_at`, `silent_seconds` ago.

    `jobs` is the number of jobs that it holds, `running` those jobs now, `busy_seconds` how long it has rendered since
    its start. What it has not loaded yet is null or empty.
    """

    id: str
    state: str
    host: str | None
    pid: int | None
    version: str | None
    device: str | None
    models: list[str]
    weights: str | None
    build: str | None
    safety: str | None
    jobs: int
    running: list[RunningJob]
    busy_seconds: float
    seen_at: str
    silent_seconds: float


class StorageError(TypedDict, closed=True):
    """The last error of an operation on the image storage, of any process of the farm."""

    operation: str
    reason: str
    at: str
    seconds_ago: float


class FarmWorkers(TypedDict, closed=True):
    """The workers that have reported lately. `storage_errors`: why processes could not use the image storage lately."""

    workers: list[FarmWorker]
    storage_errors: list[StorageError]


class FarmBulk(TypedDict, closed=True):
    """A bulk that has not ended: OpenAI's batch. Of its `total` requests, some are `completed` or `failed`.

    `requests_per_minute` is the mean since its lines became jobs, and `seconds_left` what remains at that rate; null
    before the first one has ended.
    """

    id: str
    status: str
    total: int
    completed: int
    failed: int
    requests_per_minute: float | None
    seconds_left: float | None
    created_at: str
    expires_at: str


class FarmBulks(TypedDict, closed=True):
    """The bulks that have not ended, oldest first."""

    bulks: list[FarmBulk]


class DrainingWorker(TypedDict, closed=True):
    """A worker that takes no new jobs and exits once its own are finished or returned to the queue."""

    id: str
    draining: Literal[True]


class Pause(TypedDict, closed=True):
    """State of pauses: of the whole farm, and of groups of jobs."""

    paused: bool
    paused_groups: list[PausedGroup]


class Bounds(TypedDict, closed=True):
    """The least and the most, both allowed."""

    min: int
    max: int


class IntegerRange(TypedDict, closed=True):
    """The integers that a field takes, both ends included, and its default. With one value, callers cannot set it."""

    min: int
    max: int
    default: int


class NumberRange(TypedDict, closed=True):
    """The numbers that a field takes, both ends included, and its default."""

    min: float
    max: float
    default: float


class ModelLimits(TypedDict, closed=True):
    """The limits of a model at `POST /farm/v1/jobs`.

    These are the ranges of some fields (`strength` is null where the model has no such field), its number of input
    images, and the sides of a rendered image in pixels.
    """

    num_inference_steps: IntegerRange
    guidance_scale: NumberRange
    strength: NumberRange | None
    input_images: Bounds
    sides: Bounds


class ModelWorker(TypedDict, closed=True):
    """A worker that has a model loaded."""

    id: str
    state: str
    host: str | None
    device: str | None


class FarmModel(TypedDict, closed=True):
    """A model in the farm's catalogue.

    `served`: a worker has it loaded, or will bring it. `weights`: the loaded weights, `miniature` if they are not the
    model's own. `safety`: the image checker, `off` if there is none. `workers` are those that have it loaded; shown to
    admins only, else null.
    """

    name: str
    title: str
    ids: list[str]
    served: bool
    weights: str | None
    safety: str | None
    limits: ModelLimits
    workers: list[ModelWorker] | None


class FarmModels(TypedDict, closed=True):
    """The models in the farm's catalogue."""

    models: list[FarmModel]


class DeliveryAttempt(TypedDict, closed=True):
    """One attempt to deliver a webhook: the receiver's response, or the reason why there is none."""

    at: str
    seconds: float
    status: int | None
    error: str | None
    answer: str | None


class FarmDelivery(TypedDict, closed=True):
    """A webhook delivery with its latest attempts. `job` is the id of the job or batch; null for a test event."""

    id: str
    job: str | None
    event: str
    sequence: int
    receiver: str
    status: Outcome
    created_at: str
    next_try_at: str | None
    attempts: list[DeliveryAttempt]


class FarmDeliveries(TypedDict, closed=True):
    """A page of deliveries. Pass `before` on for the next page; it is null on the last one."""

    deliveries: list[FarmDelivery]
    before: int | None


class WebhookSecret(TypedDict, closed=True):
    """The secret that signs the caller's webhooks."""

    secret: str


class JobPreview(TypedDict, closed=True):
    """Preview of an image of the job `id` after `step` of its denoising steps: its place among the job's images, and
    a small JPEG as a data URI.
    """

    id: str
    image: int
    step: int
    url: str


class FarmEvent(TypedDict, closed=True):
    """A webhook event: a change of the job's state, numbered by `sequence`, and the whole job as it is now."""

    type: EventName
    timestamp: str
    sequence: int
    data: FarmJob


class TestEvent(TypedDict, closed=True):
    """The event that tests a receiver."""

    type: Literal["test"]
    timestamp: str
    sequence: int
    data: dict[str, Any]


class JobChangeUrls(TypedDict, closed=True):
    """The URL of the job."""

    get: str


class JobChange(TypedDict, closed=True):
    """The data of an event in the stream of all jobs: one change of one job's state."""

    id: str
    model: str
    status: State
    code: str | None
    sequence: int
    at: str
    urls: JobChangeUrls


class ApiKeyFacts(TypedDict, closed=True):
    """A valid key without its secret. A limit of null means the farm's default; 0 means no limit."""

    id: str
    name: str
    admin: bool
    rate: int | None
    waiting: int | None
    images_per_day: int | None
    created_at: str


class ApiKeys(TypedDict, closed=True):
    """The valid keys, by name."""

    keys: list[ApiKeyFacts]


class NewApiKey(TypedDict, closed=True):
    """A new key. It is shown only this once."""

    name: str
    key: str


class RevokedKeys(TypedDict, closed=True):
    """The number of keys that were revoked."""

    revoked: int


class UnreadableRequest(TypedDict, closed=True):
    """A request that could not be parsed. Its dialect is unknown, so the fields of all of them are there."""

    code: int
    status: int
    message: str
    detail: str
