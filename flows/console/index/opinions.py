"""What a model says of the images of data/: the live release, else the newest run or artifacts/.

Test and hard images have the exported model's answer (artifacts/evaluate), all labelled ones the out-of-fold prediction
of `clean`. K classes.
"""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flows.console.index.data_rows import Opinion, floats
from flows.console.index.facets import label_text, ood_band
from flows.repo.objects import ObjectLost, open_objects, outs_at
from tasks.common.errors import EvergreenError
from tasks.common.files import content_key
from tasks.common.paths import main_checkout, state_dir
from tasks.inference import thresholds
from tasks.releases import bundle_store
from tasks.releases.pointer import Pointer
from tasks.releases.store import Releases

PREDICTIONS, CLEANED, ABOUT = (
    "artifacts/evaluate/predictions.parquet",
    "artifacts/clean/labels.parquet",
    "artifacts/bundle/bundle.json",
)


@dataclass(frozen=True)
class Source:
    """Where opinions come from."""

    key: str  # changes with the content
    version: str  # of the model, or of the run
    read: Callable[[], dict[str, bytes]]  # the files that are there, by name


def find_source(root: Path, releases: Releases, known: str) -> Source | None:
    """The source to read now; None if there is none, or if it is the one whose key is `known`."""
    live = releases.live()
    if live is not None:
        if (key := f"release {live.git_rev} {live.bundle}") == known:
            return None
        if (found := _in_release(root, releases, live)) is not None:
            return Source(key, live.version, found)
    trees = sorted((state_dir(root) / "runs").glob(f"*/tree/{PREDICTIONS}"), reverse=True)
    tree = trees[0].parents[2] if trees else root
    present = [tree / name for name in (PREDICTIONS, CLEANED, ABOUT) if (tree / name).is_file()]
    if not present or present == [tree / ABOUT]:
        return None
    key = content_key([(str(file), file.stat().st_mtime_ns) for file in present])
    if key == known:
        return None
    run = tree.parent.name if trees else (live.version if live else "artifacts")
    return Source(key, run, lambda: {str(file.relative_to(tree)): file.read_bytes() for file in present})


def _in_release(root: Path, releases: Releases, live: Pointer) -> Callable[[], dict[str, bytes]] | None:
    """Reads the files of a release from DVC's objects; None where its commit has none."""
    try:
        outs = outs_at(root, live.git_rev)
    except EvergreenError:  # the commit is not here
        return None
    folders = {name: outs[str(Path(name).parent)] for name in (PREDICTIONS, CLEANED) if str(Path(name).parent) in outs}
    if not folders:
        return None

    def read() -> dict[str, bytes]:
        found = {}
        with open_objects(main_checkout(root)) as objects:
            for name, folder in folders.items():
                try:
                    found[name] = objects.read(objects.files(folder)[Path(name).name])
                except (ObjectLost, KeyError):
                    continue
        if (about := bundle_store.read_file(releases.store, live.bundle, "bundle.json")) is not None:
            found[ABOUT] = about
        return found

    return read


def read_opinions(files: dict[str, bytes], task: str) -> tuple[list[str], dict[str, Opinion]]:
    """(classes, id -> opinion) of a source's files."""
    about = json.loads(files.get(ABOUT, b"{}"))
    classes = list(about.get("classes", []))
    found = _of_clean(files[CLEANED]) if CLEANED in files else {}
    if PREDICTIONS in files and classes:
        found |= _of_model(files[PREDICTIONS], about, classes, task)
    return classes, found


def _of_clean(content: bytes) -> dict[str, Opinion]:
    table = pq.read_table(pa.BufferReader(content), columns=["id", "predicted", "confidence"])
    rows = zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
    return {
        id_: Opinion(label_text(predicted), confidence) for id_, predicted, confidence in rows if predicted is not None
    }


def _of_model(content: bytes, about: dict, classes: Sequence[str], task: str) -> dict[str, Opinion]:
    table = pq.read_table(io.BytesIO(content), columns=["id", "probabilities", "ood"])
    if not len(table):
        return {}
    p = np.array(table["probabilities"].to_pylist(), np.float32)
    if p.ndim != 2 or p.shape[1] != len(classes):
        return {}
    rule = thresholds.make_rule(task, classes, about.get("thresholds"), about.get("weights"))
    chosen, sure = thresholds.answers(p, rule), thresholds.confidence(p, rule)
    limit = about.get("ood", {}).get("threshold")
    found = {}
    for row, (id_, score) in enumerate(zip(table["id"].to_pylist(), table["ood"].to_pylist(), strict=True)):
        if task == "multiclass":
            said = classes[int(chosen[row])]
        else:
            said = label_text([name for name, there in zip(classes, chosen[row], strict=True) if there])
        found[id_] = Opinion(said, float(sure[row]), score, ood_band(score, limit), floats(p[row]))
    return found


def ood_threshold(releases: Releases, bundle: str | None) -> float | None:
    """The score above which the model of a bundle calls an image unfamiliar; None if it is not known."""
    try:
        content = bundle_store.read_file(releases.store, bundle, "bundle.json") if bundle else None
        return json.loads(content)["ood"]["threshold"] if content else None
    except (EvergreenError, ValueError, KeyError, TypeError):
        return None
