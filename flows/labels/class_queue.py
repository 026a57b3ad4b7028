"""`evergreen classes queue`: the images of a split class, for a person to say which part each is."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from flows.labels.define import guides
from flows.labels.samples import data_classes, find_samples, iter_images
from flows.project.ingest import restored_data
from monitoring.review.asked import Asked
from monitoring.review.forms import Forms, write
from monitoring.review.page import Frame
from tasks.common.cells import harmless_cell
from tasks.common.errors import DataError
from tasks.common.files import atomic_path
from tasks.common.params import load_params
from tasks.common.private import make_folder
from tasks.common.text import join_names
from tasks.dataset.decode import file_suffix
from tasks.dataset.shards import iter_bytes, read_paths, read_tombstones
from tasks.labels.changes import read_changes
from tasks.labels.effective import effective_samples
from tasks.labels.parts import likeliest_parts
from tasks.labels.reading import is_decided, names_of
from tasks.labels.taxonomy import Taxonomy, compose

BLOCK = 64  # images in memory at once
COLUMNS = ("id", "label", "given", "suggested", "confidence", "split", "path", "image")


@dataclass(frozen=True)
class Waiting:
    """Images that wait since a split, the likeliest assignment first."""

    name: str
    parts: tuple[str, ...]
    rows: list[dict]  # COLUMNS without label and image, and shard, row
    labelled: dict[str, int]  # part -> images that have it already


def waiting_images(root: Path, name: str | None = None) -> Waiting:
    """The undecided images of class `name`; None: of the class that was split last. Raises DataError without any."""
    restored_data(root)
    params, data = load_params(root / "params.yaml"), root / "data"
    taxonomy = compose(read_changes(data))
    name = name or next(reversed(taxonomy.splits), None)
    parts = taxonomy.read(name).among if name else ()
    if not parts:
        listed = join_names(map(repr, taxonomy.splits)) or "none"
        raise DataError(f"{name!r} was not split into parts: classes that were split: {listed}")
    samples = effective_samples(data, taxonomy, read_tombstones(root), params.labels.consensus)
    labels = samples["label"].to_pylist()
    waits = np.flatnonzero([_waits(label, name, taxonomy) for label in labels])
    number = {part: place for place, part in enumerate(parts)}
    given = {row: next((one for one in names_of(label) if one in number), None) for row, label in enumerate(labels)}
    known = np.array([row for row, part in given.items() if part is not None], np.int64)
    counts = {part: sum(part == one for one in given.values()) for part in parts}
    if not len(waits):
        return Waiting(name, parts, [], counts)

    from tasks.models.pretrained import pretrained_features

    both = samples.take(pa.array(np.concatenate([waits, known]))).select(["shard", "row"])
    x = pretrained_features(root, both, embed=params.embed, images=params.images)[:]
    of = np.array([number[given[row]] for row in known], np.int64)
    part, confidence, order = likeliest_parts(x[: len(waits)], x[len(waits) :], of, len(parts))
    examples = len(set(of.tolist())) > 1
    rows = []
    for place in order:
        row = samples.slice(int(waits[place]), 1).to_pylist()[0]
        suggested = parts[part[place]] if examples else f"cluster {part[place] + 1}"
        about = {"given": "|".join(names_of(row["label"])), "suggested": suggested}
        rows.append({**row, **about, "confidence": f"{confidence[place]:.3f}"})
    paths = read_paths(data, [row["shard"] for row in rows], [row["row"] for row in rows])
    return Waiting(name, parts, [row | {"path": path or ""} for row, path in zip(rows, paths, strict=True)], counts)


def write_queue(root: Path, waiting: Waiting, file: Path) -> None:
    """Write a CSV to fill in (column `label`), with the images in a folder of the same name."""
    folder = file.with_suffix("")
    make_folder(folder)
    pictures = {}
    for shard in sorted({row["shard"] for row in waiting.rows}):
        of = {row["row"]: row["id"] for row in waiting.rows if row["shard"] == shard}
        for place, content in iter_bytes(root / "data" / shard, sorted(of)):
            picture = folder / f"{of[place]}{file_suffix(content)}"
            with atomic_path(picture) as temporary:
                temporary.write_bytes(content)
            pictures[of[place]] = f"{folder.name}/{picture.name}"
    with atomic_path(file) as temporary, open(temporary, "w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(COLUMNS)
        for row in waiting.rows:
            found = row | {"label": "", "image": pictures[row["id"]]}
            writer.writerow([harmless_cell(str(found[name] or "")) for name in COLUMNS])


def write_forms(root: Path, waiting: Waiting, forms: Forms) -> None:
    """Write the images as a page to label on, or as tasks of Label Studio: every class can be chosen, parts first."""
    params, data = load_params(root / "params.yaml"), root / "data"
    classes = list(dict.fromkeys([*waiting.parts, *data_classes(root)]))
    rows = {row["id"]: row for row in waiting.rows}

    def shown() -> Iterator[tuple[Asked, bytes]]:
        for start in range(0, len(waiting.rows), BLOCK):
            names = [row["id"] for row in waiting.rows[start : start + BLOCK]]
            images = dict(iter_images(data, find_samples(data, names, read_tombstones(root))))
            yield from ((_asked(rows[name], waiting), images[name]) for name in names if name in images)

    pixels = params.images.max_pixels
    frame = Frame(classes, params.data.task == "multilabel", pixels, guides(root, classes, pixels))
    write(forms, len(rows), shown, frame)


def _asked(row: dict, waiting: Waiting) -> Asked:
    known = row["suggested"] in waiting.parts
    return Asked(
        id=row["id"],
        why="which part",
        given=row["given"],
        prediction=row["suggested"] if known else None,
        confidence=float(row["confidence"]) if known else None,
        detail="" if known else f"looks like others of {row['suggested']}",
        path=row["path"] or None,
    )


def _waits(label: str | list[str] | None, name: str, taxonomy: Taxonomy) -> bool:
    mine = taxonomy.atoms(name)
    return not is_decided(label, taxonomy) and any(
        taxonomy.read(one).among and taxonomy.atoms(one) & mine for one in names_of(label)
    )
