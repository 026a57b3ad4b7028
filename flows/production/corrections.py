"""What people said about a sample in the data set counts for the model's answer about it, too.

A production sample that was labelled lies in the data set, where people correct, exclude and undo. The log hears of it
as one more label. Every monitor run looks, so a kill, a merge or a pull of data/ loses nothing.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from flows.labels.samples import find_samples
from monitoring.log.production_log import Log, majority_labels
from monitoring.log.schema import DEFAULTS, late_labels_schema
from tasks.common.class_names import composed
from tasks.common.schemas import label_type
from tasks.dataset.shards import read_tombstones
from tasks.labels.annotations import decide_all, read_annotations
from tasks.labels.taxonomy import Taxonomy

BY = "data set"  # stands for the annotator: several people may have decided


def log_corrections(root: Path, log: Log, taxonomy: Taxonomy) -> int:
    """Add what the data set decides now about labelled answers, where people spoke since; returns how many labels."""
    labels = log.labels()
    if not len(labels) or not (root / "data" / "dataset.json").is_file():
        return 0
    annotations = read_annotations(root / "data", read_tombstones(root))
    spoken = _spoken_since(annotations, labels)
    if not spoken:
        return 0
    samples = find_samples(root / "data", spoken, read_tombstones(root))
    given = composed(samples["label"].cast(label_type(log.task)))
    found = decide_all(samples["id"], given, annotations, taxonomy)
    known = majority_labels(labels, taxonomy)
    truth = dict(zip(known["id"].to_pylist(), known["label"].to_pylist(), strict=True))
    rows = []
    for row, decision in found.items():
        name = samples["id"][row].as_py()
        if decision.label != truth.get(name):
            said = {"annotator": BY, "role": "reviewer", "label": decision.label}
            rows.append(DEFAULTS | {"id": name, "at": spoken[name]} | said)
    log.add_labels(pa.Table.from_pylist(rows, schema=late_labels_schema(log.task)))
    return len(rows)


def _spoken_since(annotations: pa.Table, labels: pa.Table) -> Mapping[str, datetime]:
    """Id -> time of the newest annotation, of images with an annotation newer than their labels in the log."""
    logged = labels.group_by("id").aggregate([("at", "max")])
    annotated = annotations.filter(pc.is_in(annotations["id"], labels["id"].combine_chunks()))
    newest = annotated.filter(pc.is_valid(annotated["at"])).group_by("id").aggregate([("at", "max")])
    before = logged["at_max"].take(pc.index_in(newest["id"], logged["id"].combine_chunks()))
    later = newest.filter(pc.greater(newest["at_max"], before))
    return dict(zip(later["id"].to_pylist(), later["at_max"].to_pylist(), strict=True))
