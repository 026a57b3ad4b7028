"""A store under a prefix of an S3 bucket, for several machines that share releases.

A swap reads, compares, and writes on the condition that the object still has the ETag that was read (If-Match, or
If-None-Match: * for a new object). The token is the sha256 of the content, as in a folder. An ETag cannot be the
token: it depends on how an object was uploaded and encrypted. It only guards the moment between reading and writing.

Every write puts its own mark into the object's metadata. If a reply is lost and the retry gets 412 because the first
request succeeded, the mark tells whose write the object is.

A server that ignores conditions would let two writers both win. A probe detects it before the first write.
"""

import hashlib
import random
import time
import uuid
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from botocore.exceptions import BotoCoreError, ClientError

from tasks.common.failpoints import failpoint
from tasks.common.files import sha256_bytes
from tasks.storage.blobs import KEY_PART, Conflict, Content, check_key, content_size, content_token
from tasks.storage.s3_bucket import Bucket
from tasks.storage.s3_errors import ObjectChanged, S3Error, code, is_not_found, is_refused, status

PART = 16 << 20  # bytes of one part of a large upload: a write holds one in memory
PARTS = 10_000  # S3's limit
BUSY = 8  # tries of a write to which S3 answers 409 ConditionalRequestConflict
STALE = timedelta(hours=24)  # the writer of an older unfinished upload is dead
MARK = "evergreen-write"  # metadata key: which write made this object
PROBES = ".probe/"  # not a valid key, so `list` never shows it
_enforcing: dict[tuple[str | None, str], bool] = {}  # (endpoint, bucket) -> what the probe found in this process


