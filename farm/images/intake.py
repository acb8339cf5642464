"""Intake of a request's input images at submit, as far as that needs no call to another host.

Bytes and data URIs become the job's own inputs in storage at once, a file of this farm is replaced by its key, and any
other URL stays a URL: the preparer fetches it (`workers/preparing.py`).
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from urllib.parse import unquote_to_bytes

from farm.domain.error_codes import Code
from farm.domain.errors import (
    ClientGone,
    ForbiddenAddress,
    InvalidRequest,
    NotFound,
    NotRetryable,
    Problem,
    StorageError,
    StoreUnavailable,
)
from farm.domain.job import Job, Order, Source
from farm.domain.request import Request
from farm.images import decode
from farm.images.decode import UnusableImage
from farm.ssrf_safe_http import MAX_URL_LENGTH, SsrfSafeClient
from farm.storage.storage import Storage, new_input_key, parse_key

#: Longest part of a data URI that an error quotes, in characters.
_MAX_QUOTED = 64
#: The start of a data URI (RFC 2397), and the end of its head if base64 follows. The declared type is ignored.
_DATA = re.compile(r"\s*data:", re.IGNORECASE)
_BASE64 = re.compile(r";\s*base64\s*$", re.IGNORECASE)
#: How much of the head is searched for that, in characters.
_HEAD_END = 64
#: Most bytes of a data URI that are written as %xx. Each takes 200 bytes of memory while it is read, and
#: images of more than a few kilobytes come as base64.
_MAX_ESCAPES = 1_000_000
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
#: Text that can only be base64: long, and without the colon and the dots of a URL. So much of it is searched.
_BARE_BASE64 = re.compile(r"[A-Za-z0-9+/=_\s-]{64,}")
_BARE_SEARCHED = 4096
_WHITE = b" \t\n\f\r"


@dataclass(frozen=True, slots=True)
class _Inline:
    """An image sent within the request, with valid headers."""

    content: bytes
    extension: decode.Extension


#: A storage key, a URL, or an image sent within the request.
CheckedSource = str | _Inline


class Intake:
    """Checks and stores the input images of requests. `base` is the URL at which callers reach this farm, if known."""

    def __init__(self, storage: Storage, *, outbound: SsrfSafeClient, base: Callable[[], str | None]) -> None:
        self._storage = storage
        self._outbound = outbound
        self._base = base

    def examine(
        self, sources: Sequence[Source], base: str = "", *, has_disconnected: Callable[[], bool] = lambda: False
    ) -> list[CheckedSource]:
        """Check each source: a storage key, a URL, or an image. Raises InvalidRequest with all problems.

        `base` is the URL at which this caller reached the farm, if it may be another one than for others. Raises
        ClientGone once `has_disconnected`: no further image is read.
        """
        checked: list[CheckedSource] = []
        problems = []
        for source in sources:
            if has_disconnected():
                raise ClientGone("The client closed its connection before its images were read.")
            try:
                checked.append(self._examine(source, base))
            except UnusableImage as error:
                problems.append(Problem(source.field, str(error), error.code, _quoted(source), error.context))
        if problems:
            raise InvalidRequest(problems)
        return checked

    @contextmanager
    def stored(self, job_id: str, checked: Sequence[CheckedSource]) -> Iterator[tuple[str, ...]]:
        """Store the images; yield keys and URLs while the job is recorded. If that fails, the images are deleted.

        If the job store did not answer, the job may have been recorded: the sweeper removes orphans then.
        """
        with self._kept(job_id):
            yield tuple(self._put(job_id, number, source) for number, source in enumerate(checked))

    @contextmanager
    def copied(self, job_id: str, job: Job) -> Iterator[Request]:
        """Copy the images of `job` for a new job; yield its request with the copies while that is recorded.

        Each copy lives as long as its job. Raises NotRetryable if a file that the request names is gone.
        """
        request = job.request
        with self._kept(job_id):
            copies = {key: self._copied(job_id, number, key) for number, key in enumerate(_own_keys(job))}
            if request.needs_preparation:
                self._refuse_gone(key for key in request.sources if key not in copies)
            yield request.model_copy(
                update={
                    "sources": tuple(copies.get(source, source) for source in request.sources),
                    "inputs": tuple(copies[key] for key in request.inputs),
                }
            )

    def _refuse_gone(self, sources: Iterable[str]) -> None:
        for source in sources:
            if parse_key(source) is not None and self._storage.find(source) is None:
                raise NotRetryable("A file that the job needs no longer exists; submit the request again.")

    def _copied(self, job_id: str, number: int, key: str) -> str:
        name = parse_key(key)
        assert name is not None, key
        copy = new_input_key(job_id, number, name.extension)
        try:
            self._storage.put(copy, self._storage.read(key))
        except NotFound as error:
            raise NotRetryable("An input image of the job no longer exists; submit the request again.") from error
        return copy

    @contextmanager
    def _kept(self, job_id: str) -> Iterator[None]:
        """Delete what was stored for a job if recording the job fails."""
        try:
            yield
        except StoreUnavailable:
            raise
        except BaseException:
            self.forget(job_id)
            raise

    def forget(self, job_id: str) -> None:
        """Delete what was stored for a job that was not recorded."""
        with suppress(StorageError):  # the sweeper removes it
            self._storage.delete_job(job_id)

    def _put(self, job_id: str, number: int, source: CheckedSource) -> str:
        if isinstance(source, str):
            return source
        key = new_input_key(job_id, number, source.extension)
        self._storage.put(key, source.content)
        return key

    def _examine(self, source: Source, base: str) -> CheckedSource:
        if _DATA.match(source.url):
            return _inline(_decoded(source.url))
        if source.url:
            return self._own_key(source.url, base) or self._checked(source.url)
        return _inline(source.content)

    def _own_key(self, url: str, base: str) -> str | None:
        """Return the storage key in a URL of this farm, whichever host name the caller uses; None for other URLs.

        Keys are unguessable: a URL that ends with an existing one cannot mean another file.
        """
        key = re.split("[?#]", url, maxsplit=1)[0].rpartition("/")[2]
        if parse_key(key) is not None and (file := self._storage.find(key)):
            decode.check_size(file.bytes)
            return key
        if url.startswith(tuple(f"{known}/" for known in (base, self._base()) if known)):
            raise UnusableImage(Code.FILE_DOWNLOAD_ERROR, "this farm has no such file, or has deleted it")
        return None

    def _checked(self, url: str) -> str:
        if _BARE_BASE64.fullmatch(url[:_BARE_SEARCHED]):
            raise UnusableImage(
                Code.FILE_DOWNLOAD_ERROR,
                "it looks like base64 without its prefix; allowed: data:image/png;base64,… or http(s)://…",
            )
        try:
            self._outbound.check(url)
        except ForbiddenAddress as error:
            raise UnusableImage(Code.FILE_DOWNLOAD_ERROR, str(error)) from error
        return url


def _own_keys(job: Job) -> list[str]:
    """Return the storage keys of the job's own inputs, each once."""
    named = dict.fromkeys((*job.request.inputs, *job.request.sources))
    return [key for key in named if (name := parse_key(key)) and name.job_id == job.id]


