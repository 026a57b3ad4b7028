"""Do sets of plausible classes keep the wanted coverage for each class, and how long are they?

    python -m benchmarks.conformal DATA KEPT [--mapie PYTHON] [--quick]

DATA: folder with belgium-signs, infrared-solar and trashnet-256.parquet (image {bytes}, label) and with
cut-dev-aggre and cut-dev-worst.parquet (`true` class and `probabilities` of CIFAR-10N's images). Of an image set, a
third trains a class-balanced linear head on frozen pretrained features. `cifar10n_tail` has 5,000 to 20 images a class.
The other images are divided at random, 200 times, into calibration and test images. Each time, temperature and bounds
are fitted on the calibration images, as stage `calibrate` does, and a class's coverage on the test images is measured;
the mean over the divisions counts.

- class_coverage_gap: the largest distance from the wanted coverage, of all classes with at least 50 calibration images
- rare_class_coverage: all classes of one set with fewer, together; the lowest set. `spread` names the lowest class.
- set_length: mean classes in a set, against one bound for all classes (plain), the same on probabilities divided by the
  class's share (prevalence-adjusted softmax, Ding et al. 2025), and bounds by class without anything for rare ones
- set_length_with_answer: as `Predictor` gives it: the answer is always in the set
- same_split_shift: what the coverage of a set is moved by when the temperature is fitted on the same images as the
  bounds, not on others

`--mapie`: a Python with MAPIE (in an environment of its own). Fitted on each class alone, it must give the same sets:
`mapie_differences` counts (image, class) pairs that differ.

KEPT holds features and finished sets. Expected: a gap of at most 2 points; minutes for the features, then 2 minutes.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.record import Figure, report
from benchmarks.scratch import ROOT, say
from tasks.common.files import atomic_path, read_json, write_json
from tasks.common.params import load_params
from tasks.inference import conformal
from tasks.inference.temperature import fit_temperature, probabilities
from tasks.models import probe

WANTED = 0.9
ENOUGH = 50  # calibration images
DIVISIONS = 200
GOAL = 0.02
IMAGES = {"signs": "belgium-signs", "infrared": "infrared-solar", "trashnet": "trashnet-256"}
GIVEN = {"cifar10n_aggre": "cut-dev-aggre", "cifar10n_worst": "cut-dev-worst"}
MOST = 10_000  # images of a set with given probabilities
TAIL = (5000, 3000, 1800, 1000, 600, 300, 150, 80, 40, 20)
METHODS = ("by class", "plain", "prevalence-adjusted", "rare always in")
MAPIE = """
import sys, warnings
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from mapie.classification import SplitConformalClassifier

class Given(ClassifierMixin, BaseEstimator):
    def __init__(self, classes=2):
        self.classes = classes
        self.classes_ = np.arange(classes)
    def fit(self, x, y):
        return self
    def predict_proba(self, x):
        return x
    def predict(self, x):
        return x.argmax(axis=1)
    def __sklearn_is_fitted__(self):
        return True

warnings.simplefilter("ignore")
given = np.load(sys.argv[1])
p, y, fresh = given["p"], given["y"], given["fresh"]
sets = np.zeros(fresh.shape, bool)
for k in given["classes"]:
    one = SplitConformalClassifier(
        Given(p.shape[1]), confidence_level=float(given["wanted"]), conformity_score="lac", prefit=True
    )
    one.conformalize(p[y == k], y[y == k])
    sets[:, k] = one.predict_set(fresh)[1][:, k, 0]
