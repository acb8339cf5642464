"""Multipart forms: their parts as they arrive, and the form of a submit, with texts and files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import flask
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, MultipartDecoder, NeedData

from api.http.body import RequestBody, digest, drain, idempotency_key, pieces, reserve_memory
from farm.domain.errors import InvalidRequest, Problem

TYPE = "multipart/form-data"
#: Most parts of a form: several times as many as any call has fields.
MAX_FORM_PARTS = 100
#: Longest head of a part, in bytes.
_MAX_PART_HEAD = 1024 * 1024


def read_form(*about: str, max_bytes: int) -> RequestBody:
    """Read a submit's form, with its files. Raises InvalidRequest if it is not a form or the key is too long.

    `about` and `max_bytes` are as for `read_body`. The digest leaves out the boundary, which differs whenever the call
    is sent again. Names such as `image[]` and `image_size[width]` make lists and objects.
    """
    reserve_memory(max_bytes)
    texts: MultiDict[str, str] = MultiDict()
    files: list[tuple[str, bytes]] = []
    digests: list[str] = []
    body = pieces(max_bytes)
    try:
        for part, content in _parts(events(body)):
            digests.append(f"{hashlib.sha256(content).hexdigest()} {part.name}")
            if isinstance(part, File):
                if part.filename or content:  # else a file that was not chosen: browsers send the field all the same
                    files.append((part.name, content))
            else:
                texts.add(part.name, _text(part.name, content))
    except InvalidRequest:
        drain(body)
        raise
    return RequestBody(
        objects(texts), digest(*about, content="\n".join(digests).encode()), idempotency_key(), tuple(files)
    )


def events(pieces: Iterable[bytes]) -> Iterator[Event]:
    """Yield the parts of the current request's form as they arrive, each with a name; `pieces` is the body.

    Raises InvalidRequest if it is not a form, is cut off, or a part has no name.
    """
    try:
        boundary = flask.request.mimetype_params.get("boundary", "").encode("latin-1")
    except UnicodeEncodeError:
        boundary = b""
    if flask.request.mimetype != TYPE or not boundary:
        raise _no_form(f"the body is not a form; send it as {TYPE}")
    decoder = MultipartDecoder(boundary, max_form_memory_size=_MAX_PART_HEAD)
    try:
        for piece in chain(pieces, [None]):
            _feed(decoder, piece)
            while not isinstance(event := decoder.next_event(), NeedData | Epilogue):
                _refuse_nameless(event)
                yield event
    except ValueError as error:
        raise _no_form(f"the form is cut off or malformed: {error}") from error


def _feed(decoder: MultipartDecoder, piece: bytes | None) -> None:
    try:
        decoder.receive_data(piece)
    except RequestEntityTooLarge:
        raise _no_form(f"the head of a part has more than {_MAX_PART_HEAD} bytes") from None


def _refuse_nameless(event: Event) -> None:
    if isinstance(event, Field | File) and not isinstance(event.name, str):  # although its type says so
        raise _no_form("a part of the form has no name")


def _parts(events: Iterable[Event]) -> Iterator[tuple[Field | File, bytes]]:
    """Yield each part with its content."""
    count, content = 0, bytearray()
    part: Field | File | None = None
    for event in events:
        if isinstance(event, Field | File):
            count, part = count + 1, event
            if count > MAX_FORM_PARTS:
                raise _no_form(f"the form has more than {MAX_FORM_PARTS} parts")
        elif isinstance(event, Data) and part is not None:
            content += event.data
            if not event.more_data:
                yield part, bytes(content)
                content = bytearray()


def _text(name: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest([Problem(name, f"the text is not UTF-8: {error}", "string_unicode")]) from error


def _no_form(message: str) -> InvalidRequest:
    return InvalidRequest([Problem("", message, "form_invalid")])


def objects(texts: MultiDict[str, str]) -> dict[str, Any]:
    """Return the texts of a form by name: `image[]` makes a list, `size[width]` an object. Raises InvalidRequest."""
    fields: dict[str, Any] = {}
    for name, values in texts.lists():
        field, bracket, inner = name.removesuffix("]").partition("[")
        value = values if (bracket and not inner) or len(values) > 1 else values[0]
        among = fields.setdefault(field, {}) if inner else fields
        if not isinstance(among, dict) or (inner or field) in among:
            raise InvalidRequest([Problem(field, "it is given in several ways; send it once", "conflict")])
        among[inner or field] = value
    return fields
