"""Operations of `/farm/v1`, the farm's own dialect."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from api.http import query
from api.openapi.operation import (
    GUARDED,
    IDEMPOTENCY_KEY,
    PROBLEM,
    RATE_LIMITS,
    Body,
    Operation,
    Parameter,
    Response,
    Section,
    ServerSentEvent,
    any_of,
    error_responses,
    webhook,
    with_model_ids,
)
from api.routes.deliveries import Trial
from api.routes.enhance import PromptToEnhance
from farm.dialects import native
from farm.dialects.answers import native as answers
from farm.domain.catalogue import MAX_WATCHED_JOBS, MODELS
from farm.domain.job import State
from farm.domain.scheduling import QueuePriority

PREFIX = "/farm/v1"


#: The body of a submit, by model.
JobBody = any_of(with_model_ids(native.INPUTS[model.name], model.ids) for model in MODELS)
LIMIT = Parameter("limit", "Number of items per page.", Annotated[int, Field(ge=1, le=query.MAX_PAGE)])
BEFORE = Parameter(
    "before", "Show only older items: `before` of the previous page.", Annotated[int, Field(ge=0, le=query.MAX_TIME_US)]
)


def errors(*statuses: int) -> dict[int, Response]:
    """Return error responses with problem details."""
    return error_responses(answers.Problem, *statuses, media_type=PROBLEM)


_REPLAYED = (Parameter("Idempotent-Replayed", "The job existed already.", Literal["true"], "header"),)
_COMMON = errors(*GUARDED, 422)
_NAMED = errors(*GUARDED, 404, 422)
_GROUP = (
    Parameter("model", "Only the jobs of this model, by any of its ids."),
    Parameter("priority", "Only the jobs of this priority.", QueuePriority),
    Parameter("caller", "Only the jobs of this caller: the name of an API key, or its id."),
)
_STREAM = Response("Server-sent events; without any, a comment every 15 s.", ServerSentEvent, "text/event-stream")
_LAST_SEEN = (
    Parameter("Last-Event-ID", "The `id` of the last event received; the stream resumes after it.", str, "header"),
    Parameter("last_event_id", "The same, for clients that cannot send the header."),
)
_PREVIEWS = Parameter(
    "previews",
    "Send events `preview`, too, while images are rendered: `id` of the job, `image`, `step`, and `url`, a small JPEG "
    "as a data URI.",
    bool,
)
SIGNED = {
    "webhook-id": "Id of the event, the same on every attempt.",
    "webhook-timestamp": "Time of this attempt, in seconds since the epoch.",
    "webhook-signature": "`v1,` and the signature in base64, as in Standard Webhooks.",
}

SECTION = Section(
    name="The farm's own dialect",
    description="Acts on the jobs of every dialect. Field names are fal's; errors are problem details (RFC 9457).",
    operations=(
        Operation(
            "post",
            f"{PREFIX}/jobs",
            "submitJob",
            "Submit a job",
            body=Body(JobBody, {"model": "srpo", "prompt": "a red fox in fresh snow"}),
            parameters=(IDEMPOTENCY_KEY,),
            responses={
                202: Response(
                    "The job has been recorded and will survive a crash of any process.",
                    answers.AcceptedJob,
                    headers=(*_REPLAYED, *RATE_LIMITS),
                ),
                **errors(*GUARDED, 404, 413, 422, 429),
            },
        ),
        Operation(
            "post",
            f"{PREFIX}/enhance",
            "enhancePrompt",
            "Enhance a prompt, to be read and edited before it is submitted",
            body=Body(PromptToEnhance, {"model": "srpo", "prompt": "a red fox in fresh snow"}),
            responses={
                200: Response("The prompt as `enhance_prompt` would render it.", answers.EnhancedPrompt),
                **errors(*GUARDED, 404, 413, 422, 429),
            },
        ),
        Operation(
            "get",
            f"{PREFIX}/jobs",
            "listJobs",
            "List your jobs, newest first",
            parameters=(
                LIMIT,
                BEFORE,
                Parameter("status", "Show only the jobs of the page in this state.", State),
                Parameter("caller", "Show only the jobs of this API key, by its name or id; for admins."),
            ),
            responses={200: Response("A page of jobs.", answers.FarmJobs), **_COMMON},
        ),
        Operation(
            "get",
            f"{PREFIX}/jobs/{{job_id}}",
            "getJob",
            "Get a job",
            responses={200: Response("The job.", answers.FarmJob), **_NAMED},
        ),
        Operation(
            "get",
            f"{PREFIX}/jobs/{{job_id}}/history",
            "getJobHistory",
            "Get a job's runs on workers, its origin and its webhook deliveries",
            responses={200: Response("The history of the job.", answers.JobHistory), **_NAMED},
        ),
        Operation(
            "delete",
            f"{PREFIX}/jobs/{{job_id}}",
            "deleteJob",
            "Delete a finished job with its record, prompt and images",
            responses={204: Response("The job was deleted."), **errors(*GUARDED, 404, 409, 422)},
        ),
        Operation(
            "post",
            f"{PREFIX}/jobs/{{job_id}}/cancel",
            "cancelJob",
            "Cancel a job",
            responses={
                200: Response("The job never started, or had already ended.", answers.CancelOutcome),
                202: Response("The job is running and stops within one denoising step.", answers.CancelOutcome),
                **_NAMED,
            },
        ),
        Operation(
            "post",
            f"{PREFIX}/jobs/{{job_id}}/retry",
            "retryJob",
            "Retry a failed job",
            responses={
                202: Response(
                    "A new job with the same request. Repeated retries return the same new job.",
                    answers.AcceptedJob,
                    headers=(*_REPLAYED, *RATE_LIMITS),
                ),
                **errors(*GUARDED, 400, 404, 409, 422, 429),
            },
        ),
        Operation(
            "get",
            f"{PREFIX}/jobs/{{job_id}}/events",
            "watchJob",
            "Stream a job's changes until it ends",
            parameters=(*_LAST_SEEN, _PREVIEWS),
            responses={200: _STREAM, 204: Response("The last event was already received."), **_NAMED, **errors(429)},
        ),
        Operation(
            "get",
            f"{PREFIX}/jobs/events",
            "watchJobs",
            "Stream the changes of several jobs until all have ended",
            parameters=(
                Parameter("ids", f"Ids of 1 to {MAX_WATCHED_JOBS} jobs, separated by commas.", is_required=True),
                _PREVIEWS,
            ),
            responses={200: _STREAM, **_NAMED, **errors(429)},
        ),
        Operation(
            "get",
            f"{PREFIX}/events",
            "watchAllJobs",
            "Stream the changes of all your jobs",
            parameters=_LAST_SEEN,
            responses={200: _STREAM, **_COMMON, **errors(429)},
        ),
        Operation(
            "get",
            f"{PREFIX}/queue",
            "getQueue",
            "Get the state of the queue, all callers together",
            responses={200: Response("Depth and age of each queue.", answers.FarmQueue), **_COMMON},
        ),
        Operation(
            "get",
            f"{PREFIX}/bulks",
            "listOpenBulks",
            "List your bulks that have not ended, with their rate and the time left (admin: those of all callers)",
            responses={200: Response("The bulks, oldest first.", answers.FarmBulks), **_COMMON},
        ),
        Operation(
            "get",
            f"{PREFIX}/workers",
            "listWorkers",
            "List the workers (admin)",
            responses={200: Response("The facts that each worker reports.", answers.FarmWorkers), **_COMMON},
        ),
        Operation(
            "post",
            f"{PREFIX}/workers/{{worker_id}}/drain",
            "drainWorker",
            "Drain a worker: it finishes its jobs or returns them to the queue, then exits (admin)",
            responses={202: Response("The worker takes no new jobs.", answers.DrainingWorker), **_NAMED},
        ),
        Operation(
            "post",
            f"{PREFIX}/pause",
            "pauseFarm",
            "Pause the farm, or the jobs of a model, a priority or a caller: workers take none (admin)",
            parameters=_GROUP,
            responses={200: Response("New jobs are queued; running jobs continue.", answers.Pause), **_NAMED},
        ),
        Operation(
            "post",
            f"{PREFIX}/resume",
            "resumeFarm",
            "Resume the farm, or the jobs of a model, a priority or a caller (admin)",
            parameters=_GROUP,
            responses={200: Response("Workers take jobs again.", answers.Pause), **_NAMED},
        ),
        Operation(
            "get",
            f"{PREFIX}/models",
            "listFarmModels",
            "List the models with their ids in every dialect, their limits, and the workers that have them loaded",
            responses={200: Response("All models of the catalogue.", answers.FarmModels), **_COMMON},
        ),
        Operation(
            "get",
            f"{PREFIX}/deliveries",
            "listDeliveries",
            "List your webhook deliveries, newest first",
            parameters=(LIMIT, BEFORE),
            responses={200: Response("A page of deliveries.", answers.FarmDeliveries), **_COMMON},
        ),
        Operation(
            "post",
            f"{PREFIX}/deliveries",
            "testReceiver",
            "Send a test event to a webhook receiver",
            body=Body(Trial, {"url": "https://you.example/hook"}),
            responses={
                202: Response("The event is queued for delivery.", answers.FarmDelivery),
                **_COMMON,
                **errors(413, 429),
            },
        ),
        Operation(
            "get",
            f"{PREFIX}/deliveries/{{delivery_id}}",
            "getDelivery",
            "Get a delivery with its attempts",
            responses={200: Response("The delivery.", answers.FarmDelivery), **_NAMED},
        ),
        Operation(
            "post",
            f"{PREFIX}/deliveries/{{delivery_id}}/redeliver",
            "redeliver",
            "Deliver a webhook again, from the start of the retry schedule",
            responses={
                202: Response("The delivery is queued again, under the same id.", answers.FarmDelivery),
                **_NAMED,
                **errors(429),
            },
        ),
        Operation(
            "get",
            f"{PREFIX}/webhook_secret",
            "getWebhookSecret",
            "Get the secret that signs your webhooks",
            responses={200: Response("The secret.", answers.WebhookSecret), **_COMMON},
        ),
    ),
    webhooks=(
        webhook("job", "A job changed its state (Standard Webhooks)", answers.FarmEvent, SIGNED),
        webhook("test", "A test event, sent once", answers.TestEvent, SIGNED),
    ),
)
