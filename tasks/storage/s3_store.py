"""Named blobs beneath a prefix of an S3 bucket: the `Store` of tasks.storage.blobs where several machines share
releases.

A swap reads, compares and writes on the condition that the object still has the ETag that was read (If-Match, or
If-None-Match: * where there was none). The token is the sha256 of the content, as in a folder: an ETag is none (it
depends on how an object was uploaded and encrypted), it only guards the moment between reading and writing.

Every write carries a mark of its own in the object's metadata. So when a reply is lost and the repeated request is
told 412, because the first one came through, the object itself says whose it is.

A server that ignores conditions would let two writers both win. A probe finds it before the first write.
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
from tasks.common.files import sha256_bytes, sha256_file
from tasks.storage.blobs import PART as KEY_PART
from tasks.storage.blobs import Conflict, Content, check_key
from tasks.storage.s3_bucket import Bucket
from tasks.storage.s3_errors import Overtaken, S3Error, code, missing, refused, status

PART = 16 << 20  # bytes of a part of a large upload: what a write holds in memory
PARTS = 10_000  # S3's limit
BUSY = 8  # tries of a write that S3 itself calls overtaken (409 ConditionalRequestConflict)
STALE = timedelta(hours=24)  # an upload begun longer ago has no writer any more
MARK = "evergreen-write"  # metadata: which write made this object
PROBES = ".probe/"  # no key: list never shows it
_enforcing: dict[tuple[str | None, str], bool] = {}  # (endpoint, bucket) -> what the probe found in this process


class S3Store:
    """`url` is s3://bucket/prefix; `endpoint_url` that of an S3-compatible server, None for AWS. Credentials come from
    boto3's own chain. `single_writer`: accept a server without conditional writes.

    Opening asks nothing of the server. Raises EvergreenError for addresses that are none.
    """

    def __init__(self, url: str, *, endpoint_url: str | None = None, single_writer: bool = False):
        self.bucket, self.single_writer = Bucket(url, endpoint_url), single_writer

    def open(self, key: str) -> BinaryIO | None:
        return self.bucket.stream(self._name(key))

    def read(self, key: str) -> tuple[bytes, str] | None:
        while (stream := self.open(key)) is not None:
            with stream, suppress(Overtaken):  # the connection broke, and another content has come meanwhile: that one
                data = stream.read()
                return data, sha256_bytes(data)
        return None

    def create(self, key: str, content: Content) -> None:
        if not self._holds(key, content):
            try:
                self._write(key, content, {"IfNoneMatch": "*"})
            except Conflict:  # another writer was faster: fine if it wrote the same
                if not self._holds(key, content):
                    raise

    def swap(self, key: str, content: Content, expected: str | None) -> str:
        found, digest = self._current(key)
        if digest != expected:
            raise Conflict(key)
        self._write(key, content, {"IfMatch": found["ETag"]} if found else {"IfNoneMatch": "*"})
        return _sha256(content)

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
        """Also refuses, before any work is done, a server that `_conditional` refuses."""
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
        """(S3's answer, sha256 of the content) of what `key` holds; of what comes while that is read, of the new."""
        while (found := self.bucket.get(self._name(key))) is not None:
            with suppress(Overtaken):
                return found, self._digest(key, found)
        return None, None

    def _digest(self, key: str, found: dict[str, Any]) -> str:
        with self.bucket.body(self._name(key), found) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def _holds(self, key: str, content: Content) -> bool:
        """Is this the content of `key`? False: there is none. Raises Conflict when it is another."""
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        while (found := self.bucket.get(self._name(key))) is not None:
            if found["ContentLength"] != size:  # the body need not come
                found["Body"].close()
                raise Conflict(key)
            with suppress(Overtaken):
                if self._digest(key, found) != _sha256(content):
                    raise Conflict(key)
                return True
        return False

    def _write(self, key: str, content: Content, condition: dict[str, str]) -> None:
        """Write `content` if `condition` holds, at once and whole. Raises Conflict when it does not."""
        condition = condition if self._conditional() else {}
        mark = uuid.uuid4().hex
        with self.bucket.explained(f"writing {self.bucket.place(self._name(key))}"):
            for tries in range(1, BUSY + 1):
                try:
                    self._upload(self._name(key), content, {MARK: mark}, condition)
                    return
                except (BotoCoreError, ClientError) as error:
                    if refused(error):
                        raise
                    if self._mark(key) == mark:
                        return  # it stands, only the reply was lost
                    if status(error) == 412 or code(error) == "NoSuchKey":  # to replace what is gone: 404
                        raise Conflict(key) from None
                    if status(error) != 409 or tries == BUSY:
                        raise
                time.sleep(random.uniform(0, 0.05 * 2**tries))

    def _mark(self, key: str) -> str | None:
        """Which write made the content of `key`."""
        try:
            return self.bucket.s3.head_object(Bucket=self.bucket.name, Key=self._name(key))["Metadata"].get(MARK)
        except ClientError as error:
            if missing(error):
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
        """Upload a large file with one part in memory; nothing is visible until the last request."""
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
            with suppress(BotoCoreError, ClientError):  # what stays is aborted by a later sweep
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
            if status(error) not in (404, 405, 501):  # a server that cannot list them leaves them to its own rules
                raise

    def _conditional(self) -> bool:
        """Does the server enforce conditions? Asked once per process, server and bucket, with an object of our own.

        Raises S3Error where it does not, unless there is a single writer.
        """
        place = (self.bucket.endpoint_url, self.bucket.name)
        if place not in _enforcing:
            with self.bucket.explained(f"trying conditional writes in {self.bucket.place(self.bucket.prefix)}"):
                _enforcing[place] = self._probe()
        if not _enforcing[place] and not self.single_writer:
            raise S3Error(
                f"the S3 server at {place[0] or 'AWS'} ignores conditional writes (If-Match, If-None-Match): two runs "
                "that publish at once would overwrite each other unseen. Use a server that has them, or set "
                "store.single_writer: true in params.yaml and see to it that one process at a time publishes."
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
            passes(b"1", IfNoneMatch="*")  # False only where the reply to a first try was lost: it is there
            etag = self.bucket.s3.head_object(**place)["ETag"]
            if passes(b"2", IfNoneMatch="*") or passes(b"3", IfMatch=f'"{"0" * 32}"'):
                return False
            return passes(b"4", IfMatch=etag) or self.bucket.s3.head_object(**place)["ETag"] != etag
        except ClientError as error:
            if status(error) == 501:  # knows the header, and says that it lacks it
                return False
            raise
        finally:
            with suppress(BotoCoreError, ClientError):
                self.bucket.s3.delete_object(**place)


def _md5(data: bytes) -> str:
    """Content-MD5 (RFC 1864): the server refuses what was damaged on its way."""
    return b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def _sha256(content: Content) -> str:
    return sha256_bytes(content) if isinstance(content, bytes) else sha256_file(content)
