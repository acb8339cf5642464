"""Image storage in an S3 bucket, through boto3. Credentials, region and endpoint are boto3's own variables.

Nothing here relies on conditional writes, bucket lifecycle rules or batch deletion: S3-compatible
stores differ in them.
"""

from __future__ import annotations

import math
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, BinaryIO, Literal, cast
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore.config import Config
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointProviderError,
    HTTPClientError,
    ParamValidationError,
)
from botocore.parsers import ResponseParserError

from farm import clock
from farm.concurrency.slots import Slots
from farm.domain.errors import ConfigurationError, NotFound, StorageError, StorageRefused, StorageUnavailable
from farm.loopback import is_at_loopback
from farm.storage.storage import (
    CACHE_SECONDS,
    Chunks,
    Entry,
    Page,
    StorageKey,
    StoredFile,
    farm_of_mark,
    mark_of,
    parse_key,
)
from farm.tls_errors import bucket_certificate_problem

#: How long a put may take to connect and to send, each, and then to be answered, in seconds.
_PUT_SECONDS = (20.0, 20.0)
#: How long everything else may take to connect, and for each piece of an answer, in seconds.
_READ_SECONDS = (2.0, 10.0)
_READ_ATTEMPTS = 2
#: Attempts of a client that nobody retries for.
_CLIENT_ATTEMPTS = 4
#: The setting that names the farm's own bucket, for errors.
_SETTING = "FARM_STORAGE_URL"
#: Concurrent reads of the store, and how long one more waits for a slot, in seconds.
_MAX_CONCURRENT_READS = 32
_SLOT_SECONDS = 2.0
#: Objects of one page of a listing.
_PAGE_SIZE = 1000
#: Statuses of a HEAD that may mean that the bucket is in another region.
_OTHER_REGION_STATUSES = {301, 400}
#: Longest validity of a presigned URL, in seconds.
_MAX_URL_SECONDS = 7 * 86400


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket, the prefix of all keys in it, and the dialect of S3 that its store needs."""

    name: str
    prefix: str
    checksums: Literal["when_required", "when_supported"] = "when_required"
    addressing: Literal["auto", "path", "virtual"] = "auto"

    @classmethod
    def at(cls, url: str, **options: Any) -> Bucket:
        """Return the bucket of `s3://bucket/prefix`."""
        name, _, prefix = url.removeprefix("s3://").partition("/")
        return cls(name, f"{prefix.strip('/')}/" if prefix.strip("/") else "", **options)

    def at_key(self, key: str) -> dict[str, str]:
        """Return the parameters that name an object below the prefix."""
        return {"Bucket": self.name, "Key": self.prefix + key}


class S3Storage:
    """Images as objects of one bucket.

    With `url_seconds`, `url` returns presigned URLs that are valid for so long; they name `public_endpoint`, if set.
    """

    def __init__(self, bucket: Bucket, *, url_seconds: float | None = None, public_endpoint: str | None = None) -> None:
        self._bucket = bucket
        self._url_seconds = min(math.ceil(url_seconds), _MAX_URL_SECONDS) if url_seconds is not None else None
        # The caller retries a put, as long as its lease lasts.
        with _usable(_SETTING):
            self._session = _session(_SETTING)
            self._puts = _client(self._session, bucket, _PUT_SECONDS, attempts=1)
            self._reads = _client(self._session, bucket, _READ_SECONDS, attempts=_READ_ATTEMPTS)
        self._public_endpoint = public_endpoint
        #: The clients that sign URLs, by region: the bucket's may be another than the configured one.
        self._signers: dict[str, Any] = {}
        self._region: str = self._reads.meta.region_name
        self._reads.meta.events.register("before-sign.s3", self._note_region)
        if url_seconds is not None:
            with _usable("FARM_S3_PUBLIC_ENDPOINT" if public_endpoint else _SETTING):
                self._signer()
        self._slots = Slots(_MAX_CONCURRENT_READS)

    @property
    def place(self) -> str:
        return f"{_without_slash(self._reads.meta.endpoint_url)}/{self._bucket.name}/{self._bucket.prefix}"

    def put(self, key: str, content: bytes) -> None:
        """Store `content` under `key`, and check that all of it arrived."""
        self._put(key, content, len(content))

    def put_file(self, key: str, file: BinaryIO) -> None:
        """Store a file in one request, which leaves nothing behind if it is interrupted. The limit is 5 GB."""
        length = file.seek(0, os.SEEK_END)
        file.seek(0)
        self._put(key, file, length)

    def _put(self, key: str, content: bytes | BinaryIO, length: int) -> None:
        name = parse_key(key)
        if name is None:
            raise StorageError(f"'{key}' is not a storage key.")
        with translated(self._bucket):
            self._puts.put_object(
                **self._bucket.at_key(key),
                Body=content,
                ContentType=name.content_type,
                CacheControl=f"public, max-age={CACHE_SECONDS}",
                Metadata={"job": name.job_id or "", "fence": str(name.fence or ""), "number": str(name.number)},
            )
        stored = self._head(key, name)
        if stored is None or stored.bytes != length:
            with suppress(StorageError):
                self.remove(key)
            kept = f"{stored.bytes} of {length} bytes" if stored else "nothing"
            raise StorageUnavailable(detail=f"the bucket '{self._bucket.name}' accepted an image, but kept {kept}")

    def find(self, key: str) -> StoredFile | None:
        name = parse_key(key)
        return self._head(key, name) if name and name.is_servable(clock.now_us()) else None

    def _head(self, key: str, name: StorageKey) -> StoredFile | None:
        """Return what is stored under `key`, or None."""
        try:
            with self._read_slot(key):
                head = self._head_object(key)
                return StoredFile(name.content_type, head["ContentLength"], head["LastModified"])
        except NotFound:
            return None

    def _head_object(self, key: str) -> dict[str, Any]:
        """Return the headers of an object.

        A store in another region than the configured one says so in the body of its errors, from which boto3 learns
        the right one; but the answer to a HEAD has no body. So it is made to learn by a listing.
        """
        try:
            return cast(dict[str, Any], self._reads.head_object(**self._bucket.at_key(key)))
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") not in _OTHER_REGION_STATUSES:
                raise
            self._reads.list_objects_v2(Bucket=self._bucket.name, Prefix=self._bucket.prefix, MaxKeys=1)
            return cast(dict[str, Any], self._reads.head_object(**self._bucket.at_key(key)))

    def open(self, key: str, start: int, stop: int) -> Chunks:
        with self._read_slot(key):
            answer = self._reads.get_object(**self._bucket.at_key(key), Range=f"bytes={start}-{stop - 1}")
            self._refuse_short(answer, stop - start)
            return Chunks(_Body(answer["Body"], self._bucket), stop - start)

    def read(self, key: str) -> bytes:
        with self._read_slot(key):
            answer = self._reads.get_object(**self._bucket.at_key(key))
            content: bytes = answer["Body"].read()
            self._refuse_short(answer, len(content))
        return content

    def url(self, key: str) -> str | None:
        name = parse_key(key)
        if self._url_seconds is None or (name and name.until):
            return None
        signed: str = self._signer().generate_presigned_url(
            "get_object", Params=self._bucket.at_key(key), ExpiresIn=self._url_seconds
        )
        return signed

    def _note_region(self, request: Any, **_: Any) -> None:
        """Keep the region that boto3 signs for: it repeats a call for the bucket's own region, once it knows that."""
        self._region = request.context.get("signing", {}).get("region") or self._region

    def _signer(self) -> Any:
        """Return the client that signs URLs. The address is signed, too; nothing is sent there."""
        region = self._region
        if region not in self._signers:
            where = {"region_name": region, "endpoint_url": self._public_endpoint}
            self._signers[region] = _client(self._session, self._bucket, _READ_SECONDS, attempts=1, **where)
        return self._signers[region]

    def delete_job(self, job_id: str) -> None:
        with translated(self._bucket):
            pages = self._reads.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket.name, Prefix=f"{self._bucket.prefix}{job_id}-"
            )
            for page in pages:
                for item in page.get("Contents", ()):
                    self._reads.delete_object(Bucket=self._bucket.name, Key=item["Key"])

    def page(self, cursor: str) -> Page:
        """Return the next objects, in the order of their keys."""
        with translated(self._bucket):
            listed = self._reads.list_objects_v2(
                Bucket=self._bucket.name,
                Prefix=self._bucket.prefix,
                StartAfter=self._bucket.prefix + cursor,
                MaxKeys=_PAGE_SIZE,
            )
            # By the store's clock, which may differ from ours.
            now = parsedate_to_datetime(listed["ResponseMetadata"]["HTTPHeaders"]["date"])
            items = [
                (item["Key"].removeprefix(self._bucket.prefix), (now - item["LastModified"]).total_seconds())
                for item in listed.get("Contents", ())
            ]
            found = tuple(Entry(name, age_seconds) for name, age_seconds in items if parse_key(name))
            return Page(found, items[-1][0] if listed["IsTruncated"] else "")

    def marks(self) -> set[str]:
        with translated(self._bucket):
            listed = self._reads.list_objects_v2(Bucket=self._bucket.name, Prefix=self._bucket.prefix + mark_of(""))
            names = [item["Key"].removeprefix(self._bucket.prefix) for item in listed.get("Contents", ())]
            return {farm_id for name in names if (farm_id := farm_of_mark(name))}

    def has_mark(self, farm_id: str) -> bool:
        try:
            with translated(self._bucket):
                self._reads.get_object(**self._bucket.at_key(mark_of(farm_id)))["Body"].close()
        except MissingObject:
            return False
        return True

    def remove_mark(self, farm_id: str) -> None:
        self.remove(mark_of(farm_id))

    def mark(self, farm_id: str) -> None:
        with translated(self._bucket):
            self._reads.put_object(**self._bucket.at_key(mark_of(farm_id)), Body=b"")

    def close(self) -> None:
        for client in (self._puts, self._reads):
            client.close()

    def remove(self, name: str) -> None:
        with translated(self._bucket):
            self._reads.delete_object(**self._bucket.at_key(name))

    def _refuse_short(self, answer: dict[str, Any], length: int) -> None:
        """Raise StorageUnavailable for a truncated answer: cut off within its headers, it looks complete but empty."""
        if answer["ContentLength"] != length:
            answer["Body"].close()
            raise StorageUnavailable(
                detail=f"the bucket '{self._bucket.name}' sends {answer['ContentLength']} of {length} bytes"
            )

    @contextmanager
    def _read_slot(self, key: str) -> Iterator[None]:
        """Limit concurrent reads, so that a store which does not answer blocks few of the API's threads."""
        refusal = StorageUnavailable(detail=f"too many calls already wait for the bucket '{self._bucket.name}'")
        try:
            with self._slots.held(timeout=_SLOT_SECONDS, refusal=refusal), translated(self._bucket):
                yield
        except MissingObject as error:
            raise NotFound(f"No file has the name '{key}'.") from error


