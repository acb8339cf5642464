"""`/api/v3`: WaveSpeed's dialect."""

from __future__ import annotations

from typing import Annotated, Any

from api.openapi.operation import (
    GUARDED,
    IDEMPOTENCY_KEY,
    RATE_LIMITS,
    Answer,
    Body,
    Operation,
    Parameter,
    Section,
    slug,
    webhook,
)
from api.openapi.operation import refusals as refused
from farm.dialects import wavespeed
from farm.dialects.answers import wavespeed as answers
from farm.domain.catalogue import MODELS, Model

PREFIX = "/api/v3"
_EXAMPLES: dict[str, dict[str, Any]] = {
    "srpo": {"prompt": "a red fox in fresh snow", "size": "1024*768"},
    "srpo-image-to-image": {"prompt": "the same fox in summer", "image": "https://you.example/fox.png"},
}


def refusals(*statuses: int) -> dict[int, Answer]:
    """Refusals in WaveSpeed's shape. What is wrong with a call is 400 there."""
    told = refused(answers.WaveSpeedError, *statuses)
    told[400] = Answer(
        "Something in the call is wrong; the text names each field and what is allowed. "
        "Or no worker of this farm has the model loaded.",
        answers.WaveSpeedError,
    )
    return told


_NAMED = refusals(*GUARDED, 404)
_SIGNED = {
    "webhook-id": "Of the event: the same at every try.",
    "webhook-timestamp": "Of this try, in seconds since the epoch.",
    "webhook-signature": "`v3,` and the signature in hex; the key is the secret's text itself.",
}
_GOOD = Answer("The prediction.", answers.PredictionAnswer)
_WEBHOOK = Parameter(
    "webhook",
    "Where to call back when it has ended. It does not go with `enable_sync_mode` or `enable_base64_output`.",
)


def _submit(model: Model, endpoint: str) -> Operation:
    return Operation(
        "post",
        f"{PREFIX}/{endpoint}",
        slug("predict", endpoint),
        f"Submit: {model.title}",
        body=Body(wavespeed.INPUTS[model.name], _EXAMPLES[model.name]),
        parameters=(_WEBHOOK, IDEMPOTENCY_KEY),
        answers={
            200: Answer(
                "The prediction is on record; with `enable_sync_mode` it has ended, or was waited for too long.",
                answers.PredictionAnswer,
                headers=RATE_LIMITS,
            ),
            **refusals(*GUARDED, 404, 413, 422, 429),
        },
    )


SECTION = Section(
    name="WaveSpeed",
    about="Version 3 of WaveSpeed's API: submit, result, list, delete.",
    operations=(
        *(_submit(model, endpoint) for model in MODELS for endpoint in model.of(wavespeed.NAME)),
        Operation(
            "get",
            f"{PREFIX}/predictions/{{job_id}}/result",
            "getPredictionResult",
            "A prediction, answered at once whatever its state",
            answers={200: _GOOD, **_NAMED},
        ),
        Operation(
            "get",
            f"{PREFIX}/predictions/{{job_id}}",
            "getPrediction",
            "The same",
            answers={200: _GOOD, **_NAMED},
        ),
        Operation(
            "post",
            f"{PREFIX}/predictions",
            "searchPredictions",
            "Your predictions, newest first",
            body=Body(wavespeed.ListInput, {"page": 1, "page_size": 10}, is_required=False),
            answers={200: Answer("A page of them.", answers.PredictionPageAnswer), **refusals(*GUARDED, 413)},
        ),
        Operation(
            "get",
            f"{PREFIX}/predictions",
            "listPredictions",
            "The same, asked for in the address",
            parameters=tuple(
                Parameter(name, "", Annotated[info.annotation, info])
                for name, info in wavespeed.ListInput.model_fields.items()
            ),
            answers={200: Answer("A page of them.", answers.PredictionPageAnswer), **refusals(*GUARDED)},
        ),
        Operation(
            "post",
            f"{PREFIX}/predictions/delete",
            "deletePredictions",
            "Delete ended predictions: records, prompts and images",
            body=Body(wavespeed.DeleteInput, {"ids": ["0b0f3d1e-3c52-4f0e-9d55-6a1f5f7f2c11"]}),
            answers={
                200: Answer("They are gone; what was not there is not counted.", answers.DeletedAnswer),
                **refusals(*GUARDED, 409, 413),
            },
        ),
        Operation(
            "get",
            f"{PREFIX}/webhook/secret",
            "getWaveSpeedSecret",
            "What signs your webhooks",
            answers={200: Answer("The secret.", answers.WaveSpeedSecretAnswer), **refusals(*GUARDED)},
        ),
    ),
    webhooks=(
        webhook(
            "wavespeedPrediction", "A prediction has ended: as WaveSpeed tells it", answers.PredictionEvent, _SIGNED
        ),
    ),
)
