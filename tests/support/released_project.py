"""A git and DVC project with three releases, made in seconds: real shards, real stores, a pipeline of one stage.

    v0.1.0  batch b-1; params.yaml still says images.size
    v0.2.0  b-2 too, a param changed, one label corrected by people, two cleaned
    v0.3.0  b-3 too, which made it worse

No model is trained: what `bundle` would make is a small file per version.
"""

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flows.publishing.publish import Publication, publish
from flows.repo import run_inputs, workspace
from flows.repo.git import git
from flows.repo.pipeline import bring_up_to_date, open_repo, record_data, restore_data
from tasks.common.files import atomic_path, read_json, sha256_bytes, sha256_file, write_json
from tasks.common.params import load_params
from tasks.common.schemas import cleaned_schema, predictions_schema
from tasks.dataset import shards
from tasks.labels.storing import write_annotations
from tasks.releases.pointer import Pointer
from tasks.releases.store import Releases, open_store
from tests.support.annotating import said
from tests.support.checkout import ROOT
from tests.support.children import command
from tests.support.shared import once

NAME = "classifier"
CLASSES = ["bag", "boot", "coat"]
WHY = {1: "first model", 2: "new batch", 3: "more data"}
OUTS = "".join(f"      - artifacts/{name}\n" for name in ("clean", "calibrate", "evaluate", "bundle"))
PIPELINE = (
    "stages:\n  validate:\n    cmd: 'true'\n    params: [clean]\n    deps: [data, tombstones.json]\n"
    f"    outs:\n{OUTS}    metrics:\n      - metrics/evaluate.json: {{cache: false}}\n"
)


def copy(folder: Path) -> Path:
    """The project at `folder`/main, of one's own, without the worktrees of its runs."""
    made = once("released", make) / "main"
    left_out = {made / ".evergreen": {"runs"}, made / ".git": {"worktrees"}}
    shutil.copytree(made, folder / "main", symlinks=True, ignore=lambda place, _: left_out.get(Path(place), set()))
    return folder / "main"


def make(folder: Path) -> Path:
    """The project at `folder`/main, from nothing."""
    main = folder / "main"
    (main / ".dvc").mkdir(parents=True)
    for name in (".dvc/config", ".dvc/.gitignore", "params.yaml"):
        (main / name).write_text((ROOT / name).read_text())
    text = (main / "params.yaml").read_text()
    (main / "params.yaml").write_text(text.replace("  resolution:", "  size:"))
    (main / "dvc.yaml").write_text(PIPELINE)
    (main / "tombstones.json").write_text("{}\n")
    (main / "tasks").mkdir()
    (main / "tasks/code.py").write_text("code = 1\n")
    (main / ".gitignore").write_text("/data\n/artifacts\n/.evergreen\n")
    git(main, "init", "--quiet", "--initial-branch=main")
    git(main, "config", "user.name", "Ann")
    git(main, "config", "user.email", "ann@example.org")
    shards.create_dataset(main / "data", "multiclass")
    for number in WHY:
        if number == 2:
            params = (main / "params.yaml").read_text()
            params = params.replace("  size:", "  resolution:").replace("rate: 0.005", "rate: 0.002")
            (main / "params.yaml").write_text(params)
        add_batch(main, number)
        release(main, number)
    return main


def corrected_id() -> str:
    """The image whose label a person corrects between the two versions."""
    return sha256_bytes(b"image bag 1 0")


def add_batch(main: Path, number: int) -> None:
    """Ingest and commit batch b-<number>: 6 images of each class, 2 a split."""
    rows = [
        {
            "id": sha256_bytes(data),
            "key": f"part {label} {place}",
            "image": {"bytes": data, "path": f"{label}/{place}.png"},
            "label": label,
            "origin": "import",
            "batch": f"b-{number}",
            "slice": [],
            "split": ("train", "calibration", "test")[place % 3],
        }
        for label in CLASSES
        for place in range(6)
        for data in [f"image {label} {number} {place}".encode()]
    ]
    name = shards.write_shard(
        main / "data", pa.Table.from_pylist(rows, shards.sample_schema("multiclass")), "multiclass"
    )
    if number == 2:  # a person corrects the first bag of b-1
        row = said(corrected_id(), "boot", annotator="eve", role="reviewer")
        write_annotations(main / "data", [row])
    about = {"seq": number, "batch": f"b-{number}", "kind": "import"}
    shards.write_manifest(main / "data", shards.BatchManifest(shards=[name], rows=len(rows), **about))
    record_data(main)
    git(main, "add", "-A")
    git(main, "commit", "--quiet", "-m", f"batch {number}")


