"""One flipped byte, a truncation or a deletion in each of N objects of every kind: found before use, or harmless.

    python -m benchmarks.flips [--objects 2000] [--seed 0] [--keep FILE] [--quick]

A project with three versions, annotations, a production log, late labels, a DVC remote and warm caches is made once.
Each try damages one file, as a failing disk does: name and time stay. Then it reads what lies there as a run, a
rollback, the monitor or a server does. Good ends are one error that a person can act on, or exactly the values of the
undamaged project (from another copy, or made again). Everything else counts: another value, a traceback. Then the
project is as before. Try i of a seed is always the same one; `--keep` notes each, so that a pass that was stopped goes
on where it was.

Every tenth try also asks `evergreen verify --deep`, which must name the damage, unless the file was a copy that nothing
needs. Expected: flips_missed 0, flips_unnamed 0. verify_on_read_share comes from the nine stages on a part of the
example images: seconds spent hashing, as a share of the stages' seconds in the same process. Expected: <= .03.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from benchmarks.flip_readers import COPIES, KINDS, UNCHECKED, cached, served
from benchmarks.record import Figure, report
from benchmarks.scratch import change_params, run_stages, say, scratch_project, small_set
from flows.doctor.quiet import without_warnings
from flows.versions.verify import verify
from monitoring.log.production_log import open_log
from tasks.common.errors import EvergreenError
from tasks.common.params import load_params
from tasks.dataset import shards
from tasks.stages.runner import STAGES
from tests.monitoring.log.test_log import NOON, answers, late
from tests.support import versions_project
from tests.support.flips import flip, truncate

GOAL_SHARE = 0.03
NAMED_EVERY = 10
KEPT = (".git", ".dvc/tmp", ".evergreen/cache/audit")  # not damaged, and not put back after a try


def make_project(folder: Path) -> Path:
    """The project at `folder`/project, with its data and outputs in the remote and everything cached."""
    root = versions_project.copy(folder / "project")
    params = load_params(root / "params.yaml")
    change_params(root, {"images": {"resolution": 16}, "capture": {"url": ".evergreen/production"}})
    log = open_log(
        root, params.model_copy(update={"capture": params.capture.model_copy(update={"url": ".evergreen/production"})})
    )
    log.append(answers(90))
    log.add_labels(late(("a", NOON, "ann", "Bag")))
    log.add_labels(late(("b", NOON, "bob", "Coat")))
    shutil.copytree(root / "artifacts", folder / "artifacts")
    served(root)
    cached(root)
    return root


class Snapshot:
    """The files of a project, to put back whatever a try has changed."""

    def __init__(self, root: Path):
        self.root = root
        self.files = {file: (file.read_bytes(), file.stat()) for file in self._walk()}
        self.seen = {file: self._look(file) for file in self.files}

    def _walk(self) -> list[Path]:
        left_out = [self.root / name for name in KEPT]
        return [
            file
            for file in self.root.rglob("*")
            if file.is_file() and not any(file.is_relative_to(one) for one in left_out)
        ]

    @staticmethod
    def _look(file: Path) -> tuple[int, ...]:
        about = file.stat()
        return about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns

    def put_back(self) -> None:
        for file in self._walk():
            if file not in self.files:
                file.unlink()
        for file, (content, about) in self.files.items():
            if not file.is_file() or self._look(file) != self.seen[file]:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.unlink(missing_ok=True)
                file.write_bytes(content)
                file.chmod(about.st_mode)
                os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
                self.seen[file] = self._look(file)


def damage(file: Path, rng: np.random.Generator) -> str:
    """Flip a byte of `file` (four of five times), cut it or delete it; returns what was done."""
    size, way = file.stat().st_size, rng.random()
    if way < 0.8 and size:
        at = int(rng.integers(size))
        flip(file, at)
        return f"byte {at} of {size} flipped"
    if way < 0.9 and size:
        left = int(rng.integers(size))
        truncate(file, left)
        return f"cut to {left} of {size} bytes"
    file.unlink()
    return "deleted"


def attempt(root: Path, number: int, seed: int, good: dict[str, object], asked: bool) -> tuple[str, list, list]:
    """(kind, what was missed, what `verify --deep` did not name if it is `asked`) of one try."""
    rng = np.random.default_rng([seed, number])
    name = list(KINDS)[number % len(KINDS)]
    files = KINDS[name].files(root)
    file = files[int(rng.integers(len(files)))]
    done = f"{name}, try {number} of seed {seed}: {file.relative_to(root)} {damage(file, rng)}"
    named = None
    if asked and name not in UNCHECKED:
        copy = done.endswith("deleted") and name in (*COPIES, "bundle to publish", "production log")
        seal = file.suffix == ".sha256"  # the end of its line does not count
        named = copy or seal or not all(line.ok for line in verify(root, deep=True))
    try:
        found = KINDS[name].read(root)
        wrong = [] if found == good[name] else [f"{done}: another value, and no error"]
    except EvergreenError:
        wrong = []
    except Exception as error:
        wrong = [f"{done}: {type(error).__name__}: {error}"]
    return name, wrong, [done] if named is False else []


def matrix(folder: Path, seed: int, count: int, keep: Path | None) -> list[dict]:
    """One row per try: kind, what was missed, what `verify --deep` did not name."""
    rows = [json.loads(line) for line in keep.read_text().splitlines()] if keep and keep.is_file() else []
    if len(rows) >= count:
        return rows[:count]
    root = make_project(folder)
    snapshot, good = Snapshot(root), {}
    for name, kind in KINDS.items():
        good[name] = kind.read(root)
        snapshot.put_back()
    for number in range(len(rows), count):
        asked = number // len(KINDS) % NAMED_EVERY == seed % NAMED_EVERY
        name, missed, unnamed = attempt(root, number, seed, good, asked)
        snapshot.put_back()
        rows.append({"kind": name, "missed": missed, "unnamed": unnamed})
        if keep:
            with open(keep, "a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
        if missed or unnamed or number % 100 == 99:
            say(f"try {number + 1} of {count}: {missed} {unnamed}")
    return rows


# the share of hashing


@contextmanager
def hashing_timed():
    """Count the seconds that this process spends hashing what it reads, wherever the product does."""
    import flows.repo.damage as outputs
    import tasks.common.sealed as sealed
    import tasks.common.verified as verified

    spent = SimpleNamespace(seconds=0.0)

    def timed(function):
        def measured(*arguments, **options):
            began = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                spent.seconds += time.perf_counter() - began

        return measured

    places = [(shards, "sha256_bytes"), (sealed, "sha256_file"), (outputs, "hash_local_file"), (verified, "hashlib")]
    before = [getattr(module, name) for module, name in places]
    shim = SimpleNamespace(file_digest=timed(hashlib.file_digest), sha256=timed(hashlib.sha256))
    for (module, name), old in zip(places, before, strict=True):
        setattr(module, name, shim if name == "hashlib" else timed(old))
    try:
        yield spent
    finally:
        for (module, name), old in zip(places, before, strict=True):
            setattr(module, name, old)


def share(folder: Path, quick: bool) -> tuple[float, float]:
    """(seconds of hashing, seconds of the nine stages) on a part of the example images, all in this process."""
    from flows.repo.odb import hash_local_file

    source = small_set(folder / "small.parquet", divisor=40 if quick else 8)
    changes = {"train_backbone": {"epochs": 1}} if quick else {}
    project = scratch_project(folder / "project", source, changes)
    with hashing_timed() as spent:
        seconds = sum(run_stages(project, *STAGES).values())
        began = time.perf_counter()
        for file in sorted((project / "artifacts").rglob("*")):  # as a run does after each stage
            if file.is_file():
                hash_local_file(file)
        outputs = time.perf_counter() - began
    return spent.seconds + outputs, seconds + outputs


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="file that notes each try; what it has is not tried again")
    parser.add_argument("--quick", action="store_true", help="one try of each kind, no stages; records nothing")
    options = parser.parse_args(arguments)
    count = len(KINDS) if options.quick else options.objects
    with without_warnings(), tempfile.TemporaryDirectory(prefix="evergreen-flips-") as folder:
        rows = matrix(Path(folder) / "flips", options.seed, count, options.keep)
        hashed, stages = (0.0, 1.0) if options.quick else share(Path(folder) / "share", False)
    missed, unnamed = ([line for row in rows for line in row[name]] for name in ("missed", "unnamed"))
    tries = Counter(row["kind"] for row in rows)
    for line in [*missed, *(f"not named by verify --deep: {one}" for one in unnamed)]:
        print(line, file=sys.stderr)
    spread = f"{tries.total()} objects of {len(tries)} kinds, {min(tries.values())} or more each; seed {options.seed}"
    figures = [
        Figure(name="flips_missed", value=len(missed), unit="", goal=0, better="lower", spread=spread),
        Figure(name="flips_unnamed", value=len(unnamed), unit="", goal=0, better="lower", spread="every tenth try"),
    ]
    if not options.quick:
        said = f"{hashed:.2f} s of {stages:.1f} s"
        figures.append(
            Figure(
                name="verify_on_read_share",
                value=hashed / stages,
                unit="",
                goal=GOAL_SHARE,
                better="lower",
                spread=said,
            )
        )
    report("flips", "python -m benchmarks.flips", figures, options.quick)


if __name__ == "__main__":
    main()
