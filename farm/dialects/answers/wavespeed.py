"""Answers of WaveSpeed's dialect, and the body of its webhook."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from farm.domain.catalogue import OutputFormat
from farm.domain.job import State


class ErrorNumber(TypedDict, closed=True):
    """WaveSpeed's own number of an error."""

    code: int
    error: str


class WaveSpeedError(TypedDict, closed=True):
    """An error. `code` repeats the HTTP status; `message` and `error` are the same text."""

    code: int
    message: str
    error: str
    error_code: str
    data: ErrorNumber


class Envelope(TypedDict):
    """The fields around the data of every successful answer."""

    code: Literal[200]
    message: Literal["success"]


class Success(Envelope, closed=True):
    """The fields before the data of every successful answer."""


#: Every successful answer begins with it: `{**SUCCESS, "data": …}`.
SUCCESS: Success = {"code": 200, "message": "success"}


class PredictionUrls(TypedDict, closed=True):
    """The URL to poll."""

    get: str


class Milliseconds(TypedDict, closed=True):
    """Milliseconds; 0 until the prediction has completed."""

    inference: int


class PredictionFields(TypedDict):
    """The fields of a prediction, in answers and in webhooks."""

    id: str
    model: str
    status: State
    code: int
    error: str
    outputs: list[str]
    urls: PredictionUrls
    has_nsfw_contents: list[bool]
    prompt: str
    seed: int
    created_at: str
    timings: Milliseconds
    executionTime: int
    warnings: NotRequired[list[str]]


class Prediction(PredictionFields, closed=True):
    """A prediction. If it has failed, `status`, `error` and `code` say so, and the HTTP status is still 200.

    `outputs` are URLs, or bare base64 if the submit asked for it. `warnings` is there only if there are any.
    """


class PredictionAnswer(Envelope, closed=True):
    """One prediction."""

    data: Prediction


class Deleted(TypedDict, closed=True):
    """The number of predictions that were deleted."""

    deleted_count: int


class DeletedAnswer(Envelope, closed=True):
    """The effect of a deletion."""

    data: Deleted


class WaveSpeedSecret(TypedDict, closed=True):
    """The secret that signs the webhooks."""

    secret: str


class WaveSpeedSecretAnswer(Envelope, closed=True):
    """The secret of the caller's webhooks."""

    data: WaveSpeedSecret


class PredictionInput(TypedDict, closed=True):
    """The request's parameters, complete enough to submit it again; images by their URLs."""

    prompt: str
    size: str
    num_inference_steps: int
    guidance_scale: float
    seed: int
    output_format: OutputFormat
    enhance_prompt: NotRequired[Literal[True]]
    image: NotRequired[str]
    strength: NotRequired[float]


class ListedPrediction(PredictionFields, closed=True):
    """A prediction in a list; with its parameters if `include_inputs` asked for them."""

    inputs: NotRequired[PredictionInput]


class PredictionPage(TypedDict, closed=True):
    """Predictions, newest first; `total` counts those of all pages."""

    page: int
    total: int
    items: list[ListedPrediction]


class PredictionPageAnswer(Envelope, closed=True):
    """A page of predictions."""

    data: PredictionPage


class ModelRun(TypedDict, closed=True):
    """The submit to a model: where it goes, and the JSON Schema of its body."""

    type: Literal["model_run"]
    method: Literal["POST"]
    server: str
    api_path: str
    request_schema: dict[str, Any]


class ModelApi(TypedDict, closed=True):
    """The calls to a model."""

    api_schemas: list[ModelRun]


class WaveSpeedModel(TypedDict, closed=True):
    """A model under one of its ids."""

    model_id: str
    name: str
    base_price: float
    description: str
    type: Literal["text-to-image", "image-to-image"]
    api_schema: ModelApi


class WaveSpeedModelsAnswer(Envelope, closed=True):
    """The models that are served in this dialect."""

    data: list[WaveSpeedModel]


class PredictionEvent(PredictionFields, closed=True):
    """The body of a webhook: the prediction without the envelope, and the parameters of its request."""

    input: PredictionInput


class UploadInstruction(TypedDict, closed=True):
    """The request that sends the file: with exactly these headers, and no key."""

    method: Literal["PUT"]
    url: str
    headers: dict[str, str]


class WaveSpeedTicket(TypedDict, closed=True):
    """The request that sends the file, and the URL at which it will be stored."""

    download_url: str
    upload: UploadInstruction


class WaveSpeedTicketAnswer(Envelope, closed=True):
    """A ticket for one upload."""

    data: WaveSpeedTicket


class WaveSpeedFile(TypedDict, closed=True):
    """A stored file. `type` is image, video, audio, …"""

    type: str
    download_url: str
    filename: str
    size: int


class WaveSpeedFileAnswer(Envelope, closed=True):
    """A file that has been stored."""

    data: WaveSpeedFile


class Empty(TypedDict, closed=True):
    """An empty object."""


class EmptyAnswer(Envelope, closed=True):
    """The upload is complete."""

    data: Empty
