"""Find what is damaged in a checkout by hashing it, and put undamaged copies in its place.

DVC believes time, size and inode, and links what its cache holds into a checkout without a look at the content. So a
flipped byte in the cache, or in a linked file, stays unseen. Here every file is hashed and compared with the md5 that
dvc.lock or data.dvc records. The shards of data/ are hashed by each process that reads them (tasks.common.verified).
"""

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import TypeVar

from flows.repo.objects import Objects
from flows.repo.odb import delete_object, hash_local_file, hash_object, replace_object
from flows.repo.outs import Listings, Out, out_of, recorded_outs
from tasks.common.checks import Frozen
from tasks.common.errors import DamagedFile, EvergreenError
from tasks.common.files import atomic_path

T = TypeVar("T")

logger = logging.getLogger("evergreen.damage")


class Wrong(Frozen):
    """A file of a checkout that is damaged or missing. oid: the md5 that it should have; found: None if missing."""

    path: Path
    oid: str
    found: str | None


def repairing(repo, step: Callable[[], T]) -> T:
    """Call `step`; replace each damaged file of data/ that it finds, and call it again.

    Raises DamagedFile if no undamaged copy is left in DVC's cache or remote, or if what is recorded is the damage.
    """
    repaired: set[Path] = set()
    while True:
        try:
            return step()
        except DamagedFile as damage:
            if damage.path in repaired or not repair(repo, damage.path):
                raise
            repaired.add(damage.path)


def repair(repo, path: Path) -> bool:
    """Put an undamaged copy in the place of `path`, a file of data/ that data.dvc records; False if none is left."""
    for out in _data(repo):
        top = (Path(repo.root_dir) / out.path).resolve()
        place = path.parent.resolve() / path.name  # the file itself may be a link into the cache
        if place.is_relative_to(top):
            oid = dict(Listings(repo).files(out) or []).get(place.relative_to(top).as_posix())
            return oid is not None and _put_back(repo, Wrong(path=place, oid=oid, found=None))
    return False


def repair_records(repo) -> None:
    """Hash the files of data/ that are not named by their content (manifests, class changes), and replace wrong ones.

    Raises DamagedFile if no undamaged copy of one is left.
    """
    for out in _data(repo):
        for wrong in _wrong_files(repo, out, lambda name: not name.endswith(".parquet")) or []:
            if not _put_back(repo, wrong):
                raise DamagedFile(wrong.path, wrong.oid, wrong.found)


def drop_damaged_listing(repo, out: Out) -> None:
    """Delete the listing of the folder `out` from DVC's cache if it is damaged: DVC would believe it."""
    if out.oid.endswith(".dir") and not _whole(repo.cache.local, out.oid):
        delete_object(repo.cache.local, out.oid)


def outputs_whole(repo, name: str) -> bool:
    """Hash the outputs of stage `name` against dvc.lock and replace damaged files; True if all are whole now.

    If no undamaged copy is left, the outputs and their damaged objects are deleted, so that the stage runs again.
    """
    with chdir(repo.root_dir), repo.lock:
        (stage,) = repo.stage.collect(name)
        if all(_output_whole(repo, out_of(out), out.use_cache) for out in stage.outs):
            return True
        logger.warning("an output of %s was damaged, and no undamaged copy is left: it is made again", name)
        for out in stage.outs:
            _delete_damaged(repo, out_of(out))
            out.remove(ignore_remove=False)
    return False


def checkout_whole(repo) -> None:
    """Hash all that dvc.lock records in this checkout, and the records of data/, and replace damaged files.

    Raises DamagedFile if no undamaged copy of one is left.
    """
    repair_records(repo)
    for out in _outputs(repo):
        if (wrong := _wrong_files(repo, out)) is None:
            raise DamagedFile(Path(repo.root_dir) / out.path, out.oid, None)
        for one in wrong:
            if not _put_back(repo, one):
                raise DamagedFile(one.path, one.oid, one.found)