class S3Store:
    """A `Store` at `url` (s3://bucket/prefix).

    endpoint_url: of an S3-compatible server, None for AWS. single_writer: accept a server without conditional writes.
    Credentials come from boto3's own chain. Opening sends no request. Raises EvergreenError for an invalid address.
    """

    def __init__(self, url: str, *, endpoint_url: str | None = None, single_writer: bool = False):
        self.bucket, self.single_writer = Bucket(url, endpoint_url), single_writer

    def open(self, key: str) -> BinaryIO | None:
        return self.bucket.stream(self._name(key))

    def read(self, key: str) -> tuple[bytes, str] | None:
        while (stream := self.open(key)) is not None:
            with stream, suppress(ObjectChanged):  # replaced after the connection broke: read the new content
                data = stream.read()
                return data, sha256_bytes(data)
        return None

    def create(self, key: str, content: Content) -> None:
        if not self._holds(key, content):
            try:
                self._write(key, content, {"IfNoneMatch": "*"})
            except Conflict:  # another writer was faster, which is fine if it wrote the same
                if not self._holds(key, content):
                    raise

    def swap(self, key: str, content: Content, expected: str | None) -> str:
        found, digest = self._current(key)
        if digest != expected:
            raise Conflict(key)
        self._write(key, content, {"IfMatch": found["ETag"]} if found else {"IfNoneMatch": "*"})
        return content_token(content)

    def list(self, prefix: str) -> Iterator[str]:
        keys = (
            entry["Key"].removeprefix(self.bucket.prefix) for entry in self.bucket.objects(self.bucket.prefix + prefix)
        )
        yield from sorted(key for key in keys if all(KEY_PART.fullmatch(part) for part in key.split("/")))

    def about(self, key: str) -> tuple[int, datetime]:
        with self.bucket.explained(f"looking at {self.bucket.place(self._name(key))}"):
            found = self.bucket.s3.head_object(Bucket=self.bucket.name, Key=self._name(key))
        return found["ContentLength"], found["LastModified"]

    def remove(self, key: str) -> None:
        with self.bucket.explained(f"removing {self.bucket.place(self._name(key))}"):
            self.bucket.s3.delete_object(Bucket=self.bucket.name, Key=self._name(key))

    def sweep(self) -> int:
        """See `Store.sweep`. Raises S3Error, before any work is done, for a server that `_conditional` refuses."""
        self._conditional()
        before, removed = datetime.now(UTC) - STALE, 0
        place = {"Bucket": self.bucket.name}
        with self.bucket.explained(f"looking for unfinished uploads in {self.bucket.place(self.bucket.prefix)}"):
            for upload in self._uploads():
                if upload["Initiated"] < before:
                    self.bucket.s3.abort_multipart_upload(**place, Key=upload["Key"], UploadId=upload["UploadId"])
                    removed += 1
            for entry in self.bucket.objects(self.bucket.prefix + PROBES):
                if entry["LastModified"] < before:
                    self.bucket.s3.delete_object(**place, Key=entry["Key"])
                    removed += 1
        return removed

    def _name(self, key: str) -> str:
        return self.bucket.prefix + check_key(key)

    def _current(self, key: str) -> tuple[dict[str, Any] | None, str | None]:
        """(S3's answer, sha256 of the content) of `key`; of the newer object if it is replaced during the read."""
        while (found := self.bucket.get(self._name(key))) is not None:
            with suppress(ObjectChanged):
                return found, self._digest(key, found)
        return None, None

    def _digest(self, key: str, found: dict[str, Any]) -> str:
        with self.bucket.body(self._name(key), found) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def _holds(self, key: str, content: Content) -> bool:
        """Whether `key` has this content. False if it is absent; raises Conflict for other content."""
        while (found := self.bucket.get(self._name(key))) is not None:
            if found["ContentLength"] != content_size(content):  # no need to read the body
                found["Body"].close()
                raise Conflict(key)
            with suppress(ObjectChanged):
                if self._digest(key, found) != content_token(content):
                    raise Conflict(key)
                return True
        return False

    def _write(self, key: str, content: Content, condition: dict[str, str]) -> None:
        """Write `content` atomically if `condition` holds; raises Conflict if it does not."""
        condition = condition if self._conditional() else {}
        mark = uuid.uuid4().hex
        with self.bucket.explained(f"writing {self.bucket.place(self._name(key))}"):
            for tries in range(1, BUSY + 1):
                try:
                    self._upload(self._name(key), content, {MARK: mark}, condition)
                    return
                except (BotoCoreError, ClientError) as error:
                    if is_refused(error):
                        raise
                    if self._mark(key) == mark:
                        return  # the write happened, only the reply was lost
                    if status(error) == 412 or code(error) == "NoSuchKey":  # 404: the object to replace is gone
                        raise Conflict(key) from None
                    if status(error) != 409 or tries == BUSY:
                        raise
                time.sleep(random.uniform(0, 0.05 * 2**tries))

    def _mark(self, key: str) -> str | None:
        """The mark of the write that made the content of `key`; None if it is absent."""
        try:
            return self.bucket.s3.head_object(Bucket=self.bucket.name, Key=self._name(key))["Metadata"].get(MARK)
        except ClientError as error:
            if is_not_found(error):
                return None
            raise

    def _upload(self, name: str, content: Content, metadata: dict[str, str], condition: dict[str, str]) -> None:
        place = {"Bucket": self.bucket.name, "Key": name}
        if isinstance(content, Path) and content.stat().st_size > PART:
            self._upload_parts(place, content, metadata, condition)
            return
        data = content if isinstance(content, bytes) else content.read_bytes()
        self.bucket.s3.put_object(**place, Body=data, ContentMD5=_md5(data), Metadata=metadata, **condition)

    def _upload_parts(self, place: dict, file: Path, metadata: dict[str, str], condition: dict[str, str]) -> None:
        """Upload a large file, one part in memory at a time; nothing is visible before the last request."""
        upload = place | {"UploadId": self.bucket.s3.create_multipart_upload(**place, Metadata=metadata)["UploadId"]}
        size = max(PART, -(-file.stat().st_size // PARTS))
        parts: list[dict] = []
        try:
            with open(file, "rb") as stream:
                while block := stream.read(size):
                    number = len(parts) + 1
                    sent = self.bucket.s3.upload_part(**upload, PartNumber=number, Body=block, ContentMD5=_md5(block))
                    parts.append({"PartNumber": number, "ETag": sent["ETag"]})
                    failpoint("store.part")
            self.bucket.s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts}, **condition)
        except BaseException:
            with suppress(BotoCoreError, ClientError):  # a later sweep aborts what is left
                self.bucket.s3.abort_multipart_upload(**upload)
            raise

    def _uploads(self) -> Iterator[dict]:
        try:
            for page in self.bucket.s3.get_paginator("list_multipart_uploads").paginate(
                Bucket=self.bucket.name, Prefix=self.bucket.prefix
            ):
                uploads = page.get("Uploads", [])
                yield from (upload for upload in uploads if upload["Key"].startswith(self.bucket.prefix))
        except ClientError as error:
            if status(error) not in (404, 405, 501):  # a server that cannot list them has its own rules for them
                raise

    def _conditional(self) -> bool:
        """Whether the server enforces conditions, probed once per process, server and bucket with a test object.

        Raises S3Error if it does not, unless `single_writer` is set.
        """
        place = (self.bucket.endpoint_url, self.bucket.name)
        if place not in _enforcing:
            with self.bucket.explained(f"trying conditional writes in {self.bucket.place(self.bucket.prefix)}"):
                _enforcing[place] = self._probe()
        if not _enforcing[place] and not self.single_writer:
            raise S3Error(
                f"the S3 server at {place[0] or 'AWS'} ignores conditional writes (If-Match, If-None-Match): two runs "
                "that publish at the same time would overwrite each other unnoticed. Use a server that supports them, "
                "or set store.single_writer: true in params.yaml and let only one process at a time publish."
            )
        return _enforcing[place]

    def _probe(self) -> bool:
        place = {"Bucket": self.bucket.name, "Key": f"{self.bucket.prefix}{PROBES}{uuid.uuid4().hex}"}

        def passes(data: bytes, **condition: str) -> bool:
            try:
                self.bucket.s3.put_object(**place, Body=data, ContentMD5=_md5(data), **condition)
                return True
            except ClientError as error:
                if status(error) in (409, 412):
                    return False
                raise

        try:
            passes(b"1", IfNoneMatch="*")  # False only if the reply to a first try was lost: the object exists
            etag = self.bucket.s3.head_object(**place)["ETag"]
            if passes(b"2", IfNoneMatch="*") or passes(b"3", IfMatch=f'"{"0" * 32}"'):
                return False
            return passes(b"4", IfMatch=etag) or self.bucket.s3.head_object(**place)["ETag"] != etag
        except ClientError as error:
            if status(error) == 501:  # it knows the header and says that it does not support it
                return False
            raise
        finally:
            with suppress(BotoCoreError, ClientError):
                self.bucket.s3.delete_object(**place)


def _md5(data: bytes) -> str:
    """Content-MD5 (RFC 1864), by which the server detects damage in transit."""
    return b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