def with_sources(order: Order, sources: tuple[str, ...]) -> Order:
    """Return the order with keys and URLs in its request in place of the images it brought."""
    fields = tuple(source.field for source in order.sources)
    request = order.request.model_copy(update={"sources": sources, "source_fields": fields})
    return replace(order, request=request, sources=())


def _inline(content: bytes) -> _Inline:
    return _Inline(content, decode.read_header(content).extension)


def _decoded(uri: str) -> bytes:
    """Decode a data URI. Base64 is read as browsers read it; URL-safe base64 is accepted, too."""
    head, comma, data = uri.partition(",")
    if not comma:
        raise UnusableImage(Code.IMAGE_LOAD_ERROR, "the data URI has no comma; allowed: data:image/png;base64,…")
    is_base64 = bool(_BASE64.search(head[-_HEAD_END:]))
    if is_base64 and len(data) > 2 * decode.MAX_BYTES:
        raise decode.file_too_large("the data URI is too long")
    if data.count("%") > _MAX_ESCAPES:
        raise UnusableImage(
            Code.IMAGE_LOAD_ERROR, f"the data URI has more than {_MAX_ESCAPES} escapes; allowed: base64"
        )
    plain = unquote_to_bytes(data)
    if not is_base64:
        return plain
    digits = plain.translate(_URL_SAFE, delete=_WHITE).rstrip(b"=")
    try:
        return binascii.a2b_base64(digits + b"=" * (-len(digits) % 4), strict_mode=True)
    except binascii.Error as error:
        raise UnusableImage(Code.IMAGE_LOAD_ERROR, f"the data URI is not valid base64: {error}") from error


def _quoted(source: Source) -> str | None:
    """Return what an error quotes of a source: its URL, the start of a data URI, nothing of bytes."""
    if _DATA.match(source.url) or len(source.url) > MAX_URL_LENGTH or _BARE_BASE64.match(source.url):
        return source.url[:_MAX_QUOTED] + "…"
    return source.url or None