np.save(sys.argv[2], sets)
"""


def read_set(name: str, data: Path, kept: Path) -> tuple[np.ndarray, np.ndarray]:
    """(logits (N, K), class numbers (N,)) of the images that trained nothing; kept for the next time."""
    file = kept / f"{name}.npz"
    if not file.is_file():
        logits, y = _of_images(data / f"{IMAGES[name]}.parquet") if name in IMAGES else _given(name, data)
        with atomic_path(file) as temporary, open(temporary, "wb") as out:
            np.savez(out, logits=logits, y=y)
    found = np.load(file)
    return found["logits"], found["y"]


def _given(name: str, data: Path) -> tuple[np.ndarray, np.ndarray]:
    table = pq.read_table(data / f"{GIVEN.get(name, 'cut-dev-aggre')}.parquet")
    y, rng = table["true"].to_numpy().astype(int), np.random.default_rng(0)
    rows = rng.permutation(len(y))
    if name == "cifar10n_tail":
        rows = np.concatenate([rows[y[rows] == k][:count] for k, count in enumerate(TAIL)])
    else:
        rows = rows[:MOST]
    p = np.array(table["probabilities"].take(rows).to_pylist(), np.float64)
    return np.log(np.maximum(p, 1e-12)), y[rows]


def _of_images(file: Path) -> tuple[np.ndarray, np.ndarray]:
    from tasks.backbones import frozen, timm_models
    from tasks.dataset.decode import preprocess

    params = load_params(ROOT / "params.yaml")
    side, backbone, batch = params.images.resolution, params.embed.backbone, params.embed.batch_size
    network = frozen.frozen_network(
        lambda: timm_models.create_model(backbone, "auto", 0, side),
        *timm_models.normalisation(backbone),
        size=side,
        batch_size=batch,
    )
    table = pq.read_table(file, columns=["image", "label"])
    images = table["image"].combine_chunks().field("bytes").to_pylist()
    parts = []
    for start in range(0, len(images), batch):
        block = [
            preprocess(one, side, params.images.fit, params.images.max_pixels) for one in images[start : start + batch]
        ]
        parts.append(network(np.stack(block)))
    _, y = np.unique(table["label"].to_pylist(), return_inverse=True)
    return head_logits(np.concatenate(parts).astype(np.float32), y)


def head_logits(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(logits, class numbers) of two thirds of the images, by a class-balanced head on the other third."""
    rng, train = np.random.default_rng(0), np.zeros(len(y), bool)
    for k in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == k))
        train[rows[: max(1, len(rows) // 3)]] = True
    classes = int(y.max()) + 1
    count = np.bincount(y[train], minlength=classes)
    head = probe.fit(x[train], y[train], classes, sample_weight=1 / count[y[train]])
    return head.logits(x[~train]).astype(np.float64), y[~train]


def bounds_of(p: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Bounds (K,) by each of METHODS, on calibration probabilities p (N, K) of classes y (N,)."""
    classes = p.shape[1]
    fitted = conformal.fit(p, y, WANTED)
    own, place = p[np.arange(len(y)), y], conformal.rank(len(y), WANTED) - 1
    share = (np.bincount(y, minlength=classes) + 1) / (len(y) + classes)
    return {
        "by class": fitted.values,
        "plain": np.full(classes, np.sort(own)[place]),
        "prevalence-adjusted": np.sort(own / share[y])[place] * share,
        "rare always in": np.where(fitted.own, fitted.values, 0.0),
    }


def divided(logits: np.ndarray, y: np.ndarray, divisions: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(calibration rows, test rows), `divisions` times."""
    for seed in range(divisions):
        order = np.random.default_rng(seed).permutation(len(y))
        yield order[: len(y) // 2], order[len(y) // 2 :]


def measure(logits: np.ndarray, y: np.ndarray, divisions: int) -> dict:
    """Means over the divisions: calibration images and coverage by class and method, lengths, the shift."""
    coverage: dict[str, list] = {method: [] for method in METHODS}
    length: dict[str, list] = {method: [] for method in METHODS}
    with_answer, shift, counts = [], [], []
    for mine, fresh in divided(logits, y, divisions):
        temperature = fit_temperature(logits[mine], y[mine])
        p, q = (probabilities(logits[rows], temperature, "multiclass") for rows in (mine, fresh))
        counts.append(np.bincount(y[mine], minlength=logits.shape[1]))
        for method, bounds in bounds_of(p, y[mine]).items():
            found = conformal.measure(q >= bounds, y[fresh])
            coverage[method].append(found.coverage)
            length[method].append(found.mean_length)
            if method == "by class":
                with_answer.append(
                    conformal.measure(conformal.plausible(q, q.argmax(axis=1), bounds), y[fresh]).mean_length
                )
        shift.append(_shift(logits, y, mine, fresh))
    with np.errstate(invalid="ignore"):
        return {
            "images": np.mean(counts, axis=0).tolist(),
            "coverage": {method: np.nanmean(found, axis=0).tolist() for method, found in coverage.items()},
            "length": {method: float(np.mean(found)) for method, found in length.items()},
            "with_answer": float(np.mean(with_answer)),
            "shift": float(np.mean(shift)),
        }


def _shift(logits: np.ndarray, y: np.ndarray, mine: np.ndarray, fresh: np.ndarray) -> float:
    """Coverage of half of `fresh` with the temperature of `mine`, less that with one of the other half."""
    other, tested = fresh[::2], fresh[1::2]
    found = []
    for rows in (mine, other):
        temperature = fit_temperature(logits[rows], y[rows])
        bounds = conformal.fit(probabilities(logits[mine], temperature, "multiclass"), y[mine], WANTED).values
        p = probabilities(logits[tested], temperature, "multiclass")
        found.append(conformal.measure(p >= bounds, y[tested]).covered)
    return found[0] - found[1]


def mapie_differences(python: str, logits: np.ndarray, y: np.ndarray, kept: Path) -> int:
    """(image, class) pairs that MAPIE's sets have and ours have not, or the other way round, in one division."""
    mine, fresh = next(divided(logits, y, 1))
    p, q = (probabilities(logits[rows], 1.0, "multiclass") for rows in (mine, fresh))
    enough = np.bincount(y[mine], minlength=p.shape[1]) > 2 / (1 - WANTED)  # MAPIE refuses fewer
    given, theirs = kept / "given.npz", kept / "mapie.npy"
    np.savez(given, p=p, y=y[mine], fresh=q, wanted=WANTED, classes=np.flatnonzero(enough))
    subprocess.run([python, "-c", MAPIE, str(given), str(theirs)], check=True)
    exact = conformal.fit(p, y[mine], WANTED).values / (1 - conformal.SLACK)
    ours = q >= exact - 1e-12  # MAPIE allows for rounding, too
    return int((np.load(theirs) != ours)[:, enough].sum())


def figures_of(found: dict[str, dict]) -> list[Figure]:
    gaps, rare, lowest = {}, {}, {}
    for name, one in found.items():
        images, coverage = np.array(one["images"]), np.array(one["coverage"]["by class"])
        gaps[name] = float(np.abs(coverage - WANTED)[images >= ENOUGH].max(initial=0))
        few = (images < ENOUGH) & ~np.isnan(coverage)
        if few.any():
            rare[name] = float(np.average(coverage[few], weights=images[few]))
            below = int((coverage[few] < WANTED - 0.005).sum())
            lowest[name] = f"{name} lowest {coverage[few].min():.3f}, {below} of {few.sum()} classes below"
    plain = {
        name: max(abs(c - WANTED) for c, n in zip(one["coverage"]["plain"], one["images"], strict=True) if n >= ENOUGH)
        for name, one in found.items()
        if max(one["images"]) >= ENOUGH
    }
    common = {"seeds": DIVISIONS}
    made = [
        Figure(
            name="class_coverage_gap",
            value=max(gaps.values()),
            unit="",
            goal=GOAL,
            better="lower",
            peer=f"one bound for all classes {max(plain.values()):.3f}",
            spread=", ".join(f"{name} {gap:.4f}" for name, gap in gaps.items()),
            **common,
        )
    ]
    if rare:
        made.append(
            Figure(
                name="rare_class_coverage",
                value=min(rare.values()),
                unit="",
                goal=WANTED,
                better="higher",
                spread="; ".join(f"{text}, together {rare[name]:.3f}" for name, text in lowest.items()),
                **common,
            )
        )
    for name, one in found.items():
        peers = ", ".join(f"{method} {one['length'][method]:.2f}" for method in METHODS[1:])
        length = one["length"]["by class"]
        made.append(
            Figure(
                name=f"set_length_{name}",
                value=length,
                unit="classes",
                goal=None,
                better="lower",
                peer=peers,
                spread=f"of {len(one['images'])}; with the answer {one['with_answer']:.2f}",
                **common,
            )
        )
    shifts = {name: 100 * one["shift"] for name, one in found.items()}
    worst = max(shifts.values(), key=abs)
    each = ", ".join(f"{name} {value:+.3f}" for name, value in shifts.items())
    made.append(
        Figure(name="same_split_shift", value=worst, unit="points", goal=None, better="higher", spread=each, **common)
    )
    if any("mapie" in one for one in found.values()):
        different = sum(one["mapie"] for one in found.values())
        text = "MAPIE's SplitConformalClassifier (lac) on each class"
        made.append(Figure(name="mapie_differences", value=different, unit="pairs", goal=0, better="lower", peer=text))
    return made


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", help="folder with the Parquet files")
    parser.add_argument("kept", type=Path, nargs="?", help="folder for logits and results")
    parser.add_argument("--mapie", metavar="PYTHON", help="a Python with MAPIE")
    parser.add_argument(
        "--quick", action="store_true", help="drawn images instead of DATA, 5 divisions; records nothing"
    )
    options = parser.parse_args(arguments)
    if not options.quick and not (options.data and options.kept):
        parser.error("DATA and KEPT are missing: name the folder of the sets, and one for features and results")
    found = {}
    if options.quick:
        found["drawn"] = measure(*drawn(), divisions=5)
    else:
        options.kept.mkdir(parents=True, exist_ok=True)
        for name in (*GIVEN, "cifar10n_tail", *IMAGES):
            file = options.kept / f"{name}.json"
            if not file.is_file():
                logits, y = read_set(name, options.data, options.kept)
                say(f"{name}: {len(y)} images")
                one = measure(logits, y, DIVISIONS)
                if options.mapie:
                    one["mapie"] = mapie_differences(options.mapie, logits, y, options.kept)
                write_json(file, one)
            found[name] = read_json(file)
    report("conformal", "python -m benchmarks.conformal DATA KEPT --mapie PYTHON", figures_of(found), options.quick)


def drawn(images: int = 2_000) -> tuple[np.ndarray, np.ndarray]:
    """(logits, class numbers) of a long tail of five classes, the rare ones harder to tell."""
    rng = np.random.default_rng(0)
    y = rng.choice(5, images, p=[0.6, 0.25, 0.1, 0.04, 0.01])
    logits = rng.normal(0, 1, (images, 5))
    logits[np.arange(images), y] += np.linspace(4, 1.5, 5)[y]
    return logits, y


if __name__ == "__main__":
    sys.exit(main())