class MissingObject(StorageUnavailable):
    """The object does not exist, or the bucket does not."""


class _Body:
    """The body of an S3 answer, whose errors are the farm's."""

    def __init__(self, stream: Any, bucket: Bucket) -> None:
        self._stream = stream
        self._bucket = bucket

    def read(self, amount: int, /) -> bytes:
        with translated(self._bucket):
            chunk: bytes = self._stream.read(amount)
        return chunk

    def close(self) -> None:
        self._stream.close()


def ca_bundle() -> str | None:
    """Return the file of certificate authorities that boto3 trusts (`AWS_CA_BUNDLE`, or its configuration), if set."""
    bundle: str | None = botocore.session.get_session().get_config_variable("ca_bundle")
    return bundle


def client_for(bucket: Bucket, setting: str) -> Any:
    """Return boto3's client of a bucket that `setting` names, for few calls at a time. Raises ConfigurationError."""
    with _usable(setting):
        return _client(_session(setting), bucket, _PUT_SECONDS, attempts=_CLIENT_ATTEMPTS)


def _session(setting: str) -> boto3.Session:
    session = boto3.Session()
    credentials = session.get_credentials()
    if credentials is None:
        raise ConfigurationError(
            f"{setting}: no credentials for the bucket were found; "
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or another source that boto3 knows"
        )
    _refuse_blanks(setting, "region", session.region_name)
    if not isinstance(credentials, RefreshableCredentials):  # those are AWS's own, and fetched when they are needed
        _refuse_blanks(setting, "access key id", credentials.access_key)
        _refuse_blanks(setting, "secret access key", credentials.secret_key)
        _refuse_blanks(setting, "session token", credentials.token)
    if bundle := ca_bundle():
        _refuse_unusable_bundle(bundle)
    return session


