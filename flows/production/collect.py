"""`evergreen collect`: take what edge devices captured into the production log.

A capture is an image and a JSON file with the same name (see tasks.export.edge_runner). What a device computed is not
taken over: the version that it ran answers the image again here, so features and measures are those of any other
answer, at the time of the capture. A device whose answers differ is named. Taking a folder again changes nothing.
Images that were erased on request are not taken again.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pydantic import AwareDatetime, Field, ValidationError

from flows.production import scored
from flows.publishing import registry
from flows.repo.copies import record_copies
from tasks.common.checks import Frozen
from tasks.common.errors import EvergreenError, refuse_newer
from tasks.common.files import sha256_bytes
from tasks.common.params import load_params
from tasks.common.paths import main_checkout
from tasks.ingest.erasures import read_ledger, why_erased
from tasks.releases import bundle_store, rollout
from tasks.releases.store import Releases
from tasks.storage.blobs import Store

if TYPE_CHECKING:
    from monitoring.log.production_log import Log

SCHEMA_VERSION = 1
BATCH = 64  # images answered at once
LISTED = 10  # problems told to a person
AHEAD = timedelta(days=1)  # by which a device's clock may be wrong
MOST_BYTES = 64 << 20  # of an image, 1 << 20 of its JSON


class Capture(Frozen):
    """The JSON file of one capture; what the device answered is `answer`."""

    schema_version: int = Field(alias="schema")
    at: AwareDatetime
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    source: str | None = Field(default=None, max_length=500)
    key: str | None = Field(default=None, max_length=500)
    image: str = Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z_.-]{0,99}$")
    bundle: str = Field(pattern="^[0-9a-f]{64}$")
    answer: dict


@dataclass
class Collected:
    """What one command took."""

    taken: int = 0
    known: int = 0  # in the log already
    versions: set[str] = field(default_factory=set)
    differ: int = 0  # the device had given another label
    erased: int = 0  # of images that were erased on request
    problems: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Describe it for the terminal."""
        by = f", answered by {', '.join(sorted(self.versions))}" if self.versions else ""
        found = [f"{self.taken} captures are new in the production log{by}; {self.known} were there already"]
        if self.differ:
            found.append(f"  {self.differ} have another label than the device gave: its model or its Pillow differs")
        if self.erased:
            found.append(
                f"  {self.erased} are of images that were erased on request: delete them there and on the device"
            )
        more = len(self.problems) - LISTED
        found += [f"  not taken: {line}" for line in self.problems[:LISTED]]
        return [*found, f"  and {more} more"] if more > 0 else found


def collect(root: Path, where: str) -> Collected:
    """Take the captures under `where`, a folder or s3://bucket/prefix, into the production log.

    Raises EvergreenError if `where` is not a folder. A capture that cannot be taken is a line of the result.
    """
    from monitoring.log.production_log import open_log
    from tasks.releases.store import open_store
    from tasks.storage.places import open_blobs

    params = load_params(root / "params.yaml")
    if "://" not in where:
        if not Path(where).is_dir():
            raise EvergreenError(f"{where} is not a folder: expected one with captures, or s3://bucket/prefix")
        where = str(Path(where).resolve())
    captures, found = open_blobs(where, root, store=params.store), Collected()
    record_copies(root, "captures", [where])  # `evergreen forget` looks there
    stores = Stores(captures, open_store(params.store, root), open_log(root, params))
    known = known_bundles(main_checkout(root), stores.releases, params.bundle.name)
    for digest, batch in _by_bundle(captures, read_ledger(main_checkout(root)), found):
        if digest in known:
            _take(root, stores, known[digest], batch, params.capture.images == "full", found)
        else:
            why = f"the release store has no version or run with bundle {digest[:12]}"
            found.problems += [f"{key}: {why}" for key, _ in batch]
    return found


class Stores(NamedTuple):
    """What is read and written."""

    captures: Store
    releases: Releases
    log: "Log"


class Known(NamedTuple):
    """A bundle of the release store: the digest that it was published with, and the version or run it belongs to."""

    digest: str
    name: str


