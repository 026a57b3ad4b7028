"""A large synthetic project for the console: images of data/, production answers, windows, runs.

    python -m benchmarks.console_project FOLDER [--images 100000] [--windows 5000]

It takes minutes, and starts from a real small project with a live model. Half of the images are data/ in batches of up
to 1,000, half are answers, equally many in each hourly window. Images are 16 x 16 pixels, features have 32 dimensions.
The names of some sources are hostile, so that a page that forgets to escape shows it.
"""

import argparse
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.repo.pipeline import record_data
from monitoring.contracts import DriftDecision, Finding, Measures, Window
from monitoring.journal import Journal, window_id
from monitoring.log.production_log import open_log
from monitoring.log.schema import log_schema
from tasks.backbones.features import feature_file, feature_folder
from tasks.common.checks import Check
from tasks.common.files import sha256_bytes
from tasks.common.params import load_params
from tasks.common.schemas import cleaned_schema, predictions_schema, sample_schema
from tasks.common.sealed import sealed_path
from tasks.dataset import shards
from tasks.models.pretrained import network_key
from tasks.releases.store import open_store
from tests.support import live_project
from tests.support.checkout import git
from tests.support.labelled_project import png
from tests.support.small_project import CLASSES

PER_BATCH = 1_000
DIMENSIONS = 32
END = datetime(2026, 11, 20, tzinfo=UTC)
SOURCES = [
    "gate",
    "belt",
    "dock",
    "press 1",
    "press 2",
    "oven",
    '<img src=x onerror="alert(1)">',
    "מצלמה ימין",
    "=cmd|'A1'",
]
OUTCOMES = ("none",) * 12 + ("watch",) * 4 + ("label", "retrain")
MEASURED = ("image.brightness", "image.contrast", "image.sharpness", "embedding", "confidence", "ood", "prediction.mix")
SENTENCES = {
    "none": "Production looks like the model's reference: no measure is beyond its threshold.",
    "watch": "Brightness has moved in 1 of the last 3 windows: wait for the next one.",
    "label": "Images are darker than anything the model was tested on, in 2 of the last 3 windows; there are no labels "
    "of them yet, so 10 images wait in the review queue.",
    "retrain": "Images are darker than in the model's reference in 3 of the last 3 windows, and 180 new labels of them "
    "are there: retrain.",
}


def make(folder: Path, images: int = 100_000, windows: int = 5_000, runs: int = 300) -> Path:
    """The project at `folder`/main."""
    root = live_project.make(folder)
    rng = np.random.default_rng(0)
    known = len(live_project.samples(root))
    count = images // 2
    _add_data(root, rng, count - known)
    _add_answers(root, rng, images - count, windows)
    _add_windows(root, rng, windows)
    _add_runs(root, runs)
    record_data(root)
    git(root, "add", "-A")
    git(root, "commit", "-qm", "many images")
    return root


def _picture(rng: np.random.Generator, kind: int) -> bytes:
    """A small picture of which no two are equal: a shape of its class in noise."""
    pixels = rng.integers(0, 60, (16, 16, 3), dtype=np.uint8)
    pixels[2 + kind : 14 - kind, 4:12, kind % 3] += 150
    return png(pixels)


def _features(rng: np.random.Generator, kinds: np.ndarray) -> np.ndarray:
    """(N, DIMENSIONS) float32: a cloud per class."""
    centres = np.random.default_rng(1).normal(0, 2, (len(CLASSES), DIMENSIONS))
    return (centres[kinds] + rng.normal(0, 1, (len(kinds), DIMENSIONS))).astype(np.float32)


def _probabilities(rng: np.random.Generator, kinds: np.ndarray) -> np.ndarray:
    """(N, K) float32, mostly right."""
    p = rng.dirichlet(np.full(len(CLASSES), 0.35), len(kinds))
    p[np.arange(len(kinds)), kinds] += rng.gamma(2, 0.5, len(kinds))
    return (p / p.sum(axis=1, keepdims=True)).astype(np.float32)


