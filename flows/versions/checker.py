"""Check the pointer history, and each version by hashing every byte that its records name.

Objects that versions share are hashed once. flows.versions.verify says what is checked, and why.
"""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from flows.repo.odb import hash_local_file, hash_object
from flows.repo.outs import DvcObject, Listings, Out
from flows.repo.remotes import object_databases
from flows.versions.retained import Version
from tasks.common.checks import Frozen
from tasks.common.files import sha256_file
from tasks.common.paths import state_dir
from tasks.ingest.erasures import erased_objects
from tasks.releases import bundle_store
from tasks.releases.pointer import Pointer, broken_link
from tasks.releases.store import Releases, StoreDamaged

HISTORY = "(history)"
BUNDLE = "artifacts/bundle"


class Problem(Frozen):
    """One thing that is wrong. `place` is release, remote, cache, git or history; `key` is the object's name there."""

    place: str
    key: str
    text: str
    remedy: str
    source: str | None = None  # an undamaged copy that `--repair` can use: a file, or "remote"
    remote: str | None = None  # name of the DVC remote


class Checked(Frozen):
    """The result for one version."""

    version: str
    objects: int = 0
    bytes: int = 0
    erased: int = 0  # objects removed by `evergreen forget`: missing on purpose
    problems: list[Problem] = []

    @property
    def ok(self) -> bool:
        return not self.problems


def check_history(releases: Releases) -> Checked:
    """Check that every pointer is there, as it was written, numbered without a gap, and that the newest one is live."""
    problems, seqs = [], []
    last: Pointer | None = None
    backup = "restore it from a backup of the release store"
    try:
        live = releases.live()
    except StoreDamaged as error:
        live = None
        problems.append(Problem(place="history", key="champion.json", text=str(error), remedy=backup))
    keys = list(releases.store.list("pointers/"))
    for key in keys:
        try:
            pointer = releases.promoted(int(Path(key).stem))
            if pointer is None or pointer.seq != int(Path(key).stem):
                raise StoreDamaged(f"{key} holds promotion {pointer and pointer.seq}")
            seqs.append(pointer.seq)
            if last is not None and last.seq == pointer.seq - 1 and (broken := broken_link(last, pointer)):
                raise StoreDamaged(broken)
            last = pointer
        except (StoreDamaged, ValueError) as error:
            problems.append(Problem(place="history", key=key, text=str(error), remedy=backup))
            last = None
            with suppress(ValueError):
                seqs.append(int(Path(key).stem))
    if live is not None and live.seq == max(seqs, default=0) + 1:
        seqs.append(live.seq)  # the next start completes its record
    elif live is not None and live.seq < max(seqs):
        text = f"champion.json says promotion {live.seq} is live, but {max(seqs)} are recorded"
        problems.append(
            Problem(place="history", key="champion.json", text=text, remedy="copy the newest of pointers/ over it")
        )
    for seq in sorted(set(range(1, max([*seqs, live.seq if live else 0], default=0) + 1)) - set(seqs)):
        key = f"pointers/{seq:08d}.json"
        problems.append(
            Problem(place="history", key=key, text=f"promotion {seq} is missing from the history", remedy=backup)
        )
    size = sum(len(found[0]) for key in keys if (found := releases.store.read(key)))
    return Checked(version=HISTORY, objects=len(keys), bytes=size, problems=problems)


