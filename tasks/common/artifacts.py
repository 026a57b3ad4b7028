"""Outputs of earlier stages that later stages read: training rows, classes, recorded params."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.common.errors import StageInputError
from tasks.common.files import read_json, write_json
from tasks.common.params import Section
from tasks.common.schemas import SPLITS

FOLDER = Path("artifacts/train_backbone")
HEAD_FOLDER = Path("artifacts/train_head")
USED = "params"  # the key of metrics/<stage>.json that says what the stage has run with


def training_rows(root: Path) -> dict[str, pa.Table]:
    """Split -> labelled rows ("train", "calibration", "test", "hard"), in canonical order, possibly empty.

    Columns are those of schemas.accepted_schema; `label` is the one to train with, after cleaning. Rows that `clean`
    dropped are left out. Raises StageInputError for a missing file and for files of different runs.
    """
    accepted = pq.read_table(stage_output(root / "artifacts/validate/accepted.parquet", "validate"))
    cleaned = pq.read_table(stage_output(root / "artifacts/clean/labels.parquet", "clean"))
    cleaned = cleaned.filter(pc.and_(pc.not_equal(cleaned["action"], "drop"), pc.is_valid(cleaned["label"])))
    place = pc.index_in(cleaned["id"], accepted["id"].combine_chunks())
    if place.null_count:
        unknown = cleaned["id"].filter(pc.is_null(place))[0].as_py()
        raise StageInputError(
            f"artifacts/clean/labels.parquet names {place.null_count} samples (first: {unknown}) that are not in "
            "artifacts/validate/accepted.parquet: the files come from different runs. Run the stage clean again."
        )
    rows = accepted.take(place)
    rows = rows.set_column(rows.schema.get_field_index("label"), "label", cleaned["label"])
    rows = rows.take(pc.sort_indices(place))
    return {split: rows.filter(pc.equal(rows["split"], split)) for split in SPLITS}


def classes_and_task(root: Path) -> tuple[list[str], str]:
    """(the K class names in model order, "multiclass" or "multilabel") as `validate` recorded them."""
    classes = read_json(stage_output(root / "artifacts/validate/classes.json", "validate"))
    label = pq.read_schema(stage_output(root / "artifacts/validate/accepted.parquet", "validate")).field("label").type
    return classes, "multilabel" if pa.types.is_list(label) else "multiclass"


def stage_output(path: Path, stage: str) -> Path:
    """`path`, if the file exists. Raises StageInputError with the stage that makes it."""
    if not path.is_file():
        raise StageInputError(f"{path} is missing: run the stage {stage} first (`dvc repro {stage}`)")
    return path


def trained_weights(root: Path) -> Path:
    """The weights that train_backbone trained. Raises StageInputError if that stage has not run."""
    return stage_output(root / FOLDER / "weights.safetensors", "train_backbone")


def network_weights(root: Path) -> Path:
    """The weights of the model's network: those that train_head chose over the trained ones, if it did."""
    chosen = root / HEAD_FOLDER / "weights.safetensors"
    return chosen if chosen.is_file() else trained_weights(root)


def record_used(root: Path, name: str, used: dict[str, Section]) -> None:
    """Add the sections that stage `name` has used to its metrics file, for `bundle` to check."""
    file = root / "metrics" / f"{name}.json"
    plain = {section: values.model_dump(mode="json", by_alias=True) for section, values in used.items()}
    write_json(file, read_json(file) | {USED: plain})


def figures(root: Path, name: str) -> dict:
    """metrics/<name>.json without the params that are recorded there."""
    return without_used(read_json(root / "metrics" / f"{name}.json"))


def without_used(metrics: dict) -> dict:
    return {key: value for key, value in metrics.items() if key != USED}


def used_params(root: Path, name: str) -> dict[str, dict]:
    """{section: values} that stage `name` has run with; empty when it ran before this was recorded."""
    return read_json(root / "metrics" / f"{name}.json").get(USED, {})
