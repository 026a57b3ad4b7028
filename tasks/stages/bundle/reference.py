"""Choose and build a model's own drift reference from held-out images.

Monitoring compares production with this, not with the last window, so that slow drift stays visible. Rows come from
the calibration and test splits: on training images the model would be more certain than on any new ones. If enough
of them are production samples that came back with a label, the newest of those are the reference. A model retrained
for a changed camera is judged on that camera's images; compared with all older ones, they would always count as drift.
K classes, D feature dimensions, S the side of the model's input in pixels.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.common.artifacts import stage_output
from tasks.common.cores import on_all_cores
from tasks.common.params import ImagesParams
from tasks.common.schemas import MEASURES, MEASURING
from tasks.dataset.pixels import pixel_table
from tasks.inference.onnx_model import BATCH, OnnxModel, Outputs
from tasks.inference.ood import scores as ood
from tasks.releases.reference import schema, thumbnail

ENOUGH = 60  # held-out production images that can stand for what the model will see


def choose(rows: dict[str, pa.Table], origins: pa.Table, count: int) -> pa.Table:
    """Up to `count` held-out rows, those with the smallest ids.

    An id is a hash, so this is a random sample that growing data hardly changes. Images that were picked for being hard
    are left out. rows: of artifacts.training_rows; origins: columns id, origin.
    """
    held_out = pa.concat_tables([rows["calibration"], rows["test"]])
    fair = held_out.filter(pc.is_in(held_out["picked"], pa.array(MEASURING)))
    held_out = fair if len(fair) else held_out  # in a data set of before, perhaps nothing says how it was picked
    held_out = _newest_production(held_out, origins)
    return held_out.take(pc.sort_indices(held_out["id"])[:count])


def _newest_production(held_out: pa.Table, origins: pa.Table) -> pa.Table:
    """The newest batches of production samples with ENOUGH rows together; `held_out` if there are too few."""
    origin = origins["origin"].take(pc.index_in(held_out["id"], origins["id"].combine_chunks()))
    came_back = held_out.filter(pc.is_in(origin, pa.array(["production", "review"])))
    last = came_back.append_column("at", pa.array(range(len(came_back)))).group_by("batch").aggregate([("at", "max")])
    chosen: list[str] = []
    for batch in last.sort_by([("at_max", "descending")])[
        "batch"
    ].to_pylist():  # rows are in canonical order: as batches arrived
        chosen.append(batch)
        found = came_back.filter(pc.is_in(came_back["batch"], pa.array(chosen)))
        if len(found) >= ENOUGH:
            return found
    return held_out


def build(root: Path, samples: pa.Table, model: Path, images: ImagesParams, about_ood: dict, task: str) -> pa.Table:
    """The reference table of `samples` (accepted_schema) under the exported `model`; see `schema`."""
    network = OnnxModel(model)
    tensors = ood.read_tensors(root / "artifacts/calibrate/ood.safetensors")

    def seen(pixels: np.ndarray) -> tuple[Outputs, np.ndarray, list[bytes]]:
        out = network(pixels)
        scores = ood.score(out.features, out.logits, about_ood, tensors)
        return out, scores, [thumbnail(image) for image in pixels]

    blocks = (pixels for _, pixels in pixel_table(root, samples, images).batches(BATCH))
    outputs, scores, thumbnails = zip(*on_all_cores(seen, blocks), strict=True)
    measures = pq.read_table(
        stage_output(root / "artifacts/inspect/samples.parquet", "inspect"), columns=["id", *(m.name for m in MEASURES)]
    )
    measures = measures.take(pc.index_in(samples["id"], measures["id"].combine_chunks()))
    found = {
        "id": samples["id"],
        "split": samples["split"],
        "label": samples["label"],
        "features": [row for out in outputs for row in out.features],
        "probabilities": [row for out in outputs for row in out.probabilities],
        "ood": np.concatenate(scores),
        **{field.name: measures[field.name] for field in MEASURES},
        "thumbnail": [image for block in thumbnails for image in block],
    }
    columns = schema(task)
    return pa.table(
        [
            pa.chunked_array([pa.array(v, f.type)]) if isinstance(v, list | np.ndarray) else v.cast(f.type)
            for f, v in ((field, found[field.name]) for field in columns)
        ],
        schema=columns,
    )
