"""The demo on photos of solar cells: a model of monocrystalline cells meets polycrystalline ones.

    make demo DATA=elpv

PyPI's `elpv-dataset` holds 2,624 electroluminescence photos of single solar cells, 300 x 300 grey pixels. Each has its
kind and the probability that it is defective (0, 1/3, 2/3 or 1: how sure its experts were). Its licence forbids
commercial use, so Evergreen ships none of it: the demo installs it on request, after a notice.

The sure labels 0 and 1 are the classes functional and defective. Cells that the experts were unsure of are the hard
set. The list follows the modules that the cells were cut from, but does not name them. So STRING neighbours in the list
always go to the same file.

| file | cells |
|---|---|
| base | mono: training, calibration, test |
| batch-2 | mono: the next training batch |
| sabotaged | mono, with functional and defective exchanged |
| hard | all that experts were unsure of, mono and poly, rounded to the nearer class |
| production-1 | mono, without labels |
| production-2, -3, -4 | poly, without labels |
| truth | the label of every cell above; only the demo reads it |
"""

import importlib
import importlib.util
import subprocess
import sys
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from flows.demo.production import Story
from flows.project.create import render_params
from flows.project.source_profile import profile_source
from flows.project.suggest import suggest_params
from tasks.common.errors import EvergreenError
from tasks.common.files import atomic_path, sha256_bytes
from tasks.common.paths import state_dir
from tasks.common.sections.training import UnfreezePhases

PACKAGE, VERSION = "elpv_dataset", "elpv-dataset==1.0.0.post1"
NOTICE = """\
[bold]elpv-dataset[/]: photos of solar cells by Buerhop-Lutz, Deitsch, Maier, Gallwitz, Berger, Doll, Hauch, Camus and
Brabec (2018). Licence [bold]CC BY-NC-SA 4.0[/]: with attribution, not commercially, what is made of it under the same.
https://creativecommons.org/licenses/by-nc-sa/4.0/   https://github.com/zae-bayern/elpv-dataset
Everything that the demo makes from it (copies of the photos, models, reports) stays in the demo's folder."""
CLASSES = ("functional", "defective")
STRING = 6  # neighbours in the list that stay together: fewer than any row of cells in a module
SIZE = 96  # pixels: enough for thin cracks, small enough for minutes on two cores
EPOCHS = {"frozen": 0, "last": 0, "all": 8}
CORRUPTIONS = ["noise"]
MAX_ECE = 0.15
UNUSED = ("", None)
MONO = {  # (file, split) -> roughly how many of the 901 sure cells
    ("base", "train"): 331,
    ("base", "calibration"): 150,
    ("base", "test"): 160,
    ("batch-2", "train"): 100,
    ("sabotaged", "train"): 60,
    ("production-1", None): 100,
}
POLY = {("production-2", None): 250, ("production-3", None): 250, ("production-4", None): 250, UNUSED: 572}  # of 1,322
SCHEMA = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("label", pa.string()),
        ("split", pa.string()),
        ("source", pa.string()),
        ("group", pa.string()),
        ("slice_cell", pa.string()),
    ]
)
console = Console(highlight=False)


@dataclass(frozen=True)
class Cell:
    """One photo. `string` names the group of neighbours it stays with."""

    path: str
    data: bytes
    probability: float
    kind: str  # mono | poly
    string: str

    @property
    def sure(self) -> bool:
        return self.probability in (0.0, 1.0)

    @property
    def label(self) -> str:
        return CLASSES[self.probability > 0.5]


def story(project: Path) -> Story:
    """Write the story's files and a params.yaml that fits them into `project`. Raises EvergreenError."""
    files = make(read(installed()), state_dir(project) / "demo" / "elpv")
    write_params(project, files / "base.parquet")
    return Story(
        files=files,
        ingests=ingests(files),
        known="the kind of cells that the model knows",
        change="another kind of cells arrives",
        changed="polycrystalline cells",
        certain_gain=False,
    )


def ingests(files: Path) -> tuple[tuple[str, ...], ...]:
    """Arguments of each `evergreen ingest`; --new, because the clone's data.dvc names the images in datasets/."""
    return (str(files / "base.parquet"), "--new"), (str(files / "hard.parquet"), "--hard")


def installed() -> Path:
    """Show the licence, install the package if it is missing, and return its data folder.

    Raises EvergreenError when it cannot be installed.
    """
    console.print(NOTICE, soft_wrap=True)
    if importlib.util.find_spec(PACKAGE) is None:
        console.print(f"[dim]installing {VERSION} (91 MB) into {sys.prefix}[/]", soft_wrap=True)
        command = ["-m", "uv", "pip", "install", "--quiet", "--python", sys.executable, "--no-deps", VERSION]
        code = subprocess.run([sys.executable, *command]).returncode
        importlib.invalidate_caches()
        if code or importlib.util.find_spec(PACKAGE) is None:
            raise EvergreenError(
                f"{VERSION} could not be installed (exit code {code}, see above), and this demo needs its photos. "
                f"Install it into {sys.prefix} by hand, or run `make demo` on the images that Evergreen ships."
            )
    (folder,) = importlib.util.find_spec(PACKAGE).submodule_search_locations
    return Path(folder) / "data"


