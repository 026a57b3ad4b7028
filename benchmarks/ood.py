"""Which images does the score of unfamiliar images find, beside each single score and pytorch-ood?

    python -m benchmarks.ood PARQUET... --kept KEPT [--peer PYTHON] [--frozen] [--quick]

PARQUET has the columns image {bytes, path}, label and maybe domain. Of each set, groups of classes are left out, one
after the other: no image of theirs is in training, calibration or the network's training. The network is the frozen
pretrained backbone; without --frozen, of the first groups also one that is fine-tuned on the other classes only.

- near: AUROC of images of left-out classes against test images of the others. ood_near_gain_points: auto less kNN
- far: noise, flat colours, textures, and images of the other sets
- shifted: share of known test images flagged when they are dark, blurred, noisy or compressed. Where there are domains,
  the network knows two; `moved` is the share of images of known classes flagged in the others
- oracle: `--peer` is a Python with pytorch-ood; greatest difference in AUROC on the same 256 dimensions of features

- cost: size of ood.safetensors and time for one image with 1,000 classes and 2,048 dimensions, of random features

Finished cases are kept in KEPT; a run that is stopped goes on there. Expected: a gain of 5 points or more.
"""

import argparse
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.record import Figure, report
from benchmarks.scratch import FASHION, ROOT, say
from tasks.common.files import read_json, write_json
from tasks.common.params import CalibrateParams, load_params
from tasks.inference.onnx_model import Outputs
from tasks.inference.ood import gaussian, residual
from tasks.inference.ood import scores as ood
from tasks.models import probe
from tasks.stages.calibrate import probes
from tasks.stages.calibrate.choice import Seen, auroc, class_groups
from tasks.stages.calibrate.unfamiliar import PROBED_IMAGES, Probed, fit_score

SIZE, MOST, TEST, OTHERS, GROUPS = 64, 800, 150, 50, 2
EPOCHS, DOMAINS = 3, 2
TASK = "multiclass"
ORACLE = ("knn", "energy", "mahalanobis", "rmds", "vim")


@dataclass(frozen=True)
class Photos:
    """N images as the network reads them; `domains` (N,) names, all "" where the set has none."""

    name: str
    pixels: np.ndarray  # (N, SIZE, SIZE, 3) uint8
    labels: np.ndarray
    domains: np.ndarray

    def rows(self, where: np.ndarray) -> "Photos":
        return Photos(self.name, self.pixels[where], self.labels[where], self.domains[where])


@dataclass(frozen=True)
class Case:
    """Known images in three parts, unknown ones, and known classes in domains that no training image shows."""

    train: Photos
    calibration: Photos
    test: Photos
    near: Photos
    moved: Photos
    classes: np.ndarray

    def targets(self, photos: Photos) -> np.ndarray:
        return np.searchsorted(self.classes, photos.labels)


Features = Callable[[np.ndarray], np.ndarray]  # (N, SIZE, SIZE, 3) uint8 -> (N, D)


def read_photos(file: Path, most: int = MOST) -> Photos:
    from tasks.dataset.decode import preprocess

    table = pq.read_table(file)
    if len(table) > most:
        table = table.take(np.sort(np.random.default_rng(0).choice(len(table), most, replace=False)))
    pixels = np.stack([preprocess(one["bytes"], SIZE, "squash", 10**8) for one in table["image"].to_pylist()])
    labels = np.array(table["label" if "label" in table.column_names else "clean_label"].to_pylist())
    domains = np.array(table["domain"].to_pylist() if "domain" in table.column_names else [""] * len(table))
    return Photos(file.stem, pixels, labels, domains)


