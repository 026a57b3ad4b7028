"""Peer A: ImageFolder, timm, cleanlab on five trained folds, Great Expectations and DVC in a Prefect flow.

`python -m benchmarks.scripts_peers.loop_a SIDE SECONDS` in a git and DVC repository with photos/ (see photos.py).
"""

import sys

from prefect import flow, task
from torch.utils.data import Subset

from benchmarks.scripts_peers import checks, network, photos, release, trained_folds


@task
def check() -> None:
    checks.check(photos.table())


@task
def clean(side: int, seconds: float) -> list[int]:
    probabilities, labels = trained_folds.out_of_fold(side, seconds)
    paths = [path for path, _ in photos.read("train", None).samples]
    return release.kept_rows(probabilities, labels, paths).tolist()


@task
def train(side: int, seconds: float, rows: list[int]):
    data = photos.read("train", photos.changed(side))
    val = photos.read("val", photos.plain(side))
    return network.fit(Subset(data, rows), val, len(data.classes), side, seconds)


@task
def judge(model, side: int) -> None:
    test = photos.read("test", photos.plain(side))
    answers, truth = network.predict(model, test)
    release.release(model, test.classes, answers, truth, [path for path, _ in test.samples])


@flow
def retrain(side: int, seconds: float) -> None:
    task(release.version_photos)()
    check()
    rows = clean(side, seconds)
    print("training\n", end="", flush=True)
    model = train(side, seconds, rows)
    print("trained\n", end="", flush=True)
    judge(model, side)


if __name__ == "__main__":
    retrain(int(sys.argv[1]), float(sys.argv[2]))
