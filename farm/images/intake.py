"""The images that a request brings: looked at when it is submitted, as far as that takes no call to anybody.

Bytes and data URIs become the job's own inputs in storage at once, a file of this farm is named by its key, and any
other URL stays one: the preparer fetches it (`workers/preparing.py`).
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
from farm.ssrf_safe_http import SsrfSafeClient
from farm.storage.storage import Storage, new_input_key, parse_key

#: So much of a data URI is repeated in an error, in characters.
_SHOWN = 64
#: How a data URI begins (RFC 2397), and how its head ends before the comma where what follows is base64. What type it
#: declares is of no interest.
_DATA = re.compile(r"\s*data:", re.IGNORECASE)
_BASE64 = re.compile(r";\s*base64\s*$", re.IGNORECASE)
#: So much of a head is looked at for that, in characters.
_HEAD_END = 64
#: Most bytes of a data URI that are written as %xx. Each takes 200 bytes of memory while it is read, and
#: images of more than a few kilobytes come as base64.
_MOST_ESCAPES = 1_000_000
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_WHITE = b" \t\n\f\r"


@dataclass(frozen=True, slots=True)
class _Inline:
    """An image that came with the request, and was found to be one."""

    content: bytes
    extension: decode.Extension


#: A key in storage, a URL, or an image that came along.
Found = str | _Inline


class Intake:
    """Takes in what requests bring. `base` is how callers reach this farm, as far as that is known."""

    def __init__(self, storage: Storage, *, outbound: SsrfSafeClient, base: Callable[[], str | None]) -> None:
        self._storage = storage
        self._outbound = outbound
        self._base = base

    def examine(self, sources: Sequence[Source]) -> list[Found]:
        """What each source is: a key in storage, a URL, or an image. Raises InvalidRequest with all problems."""
        found: list[Found] = []
        problems = []
        for source in sources:
            try:
                found.append(self._examine(source))
            except UnusableImage as error:
                problems.append(Problem(source.field, str(error), error.code, _shown(source), error.context))
        if problems:
            raise InvalidRequest(problems)
        return found

    @contextmanager
    def stored(self, job_id: str, found: Sequence[Found]) -> Iterator[tuple[str, ...]]:
        """The keys and URLs of what was found, while the job is recorded. If that fails, nothing stays.

        But where the job store gave no answer, the job may be recorded: what is nobody's then is for the sweeper.
        """
        with self._kept(job_id):
            yield tuple(self._put(job_id, number, one) for number, one in enumerate(found))

    @contextmanager
    def copied(self, job_id: str, job: Job) -> Iterator[Request]:
        """What `job` asked for, with copies of its own images for a new job, while that is recorded; as `stored`.

        So each lives as long as its job. Raises NotRetryable where a file that the request names is gone.
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
        """What is stored for a job stays if that is recorded meanwhile."""
        try:
            yield
        except StoreUnavailable:
            raise
        except BaseException:
            self.forget(job_id)
            raise

    def forget(self, job_id: str) -> None:
        """Remove what was stored for a job that came to nothing."""
        with suppress(StorageError):  # the sweeper finds it
            self._storage.delete_job(job_id)

    def _put(self, job_id: str, number: int, one: Found) -> str:
        if isinstance(one, str):
            return one
        key = new_input_key(job_id, number, one.extension)
        self._storage.put(key, one.content)
        return key

    def _examine(self, source: Source) -> Found:
        if _DATA.match(source.url):
            return _inline(_decoded(source.url))
        if source.url:
            return self._own_key(source.url) or self._checked(source.url)
        return _inline(source.content)

    def _own_key(self, url: str) -> str | None:
        """The key of a file of this farm, however its caller reaches it.

        Nobody can guess a key: an address that ends with one that is there can mean no other file.
        """
        key = re.split("[?#]", url, maxsplit=1)[0].rpartition("/")[2]
        if parse_key(key) is not None and (file := self._storage.find(key)):
            decode.check_size(file.bytes)
            return key
        if url.startswith(f"{self._base()}/"):
            raise UnusableImage(Code.FILE_DOWNLOAD_ERROR, "this farm has no file here, or has it no more")
        return None

    def _checked(self, url: str) -> str:
        try:
            self._outbound.check(url)
        except ForbiddenAddress as error:
            raise UnusableImage(Code.FILE_DOWNLOAD_ERROR, str(error)) from error
        return url


def _own_keys(job: Job) -> list[str]:
    """The images in storage that were kept for this job alone, each once."""
    named = dict.fromkeys((*job.request.inputs, *job.request.sources))
    return [key for key in named if (name := parse_key(key)) and name.job_id == job.id]


def with_sources(order: Order, sources: tuple[str, ...]) -> Order:
    """The order whose request names its images by keys and URLs, and brings none any more."""
    fields = tuple(source.field for source in order.sources)
    request = order.request.model_copy(update={"sources": sources, "source_fields": fields})
    return replace(order, request=request, sources=())


def _inline(content: bytes) -> _Inline:
    return _Inline(content, decode.look(content).extension)


def _decoded(uri: str) -> bytes:
    """The bytes in a data URI. Base64 is read as browsers read it, and URL-safe, too."""
    head, comma, data = uri.partition(",")
    if not comma:
        raise UnusableImage(Code.IMAGE_LOAD_ERROR, "the data URI has no comma; allowed: data:image/png;base64,…")
    is_base64 = bool(_BASE64.search(head[-_HEAD_END:]))
    if is_base64 and len(data) > 2 * decode.MAX_BYTES:
        raise decode.file_too_large("the data URI is too long")
    if data.count("%") > _MOST_ESCAPES:
        raise UnusableImage(
            Code.IMAGE_LOAD_ERROR, f"the data URI has more than {_MOST_ESCAPES} escapes; allowed: base64"
        )
    plain = unquote_to_bytes(data)
    if not is_base64:
        return plain
    digits = plain.translate(_URL_SAFE, delete=_WHITE).rstrip(b"=")
    try:
        return binascii.a2b_base64(digits + b"=" * (-len(digits) % 4), strict_mode=True)
    except binascii.Error as error:
        raise UnusableImage(Code.IMAGE_LOAD_ERROR, f"the data URI is no base64: {error}") from error


def _shown(source: Source) -> str | None:
    """What an error repeats of a source: its URL, of a data URI the beginning, of bytes nothing."""
    return source.url[:_SHOWN] + "…" if _DATA.match(source.url) else source.url or None
