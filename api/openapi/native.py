"""`/farm/v1`: the farm's own dialect."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

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
    any_of,
    named,
    webhook,
)
from api.openapi.operation import refusals as refused
from api.routes.deliveries import Trial
from farm.dialects import native
from farm.dialects.answers import native as answers
from farm.domain.catalogue import MODELS
from farm.domain.job import State

PREFIX = "/farm/v1"


#: What a submit takes: the model decides.
JobBody = any_of(named(native.INPUTS[model.name], model.ids) for model in MODELS)
LIMIT = Parameter("limit", "How many to show.", Annotated[int, Field(ge=1, le=query.MAX_PAGE)])
BEFORE = Parameter("before", "What is older than this, as the page before said.", Annotated[int, Field(ge=0, le=2**53)])


def refusals(*statuses: int) -> dict[int, Answer]:
    """Refusals in the farm's own shape."""
    return refused(answers.Problem, *statuses, media_type=PROBLEM)


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
                    answers.AcceptedJob,
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
            answers={200: Answer("A page of jobs.", answers.FarmJobs), **_COMMON},
        ),
        Operation(
            "get",
            f"{PREFIX}/jobs/{{job_id}}",
            "getJob",
            "One job",
            answers={200: Answer("The job.", answers.FarmJob), **_NAMED},
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
                200: Answer("It never started, or it had ended.", answers.CancelOutcome),
                202: Answer("It runs, and stops within one denoising step.", answers.CancelOutcome),
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
                    answers.AcceptedJob,
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
            answers={200: Answer("Depth and age of each line.", answers.FarmQueue), **_COMMON},
        ),
        Operation(
            "get",
            f"{PREFIX}/workers",
            "listWorkers",
            "The workers; with an admin's key",
            answers={200: Answer("What each of them tells of itself.", answers.FarmWorkers), **_COMMON},
        ),
        Operation(
            "post",
            f"{PREFIX}/workers/{{worker_id}}/drain",
            "drainWorker",
            "Have a worker finish or hand back what it holds, and leave; with an admin's key",
            answers={202: Answer("It takes nothing more.", answers.DrainingWorker), **_NAMED},
        ),
        Operation(
            "post",
            f"{PREFIX}/pause",
            "pauseFarm",
            "Have no worker take anything new; with an admin's key",
            answers={200: Answer("What is submitted waits, what is rendered goes on.", answers.Pause), **_COMMON},
        ),
        Operation(
            "post",
            f"{PREFIX}/resume",
            "resumeFarm",
            "Let the workers go on; with an admin's key",
            answers={200: Answer("They do.", answers.Pause), **_COMMON},
        ),
        Operation(
            "get",
            f"{PREFIX}/models",
            "listFarmModels",
            "The models, their ids in every dialect, and which are served",
            answers={200: Answer("All models.", answers.FarmModels), **_COMMON},
        ),
        Operation(
            "get",
            f"{PREFIX}/deliveries",
            "listDeliveries",
            "What was told to your webhooks, newest first",
            parameters=(LIMIT, BEFORE),
            answers={200: Answer("A page of deliveries.", answers.FarmDeliveries), **_COMMON},
        ),
        Operation(
            "post",
            f"{PREFIX}/deliveries",
            "testReceiver",
            "Send a test event to a receiver, once",
            body=Body(Trial, {"url": "https://you.example/hook"}),
            answers={202: Answer("It is on its way.", answers.FarmDelivery), **_COMMON, **refusals(413, 429)},
        ),
        Operation(
            "get",
            f"{PREFIX}/deliveries/{{delivery_id}}",
            "getDelivery",
            "One delivery with its tries",
            answers={200: Answer("The delivery.", answers.FarmDelivery), **_NAMED},
        ),
        Operation(
            "post",
            f"{PREFIX}/deliveries/{{delivery_id}}/redeliver",
            "redeliver",
            "Tell it once more, from the beginning of the schedule",
            answers={202: Answer("It is on its way, under the same id.", answers.FarmDelivery), **_NAMED},
        ),
        Operation(
            "get",
            f"{PREFIX}/webhook_secret",
            "getWebhookSecret",
            "What signs your webhooks",
            answers={200: Answer("The secret.", answers.WebhookSecret), **_COMMON},
        ),
    ),
    webhooks=(
        webhook("job", "A job changed its state: as Standard Webhooks has it", answers.FarmEvent, _SIGNED),
        webhook("test", "A receiver is tried by hand, once", answers.TestEvent, _SIGNED),
    ),
)
