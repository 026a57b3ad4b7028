"""Outputs of earlier stages that later stages read: training rows, classes, recorded params."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.common.errors import StageInputError
from tasks.common.files import read_json, write_json
from tasks.common.params import Section
from tasks.common.schemas import SPLITS

VALIDATED = Path("artifacts/validate")
NETWORK = VALIDATED / "network"  # what the stages up to train_backbone read: no pending change of classes is in it
FOLDER = Path("artifacts/train_backbone")
HEAD_FOLDER = Path("artifacts/train_head")
ACCEPTED = VALIDATED / "accepted.parquet"
USED = "params"  # the key of metrics/<stage>.json that says what the stage has run with


def training_rows(root: Path) -> dict[str, pa.Table]:
    """Split -> labelled rows ("train", "calibration", "test", "hard"), in canonical order, possibly empty.

    Columns are those of schemas.accepted_schema; `label` is the one to train with, after cleaning, in the class names
    of today. Rows that `clean` dropped are left out. Raises StageInputError for a missing file and for files of
    different runs.
    """
    accepted, cleaned = _table(root, ACCEPTED), _cleaned(root)
    if not (root / NETWORK / ACCEPTED.name).is_file():  # a run before the classes could change
        return _by_split(_as_cleaned(accepted, cleaned))
    _as_cleaned(_table(root, NETWORK / ACCEPTED.name), cleaned)  # the files are of one run
    names = class_names(root)
    dropped = cleaned.filter(pc.equal(cleaned["action"], "drop"))["id"]
    rows = accepted.filter(pc.and_(pc.is_valid(accepted["label"]), pc.invert(pc.is_in(accepted["id"], dropped))))
    changed = cleaned.filter(pc.equal(cleaned["action"], "relabel"))
    repaired = {
        one: label
        for one, label in zip(changed["id"].to_pylist(), changed["label"].to_pylist(), strict=True)
        if all(names.get(name) for name in ([label] if isinstance(label, str) else label))
    }
    if repaired:
        labels = [
            _renamed(repaired[one], names) if one in repaired else label
            for one, label in zip(rows["id"].to_pylist(), rows["label"].to_pylist(), strict=True)
        ]
        place = rows.schema.get_field_index("label")
        rows = rows.set_column(place, "label", pa.array(labels, rows.schema.field(place).type))
    return _by_split(rows)


def network_rows(root: Path) -> dict[str, pa.Table]:
    """As training_rows, with the labels that the network is trained with: without pending changes of classes."""
    return _by_split(_as_cleaned(pq.read_table(network_file(root, ACCEPTED.name)), _cleaned(root)))


def network_file(root: Path, name: str) -> Path:
    """accepted.parquet or classes.json as the network is trained with them. Raises StageInputError without them."""
    file = root / NETWORK / name
    return file if file.is_file() else stage_output(root / VALIDATED / name, "validate")


def _table(root: Path, file: Path) -> pa.Table:
    return pq.read_table(stage_output(root / file, "validate"))


def _cleaned(root: Path) -> pa.Table:
    return pq.read_table(stage_output(root / "artifacts/clean/labels.parquet", "clean"))


def _as_cleaned(accepted: pa.Table, cleaned: pa.Table) -> pa.Table:
    """The rows of `accepted` that `clean` kept, with its labels. Raises StageInputError for files of different runs."""
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
    return rows.take(pc.sort_indices(place))


def _by_split(rows: pa.Table) -> dict[str, pa.Table]:
    return {split: rows.filter(pc.equal(rows["split"], split)) for split in SPLITS}


def _renamed(label: str | list[str], names: dict[str, str | None]) -> str | list[str]:
    return names[label] if isinstance(label, str) else sorted({names[name] for name in label})


def classes_and_task(root: Path) -> tuple[list[str], str]:
    """(the K class names in model order, "multiclass" or "multilabel") as `validate` recorded them."""
    classes = read_json(stage_output(root / VALIDATED / "classes.json", "validate"))
    label = pq.read_schema(stage_output(root / ACCEPTED, "validate")).field("label").type
    return classes, "multilabel" if pa.types.is_list(label) else "multiclass"


def network_classes(root: Path) -> list[str]:
    """The classes that the network is trained with: those of classes_and_task without pending changes."""
    return read_json(network_file(root, "classes.json"))


def class_names(root: Path) -> dict[str, str | None]:
    """Class of the network -> the class of today that it became; None: none, or one of several."""
    file = root / VALIDATED / "taxonomy.json"
    return read_json(file)["names"] if file.is_file() else {name: name for name in classes_and_task(root)[0]}


def class_groups(root: Path) -> dict[str, list[str]]:
    """Parent -> its children among the classes of today."""
    file = root / VALIDATED / "taxonomy.json"
    return read_json(file)["groups"] if file.is_file() else {}


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
