"""Find test images whose object the training images show too, though no group says so."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.siblings.feature_index import fit_whitening, sibling_pairs
from tasks.siblings.name_patterns import NamePattern, group_keys, propose_layout
from tasks.sources.layouts import parse_layout


@dataclass(frozen=True)
class SiblingsInTrain:
    """For each of T test images, whether it has a sibling in train."""

    by_name: np.ndarray  # (T,) bool: file names and images agree that it does
    by_features: np.ndarray  # (T,) bool: its features say so
    pattern: NamePattern | None  # what the file names say
    keys: np.ndarray | None  # of all N images, by file names; "" where there is none; None without a pattern

    @property
    def found(self) -> np.ndarray:
        """(T,) bool: by either."""
        return self.by_name | self.by_features


def siblings_in_train(
    features: np.ndarray, paths: Sequence[str | None], labels: Sequence[str | None], tests: int
) -> SiblingsInTrain:
    """Look for siblings of the first `tests` of N images among the others, which are trained on.

    features (N, D) of the pretrained backbone; paths, labels (N,): what the source called the images, and their class.
    """
    units = fit_whitening(features).apply(features)
    names = [path or "" for path in paths]
    pattern = propose_layout(names, labels, units)
    by_name, keys = np.zeros(tests, bool), None
    if pattern is not None:
        keys = group_keys(parse_layout(pattern.template), names)
        trained = set(keys[tests:].tolist()) - {""}
        by_name = np.array([key in trained for key in keys[:tests]], bool)
    pairs = sibling_pairs(units)
    across = pairs[(pairs[:, 0] < tests) & (pairs[:, 1] >= tests)]
    by_features = np.zeros(tests, bool)
    by_features[across[:, 0]] = True
    return SiblingsInTrain(by_name, by_features, pattern, keys)
