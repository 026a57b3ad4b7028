"""The page and figures of a refusal, which outlive the failed stage in `.evergreen/validation/`."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from tasks.common.files import atomic_path, write_json
from tasks.common.params import ImagesParams
from tasks.common.paths import state_dir
from tasks.dataset.shards import BatchManifest
from tasks.stages.validate import page as validation_page
from tasks.stages.validate.table import Findings, SampleTable, labels_of, report


def keep_page(
    root: Path, table: SampleTable, found: Findings, manifests: list[BatchManifest], images: ImagesParams, refused: dict
) -> Path:
    """Write result and page of a refusal to `.evergreen/validation/`: a failed stage has no outputs."""
    stem = state_dir(root) / "validation" / refused["what"]
    about = report(found, table, manifests, refused) | {"opinions": found.opinions}
    evidence = validation_page.tiles(root / "data", _suspects(table, found, refused["what"]), images.max_pixels)
    write_json(stem.with_suffix(".json"), about)
    page = stem.with_suffix(".html")
    write_text(page, validation_page.render(about, tiles(root, table, images), evidence))
    return page


def _suspects(table: SampleTable, found: Findings, batch: str) -> pa.Table:
    """A few images of `batch` that may be labelled wrong, with what they are labelled as and look like as `detail`.

    Those that the probe doubts most; without a probe, some labelled as a class that failed its noise check.
    """
    if found.opinions and found.opinions["images"]:
        place = {one: row for row, one in enumerate(table.ids)}
        told = found.opinions["images"][: validation_page.TILES]
        shown = table.samples.select(["shard", "row", "status"]).take(pa.array([place[one["id"]] for one in told]))
        words = [f"labelled {one['given']}, looks like {one['seen']}" for one in told]
        return shown.append_column("detail", pa.array(words, pa.string()))
    failed = {check.name.removeprefix("noise.") for check in found.of_batch.get(batch, []) if check.status != "pass"}
    rows = np.flatnonzero(table.training & (table.batch == batch))
    rows = [row for row in rows if failed.intersection(labels_of(table.labels[row]))][: validation_page.TILES]
    shown = table.samples.select(["shard", "row", "status"]).take(pa.array(rows, pa.int64()))
    return shown.append_column(
        "detail", pa.array([f"labelled {', '.join(labels_of(table.labels[row]))}" for row in rows], pa.string())
    )


def tiles(root: Path, table: SampleTable, images: ImagesParams) -> list[dict]:
    """The quarantined images of `table`, for the page."""
    return validation_page.tiles(root / "data", table.refused_rows(), images.max_pixels)


def write_text(file: Path, text: str) -> None:
    """Replace `file` by `text`."""
    with atomic_path(file) as temporary:
        temporary.write_text(text, encoding="utf-8")
