"""`evergreen queue`: write the samples that wait for a label, in forms to label them.

A sample is asked for once. `flows.production.labels` takes the labels back.
"""

import csv
import getpass
from datetime import timedelta
from pathlib import Path

from monitoring.log.production_log import Log, open_log
from monitoring.review import label_studio, page
from monitoring.review import queue as review_queue
from monitoring.review.queue import Queued
from tasks.common.cells import harmless_cell
from tasks.common.files import atomic_path, write_json
from tasks.common.params import Params, load_params
from tasks.dataset.decode import file_suffix
from tasks.releases.bundle import read
from tasks.releases.store import cached_bundle, open_store


def export_queue(
    root: Path,
    *,
    pick_hours: float | None = None,
    csv_file: Path | None = None,
    label_studio_file: Path | None = None,
    html: Path | None = None,
    home: str | None = None,
) -> tuple[list[Queued], list[Queued]]:
    """Write the samples that wait for a label; returns (those samples, the ones picked by this call).

    pick_hours: first pick from the answers of this many hours before the newest one. csv_file: a table to fill in, with
    the images in a folder of the same name. label_studio_file: tasks, with the labelling interface next to them (.xml).
    html: a page to label on; home: the address of its back link. Raises EvergreenError.
    """
    params = load_params(root / "params.yaml")
    log = open_log(root, params)
    picked = []
    if pick_hours is not None and (last := log.last_at()) is not None:
        end = last + timedelta(microseconds=1)
        because = f"requested by {getpass.getuser()}"
        picked = review_queue.enqueue(log, params.review, end - timedelta(hours=pick_hours), end, because)
    entries = review_queue.waiting(log)
    classes = label_classes(root, params)
    multilabel, pixels = params.data.task == "multilabel", params.images.max_pixels
    if csv_file:
        _write_csv(csv_file, log, entries)
    if label_studio_file:
        write_json(
            label_studio_file, [label_studio.task(*found, pixels) for found in review_queue.images(log, entries)]
        )
        with atomic_path(label_studio_file.with_suffix(".xml")) as temporary:
            temporary.write_text(label_studio.config(classes, multilabel), encoding="utf-8")
    if html:
        page.write(html, review_queue.images(log, entries), len(entries), classes, multilabel, pixels, home)
    return entries, picked


def _write_csv(path: Path, log: Log, entries: list[Queued]) -> None:
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    names = ["id", "label", "prediction", "confidence", "why", "source", "at", "image", "key", "path"]
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for entry, image in review_queue.images(log, entries):
            shown = ""
            if image:
                picture = folder / f"{entry.id}{file_suffix(image)}"
                with atomic_path(picture) as part:
                    part.write_bytes(image)
                shown = f"{folder.name}/{picture.name}"
            said = entry.prediction if isinstance(entry.prediction, str) else "|".join(entry.prediction or [])
            confidence = "" if entry.confidence is None else f"{entry.confidence:.3f}"
            row = [entry.id, "", said, confidence, entry.why, entry.source or "", entry.at.isoformat(), shown]
            row += [entry.key or "", entry.path or ""]
            writer.writerow([harmless_cell(value) for value in row])  # `evergreen label` reads id, label and annotator


def label_classes(root: Path, params: Params) -> list[str]:
    """List the allowed labels: data.classes, else the classes of the live model; [] if there is neither."""
    if params.data.classes:
        return list(params.data.classes)
    releases = open_store(params.store, root)
    pointer = releases.live()
    if pointer is None:
        return []
    return read(cached_bundle(releases, pointer.bundle, root))["classes"]