def make_case(photos: Photos, left_out: np.ndarray, seed: int = 0) -> Case:
    """left_out: names of the unknown classes."""
    rng = np.random.default_rng(seed)
    domains = np.unique(photos.domains)[:DOMAINS]
    here, unknown = np.isin(photos.domains, domains), np.isin(photos.labels, left_out)
    known = rng.permutation(np.flatnonzero(here & ~unknown))
    test, calibration, train = np.split(known, [min(TEST, len(known) // 5), 2 * min(TEST, len(known) // 5)])
    near = rng.permutation(np.flatnonzero(here & unknown))[: 2 * TEST]
    moved = rng.permutation(np.flatnonzero(~here & ~unknown))[:TEST]
    parts = (photos.rows(where) for where in (train, calibration, test, near, moved))
    return Case(*parts, classes=np.setdiff1d(np.unique(photos.labels), left_out))


def frozen_network() -> Features:
    return _features(_backbone(0))


def tuned_network(case: Case, epochs: int = EPOCHS) -> Features:
    """The pretrained backbone, fine-tuned on the known classes of `case` only."""
    import torch

    from tasks.backbones import timm_models

    torch.manual_seed(0)
    network, (mean, std) = _backbone(len(case.classes)), timm_models.normalisation(_name())
    targets = torch.tensor(case.targets(case.train))
    optimiser = torch.optim.AdamW(network.parameters(), 5e-4, weight_decay=0.01)
    steps = epochs * -(-len(targets) // 32)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=steps)
    network.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(targets)).split(32):
            if len(rows) > 1:
                pixels = case.train.pixels[rows.numpy()]
                x = timm_models.to_input(pixels, mean, std, torch.device("cpu"))
                flipped = torch.rand(len(rows)) < 0.5
                x[flipped] = x[flipped].flip(3)
                loss = torch.nn.functional.cross_entropy(network(x), targets[rows], label_smoothing=0.1)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            schedule.step()
    return _features(network.eval())


def measure(case: Case, features: Features, others: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Method, auto included -> {near, far, shifted, moved} in points; auto also `choice`."""
    x = features(case.train.pixels)
    y = case.targets(case.train)
    head = probe.fit(x, y, len(case.classes))

    def model(pixels: np.ndarray) -> Outputs:
        found = features(pixels)
        logits = head.logits(found)
        return Outputs(logits, probe.softmax(logits), found)

    training = ood.Training(x, head.logits(x), y)
    held, test = model(case.calibration.pixels), model(case.test.pixels)
    targets = case.targets(case.calibration)
    picked = ood.bank_rows(targets, PROBED_IMAGES)
    ids = [f"{zlib.crc32(image.tobytes()):064x}" for image in case.calibration.pixels[picked]]
    probed = Probed(case.calibration.pixels[picked], ids, targets[picked])
    params = CalibrateParams(ood_method="auto")
    chosen = fit_score(model, probed, Seen(held.features, held.logits), targets, training, params, TASK)
    choice = chosen.about["method"]
    near = model(case.near.pixels)
    far = {name: model(pixels) for name, pixels in (probes.far(SIZE) | others).items()}
    of_test = [f"{zlib.crc32(image.tobytes()):064x}" for image in case.test.pixels]
    shifted = {name: model(pixels) for name, pixels in probes.shifted(case.test.pixels, of_test).items()}
    moved = model(case.moved.pixels) if len(case.moved.pixels) else None
    found = {}
    for method in ood.METHODS:
        about, tensors, _ = ood.fit(method, training, held.features, held.logits, params.ood_false_rejection, TASK)

        def scores(out: Outputs, about: dict = about, tensors: dict = tensors) -> np.ndarray:
            return ood.score(out.features, out.logits, about, tensors)

        def flagged(out: Outputs, about: dict = about) -> float:
            return 100 * float(np.mean(scores(out) > about["threshold"]))

        known = scores(test)
        found[method] = {
            "near": auroc(known, scores(near)),
            "far": float(np.mean([auroc(known, scores(out)) for out in far.values()])),
            "shifted": float(np.mean([flagged(out) for out in shifted.values()])),
            "clean": flagged(test),
            "believed_near": chosen.measured["scores"][method]["near"],
        } | ({"moved": flagged(moved)} if moved else {})
    found["auto"] = found[choice] | {"choice": choice}
    return found


def oracle_difference(case: Case, features: Features, python: str) -> float:
    """Greatest difference in near AUROC, in points, between our scores and pytorch-ood's on the same features."""
    known, near = (features(photos.pixels)[:, :256].astype(np.float32) for photos in (case.test, case.near))
    x = features(case.train.pixels)[:, :256].astype(np.float32)
    y = case.targets(case.train)
    head = probe.fit(x, y, len(case.classes))
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "in.npz", Path(folder) / "out.npz"
        explained = residual.principal(*x.shape)  # of few images, fewer directions than the paper has
        np.savez(file, explained=explained, x=x, y=y, weight=head.weight, bias=head.bias, known=known, near=near)
        subprocess.run([python, "-m", "benchmarks.ood_peer", file, out], check=True, cwd=ROOT)
        theirs = dict(np.load(out))
    training = ood.Training(x, head.logits(x), y)
    differences = {}
    for method in ORACLE:
        if method in ood.GAUSSIAN:  # theirs does not shrink
            tensors = gaussian.fit(x, ood.members(y), **ood.GAUSSIAN[method], shrinkage=0)
            about = {"method": method, "task": TASK}
        else:
            about, tensors, _ = ood.fit(method, training, known, head.logits(known), 0.02, TASK)
        ours = [ood.score(part, head.logits(part), about, tensors) for part in (known, near)]
        both = auroc(*ours), auroc(theirs[f"{method}-known"], theirs[f"{method}-near"])
        say(f"  {method}: {both[0]:.2f}, pytorch-ood {both[1]:.2f}")
        differences[method] = abs(both[0] - both[1])
    return max(differences.values())


def cost(classes: int, dimensions: int, rounds: int = 30) -> dict[str, dict[str, float]]:
    """Method -> {megabytes, ms} of a score on random features: what is stored, and the time for one image."""
    rng = np.random.default_rng(0)
    rows = min(ood.training_rows(dimensions), 10 * classes)
    y = rng.permutation(np.arange(rows) % classes)
    centres = rng.standard_normal((classes, dimensions), dtype=np.float32)
    x = centres[y] + rng.standard_normal((rows, dimensions), dtype=np.float32)
    training, found = ood.Training(x, x @ centres.T, y), {}
    for method in ood.METHODS:
        about, tensors, _ = ood.fit(method, training, x[:200], training.logits[:200], 0.02, TASK)
        megabytes = sum(value.nbytes for value in tensors.values()) / 1e6
        tensors = {name: value.astype(np.float32) for name, value in tensors.items()}
        start = time.process_time()
        for row in range(rounds):
            ood.score(x[row : row + 1], training.logits[row : row + 1], about, tensors)
        found[method] = {"megabytes": megabytes, "ms": 1000 * (time.process_time() - start) / rounds}
    return found


def _name() -> str:
    return load_params(ROOT / "params.yaml").embed.backbone


def _backbone(classes: int):
    from tasks.backbones import timm_models

    return timm_models.create_model(_name(), "auto", classes, SIZE).eval()


def _features(network) -> Features:
    import torch

    from tasks.backbones import timm_models

    mean, std = timm_models.normalisation(_name())

    def features(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            starts = range(0, len(pixels), 64)
            inputs = (timm_models.to_input(pixels[at : at + 64], mean, std, torch.device("cpu")) for at in starts)
            parts = [timm_models.features(network, x) for x in inputs]
        return torch.cat(parts).numpy()

    return features


def cases(sets: list[Photos], groups: int, tuned: bool) -> list[tuple[str, Photos, np.ndarray, bool]]:
    """(name, set, classes left out, fine-tune) of every case, those of all sets in turn."""
    found = []
    for number, tune in [*((number, False) for number in range(groups)), *([(0, True)] if tuned else [])]:
        for photos in sets:
            names = np.unique(photos.labels)
            left_out = names[class_groups(len(names), 4)[number]]
            found.append((f"{photos.name}-{number}-{'tuned' if tune else 'frozen'}", photos, left_out, tune))
    return found


def run(
    files: list[Path],
    kept: Path,
    peer: str | None,
    *,
    groups: int = GROUPS,
    most: int = MOST,
    wide: tuple[int, int] = (1000, 2048),
    tuned: bool = True,
) -> list[Figure]:
    sets = [read_photos(file, most) for file in files]
    kept.mkdir(parents=True, exist_ok=True)
    for name, photos, left_out, tune in cases(sets, groups, tuned):
        file = kept / f"{name}.json"
        if file.is_file():
            continue
        case = make_case(photos, left_out)
        features = tuned_network(case) if tune else frozen_network()
        others = {one.name: one.pixels[:OTHERS] for one in sets if one.name.split("-")[0] != photos.name.split("-")[0]}
        found = measure(case, features, others)
        write_json(file, found)
        if peer and name.endswith("-0-frozen"):
            found["oracle"] = {"difference": oracle_difference(case, features, peer)}
        write_json(file, found)
        say(f"{name}: near {found['knn']['near']:.1f} (kNN), {found['auto']['near']:.1f} ({found['auto']['choice']})")
    costs = kept / "cost.json"
    if not costs.is_file():
        write_json(costs, cost(*wide))
    rows = figures({name: read_json(kept / f"{name}.json") for name, *_ in cases(sets, groups, tuned)})
    for method, one in read_json(costs).items():
        for key, unit in (("megabytes", "MB"), ("ms", "ms")):
            rows.append(Figure(name=f"{key}.{method}", value=one[key], unit=unit, goal=None, better="lower"))
    return rows


def figures(found: dict[str, dict]) -> list[Figure]:
    """Means over all cases, and those of frozen and of fine-tuned networks."""

    def mean(method: str, key: str, ending: str = "") -> float:
        values = [one[method][key] for name, one in found.items() if name.endswith(ending) and key in one[method]]
        return float(np.mean(values)) if values else float("nan")

    gains = [one["auto"]["near"] - one["knn"]["near"] for one in found.values()]
    spread = f"min {min(gains):.1f}, max {max(gains):.1f} of {len(gains)} cases"
    best = [max(one[method]["near"] for method in ood.METHODS) for one in found.values()]
    far = mean("auto", "far") - mean("knn", "far")
    regret = float(np.mean(best)) - mean("auto", "near")
    rows = [
        _points("ood_near_gain_points", float(np.mean(gains)), "higher", 5, "kNN", spread),
        _points("ood_far_gain_points", far, "higher", -1, "kNN"),
        _points("ood_near_regret_points", regret, "lower", peer="the best score of each case"),
    ]
    for ending in ("frozen", "tuned"):
        rows.append(_points(f"ood_near_gain_{ending}", mean("auto", "near", ending) - mean("knn", "near", ending)))
    for method in ("auto", *ood.METHODS):
        for key in ("near", "far", "shifted", "moved", "clean"):
            rows.append(_points(f"{key}.{method}", mean(method, key), "higher" if key in ("near", "far") else "lower"))
    rows = [row for row in rows if np.isfinite(row.value)]
    differences = [one["oracle"]["difference"] / 100 for one in found.values() if "oracle" in one]
    if differences:
        about = {"unit": "AUROC", "goal": 1e-3, "better": "lower", "peer": "pytorch-ood"}
        rows.append(Figure(name="ood_oracle_difference", value=max(differences), **about))
    return rows


def _points(
    name: str, value: float, better: str = "higher", goal: float | None = None, peer: str = "", spread: str = ""
) -> Figure:
    return Figure(name=name, value=value, unit="points", goal=goal, better=better, peer=peer, spread=spread)


def main(argv: list[str] | None = None) -> list[Figure]:
    parser = argparse.ArgumentParser(description="scores of unfamiliar images beside one another and pytorch-ood")
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--kept", type=Path, help="folder for finished cases")
    parser.add_argument("--peer", help="a Python that has pytorch-ood")
    parser.add_argument("--frozen", action="store_true", help="only the pretrained network, and one group of each set")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        kept = given.kept or Path(scratch)
        files = given.files or [FASHION / "base.parquet"]
        few = {"groups": 1, "most": 120, "wide": (10, 64)} if given.quick else {}
        few |= {"groups": 1, "tuned": False} if given.frozen else {}
        found = run(files, kept, given.peer, **few)
    command = "python -m benchmarks.ood PARQUET... --kept KEPT --peer PYTHON" + " --frozen" * given.frozen
    report("ood", command, found, given.quick)
    return found


if __name__ == "__main__":
    main()
