"""Accuracy on test images whose object the training images show too, and on the others."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from tasks.dataset.shard_table import ShardTable
from tasks.dataset.shards import read_image_paths
from tasks.scoring.intervals import two_sided, wilson
from tasks.scoring.targets import encode
from tasks.siblings.in_train import siblings_in_train
from tasks.stages.evaluate import cross_validation, figures
from tasks.stages.evaluate.figures import Results

TRAINED = 40_000  # training images searched; the search takes their number times that of all images
PROBED = 10_000  # images of the cross-validated comparison
CONFIDENCE = 0.95


def measure_siblings(
    root: Path, tested: pa.Table, trained: pa.Table, test: Results, features: Callable[[pa.Table], ShardTable]
) -> dict:
    """Figures of the test images with and without a sibling in train, and one sentence.

    tested, trained: rows (shard, row, label) of `test` and of the training images; features: of such rows, by the
    pretrained backbone.
    """
    if len(trained) > TRAINED:
        trained = trained.take(np.sort(np.random.default_rng(0).choice(len(trained), TRAINED, replace=False)))
    rows = pa.concat_tables([part.select(["shard", "row", "label"]) for part in (tested, trained)])
    table = features(rows)
    x = np.asarray(table[np.arange(len(rows))])
    labels = ["|".join(label) if isinstance(label, list) else label for label in rows["label"].to_pylist()]
    siblings = siblings_in_train(x, read_image_paths(root, rows), labels, len(tested))
    found = sibling_figures(test, siblings.found)
    if siblings.keys is not None:
        probe = unseen_groups(x, encode(rows["label"], test.classes, test.task), test.classes, siblings.keys)
        found |= {"probe": probe, "sentence": found["sentence"] + _probe_sentence(probe)}
    return found | {
        "found_by_name": int(siblings.by_name.sum()),
        "found_by_features": int(siblings.by_features.sum()),
        "layout": siblings.pattern.template if siblings.pattern else None,
    }


def unseen_groups(x: np.ndarray, y: np.ndarray, classes: list[str], keys: np.ndarray) -> dict:
    """Out-of-fold balanced accuracy of a classifier on pretrained features, with groups divided and kept whole.

    Few test images may be left without a sibling; this says for all images what siblings are worth. x (N, D);
    y: targets; keys (N,): group, "" for none. Of more than PROBED images, a sample of whole groups.
    """
    alone = np.arange(len(keys)).astype(str)
    group = np.array([key or f"alone {own}" for key, own in zip(keys.tolist(), alone, strict=True)])
    _, number = np.unique(group, return_inverse=True)
    if len(keys) > PROBED:
        share = np.random.default_rng(0).random(number.max() + 1)[number]
        rows = np.flatnonzero(share < PROBED / len(keys))
        x, y, group, alone = x[rows], y[rows], group[rows], alone[rows]
    divided = cross_validation.cross_validated(x, y, classes, alone)
    whole = cross_validation.cross_validated(x, y, classes, group)
    return {
        "divided": divided["balanced_accuracy"],
        "whole": whole["balanced_accuracy"],
        "whole_low": whole["low"],
        "whole_high": whole["high"],
    }


def _probe_sentence(probe: dict) -> str:
    if probe["whole"] is None or probe["divided"] is None:
        return ""
    return (
        f"; a classifier on pretrained features has a balanced accuracy of {100 * probe['divided']:.1f} % where images "
        f"of a group may be in training, {100 * probe['whole']:.1f} % ({100 * probe['whole_low']:.1f} to "
        f"{100 * probe['whole_high']:.1f}) on groups it has not seen"
    )


def sibling_figures(test: Results, has_sibling: np.ndarray) -> dict:
    """`brief` figures with and without a sibling in train; has_sibling (N,) bool."""
    found: dict = {}
    for name, rows in (("with", has_sibling), ("without", ~has_sibling)):
        part = test.part(rows)
        found[name] = figures.brief(part.targets, part.predicted, len(test.classes)) if rows.any() else None
    if found["without"]:
        n = found["without"]["n"]
        low, high = wilson(round(found["without"]["accuracy"] * n), n, two_sided(CONFIDENCE))
        found["without"] |= {"accuracy_low": low, "accuracy_high": high}
    overall = figures.brief(test.targets, test.predicted, len(test.classes))
    return figures.tidy(found) | {"sentence": _sentence(overall, found)}


def _sentence(overall: dict, found: dict) -> str:
    if found["with"] is None:
        return "no test image has a sibling in train, by file names or features"
    if found["without"] is None:
        return "every test image has a sibling in train: the accuracy on objects the model has not seen is unknown"
    rest = found["without"]
    return (
        f"accuracy {100 * overall['accuracy']:.1f} % overall, {100 * rest['accuracy']:.1f} % "
        f"({100 * rest['accuracy_low']:.1f} to {100 * rest['accuracy_high']:.1f}) on the {rest['n']} of {overall['n']} "
        "test images without a sibling in train"
    )
