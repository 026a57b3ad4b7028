"""The stage-1 network as later stages read it: its weights, its features, and the rows it was trained on.

artifacts/train_backbone/weights.safetensors is the full state of a timm model, classifier included;
artifacts/train_backbone/model.json says how to build it: {backbone, pretrained, classes, task, size, fit, mean,
std, feature_dim}. N is the number of samples, D of feature dimensions, S the side of the input in pixels.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.code import code_version
from tasks.contracts import SPLITS
from tasks.errors import StageInputError
from tasks.files import atomic_path, content_key, read_json, sha256_file, write_json
from tasks.gather import ShardTable
from tasks.params import ImagesParams

if TYPE_CHECKING:  # torch is imported where it is used: the tables alone must stay cheap to read
    import torch

FOLDER = Path("artifacts/train_backbone")


def save(root: Path, model: "torch.nn.Module", about: dict) -> None:
    """Write `model`'s state and model.json under `root` (float32, on the CPU, plain memory order)."""
    from safetensors.torch import save_file

    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with atomic_path(root / FOLDER / "weights.safetensors") as temporary:
        save_file(state, temporary)
    write_json(root / FOLDER / "model.json", about)


def load(root: Path) -> tuple["torch.nn.Module", dict]:
    """(stage-1 network in eval mode on the CPU, model.json). Raises StageInputError where it was not trained."""
    from safetensors.torch import load_file

    from tasks import models

    about = read_json(stage_output(root / FOLDER / "model.json", "train_backbone"))
    weights = stage_output(root / FOLDER / "weights.safetensors", "train_backbone")
    model = models.create(about["backbone"], "none", len(about["classes"]), about["size"])
    model.load_state_dict(load_file(weights))
    return model.eval(), about


def stage1_features(root: Path, samples: pa.Table, images: ImagesParams, batch_size: int = 64) -> ShardTable:
    """(N, D) features of `samples` under this model's own backbone, computed once for each shard and weights."""
    from tasks import features, frozen

    def network() -> features.Network:
        model, about = load(root)
        return frozen.network(lambda: model, about["mean"], about["std"], size=about["size"], batch_size=batch_size)

    weights = stage_output(root / FOLDER / "weights.safetensors", "train_backbone")
    key = content_key("stage1", sha256_file(weights), images.model_dump(), code_version("tasks.network"))[:16]
    return features.feature_table(root, samples, images, key, network, batch_size)


def extractor(model: "torch.nn.Module", about: dict) -> "Callable[[np.ndarray], np.ndarray]":
    """The function uint8 (B, S, S, 3) -> float32 (B, D) of `model`, run on the best device here."""
    import torch

    from tasks import models

    device = models.device()
    model = model.to(device, memory_format=torch.channels_last).eval()

    def extract(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            x = models.to_input(pixels, about["mean"], about["std"], device)
            return models.features(model, x).float().cpu().numpy()

    return extract


def training_rows(root: Path) -> dict[str, pa.Table]:
    """Labelled rows by split ("train", "calibration", "test", "hard"), each in canonical order, maybe empty.

    Columns of contracts.accepted_schema; `label` is the one to train with, after cleaning. Rows that `clean`
    dropped are not there. Raises StageInputError for a missing file and for files of different runs.
    """
    accepted = pq.read_table(stage_output(root / "artifacts/validate/accepted.parquet", "validate"))
    cleaned = pq.read_table(stage_output(root / "artifacts/clean/labels.parquet", "clean"))
    cleaned = cleaned.filter(pc.and_(pc.not_equal(cleaned["action"], "drop"), pc.is_valid(cleaned["label"])))
    place = pc.index_in(cleaned["id"], accepted["id"].combine_chunks())
    if place.null_count:
        unknown = cleaned["id"].filter(pc.is_null(place))[0].as_py()
        raise StageInputError(
            f"artifacts/clean/labels.parquet names {place.null_count} samples (first: {unknown}) that are not in "
            "artifacts/validate/accepted.parquet: they are of different runs. Run the stage clean again."
        )
    rows = accepted.take(place)
    rows = rows.set_column(rows.schema.get_field_index("label"), "label", cleaned["label"])
    rows = rows.take(pc.sort_indices(place))
    return {split: rows.filter(pc.equal(rows["split"], split)) for split in SPLITS}


def classes_and_task(root: Path) -> tuple[list[str], str]:
    """(the K class names in model order, "multiclass" or "multilabel") as `validate` settled them."""
    classes = read_json(stage_output(root / "artifacts/validate/classes.json", "validate"))
    label = pq.read_schema(stage_output(root / "artifacts/validate/accepted.parquet", "validate")).field("label").type
    return classes, "multilabel" if pa.types.is_list(label) else "multiclass"


def stage_output(path: Path, stage: str) -> Path:
    """`path` if it is there; StageInputError naming the stage that makes it otherwise."""
    if not path.is_file():
        raise StageInputError(f"{path} is missing: run the stage {stage} first (`dvc repro {stage}`)")
    return path
