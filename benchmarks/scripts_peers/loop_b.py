"""Peer B: as A, with frozen features for the folds; shrunk photos and features are cached by file.

`python -m benchmarks.scripts_peers.loop_b SIDE SECONDS` in a git and DVC repository with photos/ (see photos.py).
"""

import sys

from prefect import flow, task
from torch.utils.data import Subset

from benchmarks.scripts_peers import checks, frozen_folds, network, photos, release
from benchmarks.scripts_peers.file_cache import Shrunk


@task
def check() -> None:
    checks.check(photos.table())


@task
def clean(side: int) -> list[int]:
    probabilities, labels = frozen_folds.out_of_fold(side)
    paths = [path for path, _ in photos.read("train", None).samples]
    return release.kept_rows(probabilities, labels, paths).tolist()


@task
def train(side: int, seconds: float, rows: list[int]):
    data = Shrunk("train", side, photos.changed(side))
    val = Shrunk("val", side, photos.plain(side))
    return network.fit(Subset(data, rows), val, len(data.classes), side, seconds)


@task
def judge(model, side: int) -> None:
    test = Shrunk("test", side, photos.plain(side))
    answers, truth = network.predict(model, test)
    release.release(model, test.classes, answers, truth, [path for path, _ in test.samples])


@flow
def retrain(side: int, seconds: float) -> None:
    task(release.version_photos)()
    check()
    rows = clean(side)
    print("training\n", end="", flush=True)
    model = train(side, seconds, rows)
    print("trained\n", end="", flush=True)
    judge(model, side)


if __name__ == "__main__":
    retrain(int(sys.argv[1]), float(sys.argv[2]))
