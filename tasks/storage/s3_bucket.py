"""A prefix of an S3 bucket: readable errors, reads that survive a broken connection.

Credentials come from boto3's own chain.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import boto3
import botocore.loaders
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, IncompleteReadError, ResponseStreamingError

from tasks.common.errors import EvergreenError
from tasks.storage.blobs import without_secrets
from tasks.storage.s3_errors import ObjectChanged, explain, is_not_found, status

BLOCK = 1 << 20
RESUMES = 5  # times that one read continues after its connection broke


class Bucket:
    """The objects under `url` (s3://bucket/prefix); `endpoint_url` is an S3-compatible server's, None for AWS.

    Opening sends no request. Raises EvergreenError for an invalid address.
    """

    def __init__(self, url: str, endpoint_url: str | None = None):
        self.name, self.prefix = split_url(url)
        self.endpoint_url = endpoint_url
        self.s3 = client(endpoint_url)

    def check(self) -> None:
        """List one object. Raises S3Error with the reason when the bucket cannot be listed."""
        with self.explained(f"listing s3://{self.name}/{self.prefix}"):
            self.s3.list_objects_v2(Bucket=self.name, Prefix=self.prefix, MaxKeys=1)

    def place(self, name: str) -> str:
        """The address of object `name`, for messages."""
        return f"s3://{self.name}/{name}"

    def get(self, name: str, **options) -> dict[str, Any] | None:
        """S3's answer to GET, whose "Body" is a stream; None if there is no such object."""
        with self.explained(f"reading {self.place(name)}"):
            try:
                return self.s3.get_object(Bucket=self.name, Key=name, **options)
            except ClientError as error:
                if is_not_found(error):
                    return None
                raise

    def stream(self, name: str) -> BinaryIO | None:
        """The content of object `name`, which the caller closes; None if there is no such object."""
        if (found := self.get(name)) is None:
            return None
        return self.body(name, found)

    def body(self, name: str, found: dict[str, Any]) -> BinaryIO:
        """The content of object `name` as a stream; `found` is the answer of `get`."""
        return io.BufferedReader(_Reading(self, name, found), BLOCK)

    def objects(self, prefix: str) -> Iterator[dict[str, Any]]:
        """S3's entries ("Key", "Size", "LastModified") of all objects whose names begin with `prefix`."""
        with self.explained(f"listing {self.place(prefix)}"):
            for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix):
                yield from page.get("Contents", [])

    @contextmanager
    def explained(self, doing: str) -> Iterator[None]:
        """Raise boto3's errors as messages (s3_errors), without their traceback, which may hold headers."""
        try:
            yield
        except (BotoCoreError, ClientError) as error:
            raise explain(error, doing, self.name, self.endpoint_url) from None


class _Reading(io.RawIOBase):
    """The body of a GET; after a broken connection it continues at the same byte of the same object."""

    def __init__(self, bucket: Bucket, name: str, found: dict[str, Any]):
        self._bucket, self._name, self._found = bucket, name, found
        self._at, self._size, self._resumes = 0, found["ContentLength"], 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        with self._bucket.explained(f"reading {self._bucket.place(self._name)}"):
            while True:
                try:
                    data = self._found["Body"].read(len(buffer)) if self._at < self._size else b""
                    buffer[: len(data)] = data
                    self._at += len(data)
                    return len(data)
                except (IncompleteReadError, ResponseStreamingError, BotoCoreError):
                    if self._resumes == RESUMES:
                        raise
                    self._resumes += 1
                    self._resume()

    def _resume(self) -> None:
        self._found["Body"].close()
        rest = {"Range": f"bytes={self._at}-", "IfMatch": self._found["ETag"]}
        try:
            self._found = self._bucket.s3.get_object(Bucket=self._bucket.name, Key=self._name, **rest)
        except ClientError as error:
            if is_not_found(error) or status(error) == 412:
                raise ObjectChanged(
                    f"{self._bucket.place(self._name)} was replaced or removed while it was being read: try again"
                ) from None
            raise

    def close(self) -> None:
        if not self.closed:
            self._found["Body"].close()
        super().close()


def client(endpoint_url: str | None):
    """A boto3 client for S3. Raises EvergreenError for an endpoint that is not a plain http(s) address."""
    if endpoint_url is not None:
        parts = urlsplit(endpoint_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
            raise EvergreenError(
                f"store.endpoint_url in params.yaml is {without_secrets(endpoint_url)!r}: expected http(s)://host:port "
                "of an S3-compatible server, without user or password (credentials come from the environment)"
            )
    config = Config(
        retries={"mode": "standard", "total_max_attempts": 4},
        connect_timeout=10,
        read_timeout=60,
        request_checksum_calculation="when_required",  # instead: Content-MD5, which all servers know
        response_checksum_validation="when_required",
    )
    session = botocore.session.get_session()
    session.register_component("data_loader", _service_models())
    try:
        return boto3.session.Session(botocore_session=session).client("s3", endpoint_url=endpoint_url, config=config)
    except (BotoCoreError, ClientError) as error:  # a profile that does not exist
        raise explain(error, "opening S3", "", endpoint_url) from None


@cache
def _service_models() -> botocore.loaders.Loader:
    """botocore's description of S3, cached: reading it takes a tenth of a second per session."""
    return botocore.session.get_session().get_component("data_loader")


def split_url(url: str) -> tuple[str, str]:
    """(bucket, prefix) of s3://bucket/prefix; the prefix is empty or ends with "/". Raises EvergreenError."""
    found = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/+(.*))?", url, re.DOTALL)
    prefix = (found[2] or "").strip("/") if found else ""
    if (
        found is None
        or not prefix.isprintable()
        or any(part in ("", ".", "..") for part in prefix.split("/") if prefix)
    ):
        raise EvergreenError(
            f"{without_secrets(url)!r} is not an S3 address: expected s3://bucket/prefix, without user or password "
            "(credentials come from the environment)"
        )
    return found[1], f"{prefix}/" if prefix else ""
