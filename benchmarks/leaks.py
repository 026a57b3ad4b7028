"""Are copies of hard-set images kept out of training, and images that are none let in?

    python -m benchmarks.leaks PARQUET ... [--peers PYTHON] [--kept FOLDER] [--quick]

PARQUET has the columns image {bytes, path} and label; of belgium-signs the column pole too: images of one sign are
related, so they lie all in the hard set or all in training. Of each set HARD random images are the hard set and up to
TRAIN others are trained on; among these are planted byte-for-byte copies, and PLANTED copies of each kind of
benchmarks.leak_kinds. Then the real steps run: both are ingested, `inspect` excludes what the perceptual hash sees,
and `validate` searches for copies by features and pixels.

- exact_leaks_found: share of the planted bytes that nothing trains on
- near_leaks_found: share of the changed copies that nothing trains on, mean of the sets; per set and per kind as well
- unrelated_denied: share of the other images that are left out, mean of the sets. A set's own copies count here, too:
  TrashNet and InfraredSolar have several photos of one object, which nobody recorded

Peers see the same files: ImageHash's phash and dhash (64 bit) at distance 10, as imagededup's default, and at 4, and
phash at 0, as cleanvision. PYTHON is an interpreter with `pip install imagehash pyarrow`.

Expected: all exact ones, near ones above .95, denied below .01; half a CPU minute a set. --quick plants a few copies in
datasets/fashion.
"""

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.leak_kinds import KINDS, copy_of
from benchmarks.record import Figure, report
from benchmarks.scratch import FASHION, ROOT, say
from tasks.common.files import sha256_bytes, write_json
from tasks.common.params import load_params
from tasks.ingest.batch import ingest
from tasks.stages import inspect
from tasks.stages.validate.copies import Search, exclude_copies

HARD, TRAIN, PLANTED, EXACT = 80, 800, 5, 12
PEERS = (("phash", 10), ("dhash", 10), ("phash", 4), ("phash", 0))
HASHES = """
import imagehash, io, json, sys
from PIL import Image
import pyarrow.parquet as pq
out = {name: [] for name in ("phash", "dhash")}
for image in pq.read_table(sys.argv[1], columns=["image"])["image"].to_pylist():
    opened = Image.open(io.BytesIO(image["bytes"])).convert("RGB")
    for name in out:
        out[name].append(str(getattr(imagehash, name)(opened)))
json.dump(out, open(sys.argv[2], "w"))
"""


def plant(file: Path, folder: Path, hard: int, train: int, planted: int) -> dict[str, np.ndarray]:
    """Write hard.parquet and train.parquet to `folder`; returns what each row of the latter is: kinds, "" for none."""
    rng = np.random.default_rng(0)
    table = pq.read_table(file)
    groups = np.array(table["pole"].to_pylist()) if "pole" in table.column_names else np.arange(len(table))
    order = rng.permutation(np.unique(groups))
    rows = [np.flatnonzero(groups == name) for name in order[: hard + train]]
    chosen, rest = np.concatenate(rows)[:hard], []
    taken = set(groups[chosen].tolist())
    rest = np.array([row for row in np.concatenate(rows)[hard:] if groups[row] not in taken])[:train]
    images = [image["bytes"] for image in table["image"].to_pylist()]
    labels = [str(label) for label in table["label"].to_pylist()]
    first = {}
    for row in [*chosen, *rest]:  # a set may hold the same bytes twice
        first.setdefault(sha256_bytes(images[row]), row)
    chosen, rest = ([row for row in part if first[sha256_bytes(images[row])] == row] for part in (chosen, rest))
    content, names, kinds = [images[row] for row in rest], [labels[row] for row in rest], [""] * len(rest)
    for number, row in enumerate(rng.choice(chosen, EXACT)):
        content.append(images[row]), names.append(labels[row]), kinds.append("exact" if number >= 0 else "")
    for kind in KINDS:
        for row in rng.choice(chosen, planted, replace=False):
            content.append(copy_of(images[row], kind, int(row))), names.append(labels[row]), kinds.append(kind)
    for name, part, of in (
        ("hard", [images[row] for row in chosen], [labels[row] for row in chosen]),
        ("train", content, names),
    ):
        rows = [
            {"image": {"bytes": data, "path": f"{n}.jpg"}, "label": label}
            for n, (data, label) in enumerate(zip(part, of, strict=True))
        ]
        made = pa.Table.from_pylist(rows)
        pq.write_table(
            made.append_column("split", pa.array([name] * len(rows))), folder / f"{name}.parquet", row_group_size=64
        )
    return {"kind": np.array(kinds), "id": np.array([sha256_bytes(data) for data in content])}