def read(folder: Path) -> list[Cell]:
    """Read the cells of labels.csv in order (path, probability, kind; space-separated). Raises EvergreenError."""
    table = folder / "labels.csv"
    found: list[Cell] = []
    try:
        rows = [line.split() for line in table.read_text(encoding="utf-8").splitlines()]
        for kind, neighbours in groupby(rows, key=lambda row: row[2]):
            start = len(found)
            for number, (path, probability, _) in enumerate(neighbours):
                string = f"{kind}-{start + number // STRING * STRING:04d}"  # named after the group's first cell
                found.append(Cell(path, (folder / path).read_bytes(), float(probability), kind, string))
    except (OSError, ValueError, IndexError) as error:
        raise EvergreenError(f"{table} is not the file of {VERSION}: {error}. Install that version again.") from error
    return found


def make(cells: list[Cell], out: Path) -> Path:
    """Write every file of the table above into `out`, deterministically; returns `out`."""
    rows: dict[str, list[dict]] = {"hard": [_row(cell, "hard", cell.label) for cell in cells if not cell.sure]}
    for kind, places in (("mono", MONO), ("poly", POLY)):
        for (name, split), dealt in deal([c for c in cells if c.sure and c.kind == kind], places).items():
            rows.setdefault(name, []).extend(_row(cell, split, _given(cell, name, split)) for cell in dealt)
    for name, found in rows.items():
        _write(out / f"{name}.parquet", pa.Table.from_pylist(found, SCHEMA))
    truth = {"id": [sha256_bytes(cell.data) for cell in cells], "label": [cell.label for cell in cells]}
    _write(out / "truth.parquet", pa.table(truth))
    return out


def deal(cells: list[Cell], places: dict[tuple, int]) -> dict[tuple, list[Cell]]:
    """Deal whole strings to places, in proportion to the wanted counts and with equal shares of defective cells.

    Strings are sorted by their share of defects (ties keep the list's order); each goes to the place that is furthest
    behind. Random dealing would give a place of 20 strings few modules, and so make it unlike the others.
    """
    strings: dict[str, list[Cell]] = {}
    for cell in cells:
        strings.setdefault(cell.string, []).append(cell)
    found: dict[tuple, list[Cell]] = {place: [] for place in places}

    def defects(name: str) -> float:
        return sum(cell.probability for cell in strings[name]) / len(strings[name])

    for name in sorted(strings, key=defects):
        behind = min(places, key=lambda place: len(found[place]) / places[place])
        found[behind] += strings[name]
    return {place: found[place] for place in places if place != UNUSED}


def write_params(project: Path, manifest: Path) -> None:
    """Write the params.yaml of `evergreen init` for `manifest`, made smaller and quicker."""
    params, why = suggest_params(profile_source(manifest))
    epochs = UnfreezePhases(**EPOCHS)
    sections = {
        "images": params.images.model_copy(update={"resolution": SIZE}),
        "train_backbone": params.train_backbone.model_copy(update={"epochs": epochs}),
        "evaluate": params.evaluate.model_copy(update={"corruptions": CORRUPTIONS}),
        "gate": params.gate.model_copy(update={"max_ece": MAX_ECE}),
        "bundle": params.bundle.model_copy(update={"name": "solar-cells"}),
    }
    for changed in ("images.resolution", "train_backbone.epochs"):
        why[changed] = "chosen so that the demo takes minutes on two cores"
    why["evaluate.corruptions"] = "the camera stands in a dark chamber, in focus, and saves without loss"
    why["gate.max_ece"] = "on 160 test images a well calibrated model shows up to 0.07 by chance"
    with atomic_path(project / "params.yaml", tracked=True) as temporary:
        text = render_params(params.model_copy(update=sections), why).lstrip()
        temporary.write_text(text, encoding="utf-8")


def _given(cell: Cell, name: str, split: str | None) -> str | None:
    """The label in the file `name`: none in production, the wrong one in the sabotaged batch."""
    if split is None:
        return None
    return CLASSES[(CLASSES.index(cell.label) + (name == "sabotaged")) % 2]


def _row(cell: Cell, split: str | None, label: str | None) -> dict:
    image = {"bytes": cell.data, "path": cell.path}
    return {
        "image": image,
        "label": label,
        "split": split,
        "source": cell.string,
        "group": cell.string,
        "slice_cell": cell.kind,
    }


def _write(file: Path, table: pa.Table) -> None:
    with atomic_path(file) as temporary:
        pq.write_table(table, temporary, row_group_size=64)
