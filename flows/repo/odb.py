"""Hash, list, check, copy and delete objects of DVC's object databases: its cache and its remotes.

`dvc_data` and `dvc_objects` are private parts of DVC, and any release may change them. Only `flows.repo` imports them;
an import contract in pyproject.toml holds this. An object's id (`oid`) is the md5 of a file, or the md5 of a folder's
listing followed by ".dir".
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tasks.common.paths import cache_dir


def forget_index(odb) -> None:
    """Delete DVC's own record of what a remote holds: a later push would trust it."""
    from dvc_data.hashfile.db import get_index

    index = get_index(odb)
    index.clear()
    index.close()


def list_oids(odb) -> Iterator[str]:
    """The id of every object in `odb`, in no particular order; none if its folder does not exist yet."""
    if odb.fs.exists(odb.path):
        yield from odb._list_oids()


def read_listing(odb, oid: str) -> list[tuple[str, str]] | None:
    """(path in the folder, md5) of each file of the folder `oid`; None if `odb` has no undamaged listing of it."""
    from dvc_objects.errors import ObjectFormatError

    with suppress(FileNotFoundError, ObjectFormatError):
        if hash_object(odb, oid)[0] == oid.removesuffix(".dir"):
            return load_listing(odb, oid)
    return None


def load_listing(odb, oid: str) -> list[tuple[str, str]]:
    """As `read_listing`, without hashing. Raises FileNotFoundError, or dvc_objects' ObjectFormatError."""
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    return [("/".join(key), entry.value) for key, _, entry in Tree.load(odb, HashInfo("md5", oid))]


def hash_object(odb, oid: str, remembered: Any = None) -> tuple[str, int]:
    """(md5, bytes) of the object stored under `oid`; `remembered`: see `remembered_hashes`.

    Raises FileNotFoundError.
    """
    from dvc_data.hashfile.hash import hash_file

    path = odb.oid_to_path(oid)
    info = odb.fs.info(path)
    return hash_file(path, odb.fs, odb.hash_name, remembered, info=info)[1].value, info["size"]


def hash_local_file(path: Path) -> str:
    """The md5 by which DVC names the content of a local file."""
    from dvc_data.hashfile.hash import file_md5

    return file_md5(str(path), _local_files())


@contextmanager
def remembered_hashes(root: Path) -> Iterator[Any]:
    """DVC's record of hashed local files: a file is hashed again only if its inode, time or size has changed."""
    from dvc_data.hashfile.state import State

    state = State(root_dir=str(root), tmp_dir=str(cache_dir("audit", root)))
    try:
        yield state
    finally:
        state.close()


def copy_object(oid: str, source, target) -> None:
    """Copy object `oid` from one database to another."""
    target.add(source.oid_to_path(oid), source.fs, oid)


def add_local_file(odb, path: str, oid: str) -> None:
    """Store the local file `path` as object `oid`."""
    odb.add(path, _local_files(), oid)


def replace_object(cache, file: Path, oid: str) -> None:
    """Move `file` to the place of object `oid` of DVC's cache, whose object is damaged or missing.

    The rename leaves no moment without the object: other runs may be linking it.
    """
    path = Path(cache.oid_to_path(oid))
    cache.makedirs(str(path.parent))
    shutil.move(file, path.with_name(f"{path.name}.repaired"))
    os.replace(path.with_name(f"{path.name}.repaired"), path)
    cache.protect(str(path))


def delete_object(odb, oid: str) -> None:
    """Delete an object, and DVC's own record that it is there."""
    if odb.fs.exists(odb.oid_to_path(oid)):
        odb.delete(oid)
    forget_index(odb)


def _local_files():
    from dvc_objects.fs.local import localfs

    return localfs