def wrong_data(repo) -> list[Wrong]:
    """The files of data/ that differ from data.dvc; none if no undamaged listing is left, which `verify` says."""
    return [one for out in _data(repo) for one in _wrong_files(repo, out) or []]


def outputs(repo) -> Iterator[tuple[Path, Wrong | None]]:
    """The files that stages have left as dvc.lock records them, and what is wrong with each."""
    for out in _outputs(repo):
        top = Path(repo.root_dir) / out.path
        listing = Listings(repo).files(out) if out.oid.endswith(".dir") else [("", out.oid)]
        for name, oid in listing or ():
            yield top / name, next(iter(_differing(top / name, oid)), None)


def _outputs(repo) -> list[Out]:
    stages = (stage for stage in repo.index.stages if not stage.is_data_source)
    return [out_of(out) for stage in stages for out in stage.outs if out.hash_info]


def _data(repo) -> list[Out]:
    return [out for out in recorded_outs(repo) if out.path == "data"]


def _output_whole(repo, out: Out, cached: bool) -> bool:
    if (wrong := _wrong_files(repo, out)) is None:
        return False
    if cached and out.oid.endswith(".dir"):
        _delete_unlisted(repo, out)
    return all([_put_back(repo, one) for one in wrong])


def _wrong_files(repo, out: Out, wanted: Callable[[str], bool] = lambda name: True) -> list[Wrong] | None:
    """The files of `out` that differ from what is recorded; None: its listing is damaged everywhere.

    wanted: takes a path in the folder and says whether to look at that file.
    """
    top = Path(repo.root_dir) / out.path
    if not out.oid.endswith(".dir"):
        return _differing(top, out.oid)
    if (listing := Listings(repo).files(out)) is None:
        return None
    return [one for name, oid in listing if wanted(name) for one in _differing(top / name, oid)]


def _differing(file: Path, oid: str) -> list[Wrong]:
    found = hash_local_file(file) if file.is_file() else None
    return [] if found == oid else [Wrong(path=file, oid=oid, found=found)]


def _delete_unlisted(repo, out: Out) -> None:
    """Delete files that the listing of `out` does not name: DVC restored them from a damaged listing."""
    top = Path(repo.root_dir) / out.path
    named = {name for name, _ in Listings(repo).files(out) or []}
    for file in [path for path in top.rglob("*") if not path.is_dir()]:
        if file.relative_to(top).as_posix() not in named:
            file.unlink()


def _put_back(repo, wrong: Wrong) -> bool:
    """Replace `wrong`, and its object in DVC's cache, by an undamaged copy; False if none is left."""
    cache = repo.cache.local
    try:
        objects = Objects(repo)
        with atomic_path(wrong.path) as temporary:
            objects.copy(wrong.oid, temporary)
        if not _whole(cache, wrong.oid):
            with tempfile.TemporaryDirectory(dir=repo.tmp_dir) as folder:
                objects.copy(wrong.oid, Path(folder) / "copy")
                replace_object(cache, Path(folder) / "copy", wrong.oid)
    except EvergreenError as error:  # lost, or the remote cannot be opened
        logger.warning("%s is damaged: %s", wrong.path, error)
        return False
    logger.warning("%s was damaged: an undamaged copy is in its place now", wrong.path)
    return True


def _whole(cache, oid: str) -> bool:
    """Is the object `oid` of `cache` undamaged? False if it is missing."""
    try:
        return hash_object(cache, oid)[0] == oid.removesuffix(".dir")
    except FileNotFoundError:
        return False


def _delete_damaged(repo, out: Out) -> None:
    cache = repo.cache.local
    oids = {out.oid, *(oid for _, oid in Listings(repo).files(out) or [])} if out.oid.endswith(".dir") else {out.oid}
    for oid in oids:
        if not _whole(cache, oid):
            delete_object(cache, oid)
