"""Operations of OpenAI's file and batch calls."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import create_model

from api.openapi import images, native
from api.openapi.operation import (
    GUARDED,
    IDEMPOTENCY_KEY,
    RATE_LIMITS,
    Body,
    Operation,
    Parameter,
    Response,
    Section,
    webhook,
)
from farm.dialects import openai_batch
from farm.dialects.answers import batches as answers
from farm.dialects.openai_batch import BatchInput

FILES, BATCHES = "/v1/files", "/v1/batches"


class JsonLinesForm(openai_batch.FileForm):
    """A form with a file of requests, `custom_id`, `method`, `url` and `body` in each line, and its purpose."""

    file: bytes


#: OpenAI's libraries send null for fields that are not set.
_OPTIONAL: dict[str, Any] = {
    field: (info.rebuild_annotation() | None, info.default)
    for field, info in BatchInput.model_fields.items()
    if not info.is_required()
}
_CREATE: Any = create_model(BatchInput.__name__, __base__=BatchInput, __doc__=BatchInput.__doc__, **_OPTIONAL)
_AFTER = Parameter("after", "The id of the last item of the page before.")
_FILE = Response("The file.", answers.FileObject, headers=(images.REQUEST_ID,))
_BATCH = Response("The batch.", answers.BatchObject, headers=(images.REQUEST_ID,))


def _limit(maximum: int, default: int) -> Parameter:
    return Parameter("limit", f"Most items, 1 to {maximum}; {default} by default.", int)


SECTION = Section(
    name="Batches",
    description="OpenAI's file and batch calls: a file of requests for images, rendered when there is capacity.",
    operations=(
        Operation(
            "post",
            FILES,
            "createFile",
            "Upload a file of requests",
            body=Body(JsonLinesForm, media_type="multipart/form-data"),
            responses={200: _FILE, **images.errors(*GUARDED, 408, 413, 429)},
        ),
        Operation(
            "get",
            FILES,
            "listFiles",
            "List your files",
            parameters=(
                _AFTER,
                _limit(openai_batch.MAX_FILES, openai_batch.DEFAULT_FILES),
                Parameter("order", "By time of creation; newest first by default.", Literal["asc", "desc"]),
                Parameter("purpose", "Only files with this purpose."),
            ),
            responses={
                200: Response("The files.", answers.FileList, headers=(images.REQUEST_ID,)),
                **images.errors(*GUARDED, 404),
            },
        ),
        Operation(
            "get",
            f"{FILES}/{{file_id}}",
            "retrieveFile",
            "Get a file's facts",
            responses={200: _FILE, **images.errors(*GUARDED, 404)},
        ),
        Operation(
            "delete",
            f"{FILES}/{{file_id}}",
            "deleteFile",
            "Delete a file",
            responses={
                200: Response("It was deleted.", answers.DeletedFile, headers=(images.REQUEST_ID,)),
                **images.errors(*GUARDED, 404),
            },
        ),
        Operation(
            "get",
            f"{FILES}/{{file_id}}/content",
            "downloadFile",
            "Download a file",
            responses={
                200: Response("Its lines.", media_type="application/jsonl", headers=(images.REQUEST_ID,)),
                **images.errors(*GUARDED, 404),
            },
        ),
        Operation(
            "post",
            BATCHES,
            "createBatch",
            "Create a batch",
            body=Body(
                _CREATE,
                {"input_file_id": "file-…", "endpoint": "/v1/images/generations", "completion_window": "24h"},
            ),
            parameters=(IDEMPOTENCY_KEY,),
            responses={
                200: Response("The batch.", answers.BatchObject, headers=(images.REQUEST_ID, *RATE_LIMITS)),
                **images.errors(*GUARDED, 413, 422, 429),
            },
        ),
        Operation(
            "get",
            BATCHES,
            "listBatches",
            "List your batches, newest first",
            parameters=(_AFTER, _limit(openai_batch.MAX_BATCHES, openai_batch.DEFAULT_BATCHES)),
            responses={
                200: Response("The batches.", answers.BatchList, headers=(images.REQUEST_ID,)),
                **images.errors(*GUARDED, 404),
            },
        ),
        Operation(
            "get",
            f"{BATCHES}/{{batch_id}}",
            "retrieveBatch",
            "Get a batch",
            responses={200: _BATCH, **images.errors(*GUARDED, 404)},
        ),
        Operation(
            "post",
            f"{BATCHES}/{{batch_id}}/cancel",
            "cancelBatch",
            "Cancel a batch",
            responses={200: _BATCH, **images.errors(*GUARDED, 404, 409, 413)},
        ),
    ),
    webhooks=(
        webhook(
            "batch",
            "A batch has ended",
            answers.BatchEvent,
            native.SIGNED,
        ),
    ),
)