class VersionChecker:
    """Checks versions one after the other, and hashes an object that several of them share once.

    remembered: DVC's record of hashed local files (flows.repo.odb.remembered_hashes); None: hash every file.
    """

    def __init__(self, root: Path, repo, releases: Releases, remembered):
        self.root, self.repo, self.releases, self.remembered = root, repo, releases, remembered
        self.listings = Listings(repo)
        self.erased = erased_objects(root)
        self._databases: dict[tuple[str | None, bool], list] = {}
        self._blobs: dict[str, tuple[str | None, int]] = {}  # key in the release store -> (sha256, bytes)
        self._objects: dict[tuple, tuple[str | None, int]] = {}  # (address, md5) -> (md5 found, bytes)

    def check(self, version: Version, outs: list[Out] | None) -> Checked:
        """Check one version. outs: what its commit records; None: this repository lacks the commit."""
        problems: list[Problem] = []
        if outs is None:
            problems.append(
                Problem(
                    place="git",
                    key=version.rev,
                    text=f"the commit {version.rev[:12]} is not in this repository",
                    remedy="fetch the branch releases and the tags from where it was published",
                )
            )
        objects, lost = self.listings.objects(outs or [])
        sizes: dict[str, int] = {}
        if version.bundle:
            problems += self._bundle(version.bundle, objects, sizes)
        erased = {found.oid for found in objects + lost if found.oid in self.erased}
        for found in objects:
            if found.oid not in erased:
                problems += self._object(found, sizes)
        named = {problem.key for problem in problems}
        for out in lost:
            if out.oid not in erased | named:
                text = f"{out.path}: no undamaged listing of its files ({out.oid}) is left"
                problems.append(Problem(place="remote", key=out.oid, text=text, remedy=_restore_elsewhere(out.oid)))
        return Checked(
            version=version.name, objects=len(sizes), bytes=sum(sizes.values()), erased=len(erased), problems=problems
        )

    # the release store

    def _bundle(self, digest: str, objects: list[DvcObject], sizes: dict[str, int]) -> Iterator[Problem]:
        digest = bundle_store.resolve(self.releases.store, digest)
        key = f"bundles/{digest}.json"
        if found := self._blob(key, digest, sizes, objects, bundle_store.MANIFEST, digest):
            yield found
            return
        for name, sha256 in bundle_store.files(self.releases.store.read(key)[0], key).items():
            if found := self._blob(f"objects/{sha256}", sha256, sizes, objects, name, digest):
                yield found

    def _blob(
        self, key: str, sha256: str, sizes: dict[str, int], objects: list[DvcObject], name: str, digest: str
    ) -> Problem | None:
        if key not in self._blobs:
            self._blobs[key] = _hash_blob(self.releases, key)
        found, size = self._blobs[key]
        if found == sha256:
            sizes[key] = size
            return None
        source = self._copy_of(sha256, objects, name, digest)
        what = "is missing" if found is None else f"is damaged (its sha256 is {found})"
        remedy = _repairable(source) or "publish it again from its run's workspace, or restore it from a backup"
        return Problem(
            place="release", key=key, text=f"{key} ({name}) {what} in the release store", remedy=remedy, source=source
        )

    def _copy_of(self, sha256: str, objects: list[DvcObject], name: str, digest: str) -> str | None:
        """An undamaged copy of a bundle's file: in an unpacked bundle, a run's workspace or DVC's cache."""
        state = state_dir(self.root)
        files = [state / "cache/bundles" / digest / name, *state.glob(f"runs/*/tree/{BUNDLE}/{name}")]
        files += [
            Path(self.repo.cache.local.oid_to_path(found.oid)) for found in objects if found.path == f"{BUNDLE}/{name}"
        ]
        return next((str(file) for file in files if file.is_file() and sha256_file(file) == sha256), None)

    # DVC

    def _object(self, wanted: DvcObject, sizes: dict[str, int]) -> Iterator[Problem]:
        right = wanted.oid.removesuffix(".dir")
        if (place := (wanted.remote, wanted.push)) not in self._databases:
            self._databases[place] = object_databases(self.repo, *place)
        odbs = self._databases[place]
        found = [self._hash(odb, wanted.oid) for odb in odbs]
        cache, remote = found[0], found[1] if len(found) > 1 else None
        if right in [md5 for md5, _ in found]:
            sizes[wanted.oid] = next(size for md5, size in found if md5 == right)
        if remote is not None and remote[0] != right:
            path = odbs[1].oid_to_path(wanted.oid)
            source = odbs[0].oid_to_path(wanted.oid) if cache[0] == right else self._in_a_run(wanted, right)
            yield Problem(
                place="remote",
                key=wanted.oid,
                text=f"{wanted.path}: {path} {_wrong(remote[0])}",
                remedy=_repairable(source) or _restore_elsewhere(wanted.oid),
                source=source,
                remote=wanted.remote,
            )
        if cache[0] not in (None, right):
            whole = remote is not None and remote[0] == right
            yield Problem(
                place="cache",
                key=wanted.oid,
                text=f"{wanted.path}: {odbs[0].oid_to_path(wanted.oid)} {_wrong(cache[0])}",
                remedy=_repairable("the remote" if whole else None) or _restore_elsewhere(wanted.oid),
                source="remote" if whole else None,
                remote=wanted.remote,
            )

    def _in_a_run(self, wanted: DvcObject, right: str) -> str | None:
        """A file of the checkout or of a run's workspace whose md5 is `right`."""
        files = [self.root / wanted.path, *state_dir(self.root).glob(f"runs/*/tree/{wanted.path}")]
        return next((str(file) for file in files if file.is_file() and hash_local_file(file) == right), None)

    def _hash(self, odb, oid: str) -> tuple[str | None, int]:
        if (key := (odb.fs.unstrip_protocol(odb.oid_to_path(oid)), oid)) not in self._objects:
            try:
                self._objects[key] = hash_object(odb, oid, self.remembered)
            except FileNotFoundError:
                self._objects[key] = None, 0
        return self._objects[key]


def _hash_blob(releases: Releases, key: str) -> tuple[str | None, int]:
    if (stream := releases.store.open(key)) is None:
        return None, 0
    digest, size = hashlib.sha256(), 0
    with stream:
        while block := stream.read(1 << 20):
            digest.update(block)
            size += len(block)
    return digest.hexdigest(), size


def _wrong(found: str | None) -> str:
    return "is missing" if found is None else f"is damaged (its md5 is {found})"


def _repairable(source: str | None) -> str | None:
    return f"`evergreen verify --repair` puts it back from {source}" if source else None


def _restore_elsewhere(oid: str) -> str:
    return f"no undamaged copy is left here: `dvc push` it from another clone, or restore {oid} from a backup"
