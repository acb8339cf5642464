"""Uploads: fal's storage and CDN, and WaveSpeed's media."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from api.openapi import fal, wavespeed
from api.openapi.operation import ANYWHERE, GUARDED, Answer, Body, Operation, Parameter, Section
from farm.dialects import fal_storage, wavespeed_media
from farm.dialects.answers import fal as fal_answers
from farm.dialects.answers import wavespeed as wavespeed_answers

REST, CDN, MEDIA = "/fal/rest/storage", "/fal/cdn", "/api/v3/media"
#: A file on its way in needs the storage, and room, and has to go on.
_STORING = (408, 413, 422, 429, 503)


class FileForm(BaseModel):
    """A file, and nothing else."""

    model_config = ConfigDict(extra="forbid")

    file: bytes


_BYTES = Body(media_type="application/octet-stream")
_LIFECYCLE = tuple(
    Parameter(name, "JSON: `expiration_duration_seconds` shortens how long the file is kept.", where="header")
    for name in fal_storage.LIFECYCLES
)
_STORAGE_TYPE = Parameter("storage_type", f"Changes nothing: {fal_storage.TOLERATED['storage_type']}.")
_FILE_NAME = Parameter("X-Fal-File-Name", "Changes nothing: nobody can choose the name of a file here.", where="header")
_ETAG = Parameter("ETag", "What the part is called; the end of the upload names it.", where="header", is_required=True)
_PART = Answer("The part is kept; sent again, it replaces the former.", fal_answers.FalPart, headers=(_ETAG,))
_WHOLE = Answer("The file is kept.", fal_answers.FalFile)
_PLACE = Answer("Where to send it.", fal_answers.FalUpload)


def _sent(name: str, path: str, summary: str, answer: Answer, body: Body, *, is_open: bool) -> Operation:
    """Bytes, or the end of them, sent to an address that was handed out."""
    guarded: tuple[int, ...] = ANYWHERE if is_open else GUARDED
    return Operation(
        "put" if body is _BYTES else "post",
        path,
        name,
        summary,
        body=body,
        answers={200: answer, **fal.refusals(*guarded, 404, *_STORING)},
        is_open=is_open,
    )


def _begun(name: str, path: str, summary: str) -> Operation:
    return Operation(
        "post",
        path,
        name,
        summary,
        body=Body(fal_storage.Announcement, {"content_type": "image/png", "file_name": "fox.png"}, is_required=False),
        parameters=(_STORAGE_TYPE, *_LIFECYCLE),
        answers={200: _PLACE, **fal.refusals(*GUARDED, 413, 422, 429)},
    )


_PARTS = Body(fal_storage.Completion, {"parts": [{"partNumber": 1, "etag": "0123456789abcdef"}]})
_ONE, _MANY = "{ticket_id}", "{ticket_id}/{number}"

SECTION = Section(
    name="Uploads",
    about="Files to begin from, as fal's and WaveSpeed's clients send them. An address that takes bytes needs no key: "
    "nobody can guess it, and it takes one file.",
    operations=(
        _begun("beginUpload", f"{REST}/upload/initiate", "fal: begin an upload"),
        _begun("beginUploadInParts", f"{REST}/upload/initiate-multipart", "fal: begin an upload in parts"),
        Operation(
            "post",
            f"{REST}/auth/token",
            "createUploadToken",
            "fal: a token for the CDN",
            body=Body(is_required=False),  # an empty object; nobody looks at it
            parameters=(_STORAGE_TYPE,),
            answers={200: Answer("A token.", fal_answers.FalToken), **fal.refusals(*GUARDED, 413, 422)},
        ),
        _sent(
            "putUpload",
            f"{CDN}/upload/{_ONE}",
            "fal: the file",
            Answer("It is kept.", wavespeed_answers.Empty),
            _BYTES,
            is_open=True,
        ),
        _sent("putUploadPart", f"{CDN}/upload/{_MANY}", "fal: a part", _PART, _BYTES, is_open=True),
        _sent("endUpload", f"{CDN}/upload/{_ONE}/complete", "fal: the end of the parts", _WHOLE, _PARTS, is_open=True),
        Operation(
            "post",
            f"{CDN}/files/upload",
            "upload",
            "fal: a file, with a token",
            body=_BYTES,
            parameters=(_FILE_NAME, *_LIFECYCLE),
            answers={200: _WHOLE, **fal.refusals(*GUARDED, *_STORING)},
        ),
        Operation(
            "post",
            f"{CDN}/files/upload/multipart",
            "uploadInParts",
            "fal: begin a file in parts, with a token",
            parameters=(_FILE_NAME, *_LIFECYCLE),
            answers={
                200: Answer("Where to send the parts.", fal_answers.FalMultipartUpload),
                **fal.refusals(*GUARDED, 413, 422, 429),
            },
        ),
        _sent("putPart", f"/files/{{key}}/multipart/{_MANY}", "fal: a part", _PART, _BYTES, is_open=False),
        _sent(
            "endParts",
            f"/files/{{key}}/multipart/{_ONE}/complete",
            "fal: the end of the parts",
            _WHOLE,
            _PARTS,
            is_open=False,
        ),
        Operation(
            "post",
            f"{MEDIA}/uploads",
            "createTicket",
            "WaveSpeed: a ticket for a file",
            body=Body(wavespeed_media.Announcement, {"filename": "fox.png", "size": 1024, "content_type": "image/png"}),
            answers={
                200: Answer("The ticket.", wavespeed_answers.WaveSpeedTicketAnswer),
                **wavespeed.refusals(*GUARDED, 413, 429),
            },
        ),
        Operation(
            "put",
            f"{MEDIA}/uploads/{_ONE}",
            "putFile",
            "WaveSpeed: the file of a ticket",
            body=_BYTES,
            answers={
                200: Answer("It is kept.", wavespeed_answers.EmptyAnswer),
                **wavespeed.refusals(*ANYWHERE, 404, 408, 413, 429, 503),
            },
            is_open=True,
        ),
        Operation(
            "post",
            f"{MEDIA}/upload/binary",
            "uploadFile",
            "WaveSpeed: a file as a form, as older clients send it",
            body=Body(FileForm, media_type="multipart/form-data"),
            answers={
                200: Answer("It is kept.", wavespeed_answers.WaveSpeedFileAnswer),
                **wavespeed.refusals(*GUARDED, 408, 413, 429),
            },
        ),
    ),
)
