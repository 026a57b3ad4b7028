"""A model's own drift reference: what held-out images look like to it, frozen with it.

Monitoring compares production with this and not with the last window, so that slow drift stays visible. Rows come
from the calibration and test splits; training images would look more certain than new ones ever can.
K classes, D feature dimensions, S the side of the model's input in pixels.
"""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from tasks import ood
from tasks.contracts import MEASURES, label_type
from tasks.network import stage_output
from tasks.onnx_model import OnnxModel
from tasks.params import ImagesParams
from tasks.pixels import pixel_table

THUMBNAIL = 64  # pixels
BATCH = 64


def schema(task: str) -> pa.Schema:
    return pa.schema(
        [
            ("id", pa.string()),
            ("split", pa.string()),  # calibration | test
            ("label", label_type(task)),
            ("features", pa.list_(pa.float32())),  # (D,)
            ("probabilities", pa.list_(pa.float32())),  # (K,) in class order
            ("ood", pa.float32()),
            *MEASURES,
            ("thumbnail", pa.binary()),  # JPEG of the model's input, at most THUMBNAIL pixels
        ]
    )


def choose(rows: dict[str, pa.Table], count: int) -> pa.Table:
    """Up to `count` calibration and test rows, those of the smallest ids: an id is a hash, so this is a random sample
    that growing data hardly changes. rows: of network.training_rows."""
    held_out = pa.concat_tables([rows["calibration"], rows["test"]])
    return held_out.take(pc.sort_indices(held_out["id"])[:count])


def build(root: Path, samples: pa.Table, model: Path, images: ImagesParams, about_ood: dict, task: str) -> pa.Table:
    """The reference table of `samples` (accepted_schema) under the exported `model`; see `schema`."""
    network = OnnxModel(model)
    tensors = ood.read_tensors(root / "artifacts/calibrate/ood.safetensors")
    features, probabilities, scores, thumbnails = [], [], [], []
    for _, pixels in pixel_table(root, samples, images).batches(BATCH):
        out = network(pixels)
        features += list(out.features)
        probabilities += list(out.probabilities)
        scores.append(ood.score(out.features, out.logits, about_ood, tensors))
        thumbnails += [thumbnail(image) for image in pixels]
    measures = pq.read_table(
        stage_output(root / "artifacts/inspect/samples.parquet", "inspect"), columns=["id", *(m.name for m in MEASURES)]
    )
    measures = measures.take(pc.index_in(samples["id"], measures["id"].combine_chunks()))
    found = {
        "id": samples["id"],
        "split": samples["split"],
        "label": samples["label"],
        "features": features,
        "probabilities": probabilities,
        "ood": np.concatenate(scores),
        **{field.name: measures[field.name] for field in MEASURES},
        "thumbnail": thumbnails,
    }
    columns = schema(task)
    return pa.table(
        [
            pa.chunked_array([pa.array(v, f.type)]) if isinstance(v, list | np.ndarray) else v.cast(f.type)
            for f, v in ((field, found[field.name]) for field in columns)
        ],
        schema=columns,
    )


def thumbnail(pixels: np.ndarray) -> bytes:
    """(S, S, 3) uint8 as a JPEG of at most THUMBNAIL pixels a side."""
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
