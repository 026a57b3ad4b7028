"""After `evergreen forget` no place of a project that was in use holds the id, key, path or picture of the image.

What holds it is found by this test's own search, which shares no code with the erasure.
"""

import base64
import csv
import io
import json
import re
import shutil
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from flows.cli.main import app
from flows.console.index.index import Index
from flows.erasure.forget import erase_images
from flows.labels import journal
from flows.labels.journal import Answer
from flows.labels.sitting_store import Sittings
from flows.production.labels import take_labels
from flows.production.queue_export import Share, export_queue
from flows.release_report import images as report_images
from flows.repo.copies import record_copies
from monitoring.contracts import MovedImage, WindowDetails
from monitoring.journal import Journal
from monitoring.log.production_log import Log, open_log
from monitoring.pages import report
from monitoring.pages.columns import MeasuredWindow
from monitoring.pages.live import reports_dir
from monitoring.review.queue import enqueue, waiting
from tasks.common.files import read_json
from tasks.common.owner import owner_of
from tasks.common.params import load_params
from tasks.labels.definitions import write_definition
from tests.support import drift_windows, live_project
from tests.support.checkout import git

ROWS = 30
START, END, WINDOW = drift_windows.times(0)


def the_log(root: Path) -> Log:
    return open_log(root, load_params(root / "params.yaml"))


def window(**columns) -> pa.Table:
    """Answers to real images, each with the owner's key and path."""
    table = drift_windows.window_table(0, ROWS)
    columns = {"key": [f"order {n:04d}" for n in range(ROWS)], "path": [f"line/{n:04d}/part.png" for n in range(ROWS)]}
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), pa.array(values))
    return table


