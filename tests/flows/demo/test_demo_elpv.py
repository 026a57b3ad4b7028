"""The demo on solar cells, but for the training: what is made of the photos, the settings, the notice, the errors.

Its photos may not come with Evergreen, so other real ones lie here in the same layout.
"""

import os
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from flows.demo import elpv, main
from flows.demo.production import Demo
from flows.project.ingest import ingest_command
from flows.repo import workspace
from flows.repo.git import git
from tasks.common.errors import EvergreenError
from tasks.common.files import sha256_bytes, write_json
from tasks.common.params import load_params
from tasks.releases.store import open_store
from tests.support.checkout import ROOT
from tests.support.photos import cutouts, encode

RUNS = (("mono", 48), ("poly", 60), ("mono", 45))  # as the real list has them: kinds take turns
PROBABILITIES = ("0.0", "0.0", "1.0", "0.0", "0.3333333333333333", "1.0", "0.0", "0.6666666666666666", "0.0")
TURNS = (None, *Image.Transpose)


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """A folder that Python finds as a package, with data/labels.csv and data/images/ as elpv-dataset has them."""
    root = tmp_path_factory.mktemp("site") / "some_cells"
    (root / "data/images").mkdir(parents=True)
    (root / "__init__.py").touch()
    photos = [image.convert("L").resize((60, 60)) for image in cutouts(20)]
    lines = []
    for kind, count in RUNS:
        for _ in range(count):
            number = len(lines)
            photo, turn = photos[number % 20], TURNS[number // 20]
            name = f"images/cell{number + 1:04d}.png"
            (root / "data" / name).write_bytes(encode(photo if turn is None else photo.transpose(turn)))
            lines.append(f"{name}  {PROBABILITIES[number % 9]:<20}{kind}\n")
    (root / "data/labels.csv").write_text("".join(lines))
    return root


@pytest.fixture(scope="module")
def cells(package) -> list[elpv.Cell]:
    return elpv.read(package / "data")


@pytest.fixture(scope="module")
def files(cells, tmp_path_factory) -> dict[str, list[dict]]:
    out = elpv.make(cells, tmp_path_factory.mktemp("made"))
    return {file.stem: pq.read_table(file).to_pylist() for file in out.glob("*.parquet")}


def test_every_cell_is_read_in_order_with_its_kind_and_neighbours(cells):
    assert [cell.kind for cell in cells] == [kind for kind, count in RUNS for _ in range(count)]
    assert Counter(Counter(cell.string for cell in cells).values()) == {6: 25, 3: 1}
    assert cells[0].string == cells[5].string != cells[6].string
    assert {(cell.probability, cell.label) for cell in cells if cell.sure} == {(0.0, "functional"), (1.0, "defective")}


def test_every_sure_mono_cell_goes_to_one_place_with_its_neighbours(files, cells):
    at = defaultdict(list)
    for name, rows in files.items():
        for row in rows if name != "truth" else ():
            at[sha256_bytes(row["image"]["bytes"])].append((name, row["split"], row["source"]))
    assert all(len(places) == 1 for places in at.values())
    assert {sha256_bytes(c.data) for c in cells if c.kind == "mono" or not c.sure} <= set(at)
    together = defaultdict(set)
    for ((name, split, source),) in at.values():
        if name != "hard":
            together[source].add((name, split))
    assert all(len(places) == 1 for places in together.values())


def test_only_what_nobody_is_sure_of_is_hard_and_production_has_no_labels(files, cells):
    unsure = {sha256_bytes(cell.data) for cell in cells if not cell.sure}
    assert {sha256_bytes(row["image"]["bytes"]) for row in files["hard"]} == unsure
    assert {row["split"] for row in files["hard"]} == {"hard"}
    for number in (1, 2, 3, 4):
        rows = files[f"production-{number}"]
        assert {(row["label"], row["split"]) for row in rows} == {(None, None)}
        assert {row["slice_cell"] for row in rows} == {"mono" if number == 1 else "poly"}
    assert {row["slice_cell"] for row in files["base"]} == {"mono"}


def test_given_labels_are_true_but_for_the_sabotaged_batch_where_none_is(files):
    truth = {row["id"]: row["label"] for row in files["truth"]}
    for name in ("base", "batch-2", "sabotaged"):
        right = {truth[sha256_bytes(row["image"]["bytes"])] == row["label"] for row in files[name]}
        assert right == {name != "sabotaged"}


def test_the_same_cells_make_the_same_files(cells, tmp_path):
    first, second = (elpv.make(cells, tmp_path / name) for name in "ab")
    assert len(names := sorted(file.name for file in first.iterdir())) == 9
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def test_places_get_their_share_of_cells_and_of_defects():
    def cell(number: int) -> elpv.Cell:
        string = number // 6
        return elpv.Cell(str(number), b"", float(number % 6 < string % 7), "mono", f"mono-{string}")

    cells = [cell(number) for number in range(901)]
    dealt = elpv.deal(cells, elpv.MONO)
    share = sum(c.probability for c in cells) / len(cells)
    assert sum(map(len, dealt.values())) == len(cells)
    for place, found in dealt.items():
        assert len(found) == pytest.approx(elpv.MONO[place], abs=6)
        assert sum(c.probability for c in found) / len(found) == pytest.approx(share, abs=0.06)
    assert elpv.UNUSED not in elpv.deal(cells, elpv.POLY)


def test_the_files_are_taken_in_by_a_project_with_the_settings_of_the_demo(cells, tmp_path):
    project = main.clone(tmp_path / "demo")
    files = elpv.make(cells, tmp_path / "made")
    elpv.write_params(project, files / "base.parquet")
    main.commit_settings(project)
    params = load_params(project / "params.yaml")
    assert (params.images.resolution, params.bundle.name) == (elpv.SIZE, "solar-cells")
    assert params.gate.max_ece == elpv.MAX_ECE
    assert (params.capture.flush_seconds, params.review.budget) == (1, 500)
    assert git(project, "status", "--porcelain") == ""

    options = {"kind": "import", "commit": True, "new": True}
    for arguments in elpv.ingests(files):
        options["kind"] = "hard" if "--hard" in arguments else "import"
        (report,) = ingest_command(project, arguments[0], **options)
        assert report.taken == pq.read_metadata(arguments[0]).num_rows, report.quarantined


def test_the_licence_is_shown_before_the_photos_are_used(package, monkeypatch, capsys):
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setattr(elpv, "PACKAGE", package.name)
    assert elpv.installed() == package / "data"
    assert "CC BY-NC-SA 4.0" in capsys.readouterr().out


def test_photos_that_cannot_be_had_are_an_error_that_says_what_to_do(monkeypatch, capfd):
    monkeypatch.setattr(elpv, "PACKAGE", "no_such_cells")
    monkeypatch.setattr(elpv, "VERSION", "no-such-cells==1")
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_NO_INDEX", "1")
    with pytest.raises(EvergreenError, match=r"no-such-cells==1 could not be installed .*by hand, or run `make demo`"):
        elpv.installed()
    assert "no-such-cells" in capfd.readouterr().err  # uv's own reason


def test_a_run_that_began_before_the_demo_looks_is_waited_for(tmp_path):
    """The event leaves before the monitor's report is drawn: by then the run may have begun, even ended."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    played = Demo(tmp_path, open_store(load_params(tmp_path / "params.yaml").store, tmp_path), main.evergreen, None)
    mark = played.mark()
    folder = tmp_path / ".evergreen/runs" / workspace.new_run_id("2e49acf0")
    write_json(folder / "ended.json", {"outcome": "rejected", "sentence": "nothing is better"})
    with pytest.raises(EvergreenError, match="nothing is better"):
        played.wait_for_release(None, mark)


@pytest.mark.parametrize("line", ["images/cell0001.png  sure  mono\n", "images/gone.png  1.0  mono\n", "one two\n"])
def test_a_broken_package_is_an_error_that_names_the_file(package, tmp_path, line):
    os.symlink(package / "data/images", tmp_path / "images")
    (tmp_path / "labels.csv").write_text(line)
    with pytest.raises(EvergreenError, match=r"labels\.csv .*Install that version again"):
        elpv.read(tmp_path)


def test_make_hands_the_name_of_the_data_on_and_an_unknown_one_is_refused():
    shown = subprocess.run(["make", "-n", "demo", "DATA=elpv"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "-m flows.demo elpv" in shown.stdout
    refused = subprocess.run([sys.executable, "-m", "flows.demo", "moons"], cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "'moons': choose one of fashion, elpv" in refused.stderr