def _add_data(root: Path, rng: np.random.Generator, count: int) -> None:
    params = load_params(root / "params.yaml")
    cache = feature_folder(root, params.images, network_key(params.embed))
    predictions, cleaned = [], []
    for number, start in enumerate(range(0, count, PER_BATCH)):
        print(f"data/: {start} of {count}", flush=True)
        size = min(PER_BATCH, count - start)
        kinds = rng.integers(0, len(CLASSES), size)
        batch = f"b-{sha256_bytes(f'batch {number}'.encode())[:12]}"
        splits = rng.choice(["train", "calibration", "test", "hard"], size, p=[0.7, 0.14, 0.14, 0.02])
        wrong = rng.random(size) < 0.03
        labels = [CLASSES[(kind + bad) % len(CLASSES)] for kind, bad in zip(kinds, wrong, strict=True)]
        rows = []
        for place, kind in enumerate(kinds):
            data = _picture(rng, int(kind))
            rows.append(
                {
                    "id": sha256_bytes(data),
                    "key": f"part {start + place:06d}",
                    "image": {"bytes": data, "path": f"line {number % 7}/{start + place:06d}.png"},
                    "label": labels[place] if place % 25 else None,
                    "source": SOURCES[int(rng.integers(len(SOURCES)))],
                    "taken_at": END - timedelta(days=300 - number, seconds=place),
                    "origin": ("import", "production", "review")[number % 3],
                    "batch": batch,
                    "slice": [],
                    "split": str(splits[place]),
                    "picked": "representative",
                }
            )
        name = shards.write_shard(root / "data", pa.Table.from_pylist(rows, sample_schema("multiclass")), "multiclass")
        about = {"seq": number + 2, "batch": batch, "kind": "import", "rows": size, "offered": size}
        shards.write_manifest(root / "data", shards.BatchManifest(shards=[name], **about))
        with sealed_path(feature_file(cache, name)) as temporary, open(temporary, "wb") as file:
            np.save(file, _features(rng, kinds).astype(np.float16))
        p, ood = _probabilities(rng, kinds), rng.gamma(2, 0.1, size)
        for place, row in enumerate(rows):
            said = int(p[place].argmax())
            if row["split"] in ("test", "hard"):
                predictions.append(row | {"probabilities": p[place].tolist(), "ood": float(ood[place])})
            if row["label"] is not None:
                sure = float(p[place].max())
                issue = row["label"] != CLASSES[said] and sure > 0.9
                cleaned.append(
                    row
                    | {
                        "given": row["label"],
                        "action": "queue" if issue else "keep",
                        "quality": float(1 - p[place].max()),
                    }
                    | {"predicted": CLASSES[said], "confidence": sure, "is_issue": issue}
                )
    _write(root / "artifacts/evaluate/predictions.parquet", _table(predictions, predictions_schema("multiclass")))
    table = _table(cleaned, cleaned_schema("multiclass"))
    _write(root / "artifacts/clean/labels.parquet", table)
    lines = ["id,given,predicted,confidence,quality,split,reason"]
    for row in table.filter(pc.equal(table["action"], "queue")).to_pylist():
        words = (row["id"], row["given"], row["predicted"], f"{row['confidence']:.4f}", f"{row['quality']:.4f}")
        lines.append(",".join([*words, row["split"], "predicted_differs"]))
    (root / "artifacts/clean/queue.csv").write_text("\n".join(lines) + "\n")


def _table(rows: list[dict], schema: pa.Schema) -> pa.Table:
    return pa.table({field.name: pa.array([row.get(field.name) for row in rows], field.type) for field in schema})


