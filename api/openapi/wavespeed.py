"""Operations of `/api/v3`, WaveSpeed's dialect."""

from __future__ import annotations

from typing import Annotated, Any

from api.openapi.operation import (
    GUARDED,
    IDEMPOTENCY_KEY,
    RATE_LIMITS,
    Body,
    Operation,
    Parameter,
    Response,
    Section,
    error_responses,
    slug,
    webhook,
)
from farm.dialects import wavespeed
from farm.dialects.answers import wavespeed as answers
from farm.domain.catalogue import MODELS, Model

PREFIX = "/api/v3"


def errors(*statuses: int) -> dict[int, Response]:
    """Return error responses in WaveSpeed's format, which has 400 for an invalid request."""
    responses = error_responses(answers.WaveSpeedError, *statuses)
    responses[400] = Response(
        "The request is invalid; the message names each invalid field and the allowed values. "
        "Or no worker of this farm has loaded the model.",
        answers.WaveSpeedError,
    )
    return responses


_NAMED = errors(*GUARDED, 404)
_SIGNED = {
    "webhook-id": "Id of the event, the same on every attempt.",
    "webhook-timestamp": "Time of this attempt, in seconds since the epoch.",
    "webhook-signature": "`v3,` and the signature in hex; the HMAC key is the text of the secret.",
}
_PREDICTION = Response("The prediction.", answers.PredictionAnswer)
_PAGE = Response("A page of predictions.", answers.PredictionPageAnswer)
_WEBHOOK = Parameter(
    "webhook",
    "Webhook URL, called when the prediction has ended. Not allowed with `enable_sync_mode` or `enable_base64_output`.",
)


def _example(model: Model) -> dict[str, Any]:
    own = {"image": "https://you.example/fox.png"} if model.max_inputs else {"size": "1024*768"}
    return {"prompt": model.example, **own}


def _submit(model: Model, endpoint: str) -> Operation:
    return Operation(
        "post",
        f"{PREFIX}/{endpoint}",
        slug("predict", endpoint),
        f"Submit: {model.title}",
        body=Body(wavespeed.INPUTS[model.name], _example(model)),
        parameters=(_WEBHOOK, IDEMPOTENCY_KEY),
        responses={
            200: Response(
                "The prediction has been recorded; with `enable_sync_mode`, it has ended or reached the time limit.",
                answers.PredictionAnswer,
                headers=RATE_LIMITS,
            ),
            **errors(*GUARDED, 404, 413, 422, 429),
        },
    )


SECTION = Section(
    name="WaveSpeed",
    description="WaveSpeed's API, version 3: submit, result, list, delete.",
    operations=(
        *(_submit(model, endpoint) for model in MODELS for endpoint in model.of(wavespeed.NAME)),
        Operation(
            "get",
            f"{PREFIX}/predictions/{{job_id}}/result",
            "getPredictionResult",
            "Get a prediction in its present state",
            responses={200: _PREDICTION, **_NAMED},
        ),
        Operation(
            "get",
            f"{PREFIX}/predictions/{{job_id}}",
            "getPrediction",
            "Get a prediction in its present state (alias)",
            responses={200: _PREDICTION, **_NAMED},
        ),
        Operation(
            "post",
            f"{PREFIX}/predictions",
            "searchPredictions",
            "Search your predictions, newest first",
            body=Body(wavespeed.ListInput, {"page": 1, "page_size": 10}, is_required=False),
            responses={200: _PAGE, **errors(*GUARDED, 413, 429)},
        ),
        Operation(
            "get",
            f"{PREFIX}/predictions",
            "listPredictions",
            "Search your predictions, with the search in the query string",
            parameters=tuple(
                Parameter(name, "", Annotated[info.annotation, info])
                for name, info in wavespeed.ListInput.model_fields.items()
            ),
            responses={200: _PAGE, **errors(*GUARDED, 429)},
        ),
        Operation(
            "post",
            f"{PREFIX}/predictions/delete",
            "deletePredictions",
            "Delete finished predictions with their records, prompts and images",
            body=Body(wavespeed.DeleteInput, {"ids": ["0b0f3d1e-3c52-4f0e-9d55-6a1f5f7f2c11"]}),
            responses={
                200: Response("The predictions were deleted; unknown ids are not counted.", answers.DeletedAnswer),
                **errors(*GUARDED, 409, 413),
            },
        ),
        Operation(
            "get",
            f"{PREFIX}/models",
            "listWaveSpeedModels",
            "List the models that are served in this dialect, each with the schema of its parameters",
            responses={200: Response("The models.", answers.WaveSpeedModelsAnswer), **errors(*GUARDED)},
        ),
        Operation(
            "get",
            f"{PREFIX}/webhook/secret",
            "getWaveSpeedSecret",
            "Get the secret that signs your webhooks",
            responses={200: Response("The secret.", answers.WaveSpeedSecretAnswer), **errors(*GUARDED)},
        ),
    ),
    webhooks=(
        webhook("wavespeedPrediction", "A prediction has ended (WaveSpeed's format)", answers.PredictionEvent, _SIGNED),
    ),
)