def kept_out(folder: Path) -> tuple[set[str], float]:
    """Ids of train.parquet that may be trained on after ingest, inspect and the search; seconds of the search."""
    params = load_params(ROOT / "params.yaml")
    root, took = folder / "project", {}
    root.mkdir(exist_ok=True)
    write_json(root / "tombstones.json", {})
    (root / "dvc.yaml").touch()
    sections = {"data": params.data, "images": params.images, "inspect": params.inspect}
    for name, kind in (("hard", "hard"), ("train", "import")):
        start = time.perf_counter()
        ingest(root, folder / f"{name}.parquet", kind=kind, **sections)
        took[f"ingest {name}"] = time.perf_counter() - start
    start = time.perf_counter()
    inspect.run(root, images=params.images, inspect=params.inspect)
    took["inspect"], start = time.perf_counter() - start, time.perf_counter()
    samples = pq.read_table(root / "artifacts/inspect/samples.parquet")
    samples, copies = exclude_copies(Search(root, params.embed, params.images), samples, ["hard"])
    took["search"] = time.perf_counter() - start
    say(f"  {len(copies)} copies found; " + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in took.items()))
    rows = samples.select(["id", "split", "excluded"]).to_pylist()
    return {row["id"] for row in rows if row["split"] == "train" and row["excluded"] is None}, took["search"]


def peers(python: str, folder: Path) -> dict[str, np.ndarray]:
    """Peer -> which rows of train.parquet it calls near-duplicates of a hard image, (N,) bool."""
    hashes = {}
    for name in ("hard", "train"):
        out = folder / f"{name}-hashes.json"
        subprocess.run([python, "-c", HASHES, str(folder / f"{name}.parquet"), str(out)], check=True)
        hashes[name] = {
            kind: np.array([int(one, 16) for one in found], np.uint64)
            for kind, found in json.loads(out.read_text()).items()
        }
    return {
        f"{kind} <= {most}": (np.bitwise_count(hashes["train"][kind][:, None] ^ hashes["hard"][kind]) <= most).any(
            axis=1
        )
        for kind, most in PEERS
    }


def score(kinds: np.ndarray, denied: np.ndarray) -> dict[str, float]:
    """Shares denied of each kind; "near" of all changed copies, "unrelated" of the others."""
    found = {kind: float(denied[kinds == kind].mean()) for kind in dict.fromkeys(kinds.tolist()) if kind}
    near = (kinds != "") & (kinds != "exact")
    return found | {"near": float(denied[near].mean()), "unrelated": float(denied[kinds == ""].mean())}


def run(files: Iterable[Path], kept: Path, python: str | None, hard: int, train: int, planted: int) -> dict[str, dict]:
    """Set -> method -> score."""
    found: dict[str, dict] = {}
    for file in files:
        folder = kept / file.stem
        stored = folder / "scores.json"
        if not stored.is_file():
            say(f"{file.stem}:")
            folder.mkdir(parents=True, exist_ok=True)
            about = plant(file, folder, hard, train, planted)
            let_in, took = kept_out(folder)
            # of the same bytes twice, only one row is taken: the others are known
            scores = {"evergreen": score(about["kind"], ~np.isin(about["id"], list(let_in))) | {"seconds": took}}
            for name, denied in (peers(python, folder) if python else {}).items():
                scores[name] = score(about["kind"], denied)
            write_json(stored, scores)
        found[file.stem] = json.loads(stored.read_text())
        for name, one in found[file.stem].items():
            missed = ", ".join(f"{kind} {1 - one[kind]:.2f}" for kind in KINDS if one[kind] < 1)
            shares = f"near {one['near']:.3f}, unrelated {one['unrelated']:.4f}, exact {one['exact']:.2f}"
            say(f"  {file.stem} {name}: {shares}; missed: {missed}")
    return found


def figures(found: dict[str, dict]) -> list[Figure]:
    def mean(method: str, what: str) -> tuple[float, str]:
        values = {name: scores[method][what] for name, scores in found.items()}
        return float(np.mean(list(values.values()))), ", ".join(f"{name} {value:.3f}" for name, value in values.items())

    made = []
    goals = (
        ("exact_leaks_found", "exact", 1.0, "higher"),
        ("near_leaks_found", "near", 0.95, "higher"),
        ("unrelated_denied", "unrelated", 0.01, "lower"),
    )
    for name, what, goal, better in goals:
        value, spread = mean("evergreen", what)
        made.append(Figure(name=name, value=value, unit="", goal=goal, better=better, spread=spread))
    for kind in KINDS:
        value, spread = mean("evergreen", kind)
        made.append(
            Figure(
                name=f"near_leaks_found_{kind.replace(' ', '_').replace('%', 'percent')}",
                value=value,
                unit="",
                goal=None,
                better="higher",
                spread=spread,
            )
        )
    for peer in [name for name in next(iter(found.values())) if name != "evergreen"]:
        for name, what, _, better in goals[1:]:
            value, spread = mean(peer, what)
            made.append(Figure(name=name, value=value, unit="", goal=None, better=better, spread=spread, peer=peer))
    return made


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument("--peers", metavar="PYTHON")
    parser.add_argument("--kept", type=Path)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        kept = given.kept or Path(scratch)
        if given.quick:
            found = run([FASHION / "base.parquet"], kept, None, 20, 120, 2)
        else:
            found = run(given.files, kept, given.peers, HARD, TRAIN, PLANTED)
        command = "python -m benchmarks.leaks " + " ".join(file.name for file in given.files) + " --peers PYTHON"
        report("leaks", command, figures(found), given.quick)


if __name__ == "__main__":
    main()