def known_bundles(root: Path, releases: Releases, name: str) -> dict[str, Known]:
    """Digest -> bundle, for all versions and runs: also those that were only tried, retired or taken from a held run.

    name: of the model, in version tags. A bundle with erased images has its old digest and its new one.
    """
    found = {
        run["bundle"]: run.get("version") or run_id for run_id, run in releases.runs().items() if run.get("bundle")
    }
    for version, tag in registry.versions(root, name).items():
        if digest := tag.trailer("Evergreen-Bundle"):
            found[digest] = version
    found |= {one.bundle: one.version for one in rollout.rollouts(releases)}
    found |= {pointer.bundle: pointer.version for pointer in releases.history()}
    known = {digest: Known(digest, version) for digest, version in found.items()}
    for key in releases.store.list("redacted/"):
        old = Path(key).stem
        if old in found:
            known[bundle_store.resolve(releases.store, old)] = known[old]
    return known


def _by_bundle(store: Store, ledger: Mapping, found: Collected) -> Iterator[tuple[str, list[tuple[str, Capture]]]]:
    """Batches of readable captures of one bundle: (its digest, [(key of the JSON, capture)])."""
    waiting: dict[str, list[tuple[str, Capture]]] = {}
    latest = datetime.now(UTC) + AHEAD
    for key in store.list(""):
        if not key.endswith(".json"):
            continue
        try:
            one = Capture.model_validate_json(_content(store, key, 1 << 20))
            refuse_newer(one.schema_version, SCHEMA_VERSION, key)
        except (ValidationError, EvergreenError) as error:
            found.problems.append(f"{key}: {str(error).splitlines()[0]}")
            continue
        if why_erased(ledger, one.sha256) is not None:
            found.erased += 1
            continue
        if one.at > latest:
            found.problems.append(f"{key}: {one.at:%Y-%m-%d %H:%M} is in the future: set the device's clock")
            continue
        batch = waiting.setdefault(one.bundle, [])
        batch.append((key, one))
        if len(batch) == BATCH:
            yield one.bundle, waiting.pop(one.bundle)
    yield from waiting.items()


def _take(
    root: Path, stores: Stores, known: Known, batch: list[tuple[str, Capture]], keep: bool, found: Collected
) -> None:
    """Answer and log the captures of `batch`, all of one bundle, that the log lacks. keep: their images, too."""
    from monitoring.log.rows import Answer, log_row, log_table
    from serving.live import Model
    from serving.predictor import Predictor
    from tasks.releases.store import cached_bundle

    (digest, version), log = known, stores.log
    try:
        model = Model(Predictor(cached_bundle(stores.releases, digest, root), known_as=digest), version)
    except EvergreenError as error:  # it was retired, or its run was rejected long ago
        why = " ".join(str(error).split())[:300]
        found.problems += [f"{key}: the model of {version} cannot be read: {why}" for key, _ in batch]
        return
    first, last = min(one.at for _, one in batch), max(one.at for _, one in batch)
    rows, ids = [], {one.sha256 for _, one in batch}
    table = log.answers(ids, first, last + timedelta(microseconds=1), ["id", "at", "bundle"])
    logged: set[tuple[str, datetime]] = {(row["id"], row["at"]) for row in table.to_pylist() if row["bundle"] == digest}
    readable = []
    for key, one in batch:
        if (one.sha256, one.at) in logged:
            found.known += 1
            continue
        try:
            image = _content(stores.captures, f"{key.rpartition('/')[0]}/{one.image}".lstrip("/"), MOST_BYTES)
        except EvergreenError as error:
            found.problems.append(f"{key}: {error}")
            continue
        if (sha256 := sha256_bytes(image)) != one.sha256:
            found.problems.append(f"{key}: its image has sha256 {sha256[:12]}, {one.sha256[:12]} expected")
            continue
        logged.add((one.sha256, one.at))  # the folder may lie there twice
        readable.append((one, image))
    for (one, image), said in zip(readable, model.predictor.predict([image for _, image in readable]), strict=True):
        answer = Answer(image, said, model, one.source, one.at, None, one.key)
        rows.append(log_row(answer, keep, one.sha256))
        label = list(said.label) if isinstance(said.label, tuple) else said.label
        found.differ += label != one.answer.get("label")
    if rows:
        log.append(log_table(rows, log.task))
        scored.note(root, digest, min(one.at for one, _ in readable), max(one.at for one, _ in readable))
        found.taken += len(rows)
        found.versions.add(version)


def _content(store: Store, key: str, most: int) -> bytes:
    """The file `key`. Raises EvergreenError if it is missing or larger than `most` bytes."""
    try:
        size = store.about(key)[0]
    except (FileNotFoundError, KeyError):
        raise EvergreenError(f"{key} is missing") from None
    if size > most:
        raise EvergreenError(f"{key} has {size} bytes, at most {most} are read")
    return store.read(key)[0]
