"""The review queue as a table to fill in, with its images in a folder of the same name."""

import csv
from collections.abc import Iterable
from pathlib import Path

from monitoring.review.asked import Asked, Label
from tasks.common.cells import harmless_cell
from tasks.common.files import atomic_path
from tasks.common.private import make_folder
from tasks.dataset.decode import file_suffix

COLUMNS = ("id", "label", "comment", "given", "prediction", "confidence", "why", "detail", "source", "at")


def write(path: Path, entries: Iterable[tuple[Asked, bytes | None]]) -> None:
    """Write the table to `path`, and each (entry's image) into the folder `path` without its suffix."""
    folder = path.with_suffix("")
    make_folder(folder)
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, "image", "key", "path"])
        for entry, image in entries:
            shown = ""
            if image:
                picture = folder / f"{entry.id}{file_suffix(image)}"
                with atomic_path(picture) as part:
                    part.write_bytes(image)
                shown = f"{folder.name}/{picture.name}"
            confidence = "" if entry.confidence is None else f"{entry.confidence:.3f}"
            row = [entry.id, "", "", _cell(entry.given), _cell(entry.prediction), confidence, entry.why, entry.detail]
            row += [entry.source or "", entry.at.isoformat() if entry.at else "", shown]
            row += [entry.key or "", entry.path or ""]
            writer.writerow([harmless_cell(value) for value in row])  # `evergreen label` reads id, label and comment


def _cell(label: Label) -> str:
    return label if isinstance(label, str) else "|".join(label or [])
