"""Routes of fal's storage and CDN, to which its clients upload files before they submit requests with them.

An upload starts with an API key or a token. The bytes then go to an unguessable URL that takes one file; credentials
are ignored there, since one client sends its key and others none. The Python client sends the parts of large files to
URLs below that of the file itself, with its token.
"""

from __future__ import annotations

import flask
from werkzeug.exceptions import BadRequest

from api.context import ApiContext
from api.http import fal_hosts, query
from api.http.body import pieces, read_bytes, refuse_fields
from api.http.upload_body import UploadSlots
from farm import clock
from farm.dialects import fal, fal_storage, registry
from farm.dialects.answers.fal import FalFile, FalMultipartUpload, FalToken, FalUpload
from farm.dialects.answers.wavespeed import Empty
from farm.dialects.fields import decode, parse
from farm.domain.catalogue import MAX_UPLOAD
from farm.domain.errors import InvalidRequest, NotFound
from farm.uploads.tickets import Ticket
from farm.uploads.uploads import NO_TICKET, UploadRequest

#: Validity of a token, in seconds. Clients then request another.
TOKEN_SECONDS = 3600


def routes(context: ApiContext, upload_slots: UploadSlots) -> flask.Blueprint:
    blueprint = flask.Blueprint("fal_storage", __name__)
    _add_tickets(blueprint, context)
    _add_files(blueprint, context, upload_slots)
    _add_parts(blueprint, context, upload_slots)
    return blueprint


# All routes with a slash and without: with `strict_slashes=False`, a wrong method would be answered as an unknown path.


def _add_tickets(blueprint: flask.Blueprint, context: ApiContext) -> None:
    """Add the routes that announce an upload, and the one that makes a token for uploads."""
    authenticator, uploads = context.authenticator, context.farm.uploads

    @blueprint.post("/fal/rest/storage/upload/initiate/")
    @blueprint.post("/fal/rest/storage/upload/initiate")
    def initiate() -> FalUpload:
        return begun(in_parts=False)

    @blueprint.post("/fal/rest/storage/upload/initiate-multipart/")
    @blueprint.post("/fal/rest/storage/upload/initiate-multipart")
    def initiate_in_parts() -> FalUpload:
        return begun(in_parts=True)

    def begun(*, in_parts: bool) -> FalUpload:
        caller = authenticator.caller()
        query.refuse_others("storage_type")
        announcement = parse(fal_storage.Announcement, decode(read_bytes() or b"{}"))
        announced = UploadRequest(announcement.content_type, _keep_seconds(context), name=announcement.file_name or "")
        ticket = uploads.issue(caller.id, announced, in_parts=in_parts)
        return fal_storage.begun(f"{_cdn(context)}/upload/{ticket.id}", context.links.file(ticket.key))

    @blueprint.post("/fal/rest/storage/auth/token/")
    @blueprint.post("/fal/rest/storage/auth/token")
    def token() -> FalToken:
        until = clock.now_us() // 1_000_000 + TOKEN_SECONDS
        text = authenticator.token(until=until)
        query.refuse_others("storage_type")
        refuse_fields()  # the Python client sends an empty object
        return fal_storage.token(text, until=until, base=_cdn(context))


def _add_files(blueprint: flask.Blueprint, context: ApiContext, upload_slots: UploadSlots) -> None:
    """Add the routes that take a whole file: at the URL of its ticket, or at once."""
    authenticator, uploads = context.authenticator, context.farm.uploads

    @blueprint.put("/fal/cdn/upload/<ticket_id>/")
    @blueprint.put("/fal/cdn/upload/<ticket_id>")
    def put(ticket_id: str) -> Empty:
        query.refuse_others()
        ticket = uploads.ticket(ticket_id)
        with upload_slots.held(ticket.caller):
            uploads.fill(ticket, pieces(ticket.size or MAX_UPLOAD))
        return {}

    @blueprint.post("/fal/cdn/files/upload/")
    @blueprint.post("/fal/cdn/files/upload")
    def upload() -> FalFile:
        caller = authenticator.uploader()
        query.refuse_others()
        announced = _requirements(context)
        with upload_slots.held(caller.id):
            key, _ = uploads.keep(caller.id, announced, pieces(MAX_UPLOAD))
        return fal_storage.kept(context.links.file(key))


