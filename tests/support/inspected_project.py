"""Projects whose images `inspect` has measured, for the tests of `validate`."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.common.files import sha256_bytes, write_json
from tasks.common.params import load_params
from tasks.common.schemas import sample_schema, samples_schema
from tasks.dataset import shards
from tasks.stages.validate import stage
from tests.support.checkout import ROOT

PARAMS = load_params(ROOT / "params.yaml")
IMAGES = PARAMS.images.model_copy(update={"resolution": 32})
CLASSES = ("Trouser", "T-shirt/top", "Sneaker", "Bag")


def fashion(file: str, splits: tuple = ("train",), each: int | None = None, classes=CLASSES) -> list[dict]:
    """Rows of the default data set; at most `each` a class and split."""
    rows, taken = [], {}
    for row in pq.read_table(ROOT / "datasets" / "fashion" / f"{file}.parquet").to_pylist():
        place = row["split"], row["label"]
        if row["split"] in splits and row["label"] in classes and taken.get(place, 0) < (each or 10**9):
            taken[place] = taken.get(place, 0) + 1
            rows.append(row | {"id": sha256_bytes(row["image"]["bytes"])})
    return rows


class Project:
    """A project whose images `inspect` has measured; `status`, `width` and so on of a row may be set."""

    def __init__(self, root: Path, task: str = "multiclass"):
        self.root, self.task, self.samples = root, task, []
        shards.create_dataset(root / "data", task)
        write_json(root / "tombstones.json", {})

    def add(self, rows: list[dict], kind: str = "import", quarantined: dict[str, int] | None = None) -> str:
        """One more batch; returns its name."""
        number = len(shards.batches(self.root / "data")) + 1
        batch = f"b-{number:012x}"
        full = [{"origin": "import", "slice": [], "batch": batch, **row} for row in rows]
        schema = sample_schema(self.task)
        names = []
        if rows:
            columns = {field.name: [row.get(field.name) for row in full] for field in schema}
            names = [shards.write_shard(self.root / "data", pa.table(columns, schema=schema), self.task)]
        shards.write_manifest(
            self.root / "data",
            shards.BatchManifest(
                seq=number, batch=batch, kind=kind, shards=names, rows=len(rows), quarantined=quarantined or {}
            ),
        )
        measures = {"format": "PNG", "mode": "L", "width": 28, "height": 28, "contrast": 80.0, "status": "ok"}
        for number, row in enumerate(full):
            self.samples.append({**measures, "cluster": row["id"], **row, "shard": names[0], "row": number})
        return batch

    def run(self, images=IMAGES, classes: list[str] | None = None, **changes) -> Path:
        """Run the stage with `changes` to its section of params.yaml; returns the folder of its outputs."""
        schema = samples_schema(self.task)
        columns = {field.name: [row.get(field.name) for row in self.samples] for field in schema}
        file = self.root / "artifacts" / "inspect" / "samples.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns, schema=schema), file)
        data = PARAMS.data.model_copy(update={"task": self.task, "classes": classes})
        section = PARAMS.validate_.model_copy(update=changes)
        stage.run(self.root, data=data, images=images, embed=PARAMS.embed, labels=PARAMS.labels, validate=section)
        return self.root / "artifacts" / "validate"

    def kept(self, name: str) -> tuple[dict, str]:
        """What a refusal left for the user: figures and page."""
        folder = self.root / ".evergreen" / "validation"
        return json.loads((folder / f"{name}.json").read_text()), (folder / f"{name}.html").read_text()


def status_of(checks: list[dict]) -> dict[str, str]:
    return {check["name"]: check["status"] for check in checks}
