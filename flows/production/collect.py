"""`evergreen collect`: take what edge devices captured into the production log.

A capture is an image and a JSON file with the same name (see tasks.export.edge_runner). What a device computed is not
taken over: the version that it ran answers the image again here, so features and measures are those of any other
answer, at the time of the capture. A device whose answers differ is named. Taking a folder again changes nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import AwareDatetime, Field, ValidationError

from flows.production import scored
from tasks.common.checks import Frozen
from tasks.common.errors import EvergreenError, refuse_newer
from tasks.common.files import sha256_bytes
from tasks.common.params import Params, load_params
from tasks.storage.blobs import Store

SCHEMA_VERSION = 1
BATCH = 64  # images answered at once
LISTED = 10  # problems told to a person
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
    problems: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Describe it for the terminal."""
        by = f", answered by {', '.join(sorted(self.versions))}" if self.versions else ""
        found = [f"{self.taken} captures are new in the production log{by}; {self.known} were there already"]
        if self.differ:
            found.append(f"  {self.differ} have another label than the device gave: its model or its Pillow differs")
        more = len(self.problems) - LISTED
        found += [f"  not taken: {line}" for line in self.problems[:LISTED]]
        return [*found, f"  and {more} more"] if more > 0 else found


def collect(root: Path, where: str) -> Collected:
    """Take the captures under `where`, a folder or s3://bucket/prefix, into the production log.

    Raises EvergreenError if `where` is not a folder. A capture that cannot be taken is a line of the result.
    """
    from monitoring.log.production_log import open_log
    from tasks.storage.places import open_blobs

    params = load_params(root / "params.yaml")
    if "://" not in where:
        if not Path(where).is_dir():
            raise EvergreenError(f"{where} is not a folder: expected one with captures, or s3://bucket/prefix")
        where = str(Path(where).resolve())
    store, log, found = open_blobs(where, root, store=params.store), open_log(root, params), Collected()
    for batch in _by_bundle(store, found):
        _take(root, params, log, store, batch, found)
    return found


def _by_bundle(store: Store, found: Collected) -> Iterator[list[tuple[str, Capture]]]:
    """Batches of readable captures of one bundle: (key of the JSON, capture)."""
    waiting: dict[str, list[tuple[str, Capture]]] = {}
    for key in store.list(""):
        if not key.endswith(".json"):
            continue
        try:
            one = Capture.model_validate_json(_content(store, key, 1 << 20))
            refuse_newer(one.schema_version, SCHEMA_VERSION, key)
        except (ValidationError, EvergreenError) as error:
            found.problems.append(f"{key}: {str(error).splitlines()[0]}")
            continue
        batch = waiting.setdefault(one.bundle, [])
        batch.append((key, one))
        if len(batch) == BATCH:
            yield waiting.pop(one.bundle)
    yield from waiting.values()


def _take(root: Path, params: Params, log, store: Store, batch: list[tuple[str, Capture]], found: Collected) -> None:
    """Answer and log the captures of `batch`, all of one bundle, that the log lacks."""
    from monitoring.log.rows import Answer, log_row, log_table
    from serving.live import Model
    from serving.predictor import Predictor
    from tasks.releases.store import cached_bundle, open_store

    digest = batch[0][1].bundle
    releases = open_store(params.store, root)
    version = next((one.version for one in releases.history() if one.bundle == digest), None)
    if version is None:
        found.problems += [f"{key}: bundle {digest[:12]} was never live here" for key, _ in batch]
        return
    model = Model(Predictor(cached_bundle(releases, digest, root)), version)
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
            image = _content(store, f"{key.rpartition('/')[0]}/{one.image}".lstrip("/"), MOST_BYTES)
        except EvergreenError as error:
            found.problems.append(f"{key}: {error}")
            continue
        if (sha256 := sha256_bytes(image)) != one.sha256:
            found.problems.append(f"{key}: its image has sha256 {sha256[:12]}, {one.sha256[:12]} expected")
            continue
        readable.append((one, image))
    for (one, image), said in zip(readable, model.predictor.predict([image for _, image in readable]), strict=True):
        answer = Answer(image, said, model, one.source, one.at, None, one.key)
        rows.append(log_row(answer, params.capture.images == "full", one.sha256))
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
