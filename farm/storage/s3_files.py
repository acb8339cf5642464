"""Files of any name in a bucket: what a command writes beside the farm's own storage."""

from __future__ import annotations

import mimetypes
from collections.abc import Iterator

from farm.domain.errors import NotFound
from farm.storage.s3 import Bucket, MissingObject, client_for, translated


class S3Files:
    """Files below the prefix of a bucket. Thread-safe. Raises StorageError."""

    def __init__(self, bucket: Bucket, *, setting: str) -> None:
        """Connect to a bucket that `setting` names."""
        self._bucket = bucket
        self._client = client_for(bucket, setting)

    def write(self, name: str, content: bytes) -> None:
        content_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
        with translated(self._bucket):
            self._client.put_object(**self._bucket.at_key(name), Body=content, ContentType=content_type)

    def read(self, name: str) -> bytes:
        """Return a file. Raises NotFound."""
        try:
            with translated(self._bucket):
                content: bytes = self._client.get_object(**self._bucket.at_key(name))["Body"].read()
                return content
        except MissingObject as error:
            raise NotFound(f"No file has the name '{name}'.") from error

    def names(self) -> Iterator[str]:
        """Yield the names of all files below the prefix."""
        with translated(self._bucket):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket.name, Prefix=self._bucket.prefix):
                for item in page.get("Contents", ()):
                    yield item["Key"].removeprefix(self._bucket.prefix)