@pytest.fixture(scope="module")
def used(tmp_path_factory) -> Path:
    """A project with traffic, a queue, labels, a drift report, a release report, exports, answers that wait."""
    root = live_project.make(tmp_path_factory.mktemp("used"), replace={"budget: 100": "budget: 30"})
    params, log, table = load_params(root / "params.yaml"), the_log(root), window()
    log.append(table)
    queued = enqueue(log, params.review, START - timedelta(days=1), END, f"window {WINDOW}")
    assert len(queued) > 10
    out = root.parent / "out"
    out.mkdir()
    export_queue(root, csv_file=out / "queue.csv", label_studio_file=out / "tasks.json", html=out / "queue.html",
                 share=Share(assign="ann"))  # fmt: skip
    with open(out / "queue.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    some = root.parent / "some.csv"
    some.write_text("id,label\n" + "".join(f"{row['id']},Bag\n" for row in rows[:3]))
    assert take_labels(root, some, annotator="ann").kept == 3
    some.unlink()
    name = rows[0]["id"]
    measures = drift_windows.measures(0, table, drift_windows.reference_table())
    measures = measures.model_copy(update={"moved": [name, *(n for n in measures.moved if n != name)]})
    Journal(log.store).append(measures, drift_windows.decision(0))
    about = {"prediction": "Bag", "confidence": 0.9, "ood": 1.0, "source": "a"}
    moved = [MovedImage(id=name, beside=[], **about), MovedImage(id="e" * 64, beside=[name, "9" * 64], **about)]
    Journal(log.store).keep_details(WINDOW, WindowDetails(moved=moved))
    shown = MeasuredWindow(
        table, drift_windows.reference_table(), measures, drift_windows.decision(0), drift_windows.CLASSES
    )
    report.write(reports_dir(root), shown, [])
    released = root / ".evergreen/releases/runs/r-1"
    released.mkdir(parents=True)
    thumbnail = dict(zip(table["id"].to_pylist(), table["image"].to_pylist(), strict=True))[name]
    pixels = np.asarray(Image.open(io.BytesIO(thumbnail)).convert("RGB").resize((32, 32)))
    tile = '<div class="tile"><img src="{}"><img src="{}"><code>{}</code></div>'
    tiles = "".join(
        tile.format(report_images.data_uri(picture), report_images.data_uri(picture // 2), said)
        for picture, said in ((pixels, name[:12]), (np.flip(pixels, 1), "f" * 12))
    )
    (released / "report.html").write_text(f"<html><body>{tiles}</body></html>")
    issues = root / ".evergreen/label-issues"
    issues.mkdir()
    (issues / "r-1.csv").write_text(f"id,given\n{name},Bag\n{'e' * 64},Bag\n")
    (issues / "r-1.json").write_text(json.dumps({"seq": 1, "clusters": [[name, "e" * 64]]}))
    journal.record(root, [Answer(name, "Bag", annotator="ann"), Answer("e" * 64, "Bag", why=f"like {name[:12]}")])
    Sittings(root).add("ann", "production", journal.pending(root)[0])
    Sittings(root).skip("bob", name)
    write_definition(root / "data", "Bag", "with handles", (name, "e" * 64), "2026-01-01T00:00:00+00:00", "ann")
    (root / ".evergreen/runner.log").write_text(f"refused {name}\nfine\n")
    (root / ".evergreen/prefect").mkdir()
    with closing(sqlite3.connect(root / ".evergreen/prefect/prefect.db")) as prefect, prefect:
        prefect.execute("CREATE TABLE flow_run (id CHAR(36) PRIMARY KEY, parameters JSON)")
        prefect.execute("INSERT INTO flow_run VALUES ('r-1', ?)", (json.dumps({"reason": f"see {name}", "n": 1}),))
    assert Index(root).refresh()
    return root


@pytest.fixture
def root(used: Path, tmp_path: Path) -> Path:
    shutil.copytree(used.parent, tmp_path / "all", symlinks=True)
    root = tmp_path / "all/main"
    copies = root / ".evergreen/copies.jsonl"
    copies.write_text(copies.read_text().replace(str(used.parent), str(root.parent)))
    before = read_json(root / ".evergreen/checkout.json")["id"]  # the copy is another checkout, the only one there
    (root / ".dvc/cache/evergreen" / before).rename(root / ".dvc/cache/evergreen" / owner_of(root).id)
    return root


def image_of(root: Path) -> tuple[str, str, str, bytes]:
    """Id, key, path and bytes of the first queued image, which has a label and is in data/ too."""
    with open(root.parent / "out/queue.csv", newline="") as file:
        row = next(iter(csv.DictReader(file)))
    return row["id"], row["key"], row["path"], (root.parent / "out" / row["image"]).read_bytes()


def holding(folder: Path, name: str, key: str, path: str, encoded: bytes) -> set[str]:
    """Files under `folder` that hold the image's id (its first 12 digits do), key, path, bytes, or look."""
    look = small(encoded)
    found = set()
    for file in folder.rglob("*"):
        if not file.is_file() or ".git" in file.parts:
            continue
        content, where = file.read_bytes(), str(file.relative_to(folder))
        if any(text.encode() in content for text in (name[:12], key, path)) or encoded in content or name in where:
            found.add(where)
        if content[:4] == b"PAR1":
            for row in pq.read_table(pa.BufferReader(content)).to_pylist():
                flat = str({k: v for k, v in row.items() if k not in ("features", "probabilities")})
                if name in flat or f"'{key}'" in flat or path in flat:
                    found.add(where)
        for text in re.findall(rb"base64,([A-Za-z0-9+/=]+)", content):
            shown = base64.b64decode(text)
            if shown[:4] in (b"\x89PNG", b"\xff\xd8\xff\xe0") and np.abs(small(shown) - look).mean() < 3:
                found.add(where)
    return found


def files(folder: Path) -> dict[Path, bytes]:
    """Content of the files under `folder`, without DVC's own databases."""
    found = (file for file in folder.rglob("*") if file.is_file() and "dvc" not in file.parts)
    return {file: file.read_bytes() for file in found}


def small(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("L").resize((12, 12), Image.Resampling.BOX), np.float32)


def test_no_place_holds_the_image_and_everything_else_is_there(root: Path):
    name, key, path, encoded = image_of(root)
    (root / "photos").mkdir()
    (root / "photos/mine.png").write_bytes(encoded)
    (root / "list.csv").write_text(f"{name}\n")
    git(root, "add", "list.csv")
    git(root, "commit", "-qm", "a list")
    record_copies(root, "backup", [root.parent / "backup.tar"])
    line, edge = root.parent / "line-3", root.parent / "edge"
    for folder in (line, edge):
        folder.mkdir()
    (line / "photo.png").write_bytes(encoded)
    (edge / "export.json").write_text('{"version": "v0.1.0", "format": "edge"}')
    record_copies(root, "captures", [line, "s3://bucket/line-4"])
    record_copies(root, "model", [edge, root.parent / "deleted"])
    before = holding(root.parent, name, key, path, encoded)
    parts = ["out/queue.csv", "out/queue/", "out/tasks.json", "out/queue.html", "main/data/", "/production/2026-"]
    parts += [
        "/labels/",
        "/queue/",
        "/assignments/",
        "/windows/",
        "/details/",
        f"reports/{WINDOW}.html",
        "runs/r-1/report.html",
    ]
    parts += ["/label-issues/r-1.csv", "journal.jsonl", "definitions", "runner.log", "prefect.db", ".dvc/cache"]
    parts += ["console/index.sqlite", "sittings.sqlite3", "/details/"]
    for part in parts:
        assert any(part in where for where in before), (part, before)
    log = the_log(root)
    waited = {entry.id for entry in waiting(log)}

    done = erase_images(root, [name], "asked", yes=True)

    after = holding(root.parent, name, key, path, encoded)
    assert after == {"main/photos/mine.png", "main/list.csv", "line-3/photo.png"}
    left = {one.place: one for one in done.proof.lines if one.after}
    assert set(left) == {"your own files in the project's folder", "captures of devices", "git history"}
    assert "there and on the device" in left["captures of devices"].notes[0]
    (exported,) = (one for one in done.proof.lines if one.place.startswith("exported models"))
    assert "s3://bucket/line-4 holds captures of devices and was not searched" in exported.notes[0]
    assert f"{edge} holds v0.1.0 as edge, which may have been trained with them" in exported.notes[1]
    assert len(exported.notes) == 2, "an export that was deleted is not named"
    assert left["your own files in the project's folder"].left == ["photos/mine.png"]
    assert "git filter-repo --invert-paths --path list.csv" in " ".join(left["git history"].notes)
    (backups,) = (line for line in done.proof.lines if line.place == "backups")
    assert str(root.parent / "backup.tar") in backups.notes[0]
    told = done.file.read_text() + done.file.with_suffix(".json").read_text()
    assert not [text for text in (name[:12], key, path) if text in told]
    assert f"git history | {left['git history'].read} |" in told

    assert {entry.id for entry in waiting(log)} == waited
    (journaled,) = journal.pending(root)
    assert (journaled.id, journaled.why) == ("e" * 64, "like [erased]")
    page = (root / ".evergreen/releases/runs/r-1/report.html").read_text()
    assert page.count("erased on request") == 1
    assert page.count('class="tile"') == 2
    assert len(Journal(log.store).read(WINDOW)[0].moved) == 11
    (moved,) = Journal(log.store).details(WINDOW).moved
    assert (moved.id, moved.beside) == ("e" * 64, ["9" * 64])
    assert (root / ".evergreen/label-issues/r-1.csv").read_text() == f"id,given\n{'e' * 64},Bag\n"
    assert (root / ".evergreen/runner.log").read_text().endswith("\nfine\n")
    with closing(sqlite3.connect(root / ".evergreen/prefect/prefect.db")) as prefect:
        ((parameters,),) = prefect.execute("SELECT parameters FROM flow_run").fetchall()
    assert json.loads(parameters) == {"reason": "see [erased]", "n": 1}


def test_a_copy_that_was_compressed_again_is_named(root: Path):
    name, _, _, _ = image_of(root)
    assert erase_images(root, [name], "asked").alike == ()
    log = the_log(root)
    copy = log.find([name], START - timedelta(days=1), END, log.schema.names).slice(0, 1)
    for column, value in (("id", "c" * 64), ("key", None), ("path", None), ("image", None)):
        place = copy.schema.get_field_index(column)
        copy = copy.set_column(place, copy.schema.field(column), pa.array([value], copy.schema.field(column).type))
    log.append(copy)
    done = erase_images(root, [name], "asked", yes=True)
    assert any("1 other image looks alike" in note and "c" * 12 in note for note in done.proof.notes)


def test_what_was_erased_waits_for_no_label_and_later_labels_are_counted_right(root: Path):
    name, key, _, _ = image_of(root)
    before = {entry.id for entry in waiting(the_log(root))}
    assert name not in before  # it has a label
    erase_images(root, [key], "asked", yes=True)
    log = the_log(root)
    assert {entry.id for entry in waiting(log)} == before
    assert name not in log.labels()["id"].to_pylist()
    table = root.parent / "out/queue.csv"
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    rest = [row["id"] for row in rows][2:6]
    (root.parent / "more.csv").write_text("id,label\n" + "".join(f"{image},Bag\n" for image in rest))
    taken = take_labels(root, root.parent / "more.csv", annotator="ann")
    assert (taken.rows, taken.kept, taken.refused) == (4, 4, [])
    assert {entry.id for entry in waiting(log)} == before - set(rest)


def test_the_command_takes_several_names_and_a_second_call_repeats_the_proof(root: Path, monkeypatch):
    monkeypatch.chdir(root)
    name, _, _, _ = image_of(root)
    other = next(row for row in the_log(root).window(START, END, ["id", "path"])[0].to_pylist() if row["id"] != name)
    run = CliRunner()
    dry = run.invoke(app, ["forget", name[:10], other["path"], "--why", "asked"])
    assert dry.exit_code == 0, dry.output
    assert "queue to label" in dry.output.replace("queues", "queue")
    assert "nothing was changed" in dry.output
    done = run.invoke(app, ["forget", name[:10], other["path"], "--why", "asked", "--yes"])
    assert done.exit_code == 0, done.output
    assert "- images: 2" in done.output
    state = files(root / ".evergreen")
    head = git(root, "rev-parse", "HEAD")
    again = run.invoke(app, ["forget", name, other["id"], "--why", "asked", "--yes"])
    assert again.exit_code == 0, again.output
    assert "nothing to erase: these images were erased before" in again.output
    assert re.search(
        r"searched 22 places \(\d+ files, texts and objects\): [1-9]\d* trace\(s\) before, 0 after", again.output
    )
    assert head == git(root, "rev-parse", "HEAD")
    assert state == files(root / ".evergreen")
    twice = run.invoke(app, ["forget", "d" * 64, "--why", "asked"])
    assert twice.exit_code == 1
