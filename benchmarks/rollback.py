"""Does rollback restore every version byte for byte, and how fast?

    python -m benchmarks.rollback [--quick]

A project gets 20 versions, each with its own data, model and calibration (the images of the default set in 20 batches,
bundles of 17 MB). Then it is rolled back to each, in an order that jumps back and forth. The function of `evergreen
rollback` hashes the version's bundle and data and moves the pointer. The version is restored into a new folder, and
every file is compared with what was published. Last comes a version of 1 GB of data, restored from the local cache and
then, with the cache deleted, from the remote.

`rollback_pointer_s` is the slowest of the 20 until the pointer has moved, hashing included. `restore_1gb_s` is the
slower of the two restores, every file hashed. Expected: at most 2 s and 60 s, every version identical; about 3 minutes.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.record import Figure, report
from benchmarks.scratch import say, timed
from benchmarks.versions import add_batch, fashion_rows, hashes, release, start
from flows.publishing.rollback import restore, rollback
from tasks.common.params import load_params
from tasks.releases.pointer import Pointer
from tasks.releases.store import open_store

VERSIONS = 20
ENCODED = 1 << 20  # bytes per image of the large version
PER_SHARD = 64


def published(root: Path, versions: int, megabytes: float) -> list[tuple[Pointer, dict[str, str]]]:
    """Publish `versions` versions; returns each with the sha256 of its data and bundle."""
    found = []
    for number, rows in enumerate(fashion_rows(versions), 1):
        add_batch(root, number, [rows])
        with timed(f"version {number}"):
            pointer = release(root, number, megabytes)
        found.append((pointer, state(root / "data", root / "artifacts/bundle")))
    return found


def state(data: Path, bundle: Path) -> dict[str, str]:
    """sha256 of every file of a version's data and bundle."""
    files = {f"data/{name}": sha256 for name, sha256 in hashes(data).items()}
    return files | {f"bundle/{name}": sha256 for name, sha256 in hashes(bundle).items()}


def order(count: int) -> list[int]:
    """Each of `count` versions once; the live one (the last) does not come first."""
    rng = np.random.default_rng(0)
    found = rng.permutation(count).tolist()
    return found if found[0] != count - 1 else found[::-1]


def roll_back_to_each(root: Path, versions: list[tuple[Pointer, dict[str, str]]]) -> tuple[list[float], int]:
    """Seconds until the pointer had moved, for each version; and how many versions came back different."""
    seconds, wrong = [], 0
    releases = open_store(load_params(root / "params.yaml").store, root)
    for place in order(len(versions)):
        pointer, before = versions[place]
        with timed(f"rollback to {pointer.version}") as clock:
            live = rollback(root, pointer.version, by="benchmark", why="measured")
        assert releases.live() == live
        seconds.append(clock.wall)
        dest = restore(root, live, root.parent / "restored")
        wrong += state(dest / "data", dest / "bundle") != before
        shutil.rmtree(dest)
    return seconds, wrong


def restore_large(root: Path, number: int, shards: int) -> tuple[list[float], float, int, int]:
    """Restore a version with `shards` large shards twice.

    Returns the seconds of the two restores, the seconds until its pointer moved, its bytes, and how many restores were
    wrong.
    """
    rng = np.random.default_rng(1)
    shutil.rmtree(root / "data")
    rows = [[(rng.bytes(ENCODED), "cat", "train") for _ in range(PER_SHARD)] for _ in range(shards)]
    add_batch(root, number, rows)
    del rows
    with timed("the large version"):
        pointer = release(root, number)
    before = state(root / "data", root / "artifacts/bundle")
    size = sum(file.stat().st_size for file in root.glob("data/**/*") if file.is_file())
    shutil.rmtree(root / "data")
    rollback(root, None, by="benchmark", why="away")
    with timed("pointer to the large version") as moved:
        rollback(root, pointer.version, by="benchmark", why="and back")
    seconds, wrong = [], 0
    for place in ("cache", "remote"):
        if place == "remote":
            shutil.rmtree(root / ".dvc/cache")
        with timed(f"restoring {size / 1e9:.2f} GB from the {place}") as clock:
            dest = restore(root, pointer, root.parent / "restored")
        seconds.append(clock.wall)
        wrong += state(dest / "data", dest / "bundle") != before
        shutil.rmtree(dest)
    return seconds, moved.wall, size, wrong


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three small versions; checks the script")
    options = parser.parse_args(arguments)
    versions, megabytes, shards = (3, 0.1, 1) if options.quick else (VERSIONS, 17, 16)
    with tempfile.TemporaryDirectory(prefix="evergreen-") as scratch:
        root = start(Path(scratch) / "project")
        pointers, wrong = roll_back_to_each(root, published(root, versions, megabytes))
        restores, large_pointer, size, wrong_large = restore_large(root, versions + 1, shards)
    say(f"{wrong + wrong_large} of {versions + 2} restores differed")
    figures = [
        Figure(
            name="rollback_pointer_s",
            value=max(pointers),
            unit="s",
            goal=2,
            better="lower",
            spread=f"slowest of {versions} versions; median {np.median(pointers):.2f}",
        ),
        Figure(
            name="rollback_versions_not_identical",
            value=wrong + wrong_large,
            unit="versions",
            goal=0,
            better="lower",
            spread=f"sha256 of every file of model, data and calibration; {versions + 2} restores",
        ),
        Figure(
            name="restore_1gb_s",
            value=max(restores) * (2**30 / size),
            unit="s",
            goal=60,
            better="lower",
            spread=f"{size / 2**30:.2f} GiB: {restores[0]:.1f} s from the cache, {restores[1]:.1f} s from the remote",
        ),
        Figure(
            name="rollback_pointer_1gb_s",
            value=large_pointer,
            unit="s",
            goal=None,
            better="lower",
            spread=f"to a version of {size / 2**30:.2f} GiB, all of it hashed before the pointer moves",
        ),
    ]
    report("rollback", "python -m benchmarks.rollback", figures, options.quick)


if __name__ == "__main__":
    main()