def run(main: Path, run_id: str, quality: float = 0.8) -> Path:
    """The worktree that a finished run over HEAD leaves; `quality` makes its figures and its bundle."""
    tombstones = store(main).tombstones()
    tree, lock = workspace.create(main, run_id, tombstones)
    shutil.rmtree(main / ".dvc/cache/runs", ignore_errors=True)  # `quality` is not an input that DVC knows
    repo = open_repo(tree)
    restore_data(repo)
    bring_up_to_date(repo, "validate", lambda _, root: _stage(root, quality))
    repo.close()
    started = {"key": run_inputs.input_key(main, tombstones), "reason": "a test", "by": "ann"}
    write_json(tree.parent / "started.json", started)
    os.close(lock)
    return tree


def _stage(root: Path, quality: float) -> None:
    """What the stages leave, as far as versions are told apart by it."""
    tombstones = shards.read_tombstones(root)
    rows = []
    for shard in shards.live_shards(root / "data", tombstones):
        rows += shards.read_columns(shard.path, ["id", "label", "split", "batch"]).to_pylist()
    corrected = {corrected_id(): "boot"} if (root / "data/annotations").is_dir() else {}
    cleaned = []
    for row in rows:
        given = corrected.get(row["id"], row["label"])
        suspect = row["batch"] == "b-2" and row["label"] == "coat" and row["split"] == "train"
        label = "bag" if suspect else given
        about = {"quality": 0.5, "predicted": label, "confidence": 0.9, "is_issue": suspect}
        action = "relabel" if suspect else "keep"
        cleaned.append(
            {"id": row["id"], "split": row["split"], "given": given, "label": label, "action": action} | about
        )
    with atomic_path(root / "artifacts/clean/labels.parquet") as temporary:
        pq.write_table(pa.Table.from_pylist(cleaned, cleaned_schema("multiclass")), temporary)
    figures = {"balanced_accuracy": quality, "debiased_ece": round(1 - quality, 3), "n": len(rows)}
    write_json(root / "metrics/evaluate.json", {"test": figures, "latency_ms": {"p50": 2.0}})
    recall = [{"class": name, "recall": quality - 0.1 * (name == "coat")} for name in CLASSES]
    write_json(root / "artifacts/evaluate/report.json", {"classes": recall})
    write_predictions(root, cleaned, quality)
    bundle = root / "artifacts/bundle"
    write_json(bundle / "bundle.json", {"schema": 1, "quality": quality, "rows": len(rows), "classes": CLASSES})
    (bundle / "model.onnx").write_bytes(f"{quality} {len(rows)}".encode() * 1000)
    files = {file.name: {"sha256": sha256_file(file), "bytes": file.stat().st_size} for file in bundle.iterdir()}
    write_json(bundle / "MANIFEST.json", {"files": files})


def write_predictions(root: Path, cleaned: list[dict], quality: float) -> None:
    """What `calibrate` and `evaluate` leave of the answers: of the test images, about the share `quality` is right."""
    about = {"classes": CLASSES, "task": "multiclass", "thresholds": dict.fromkeys(CLASSES, 0.5)}
    write_json(root / "artifacts/calibrate/calibration.json", about)
    rows = []
    for row in cleaned:
        if row["split"] == "test":
            right = int(row["id"][:4], 16) < quality * 0x10000
            answer = CLASSES[(CLASSES.index(row["given"]) + (not right)) % len(CLASSES)]
            chances = [0.8 if name == answer else 0.1 for name in CLASSES]
            rows.append({"id": row["id"], "split": "test", "label": row["given"], "probabilities": chances})
    with atomic_path(root / "artifacts/evaluate/predictions.parquet") as temporary:
        pq.write_table(pa.Table.from_pylist(rows, predictions_schema("multiclass")), temporary)


def release(main: Path, number: int) -> Pointer:
    quality = {1: 0.75, 2: 0.875, 3: 0.5}[number]
    tree = run(main, f"run-{number}", quality)
    return publish_run(main, tree, WHY[number])


def publish_run(main: Path, tree: Path, why: str) -> Pointer:
    from flows.publishing import run_records
    from flows.publishing.outcomes import Ending

    releases = store(main)
    new = Publication(worktree=tree, name=NAME, run_id=tree.parent.name, why=why, by="ann")
    pointer = publish(new, releases, releases.live())
    ending = Ending(outcome="promoted", sentence=why, version=pointer.version)
    run_records.record(releases, tree, tree.parent.name, ending)
    run_inputs.record_ending(
        main,
        read_json(tree.parent / "started.json")["key"],
        {"run_id": tree.parent.name} | {"outcome": "promoted", "version": pointer.version, "sentence": why},
    )
    return pointer


def store(main: Path) -> Releases:
    return open_store(load_params(main / "params.yaml").store, main)


def evergreen(main: Path, *arguments: str, code: int = 0, failpoint: str = "") -> str:
    """Run a command in `main`, expect the exit code `code`, and return what it printed."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "EVERGREEN_FAILPOINT": failpoint}
    done = command(arguments, main, env)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr
