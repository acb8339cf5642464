"""Routes of WaveSpeed's uploads, `/api/v3/media`: by ticket, and by form, which its older SDKs send.

The URL of a ticket is unguessable, so it needs no API key, but exactly the headers of the ticket.
"""

from __future__ import annotations

import flask
from werkzeug.exceptions import BadRequest

from api.context import ApiContext
from api.http import query
from api.http.body import pieces, read_bytes
from api.http.upload_body import UploadSlots, file_in_form
from farm.dialects import wavespeed_media
from farm.dialects.answers.wavespeed import SUCCESS, EmptyAnswer, WaveSpeedFileAnswer, WaveSpeedTicketAnswer
from farm.dialects.fields import decode, parse
from farm.domain.catalogue import MAX_UPLOAD
from farm.uploads.uploads import UploadRequest


def routes(context: ApiContext, upload_slots: UploadSlots) -> flask.Blueprint:
    authenticator, uploads = context.authenticator, context.farm.uploads
    blueprint = flask.Blueprint("wavespeed_media", __name__, url_prefix="/api/v3/media")

    @blueprint.post("/uploads", strict_slashes=False)
    def ticket() -> WaveSpeedTicketAnswer:
        caller = authenticator.caller()
        query.refuse_others()
        announced = parse(wavespeed_media.Announcement, decode(read_bytes()))
        ticket = uploads.issue(
            caller.id, UploadRequest(announced.content_type, size=announced.size, name=announced.filename)
        )
        url = f"{context.links.base}/api/v3/media/uploads/{ticket.id}"
        return {**SUCCESS, "data": wavespeed_media.ticket(url, context.links.file(ticket.key), announced.content_type)}

    @blueprint.put("/uploads/<ticket_id>", strict_slashes=False)
    def put(ticket_id: str) -> EmptyAnswer:
        query.refuse_others()
        ticket = uploads.ticket(ticket_id)
        if (sent := flask.request.headers.get("Content-Type", "")) != ticket.content_type:
            raise BadRequest(
                f"The Content-Type '{sent[:80]}' differs from that of the ticket; send '{ticket.content_type}'."
            )
        with upload_slots.held(ticket.caller):
            uploads.fill(ticket, pieces(ticket.size))
        return {**SUCCESS, "data": {}}

    @blueprint.post("/upload/binary", strict_slashes=False)
    def form() -> WaveSpeedFileAnswer:
        caller = authenticator.caller()
        query.refuse_others()
        with upload_slots.held(caller.id):
            file, content = file_in_form(pieces(MAX_UPLOAD), wavespeed_media.FIELD)
            content_type = file.headers.get("Content-Type", wavespeed_media.DEFAULT_TYPE)
            key, size = uploads.keep(caller.id, UploadRequest(content_type, name=file.filename), content)
        file_facts = wavespeed_media.kept(
            context.links.file(key), content_type=content_type, filename=file.filename, size=size
        )
        return {**SUCCESS, "data": file_facts}

    return blueprint
