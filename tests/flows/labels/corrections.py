"""A project in git and DVC with one batch of labelled images, for tests of corrections."""

import subprocess
from pathlib import Path

import pyarrow as pa

from flows.labels.people import read_words
from tasks.common.params import load_params
from tasks.dataset.shards import read_tombstones
from tasks.labels.annotations import effective_labels, read_annotations
from tests.support import versions_project


def project(root: Path) -> tuple[Path, list[str]]:
    """The project, and the ids of five images labelled "cat"."""
    versions_project.start(root)
    versions_project.add_batch(root, 1)
    table = versions_project.rows(1)
    return root, [row["id"] for row in table.select(["id", "label"]).to_pylist() if row["label"] == "cat"][1:6]


def labels_of(root: Path, ids: list[str]) -> list[str | None]:
    """The labels that count."""
    rows = {row["id"]: row["label"] for row in versions_project.rows(1).select(["id", "label"]).to_pylist()}
    first = pa.chunked_array([pa.array([rows[one] for one in ids], pa.string())])
    annotations = read_annotations(root / "data", read_tombstones(root))
    return effective_labels(pa.chunked_array([pa.array(ids)]), first, annotations).to_pylist()


def answers_in(root: Path) -> list[tuple[str, str]]:
    """(id, label) of what ann said, in order."""
    return [
        (row["id"], row["label"]) for row in read_annotations(root / "data").to_pylist() if row["annotator"] == "ann"
    ]


def commits(root: Path) -> list[str]:
    """Subjects of the commits, the newest first."""
    done = subprocess.run(["git", "-C", str(root), "log", "--format=%s"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def standing_label(root: Path, image: str) -> str | None:
    """The label of one image of data/ that the next run trains on."""
    return read_words(root, load_params(root / "params.yaml")).now()[image]