def _refuse_blanks(setting: str, what: str, text: str | None) -> None:
    """Raise ConfigurationError for what a store never gives out, such as a line break at the end of a secret's file."""
    if text and not (text.isascii() and text.isprintable() and " " not in text):
        raise ConfigurationError(
            f"{setting}: the {what} that boto3 found has a space, a line break or another character that none has; "
            "remove it where it was set"
        )


def _client(
    session: boto3.Session, bucket: Bucket, seconds: tuple[float, float], *, attempts: int, **where: str | None
) -> Any:
    """Return boto3's client of a bucket, once its address can be used. A store on this machine is called directly."""
    config = _config(bucket, seconds, attempts=attempts)
    client = session.client("s3", config=config, **where)
    _refuse_secrets(client.meta.endpoint_url)
    if is_at_loopback(client.meta.endpoint_url):  # only the client knows, from variables and files
        client = session.client("s3", config=config.merge(Config(proxies={})), **where)
    try:
        client.generate_presigned_url("head_bucket", Params={"Bucket": bucket.name})
    except EndpointProviderError:
        raise
    except BotoCoreError:  # of credentials, which are fetched again with the first call
        pass
    return client


def _refuse_secrets(endpoint: str) -> None:
    """Raise ValueError for an endpoint with a user name: URLs and errors would show its password."""
    if "@" in urlsplit(endpoint).netloc:
        raise ValueError("the address of the store has a user name or a password; callers would see it in their URLs")


