"""Is a bad canary rolled back soon, and an equally good one seldom?

    python -m benchmarks.canary [--quick]

Simulated traffic (`benchmarks.canary_traffic`) through the real code: the hash of the key, the counts and the decision,
with the default settings of `release`, looked at after every 100 (bad) or 500 (equal) requests of the whole traffic.

    canary_false_rollbacks        equal canaries rolled back, of 200 with three steps and labels for 30 % (<= .02)
    shadow_false_rollbacks        the same, of 200 shadows
    canary_rollback_requests      unlabelled requests of its share until a canary that lost a class is rolled back:
                                  the most of all runs; classes of 3 % to 20 % (<= 2,000)
    canary_rollback_labelled      labelled requests of its share until a canary that swaps two classes is (<= 200)
    canary_missed                 bad canaries that were promoted (0)
"""

import sys

from benchmarks.canary_traffic import CLASSES, Ended, Kind, run
from benchmarks.record import Figure, report
from tasks.common.params import ReleaseParams

EQUAL, BAD = 200, 5  # runs; bad: for each class
LABELLED = 0.3


def equal(strategy: str, runs: int) -> float:
    """Share of equally good challengers that are rolled back."""
    policy = ReleaseParams(strategy=strategy, min_hours=0.0)
    ends = [
        run(seed, policy, "equal", labelled=LABELLED, every=500 if strategy == "canary" else 100)
        for seed in range(runs)
    ]
    return sum(end.how == "roll_back" for end in ends) / runs


def bad(kind: Kind, classes: int, runs: int, labelled: float) -> list[Ended]:
    """How bad canaries end: each of the first `classes` classes is lost in `runs` runs."""
    policy = ReleaseParams(strategy="canary", min_hours=0.0)
    seeds = [(lost, seed) for lost in range(classes) for seed in range(runs)]
    return [run(seed, policy, kind, lost=lost, labelled=labelled, every=100) for lost, seed in seeds]


def main(quick: bool) -> None:
    runs, classes, each = (2, 1, 1) if quick else (EQUAL, len(CLASSES), BAD)
    false = {strategy: equal(strategy, runs) for strategy in ("canary", "shadow")}
    collapsed, swapped = bad("collapsed", classes, each, 0.0), bad("swapped", classes, each, 1.0)
    found = [end for end in (*collapsed, *swapped) if end.how == "roll_back"]
    requests, labels = sorted(end.requests for end in collapsed), sorted(end.labelled for end in swapped)
    figures = [
        Figure(
            name=f"{strategy}_false_rollbacks",
            value=share,
            unit="of equal models",
            goal=0.02,
            better="lower",
            seeds=runs,
        )
        for strategy, share in false.items()
    ]
    figures += [
        Figure(
            name="canary_rollback_requests",
            value=requests[-1],
            unit="unlabelled requests",
            goal=2000,
            better="lower",
            seeds=len(requests),
            spread=f"min {requests[0]}, median {requests[len(requests) // 2]}",
        ),
        Figure(
            name="canary_rollback_labelled",
            value=labels[-1],
            unit="labelled requests",
            goal=200,
            better="lower",
            seeds=len(labels),
            spread=f"min {labels[0]}, median {labels[len(labels) // 2]}",
        ),
        Figure(
            name="canary_missed",
            value=len(collapsed) + len(swapped) - len(found),
            unit="bad canaries",
            goal=0,
            better="lower",
            seeds=len(collapsed) + len(swapped),
        ),
    ]
    report("canary", "python -m benchmarks.canary", figures, quick)


if __name__ == "__main__":
    main("--quick" in sys.argv)
