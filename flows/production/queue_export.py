"""`evergreen queue`: write the samples that wait for a label, in forms to label them.

A sample is asked for once. `flows.production.labels` takes the labels back.
"""

import getpass
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from flows.labels.classes import current_taxonomy
from flows.labels.data_queue import DataQueue
from monitoring.log.production_log import Log, open_log
from monitoring.review import queue as review_queue
from monitoring.review.asked import Asked, of_queued
from monitoring.review.forms import Forms, write
from monitoring.review.page import Frame
from monitoring.review.queue import Queued
from tasks.common.params import Params, load_params
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
    write_forms(root, params, log, entries, Forms(csv_file, label_studio_file, html), home)
    return entries, picked


def write_forms(
    root: Path, params: Params, log: Log, entries: list[Queued], forms: Forms, home: str | None = None
) -> None:
    """Write `entries` of the production queue, and the images of data/ that wait, as `forms`."""

    data = DataQueue(root, params)

    def shown() -> Iterator[tuple[Asked, bytes | None]]:
        yield from ((of_queued(entry), image) for entry, image in review_queue.images(log, entries))
        yield from data.shown()

    frame = Frame(
        label_classes(root, params) or data.classes(),
        params.data.task == "multilabel",
        params.images.max_pixels,
        home=home,
    )
    write(forms, len(entries) + len(data.entries), shown, frame)


def label_classes(root: Path, params: Params) -> list[str]:
    """List the allowed labels: data.classes, else those of the live model, as they are called today, and new ones.

    [] if there is neither.
    """
    taxonomy, known = current_taxonomy(root), params.data.classes
    if not known:
        releases = open_store(params.store, root)
        if (pointer := releases.live()) is None:
            return []
        known = read(cached_bundle(releases, pointer.bundle, root))["classes"]
    return list(dict.fromkeys([*taxonomy.current(known), *taxonomy.classes]))
