"""Small tables of predictions and what the gate says of them."""

import numpy as np
import pyarrow as pa

from tasks.common.params import GateParams
from tasks.common.schemas import predictions_schema
from tasks.gate.evidence import Contender, Trial
from tasks.gate.judge import judge
from tasks.gate.verdict import GateVerdict
from tasks.scoring.metrics import macro_f1

CLASSES = ["Bag", "Coat", "Shirt", "Sandal", "Boot"]
K = len(CLASSES)
FAST = GateParams(resamples=400)


def table(targets, answers, *, split="test", slices=None, groups=None, sure=0.8, prefix="") -> pa.Table:
    """predictions_schema rows whose most probable class is `answers`."""
    n = len(targets)
    probabilities = np.full((n, K), (1 - sure) / (K - 1))
    probabilities[np.arange(n), answers] = sure
    return pa.table(
        {
            "id": [f"{prefix}{split}{row:05d}" for row in range(n)],
            "key": [None] * n,
            "split": [split] * n,
            "batch": ["b-1"] * (n // 2) + ["b-2"] * (n - n // 2),
            "label": [CLASSES[k] for k in targets],
            "source": [None] * n,
            "group": [None] * n if groups is None else list(groups),
            "slice": [[]] * n if slices is None else [[{"name": "light", "value": value}] for value in slices],
            "picked": ["representative"] * n,
            "sampling_probability": [None] * n,
            "probabilities": list(probabilities),
            "ood": [0.0] * n,
        }
    ).cast(predictions_schema("multiclass"))


def measured(targets, answers, **more) -> dict:
    """metrics/evaluate.json of these answers, `more` on top."""
    recall = [(answers[targets == k] == k).mean() for k in range(K) if (targets == k).any()]
    right = float((targets == answers).mean())
    figures = {
        "balanced_accuracy": float(np.mean(recall)),
        "accuracy": right,
        "macro_f1": macro_f1(targets, answers, K),
        "debiased_ece": 0.02,
    }
    return {
        "test": figures,
        "hard": None,
        "corruptions": {"blur": {"accuracy": right * 0.9, "n": len(targets), "kept": 0.9}},
        "latency_ms": {"p50": 4.0, "p99": 6.0},
        "parity": {"max_difference": 1e-6},
        "size_mb": 14.0,
    } | more


def verdict(
    challenger: pa.Table, champion: pa.Table | None, metrics: dict, policy: GateParams = FAST, **more
) -> GateVerdict:
    """The gate on the predictions `challenger` and `champion` (version v3, without metrics).

    `more`: champion_version, champion_metrics and fields of Trial.
    """
    version = more.pop("champion_version", None if champion is None else "v3")
    known = more.pop("champion_metrics", None) or {}
    against = None if champion is None and version is None else Contender(version, champion, known)
    trial = {
        "classes": CLASSES,
        "task": "multiclass",
        "train_counts": dict.fromkeys(CLASSES, 100),
        "hard_set": None,
    }
    return judge(Contender("c" * 64, challenger, metrics), against, Trial(**trial | more), policy)


def wrong(targets, rows, step=1):
    """Right answers, but for `rows`."""
    answers = targets.copy()
    answers[rows] = (answers[rows] + step) % K
    return answers


TARGETS = np.repeat(np.arange(K), 60)  # class k is rows 60 k .. 60 k + 59
OLD = wrong(TARGETS, np.arange(0, 300, 4))  # 75 % right in each class
NEW = wrong(TARGETS, np.arange(0, 300, 8))  # 87 %, right wherever the old one is


def checks(found: GateVerdict) -> dict:
    """The verdict's checks by name."""
    return {check.name: check for check in found.checks}