def _write(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # it may be a hardlink into DVC's cache
    pq.write_table(table, path)


def _start(number: int, windows: int) -> datetime:
    return END - timedelta(hours=windows - number)


def _add_answers(root: Path, rng: np.random.Generator, count: int, windows: int) -> None:
    params = load_params(root / "params.yaml")
    log, schema = open_log(root, params), log_schema("multiclass")
    live = open_store(params.store, root).live()
    each = max(count // windows, 1)
    for number in range(windows):
        if number % 1000 == 0:
            print(f"production log: window {number} of {windows}", flush=True)
        kinds = rng.integers(0, len(CLASSES), each)
        encoded = [_picture(rng, int(kind)) for kind in kinds]
        p = _probabilities(rng, kinds)
        first = number * each
        columns = {
            "id": [sha256_bytes(data) for data in encoded],
            "at": [_start(number, windows) + timedelta(seconds=60 * (n + 1)) for n in range(each)],
            "source": [SOURCES[int(rng.integers(len(SOURCES)))] for _ in range(each)],
            "key": [f"order {first + n:06d}" for n in range(each)],
            "path": [f"sent/{first + n:06d}.png" for n in range(each)],
            "image": encoded,
            "version": [live.version if number > windows // 2 else "v0.0.9"] * each,
            "bundle": [live.bundle] * each,
            "latency_ms": rng.gamma(3, 2, each),
            "prediction": [CLASSES[kind] for kind in p.argmax(axis=1)],
            "confidence": p.max(axis=1),
            "probabilities": p.tolist(),
            "ood": rng.gamma(2, 0.1, each),
            "needs_review": [False] * each,
            "features": _features(rng, kinds).tolist(),
            "format": ["PNG"] * each, "mode": ["RGB"] * each, "width": [16] * each, "height": [16] * each,
            "exif_orientation": [1] * each, "brightness": rng.normal(90, 10, each), "contrast": rng.normal(60, 8, each),
            "sharpness": rng.gamma(4, 100, each), "entropy": rng.normal(5, 0.4, each),
            "phash": rng.integers(0, 2**60, each).astype(np.uint64),
        }  # fmt: skip
        nothing = [None] * each
        log.append(pa.table({f.name: pa.array(columns.get(f.name, nothing), f.type) for f in schema}, schema=schema))


def _add_windows(root: Path, rng: np.random.Generator, windows: int) -> None:
    params = load_params(root / "params.yaml")
    journal, live = Journal(open_log(root, params).store), open_store(params.store, root).live()
    for number in range(windows):
        start, end = _start(number, windows), _start(number + 1, windows)
        outcome = OUTCOMES[int(rng.integers(len(OUTCOMES)))]
        moved = rng.random(len(MEASURED)) < (0.6 if outcome != "none" else 0)
        found = [
            Finding(name=name, status="drifted" if drifted else "ok", value=0.17 if drifted else 0.06, threshold=0.1)
            for name, drifted in zip(MEASURED, moved, strict=True)
        ]
        name = window_id(start, end)
        about = Window(id=name, start=start, end=end, version=live.version, bundle=live.bundle, rows=10, used=10)
        mix = dict.fromkeys(CLASSES, 1 / len(CLASSES))
        checks = [Check(name="rows", status="pass", value=10, bound=5, detail="images in the window")]
        decision = DriftDecision(outcome=outcome, sentence=SENTENCES[outcome], checks=checks, window=name)
        journal.append(Measures(window=about, findings=found, mix=mix, reference_mix=mix), decision)


def _add_runs(root: Path, runs: int) -> None:
    releases = open_store(load_params(root / "params.yaml").store, root)
    live = releases.live()
    first = {"key": sha256_bytes(b"first"), "reason": "first", "by": "ann", "at": live.at.isoformat(), "accepted": []}
    first |= {"outcome": "promoted", "sentence": "first", "version": live.version, "verdict": None, "decisions": []}
    releases.put_run(live.run_id, first | {"bundle": live.bundle, "rev": live.git_rev})
    for number in range(runs):
        at = END - timedelta(hours=12 * (runs - number))
        outcome = ("refused", "unchanged", "rejected")[number % 3]
        about = {"key": sha256_bytes(str(number).encode()), "reason": "schedule", "by": "ann", "at": at.isoformat()}
        about |= {"outcome": outcome, "sentence": f"run {number} ended", "version": None, "verdict": None}
        releases.put_run(
            f"{at:%Y%m%dT%H%M%S}-{about['key'][:6]}-{number:04x}", about | {"decisions": [], "accepted": []}
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--windows", type=int, default=5_000)
    arguments = parser.parse_args()
    root = make(arguments.folder, arguments.images, arguments.windows)
    print(json.dumps({"root": str(root)}))


if __name__ == "__main__":
    main()
