"""The place that driver and workers share instead of a folder: shards and entries by content.

    shards/<name>.parquet       a shard, under the name that is the sha256 of its content
    objects/<sha256>            the content of a cache entry
    entries/<kind>/<key>/<name> the sha256 of the cache entry with this content key; written last

Every reader hashes what it has read. Nothing in the place is unpickled. All of it can be made again.
"""

import re
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tasks.common.errors import EvergreenError
from tasks.common.files import atomic_path, sha256_file
from tasks.common.params import Params, StoreParams
from tasks.common.paths import main_checkout
from tasks.common.sealed import DIGEST, open_sealed, seal_of, sealed_path
from tasks.common.verified import check_named
from tasks.storage.blobs import Conflict, Store, without_secrets
from tasks.storage.places import open_blobs

SHARDS, OBJECTS, ENTRIES = "shards", "objects", "entries"
SHARD = re.compile(r"[0-9a-f]{24,64}\.parquet")


class LostObject(EvergreenError):
    """A shard or the content of an entry is missing in the place, or was damaged and is deleted now."""


@dataclass(frozen=True)
class Place:
    """`scale.shared`, and how to reach S3. Travels to the workers; each opens it with its own credentials."""

    url: str
    store: StoreParams

    @cached_property
    def blobs(self) -> Store:
        """The store that holds the bytes."""
        return open_blobs(self.url, Path("/"), store=self.store)

    def __getstate__(self) -> dict:
        return {"url": self.url, "store": self.store}  # not the open store

    def __str__(self) -> str:
        return without_secrets(self.url)

    def shards(self) -> set[str]:
        """The names of the shards that are there."""
        return {key.partition("/")[2] for key in self.blobs.list(f"{SHARDS}/")}

    def put_shard(self, file: Path) -> None:
        """Put the shard `file` there. Raises DamagedFile if it is not named by its content."""
        check_named(file)
        try:
            self.blobs.create(f"{SHARDS}/{file.name}", file)
        except Conflict as conflict:
            raise self._refused(f"{SHARDS}/{file.name}") from conflict

    def fetch_shard(self, name: str, folder: Path) -> None:
        """Put the shard `name` into `folder`. Raises LostObject if the place has none, or a damaged one."""
        if not SHARD.fullmatch(name):
            raise EvergreenError(f"{name!r} is not the name of a shard")
        with atomic_path(folder / name) as temporary:
            self._copy(f"{SHARDS}/{name}", temporary, Path(name).stem)

    def put_entry(self, entry: str, cache: Path) -> str:
        """Put the sealed `entry` of the cache folder there; returns its digest, or that of an earlier writer's."""
        file = cache / entry
        if (opened := open_sealed(file)) is None:
            raise EvergreenError(f"{file} is damaged right after it was made: check the disk of this node")
        opened.close()
        digest = seal_of(file)
        try:
            self.blobs.create(f"{OBJECTS}/{digest}", file)
        except Conflict:  # damaged there
            self.blobs.remove(f"{OBJECTS}/{digest}")
            self.blobs.create(f"{OBJECTS}/{digest}", file)
        try:
            self.blobs.create(f"{ENTRIES}/{entry}", digest.encode())
        except Conflict:  # another machine was faster; its arithmetic may differ in the last bit
            return self.digest(entry) or digest
        return digest

    def digest(self, entry: str) -> str | None:
        """The sha256 of the content of `entry`; None if the place has none."""
        if (found := self.blobs.read(f"{ENTRIES}/{entry}")) is None:
            return None
        text = found[0].decode("ascii", errors="replace").strip()
        return text if DIGEST.fullmatch(text) else None

    def fetch_entry(self, entry: str, cache: Path, digest: str) -> None:
        """Put `entry`, whose content has the sha256 `digest`, into the cache folder.

        Raises LostObject if the content is missing or damaged; then the place has no such entry any more.
        """
        try:
            with sealed_path(cache / entry) as temporary:
                self._copy(f"{OBJECTS}/{digest}", temporary, digest)
        except LostObject:
            if self.digest(entry) == digest:  # else every later run would look for this content
                self.blobs.remove(f"{ENTRIES}/{entry}")
            raise

    def forget(self, shards: Collection[str]) -> None:
        """Delete the shards of these names and all entries made from them, as after an erasure."""
        stems = {Path(name).stem for name in shards}
        for key in list(self.blobs.list(f"{ENTRIES}/")):
            entry = key.removeprefix(f"{ENTRIES}/")
            if Path(entry).stem in stems:
                if digest := self.digest(entry):
                    self.blobs.remove(f"{OBJECTS}/{digest}")
                self.blobs.remove(key)
        for name in shards:
            self.blobs.remove(f"{SHARDS}/{name}")

    def _copy(self, key: str, to: Path, digest: str) -> None:
        """Copy the object `key` to the file `to`. Raises LostObject unless its sha256 begins with `digest`."""
        if (source := self.blobs.open(key)) is None:
            raise LostObject(f"{key} is missing in {self} (scale.shared): start the command again to put it there")
        with source, open(to, "wb") as out:
            shutil.copyfileobj(source, out, 1 << 20)
        if not sha256_file(to).startswith(digest):
            raise self._refused(key)

    def _refused(self, key: str) -> LostObject:
        """Delete an object whose content is not what its name says, and say so: it can be made again."""
        self.blobs.remove(key)
        return LostObject(
            f"{key} in {self} (scale.shared) had other content than its name says, and was deleted: start the command "
            "again to put it there"
        )


def shared_place(root: Path, params: Params) -> Place | None:
    """`scale.shared` of a project; None without one."""
    url = params.scale.shared
    if url is None:
        return None
    if "://" not in url:
        url = str((main_checkout(root) / Path(url).expanduser()).resolve())
    return Place(url, params.store)