def _add_parts(blueprint: flask.Blueprint, context: ApiContext, upload_slots: UploadSlots) -> None:
    """Add the routes that take a file in parts: at the URL of its ticket, or below that of the file itself."""
    authenticator, uploads = context.authenticator, context.farm.uploads

    @blueprint.post("/fal/cdn/files/upload/multipart/")
    @blueprint.post("/fal/cdn/files/upload/multipart")
    def upload_in_parts() -> FalMultipartUpload:
        caller = authenticator.uploader()
        query.refuse_others()
        refuse_fields()
        ticket = uploads.issue(caller.id, _requirements(context), in_parts=True)
        return fal_storage.begun_in_parts(context.links.file(ticket.key), ticket.id)

    @blueprint.put("/fal/cdn/upload/<ticket_id>/<number>/")
    @blueprint.put("/fal/cdn/upload/<ticket_id>/<number>")
    def put_part(ticket_id: str, number: str) -> flask.Response:
        return part(uploads.ticket(ticket_id, in_parts=True), number)

    @blueprint.put("/files/<key>/multipart/<ticket_id>/<number>/")
    @blueprint.put("/files/<key>/multipart/<ticket_id>/<number>")
    def put_part_below(key: str, ticket_id: str, number: str) -> flask.Response:
        return part(_own_ticket(context, key, ticket_id), number)

    @blueprint.post("/fal/cdn/upload/<ticket_id>/complete/")
    @blueprint.post("/fal/cdn/upload/<ticket_id>/complete")
    def complete(ticket_id: str) -> FalFile:
        return completed(uploads.ticket(ticket_id, in_parts=True))

    @blueprint.post("/files/<key>/multipart/<ticket_id>/complete/")
    @blueprint.post("/files/<key>/multipart/<ticket_id>/complete")
    def complete_below(key: str, ticket_id: str) -> FalFile:
        return completed(_own_ticket(context, key, ticket_id))

    def part(ticket: Ticket, number_text: str) -> flask.Response:
        query.refuse_others()
        number = fal_storage.part_number(number_text)
        with upload_slots.held(ticket.caller):
            etag = uploads.add_part(ticket, number, pieces(uploads.remaining_bytes(ticket, number)))
        response = flask.jsonify(fal_storage.part(number, etag))
        response.set_etag(etag)
        return response

    def completed(ticket: Ticket) -> FalFile:
        query.refuse_others()
        named = fal_storage.read_parts(decode(read_bytes()))
        with upload_slots.held(ticket.caller):
            uploads.complete(ticket, named)
        return fal_storage.kept(context.links.file(ticket.key))


def _own_ticket(context: ApiContext, key: str, ticket_id: str) -> Ticket:
    """Return the current caller's ticket for the file at `key`. Raises NotFound."""
    flask.g.dialect = registry.by_name(fal.NAME)
    caller = context.authenticator.uploader()
    ticket = context.farm.uploads.ticket(ticket_id, in_parts=True)
    if (ticket.caller, ticket.key) != (caller.id, key):
        raise NotFound(NO_TICKET)
    return ticket


def _cdn(context: ApiContext) -> str:
    return fal_hosts.address(fal_hosts.CDN, context.links.base)


def _requirements(context: ApiContext) -> UploadRequest:
    """Return the content type, retention and file name from the headers of the current call. Raises BadRequest."""
    content_type = flask.request.headers.get("Content-Type", fal_storage.DEFAULT_TYPE)
    if len(content_type) > fal_storage.MAX_TYPE_LENGTH:
        raise BadRequest(f"The Content-Type is too long; send up to {fal_storage.MAX_TYPE_LENGTH} characters.")
    return UploadRequest(content_type, _keep_seconds(context), name=_file_name())


def _file_name() -> str:
    """Return the name of the file from the headers of the current call; clients send UTF-8, or nothing but ASCII."""
    return flask.request.headers.get("X-Fal-File-Name", "").encode("latin-1", "replace").decode(errors="replace")


def _keep_seconds(context: ApiContext) -> int:
    max_seconds = context.farm.settings.upload_ttl
    try:
        return fal_storage.read_keep_seconds(flask.request.headers.get, max_seconds=max_seconds)
    except InvalidRequest as error:
        raise BadRequest(f"{fal_storage.LIFECYCLES[0]}: {error}") from error
