"""Which drifts are found, how soon, and would softmax outputs alone have done as well?

    python -m benchmarks.drift_power [FASHION_MNIST] [--pacs PARQUET] [--quick]

210 injected shifts: 10 kinds (benchmarks.fashion_windows.KINDS) at 3 strengths, 7 of each. Each is injected into two
windows of 500 different rows, which are measured against references of 500 others.

- `shift_detection_rate`: share of shifts of medium strength for which the second window decides more than `watch`.
  With decide.persistence of 2 of 3, both windows must have drifted. Goal at least 0.95.
- `shift_detection_rate_weak`, `_strong`, and `shift_detection_<kind>` at medium strength: show where shifts are missed.
- `power_vs_bbsd_ratio`: share of all shifted windows found, over the share found by Bonferroni-corrected
  Kolmogorov-Smirnov tests on softmax outputs (Rabanser et al. 2019, "Failing loudly"). Both use thresholds that a share
  of 0.01 of the same null windows exceeds, so only the inputs differ, not the strictness. Goal at least 1.
- `shift_evidently_*_rate`: what Evidently finds at its defaults in one window of each kind at medium strength.
- `pacs_*`: with --pacs, a Parquet file of the PACS pictures (columns image, domain, label). A model of photos meets
  other photos, art, cartoons and sketches, 5 windows of 100 each; decisions of more than `watch` from the second on.

Expected: 0.95 and 1.0 or more; about 5 minutes on 2 cores.
"""

import argparse
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import evidently_peers, fashion_windows
from benchmarks.fashion_mnist import source_argument
from benchmarks.fashion_windows import KINDS, STRENGTHS, Cast, draw
from benchmarks.record import Figure, report
from benchmarks.scratch import ROOT, say, timed
from benchmarks.windows import MORE, follow, reference_of, window
from monitoring.drift import calibration, distances
from monitoring.drift.reference import Reference
from monitoring.drift.window import measure_window
from tasks.common.params import DriftParams, Params, load_params
from tasks.dataset.decode import decode

REFERENCE = 500
RATE = 0.01  # false alarm rate at which powers are compared


def bbsd(table: pa.Table, reference: Reference) -> float:
    """Smallest p-value of the two-sample KS tests on the softmax outputs, times the number of tests."""
    now, was = evidently_peers.vectors(table, "probabilities"), reference.arrays.probabilities
    n = distances.effective(len(now), len(was))
    pairs = [(np.array([distances.ks(now[:, k], np.sort(was[:, k]))]), np.array([n])) for k in range(now.shape[1])]
    return float(calibration.joint_ks_p(pairs)[0])


def ours(table: pa.Table, reference: Reference, drift: DriftParams) -> float:
    """The smallest family-wise p-value of all measures that decide."""
    found = measure_window(table, window(0, len(table)), reference, drift)
    return min(f.p_value for f in found.findings if f.p_value is not None and not f.name.startswith("missing."))


