"""Routes of `/v1/files` and `/v1/batches`: OpenAI's file and batch calls, for requests of images."""

from __future__ import annotations

from typing import Literal, cast

import flask

from api.context import ApiContext
from api.http import query
from api.http.body import digest, idempotency_key, pieces, read_bytes, refuse_fields
from api.http.upload_body import MAX_FORM_TEXT, FormWithFile, UploadSlots
from farm.dialects import openai_batch
from farm.dialects.answers.batches import BatchList, BatchObject, DeletedFile, FileList, FileObject
from farm.dialects.fields import decode
from farm.domain.catalogue import MAX_UPLOAD
from farm.domain.errors import InvalidRequest, Problem
from farm.storage.declaration import declared

_JSON_LINES = "application/jsonl"


def routes(context: ApiContext, upload_slots: UploadSlots) -> flask.Blueprint:
    blueprint = flask.Blueprint("batches", __name__, url_prefix="/v1")
    _add_files(blueprint, context, upload_slots)
    _add_batches(blueprint, context)
    return blueprint


def _add_files(blueprint: flask.Blueprint, context: ApiContext, upload_slots: UploadSlots) -> None:
    authenticator, uploads, files = context.authenticator, context.farm.uploads, context.farm.bulk_files

    @blueprint.post("/files", strict_slashes=False)
    def upload() -> FileObject:
        caller = authenticator.caller()
        query.refuse_others()
        form = FormWithFile(pieces(MAX_UPLOAD + MAX_FORM_TEXT), "file")
        with upload_slots.held(caller.id), uploads.spooled(caller.id, form.content()) as received:
            wanted = openai_batch.read_form(form.texts)
            seconds = wanted.expires_after.seconds if wanted.expires_after else 0
            name = declared("", form.file_name).name or "file.jsonl"
            return openai_batch.file(files.add(caller.id, received, name=name, keep_seconds=seconds))

    @blueprint.get("/files", strict_slashes=False)
    def files_page() -> FileList:
        caller = authenticator.caller()
        query.refuse_others("after", "limit", "order", "purpose")
        count, after = _limit(openai_batch.DEFAULT_FILES, openai_batch.MAX_FILES), flask.request.args.get("after")
        found = files.page(
            caller.id,
            after=files.cursor(caller, after) if after else None,
            count=count + 1,
            order=_order(),
            purpose=flask.request.args.get("purpose"),
        )
        return openai_batch.files(found, count)

    @blueprint.get("/files/<file_id>", strict_slashes=False)
    def get_file(file_id: str) -> FileObject:
        caller = authenticator.caller()
        query.refuse_others()
        return openai_batch.file(files.get(caller, file_id))

    @blueprint.delete("/files/<file_id>", strict_slashes=False)
    def delete_file(file_id: str) -> DeletedFile:
        caller = authenticator.caller()
        query.refuse_others()
        files.delete(caller, file_id)
        return openai_batch.deleted(file_id)

    @blueprint.get("/files/<file_id>/content", strict_slashes=False)
    def file_content(file_id: str) -> flask.Response:
        caller = authenticator.caller()
        query.refuse_others()
        file = files.get(caller, file_id)
        response = flask.current_app.response_class(files.content(file), content_type=_JSON_LINES)
        response.headers.set("Content-Disposition", "attachment", filename=f"{file.id}.jsonl")
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


def _add_batches(blueprint: flask.Blueprint, context: ApiContext) -> None:
    authenticator, service = context.authenticator, context.farm.bulk_service

    @blueprint.post("/batches", strict_slashes=False)
    def create() -> BatchObject:
        caller = authenticator.submitter()
        query.refuse_others()
        raw = read_bytes()
        wanted = openai_batch.read_batch(decode(raw))
        key = idempotency_key()
        bulk = service.create(caller, wanted, idempotency_key=key, body_digest=digest("batches", content=raw))
        return openai_batch.batch(bulk)

    @blueprint.get("/batches", strict_slashes=False)
    def page() -> BatchList:
        caller = authenticator.caller()
        query.refuse_others("after", "limit")
        count = _limit(openai_batch.DEFAULT_BATCHES, openai_batch.MAX_BATCHES)
        after = flask.request.args.get("after")
        found = service.page(caller, after=service.get(caller, after) if after else None, count=count + 1)
        return openai_batch.batches(found, count)

    @blueprint.get("/batches/<batch_id>", strict_slashes=False)
    def get(batch_id: str) -> BatchObject:
        caller = authenticator.caller()
        query.refuse_others()
        return openai_batch.batch(service.get(caller, batch_id))

    @blueprint.post("/batches/<batch_id>/cancel", strict_slashes=False)
    def cancel(batch_id: str) -> BatchObject:
        caller = authenticator.caller()
        query.refuse_others()
        refuse_fields()
        return openai_batch.batch(service.cancel(caller, batch_id))


def _limit(default: int, maximum: int) -> int:
    return query.integer("limit", default=default, minimum=1, maximum=maximum) or default


def _order() -> Literal["asc", "desc"]:
    order = flask.request.args.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequest([Problem("order", "allowed: asc, desc", "enum", order)])
    return cast(Literal["asc", "desc"], order)
