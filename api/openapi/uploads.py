"""Operations of uploads: fal's storage and CDN, and WaveSpeed's media."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from api.openapi import fal, wavespeed
from api.openapi.operation import ANYWHERE, GUARDED, Body, Operation, Parameter, Response, Section
from farm.dialects import fal_storage, wavespeed_media
from farm.dialects.answers import fal as fal_answers
from farm.dialects.answers import wavespeed as wavespeed_answers

REST, CDN, MEDIA = "/fal/rest/storage", "/fal/cdn", "/api/v3/media"
#: Error statuses of routes that store a file.
_STORING = (408, 413, 422, 429, 503)


class FileForm(BaseModel):
    """A form with one file."""

    model_config = ConfigDict(extra="forbid")

    file: bytes


_BYTES = Body(media_type="application/octet-stream")
_LIFECYCLE = tuple(
    Parameter(name, f"JSON; {fal.SHORTENS} of the file.", where="header") for name in fal_storage.LIFECYCLES
)
_STORAGE_TYPE = Parameter("storage_type", f"Accepted without effect: {fal_storage.TOLERATED['storage_type']}.")
_FILE_NAME = Parameter("X-Fal-File-Name", "The name under which a file that is not an image is saved.", where="header")
_ETAG = Parameter("ETag", "The part's tag, to be named when the upload is completed.", where="header", is_required=True)
_PART = Response("The part was stored; if sent again, it is replaced.", fal_answers.FalPart, headers=(_ETAG,))
_WHOLE = Response("The file was stored.", fal_answers.FalFile)
_PLACE = Response("Where to send the file.", fal_answers.FalUpload)


def _sent(name: str, path: str, summary: str, response: Response, body: Body, *, is_open: bool) -> Operation:
    """Describe a route that takes a file or a part of it, or that completes an upload."""
    guarded: tuple[int, ...] = ANYWHERE if is_open else GUARDED
    return Operation(
        "put" if body is _BYTES else "post",
        path,
        name,
        summary,
        body=body,
        responses={200: response, **fal.errors(*guarded, 404, *_STORING)},
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
        responses={200: _PLACE, **fal.errors(*GUARDED, 413, 422, 429)},
    )


_PARTS = Body(fal_storage.Completion, {"parts": [{"partNumber": 1, "etag": "0123456789abcdef"}]})
_ONE, _MANY = "{ticket_id}", "{ticket_id}/{number}"

SECTION = Section(
    name="Uploads",
    description="Input files, as fal's and WaveSpeed's clients upload them. A URL that takes a file needs no API key: "
    "it is unguessable and takes one file only.",
    operations=(
        _begun("beginUpload", f"{REST}/upload/initiate", "fal: begin an upload"),
        _begun("beginUploadInParts", f"{REST}/upload/initiate-multipart", "fal: begin an upload in parts"),
        Operation(
            "post",
            f"{REST}/auth/token",
            "createUploadToken",
            "fal: a token for the CDN",
            body=Body(is_required=False),  # an empty object, which is ignored
            parameters=(_STORAGE_TYPE,),
            responses={200: Response("A token.", fal_answers.FalToken), **fal.errors(*GUARDED, 413, 422)},
        ),
        _sent(
            "putUpload",
            f"{CDN}/upload/{_ONE}",
            "fal: the file",
            Response("It is kept.", wavespeed_answers.Empty),
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
            responses={200: _WHOLE, **fal.errors(*GUARDED, *_STORING)},
        ),
        Operation(
            "post",
            f"{CDN}/files/upload/multipart",
            "uploadInParts",
            "fal: begin a file in parts, with a token",
            parameters=(_FILE_NAME, *_LIFECYCLE),
            responses={
                200: Response("Where to send the parts.", fal_answers.FalMultipartUpload),
                **fal.errors(*GUARDED, 413, 422, 429),
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
            responses={
                200: Response("The ticket.", wavespeed_answers.WaveSpeedTicketAnswer),
                **wavespeed.errors(*GUARDED, 413, 429),
            },
        ),
        Operation(
            "put",
            f"{MEDIA}/uploads/{_ONE}",
            "putFile",
            "WaveSpeed: the file of a ticket",
            body=_BYTES,
            responses={
                200: Response("It is kept.", wavespeed_answers.EmptyAnswer),
                **wavespeed.errors(*ANYWHERE, 404, 408, 413, 429, 503),
            },
            is_open=True,
        ),
        Operation(
            "post",
            f"{MEDIA}/upload/binary",
            "uploadFile",
            "WaveSpeed: a file as a form, as older clients send it",
            body=Body(FileForm, media_type="multipart/form-data"),
            responses={
                200: Response("It is kept.", wavespeed_answers.WaveSpeedFileAnswer),
                **wavespeed.errors(*GUARDED, 408, 413, 429),
            },
        ),
    ),
)
