"""Is the evidence about the model that would be published, and about the images of its data?

The gate reads answers from a file. So it asks whether the file holds every test and hard image with its label, and
whether the model in the bundle gives these answers.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.common.artifacts import training_rows
from tasks.common.params import ImagesParams
from tasks.dataset.pixels import pixel_table
from tasks.gate.evidence import Unusable
from tasks.inference.onnx_model import OnnxModel
from tasks.releases.bundle import read

ASKED = 64  # images on which the bundle's model is asked again


def held_out_samples(root: Path) -> pa.Table:
    """id, split and label of every image that evaluate must have measured."""
    rows = training_rows(root)
    return pa.concat_tables([rows[split].select(["id", "split", "label"]) for split in ("test", "hard")])


def check_images(predictions: pa.Table, samples: pa.Table) -> None:
    """Raise Unusable if `predictions` are not of exactly `samples` (columns id, split, label), with these labels."""
    found, expected = (
        {row.pop("id"): row for row in table.select(["id", "split", "label"]).to_pylist()}
        for table in (predictions, samples)
    )
    differs = {id_ for id_ in found.keys() | expected.keys() if found.get(id_) != expected.get(id_)}
    if differs:
        raise Unusable(
            "images",
            f"predictions hold {len(found)} images, the test and hard splits {len(expected)}: {len(differs)} are "
            "missing, added, or have another split or label; run evaluate again",
            min(differs),
        )


def bundle_difference(root: Path, predictions: pa.Table) -> float:
    """Largest difference between `predictions` and the answers of the model in artifacts/bundle, on some images.

    The images are those of the smallest ids, which are hashes. Infinite if the model answers other classes, or NaN.
    """
    bundle = root / "artifacts/bundle"
    chosen = predictions.take(pc.sort_indices(predictions["id"])[:ASKED])
    accepted = pq.read_table(root / "artifacts/validate/accepted.parquet", columns=["id", "shard", "row"])
    place = pc.index_in(chosen["id"], accepted["id"].combine_chunks())
    if place.null_count:  # check_images says which
        return float("inf")
    pixels = pixel_table(root, accepted.take(place), ImagesParams(**read(bundle)["preprocess"]))
    said = OnnxModel(bundle / "model.onnx")(pixels[:]).probabilities
    stated = chosen["probabilities"].to_pylist()
    if {len(row or ()) for row in stated} != {said.shape[1]}:
        return float("inf")
    difference = float(np.abs(said - np.array(stated, np.float32)).max())
    return difference if np.isfinite(difference) else float("inf")
