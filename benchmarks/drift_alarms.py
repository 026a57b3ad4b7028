"""How often does production without any drift raise an alarm?

    python -m benchmarks.drift_alarms [FASHION_MNIST] [--quick]

Windows of 50, 200, 1,000 and 10,000 rows are drawn from answered Fashion-MNIST images (see
benchmarks.fashion_windows). They are measured against references of 500 other rows each, several of them: a threshold
that is right for one lucky reference proves nothing. The windows of each reference follow each other in time, so that
persistence works as in production. A row may be in several windows; windows of 10,000 hold every row of the pool, some
twice.

- `null_false_alarm_rate`: share of windows after which the decision is more than `watch`; goal at most 0.01.
- `null_drifted_rate_n<rows>`: share of windows in which any measure drifts, at drift.false_alarm_rate of 0.01.
- `null_drifted_rate_sessions`: the same where the rows of a window of 200 come in sessions: 20 times 10 images of one
  class each. No goal: no threshold here can account for rows that depend on each other.
- `null_evidently_*_rate`: share of windows in which Evidently's DataDriftPreset at its defaults finds a column drifted,
  or half of them (its own rule), and in which its embedding methods find drift. On fewer windows, as they are slow.

If PyPI's `elpv-dataset` is installed, its photos give windows of 50 too (`null_false_alarm_rate_elpv` with the same
goal, `null_drifted_rate_elpv`).
Expected: at most 0.01; about 5 minutes on 2 cores.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks import evidently_peers, fashion_windows
from benchmarks.fashion_mnist import source_argument
from benchmarks.fashion_windows import draw
from benchmarks.record import Figure, report
from benchmarks.scratch import ROOT, say
from benchmarks.windows import MORE, follow, reference_of
from tasks.common.params import load_params

ROWS = (50, 200, 1000, 10_000)
REFERENCE = 500
GOAL = 0.01
SESSION = 10  # images


def sessions(pool: pa.Table, rows: int, rng: np.random.Generator) -> pa.Table:
    """`rows` rows in sessions of one class each; classes are drawn with their frequency in the pool."""
    labels = np.array(pool["label"].to_pylist())
    chosen = []
    for label in rng.choice(labels, rows // SESSION):
        chosen.append(rng.choice(np.flatnonzero(labels == label), SESSION, replace=False))
    return pool.take(np.concatenate(chosen))


def many(pool: pa.Table, rows: int, rng: np.random.Generator) -> pa.Table:
    """`rows` rows: all of the pool, then some repeated if it has fewer; a repeated row counts as another image."""
    if rows <= len(pool):
        return draw(pool, rows, rng)
    table = pool.take(np.concatenate([np.arange(len(pool)), rng.integers(0, len(pool), rows - len(pool))]))
    ids = [f"{n:064x}" for n in rng.permutation(rows)]
    return table.set_column(table.column_names.index("id"), "id", pa.array(ids))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    source_argument(parser)
    parser.add_argument("--quick", action="store_true", help="a few windows; records nothing")
    args = parser.parse_args(argv)
    quick = args.quick
    references, each, pool, peers = (2, 2, 700, 1) if quick else (20, 25, 6000, 10)
    params = load_params(ROOT / "params.yaml")
    drift = params.drift.model_copy(update={"resamples": 200}) if quick else params.drift
    cast = fashion_windows.cast(pool, 0, args.fashion_mnist, trained=200 if quick else 1800, kinds=())
    more, drifted, seen = 0, {}, 0
    by_session: list[bool] = []
    found_by_peers: dict[str, list[bool]] = {}
    with tempfile.TemporaryDirectory() as cache:
        for number in range(references):
            rng = np.random.default_rng(number)
            order = rng.permutation(len(cast.clean))
            split = min(REFERENCE, len(order) // 2)
            table, rest = cast.clean.take(order[:split]), cast.clean.take(order[split:])
            reference = reference_of(table, cast.model.about, Path(cache))
            for rows in ROWS:
                windows = (many(rest, rows, rng) for _ in range(each))
                for outcome, moved in follow(windows, reference, drift, params.decide):
                    more, seen = more + (outcome in MORE), seen + 1
                    drifted.setdefault(rows, []).append(moved)
            windows = (sessions(rest, 40 if quick else 200, rng) for _ in range(each))
            by_session += [moved for _, moved in follow(windows, reference, drift, params.decide)]
            if number < peers:
                for name, said in evidently_peers.alarms(draw(rest, 200, rng), table).items():
                    found_by_peers.setdefault(name, []).append(said)
            say(f"{number + 1} of {references} references: {more} of {seen} windows decide more than watch")
        elpv = None if quick else elpv_rate(Path(cache), drift, params)
    figures = [
        Figure(
            name="null_false_alarm_rate", value=more / seen, unit="of windows", goal=GOAL, better="lower",
            seeds=references, spread=f"{more} of {seen} windows of {', '.join(map(str, ROWS))} rows",
        )
    ]  # fmt: skip
    for name, found in [*((f"n{rows}", one) for rows, one in drifted.items()), ("sessions", by_session)]:
        figures.append(_rate(f"null_drifted_rate_{name}", found, references))
    for name, found in found_by_peers.items():
        figures.append(_rate(f"null_evidently_{name}_rate", found, len(found), "Evidently"))
    if elpv is not None:
        figures.append(_rate("null_false_alarm_rate_elpv", [outcome in MORE for outcome, _ in elpv], 5, goal=GOAL))
        figures.append(_rate("null_drifted_rate_elpv", [moved for _, moved in elpv], 5))
    report("drift_alarms", "python -m benchmarks.drift_alarms", figures, quick)


def _rate(name: str, found: list[bool], seeds: int, peer: str = "", goal: float | None = None) -> Figure:
    return Figure(
        name=name, value=float(np.mean(found)), unit="of windows", goal=goal, better="lower", peer=peer, seeds=seeds,
        spread=f"{sum(found)} of {len(found)} windows",
    )  # fmt: skip


def elpv_rate(cache: Path, drift, params) -> list[tuple[str, bool]] | None:
    """(outcome, whether anything drifted) of 50 windows of 50 solar cells of one kind for each of 5 references.

    None if elpv-dataset is not installed.
    """
    try:
        from elpv_dataset.utils import load_dataset
    except ImportError:
        say("elpv-dataset is not installed: left out")
        return None
    images, probability, kinds = load_dataset()
    mono = np.flatnonzero((kinds == "mono") & ((probability == 0) | (probability == 1)))
    labels = np.where(probability[mono] > 0.5, "defective", "functional")
    rng = np.random.default_rng(0)
    order = rng.permutation(len(mono))
    train, rest = order[:250], order[250:]
    model = fashion_windows.fit_head([images[mono[row]] for row in train], labels[train])
    answered = model.answers([images[mono[row]] for row in rest], labels[rest].tolist())
    found: list[tuple[str, bool]] = []
    for _ in range(5):
        order = rng.permutation(len(answered))
        reference = reference_of(answered.take(order[: len(order) // 2]), model.about, cache)
        pool = answered.take(order[len(order) // 2 :])
        windows: Iterator[pa.Table] = (draw(pool, 50, rng) for _ in range(50))
        found += follow(windows, reference, drift, params.decide)
    return found


if __name__ == "__main__":
    main()