class Powers:
    """Scores (low: drift) of null and shifted windows, by our measures and by softmax outputs."""

    def __init__(self) -> None:
        self.null: dict[str, list[float]] = defaultdict(list)
        self.shifted: dict[str, list[float]] = defaultdict(list)

    def add(self, where: dict[str, list[float]], table: pa.Table, reference: Reference, drift: DriftParams) -> None:
        where["ours"].append(ours(table, reference, drift))
        where["bbsd"].append(bbsd(table, reference))

    def power(self, name: str) -> float:
        """Share of shifted windows that score below the RATE quantile of the null windows."""
        bound = np.sort(self.null[name])[max(int(RATE * len(self.null[name])), 1) - 1]
        return float(np.mean(np.array(self.shifted[name]) < bound))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    source_argument(parser)
    parser.add_argument("--pacs", type=Path, help="Parquet file of PACS: image, domain, label")
    parser.add_argument("--quick", action="store_true", help="a few windows; records nothing")
    args = parser.parse_args(argv)
    quick = args.quick
    pool, shifted, rows, each, nulls = (500, 60, 60, 1, 5) if quick else (5500, 1000, 500, 7, 60)
    kinds = ("brightness", "class mix") if quick else KINDS
    params = load_params(ROOT / "params.yaml")
    drift = params.drift.model_copy(update={"resamples": 200}) if quick else params.drift
    made = tuple(kind for kind in kinds if kind in fashion_windows.IMAGE_SHIFTS)
    cast = fashion_windows.cast(pool, shifted, args.fashion_mnist, trained=200 if quick else 1800, kinds=made)
    found: dict[tuple[str, str], list[bool]] = defaultdict(list)
    powers, peers = Powers(), defaultdict(list)
    with tempfile.TemporaryDirectory() as cache:
        for number in range(each):
            rng = np.random.default_rng(number)
            order = rng.permutation(len(cast.clean))
            split = min(REFERENCE, len(order) // 2)
            table, rest = cast.clean.take(order[:split]), cast.clean.take(order[split:])
            reference = reference_of(table, cast.model.about, Path(cache))
            others = Cast(cast.model, rest, cast.new, cast.shifted)
            for _ in range(nulls):
                powers.add(powers.null, draw(rest, rows, rng), reference, drift)
            for kind in kinds:
                for strength in STRENGTHS:
                    pair = two_windows(others, kind, strength, rows, rng)
                    outcomes = [outcome for outcome, _ in follow(pair, reference, drift, params.decide)]
                    found[kind, strength].append(outcomes[-1] in MORE)
                    for one in pair:
                        powers.add(powers.shifted, one, reference, drift)
                    if strength == "medium" and number == 0:
                        for name, said in evidently_peers.alarms(pair[0], table).items():
                            peers[name].append(said)
            say(f"{number + 1} of {each} rounds of shifts")
        pacs = pacs_rates(args.pacs, Path(cache), params, quick) if args.pacs else []
    command = "python -m benchmarks.drift_power" + (f" --pacs {args.pacs.name}" if args.pacs else "")
    report("drift_power", command, [*figures_of(found, powers, peers, each), *pacs], quick)


def two_windows(cast: Cast, kind: str, strength: str, rows: int, rng: np.random.Generator) -> list[pa.Table]:
    """Two windows after a shift, without a common image if there are enough images."""
    if kind in fashion_windows.IMAGE_SHIFTS:
        both = cast.window(kind, strength, min(2 * rows, len(cast.shifted[kind, strength])), rng)
        half = len(both) // 2
        return [both.slice(0, half), both.slice(half)]
    seed = int(rng.integers(2**32))  # the same classes move in both
    return [cast.window(kind, strength, rows, np.random.default_rng([seed, turn]), seed) for turn in range(2)]


def figures_of(found: dict, powers: Powers, peers: dict[str, list[bool]], seeds: int) -> list[Figure]:
    def rate(name: str, said: list[bool], goal: float | None = None, peer: str = "") -> Figure:
        return Figure(
            name=name, value=float(np.mean(said)), unit="of shifts", goal=goal, better="higher", peer=peer, seeds=seeds,
            spread=f"{sum(said)} of {len(said)}",
        )  # fmt: skip

    def of(strength: str) -> list[bool]:
        return [one for (_, level), said in found.items() if level == strength for one in said]

    figures = [rate("shift_detection_rate", of("medium"), 0.95)]
    figures += [rate(f"shift_detection_rate_{level}", of(level)) for level in ("weak", "strong")]
    figures += [
        rate(f"shift_detection_{kind.replace(' ', '_')}", said)
        for (kind, strength), said in found.items()
        if strength == "medium"
    ]
    mine, softmax = powers.power("ours"), powers.power("bbsd")
    figures.append(
        Figure(
            name="power_vs_bbsd_ratio", value=mine / max(softmax, 1e-9), unit="times", goal=1.0, better="higher",
            peer="KS on softmax outputs, Bonferroni", seeds=seeds,
            spread=f"{mine:.3f} against {softmax:.3f} of {len(powers.shifted['ours'])} windows",
        )
    )  # fmt: skip
    figures += [rate(f"shift_evidently_{name}_rate", said, peer="Evidently") for name, said in peers.items()]
    return figures


def pacs_rates(file: Path, cache: Path, params: Params, quick: bool) -> list[Figure]:
    """Decisions of a model of photos on windows of each PACS domain."""
    table = pq.read_table(file, columns=["image", "domain", "label"])
    domains, labels = np.array(table["domain"].to_pylist(), str), np.array(table["label"].to_pylist(), str)
    rng = np.random.default_rng(0)
    most, rows = (60, 10) if quick else (500, 100)

    def pictures(of: np.ndarray) -> list[np.ndarray]:
        images = table["image"].take(pa.array(of)).to_pylist()
        return [np.asarray(decode(image["bytes"], 10**8)) for image in images]

    photo = next(name for name in np.unique(domains) if "photo" in name.lower())
    order = rng.permutation(np.flatnonzero(domains == photo))
    train, rest = np.split(order, [len(order) // 3])
    train, rest = train[:most], rest[: 2 * most]
    with timed("a model of photos"):
        model = fashion_windows.fit_head(pictures(train), labels[train])
        answered = model.answers(pictures(rest), labels[rest].tolist())
    half = len(answered) // 2
    reference = reference_of(answered.slice(0, half), model.about, cache)
    pools = {photo: answered.slice(half)}
    for name in np.unique(domains):
        if name != photo:
            chosen = rng.permutation(np.flatnonzero(domains == name))[:most]
            with timed(f"answers for {len(chosen)} of {name}"):
                pools[str(name)] = model.answers(pictures(chosen), labels[chosen].tolist())
    figures = []
    for name, pool in pools.items():
        turns = [draw(pool, min(rows, len(pool)), rng) for _ in range(5)]
        said = [outcome in MORE for outcome, _ in follow(turns, reference, params.drift, params.decide)][1:]
        figures.append(
            Figure(
                name=f"pacs_photo_to_{name.replace(' ', '_')}", value=float(np.mean(said)), unit="of windows",
                goal=None, better="lower" if name == photo else "higher", spread=f"{sum(said)} of {len(said)}",
            )
        )  # fmt: skip
    return figures


if __name__ == "__main__":
    main()