def _without_slash(endpoint: str) -> str:
    """Return an endpoint in one form: however it is written, it is one place."""
    parts = urlsplit(endpoint)
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def _refuse_unusable_bundle(bundle: str) -> None:
    try:
        ssl.create_default_context(cafile=bundle)
    except OSError as error:
        raise ValueError(f"the certificate authorities in AWS_CA_BUNDLE={bundle}: {error.strerror or error}") from error


def _config(bucket: Bucket, seconds: tuple[float, float], *, attempts: int) -> Config:
    """Return boto3's configuration: timeouts to connect and to read, and so many attempts with jittered backoff."""
    connect, answer = seconds
    return Config(
        signature_version="s3v4",
        connect_timeout=connect,
        read_timeout=answer,
        retries={"mode": "standard", "total_max_attempts": attempts},
        request_checksum_calculation=bucket.checksums,
        response_checksum_validation=bucket.checksums,
        s3={"addressing_style": bucket.addressing},
        max_pool_connections=2 * _MAX_CONCURRENT_READS,
    )


@contextmanager
def _usable(setting: str) -> Iterator[None]:
    """Raise ConfigurationError, in one line, for what boto3 finds wrong with its own variables and files."""
    try:
        yield
    except (BotoCoreError, ValueError) as error:
        raise ConfigurationError(
            f"{setting}: boto3 cannot use its settings: {error}; correct its AWS_… variables or its configuration file"
        ) from error


#: S3 error codes → errors; a HEAD has only a status. Every other code may pass, also missing permissions and buckets:
#: an operator can restore them, and a rendered image is worth waiting for.
_KINDS: dict[str, type[StorageError]] = {
    "404": MissingObject,
    "NoSuchKey": MissingObject,
    "EntityTooLarge": StorageError,
    "InvalidArgument": StorageError,
    "InvalidBucketName": StorageError,
    "InvalidRequest": StorageError,
    "KeyTooLongError": StorageError,
    "MethodNotAllowed": StorageError,
    "NotImplemented": StorageError,
}


#: Statuses below 500 that a busy store may send, too: timeout, conflict, too many requests.
_PASSING_STATUSES = {408, 409, 429}


def _is_refusal(status: int | None) -> bool:
    """Return True for the status of a store that understood the call, and refuses it until its operator acts."""
    return status is not None and 400 <= status < 500 and status not in _PASSING_STATUSES


@contextmanager
def translated(bucket: Bucket) -> Iterator[None]:
    """Translate boto3's errors into the farm's; bucket and reason are their detail, for operators alone."""
    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        kind = _KINDS.get(code) or (StorageRefused if _is_refusal(status) else StorageUnavailable)
        raise kind(detail=f"the bucket '{bucket.name}' refuses: {code}, status {status}") from error
    except ParamValidationError as error:
        raise StorageError(detail=f"the bucket '{bucket.name}' cannot be asked: {error}") from error
    except (BotoCoreError, ResponseParserError, KeyError) as error:  # KeyError: a required field is missing
        raise _no_answer(bucket, error) from error


def _no_answer(bucket: Bucket, error: Exception) -> StorageUnavailable:
    """Return the farm's error for a bucket that gives no answer: a refusal if only its operator can help."""
    if problem := bucket_certificate_problem(error):
        return StorageRefused(detail=f"the certificate of the bucket '{bucket.name}' {problem.text}")
    return StorageUnavailable(detail=f"the bucket '{bucket.name}' gives no valid answer: {_reason(error)}")


def _reason(error: Exception) -> str:
    """Return an error of boto3 for operators. The text of an unforeseen one may have a signed header in it."""
    has_own_text = isinstance(error, BotoCoreError) and type(error) is not HTTPClientError
    return f"{type(error).__name__}: {error}" if has_own_text else type(error).__name__
