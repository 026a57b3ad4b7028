"""Which images are picked for labelling: what every method keeps to, and what makes each of them special."""

from collections import Counter
from typing import get_args

import numpy as np
import pytest

from tasks.active.methods import COLD, METHODS, in_turn, neighbour_distance
from tasks.active.pick import ROWS, pick
from tasks.active.pool import Pool
from tasks.common.sections.service import PickMethod
from tasks.models import probe

RNG = np.random.default_rng(0)
KINDS = np.repeat(np.arange(4), 25)


def pool(count=100, **parts) -> Pool:
    """`count` images of three classes; `parts` replaces some of their columns."""
    rng = np.random.default_rng(1)
    return Pool(
        **{
            "features": rng.normal(size=(count, 16)).astype(np.float32),
            "probabilities": rng.dirichlet([0.5] * 3, count).astype(np.float32),
        }
        | parts
    )


def rows(picks) -> list[int]:
    return [found.row for found in picks]


def spaced_hashes(count: int) -> np.ndarray:
    """Hashes of which no two are near."""
    return RNG.integers(0, 2**63, count, np.uint64)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("multilabel", [False, True])
def test_every_method_keeps_to_budget_quota_and_leaves_out_near_duplicates(method, multilabel):
    hashes = spaced_hashes(100)
    hashes[1::2] = hashes[::2] ^ np.uint64(1)  # pairs of near-duplicates
    found = pool(hashes=hashes, sources=["flood"] * 60 + [f"cam-{n % 4}" for n in range(40)], multilabel=multilabel)
    picks = rows(pick(found, 20, method, max_source_share=0.25, seen=[int(hashes[0])]))
    assert len(picks) == 20 == len(set(picks))
    assert Counter(row // 60 for row in picks)[0] <= 5  # of the flooding source
    assert len({row // 2 for row in picks}) == 20
    assert not {0, 1} & set(picks)  # near-duplicates of what was asked before
    assert picks == rows(pick(found, 20, method, max_source_share=0.25, seen=[int(hashes[0])]))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_all_that_there_is(method):
    same = pool(10, features=np.ones((10, 16)), probabilities=np.full((10, 3), 1 / 3))
    assert sorted(rows(pick(same, 50, method))) == list(range(10))
    assert pick(pool(0), 5, method) == []
    assert pick(pool(), 0, method) == []


@pytest.mark.parametrize("method", ["uncertainty", "margin", "class_margin", "diverse", "class_diverse", "badge"])
def test_the_unsure_one_comes_first(method):
    sure = np.full((100, 3), [0.98, 0.01, 0.01])
    sure[42] = [0.35, 0.34, 0.31]
    assert pick(pool(probabilities=sure), 1, method)[0] == (42, "uncertain")


def test_uncertainty_and_margin_differ_where_a_third_class_counts():
    p = np.array([[0.5, 0.5, 0.0], [0.4, 0.3, 0.3]])
    assert rows(pick(pool(2, probabilities=p), 1, "margin")) == [0]
    assert rows(pick(pool(2, probabilities=p), 1, "uncertainty")) == [1]


@pytest.mark.parametrize("method", ["diverse", "class_diverse", "badge", "dropquery", "typiclust"])
def test_the_picks_differ(method):
    features = 5 * np.eye(16, dtype=np.float32)[KINDS] + 0.01 * RNG.normal(size=(100, 16)).astype(np.float32)
    p = np.full((100, 2), 0.5)
    p[:, 0] += 0.01 * RNG.random(100)
    p[:, 1] = 1 - p[:, 0]
    head = probe.Probe(np.stack([np.ones(16), np.zeros(16)]).astype(np.float32), np.array([0, 1], np.float32), False)
    picks = rows(pick(pool(features=features, probabilities=p, head=head), 4, method))
    assert {KINDS[row] for row in picks} == {0, 1, 2, 3}


def test_class_margin_asks_about_every_class_the_rarest_first():
    p = np.repeat([[0.5, 0.3, 0.2], [0.3, 0.5, 0.2], [0.0, 0.1, 0.9]], [90, 8, 2], axis=0)
    p[:, 0] += np.linspace(0, 0.001, 100)  # the smallest margins are those of the third and first class
    picks = rows(pick(pool(probabilities=p), 6, "class_margin"))
    assert np.bincount(np.digitize(picks, [90, 98])).tolist() == [2, 2, 2]
    assert rows(pick(pool(probabilities=p, counts=np.array([5, 5, 0])), 2, "class_margin")) == [98, 99]
    assert rows(pick(pool(probabilities=p, counts=np.array([5, 5, 0])), 3, "margin")) == [97, 96, 95]


def test_dropquery_takes_answers_that_change_when_features_are_dropped():
    features = np.zeros((40, 16), np.float32)
    features[:20] = 10  # every feature says the same class
    features[20:] = np.tile([10, -10], 8)  # half of them speak for each class
    head = probe.Probe(np.stack([np.ones(16), -np.ones(16)]).astype(np.float32), np.zeros(2, np.float32), False)
    features[20:, 0] += 0.1
    found = pool(40, features=features, probabilities=probe.softmax(head.logits(features)), head=head)
    assert min(rows(pick(found, 8, "dropquery"))) >= 20


def test_without_a_model_typical_images_of_different_kinds_come_first():
    noise = np.r_[np.full(24, 0.05), 1.0]  # the last one of each kind is an outlier
    features = 3 * np.eye(16)[KINDS] + np.tile(noise, 4)[:, None] * RNG.normal(size=(100, 16))
    picks = pick(pool(features=features, probabilities=None), 4, "margin")
    assert {found.why for found in picks} == {"typical"}
    assert {KINDS[found.row] for found in picks} == {0, 1, 2, 3}
    assert all(found.row % 25 != 24 for found in picks)
    assert {found.why for found in pick(pool(probabilities=None), 4, "random")} == {"random"}
    assert set(COLD) == {"random", "typiclust"}


def test_a_cluster_that_has_labels_waits():
    features = 3 * np.eye(16)[KINDS] + 0.01 * RNG.normal(size=(100, 16))
    labelled = 3 * np.eye(16)[[0, 1, 2]]
    picks = pick(pool(features=features, probabilities=None, labelled=labelled), 1, "typiclust")
    assert KINDS[picks[0].row] == 3


def test_every_third_pick_is_the_most_unfamiliar():
    strange = np.zeros(100)
    strange[[70, 80]] = 5, 6
    picks = pick(pool(unfamiliar=strange), 6, "margin")
    assert [found.why for found in picks] == ["uncertain", "uncertain", "unfamiliar"] * 2
    assert {picks[2].row, picks[5].row} == {70, 80}
    assert {found.why for found in pick(pool(unfamiliar=strange), 6, "random")} == {"random"}


def test_of_a_large_pool_random_images_are_compared():
    large = pool(ROWS + 500)
    assert len(set(rows(pick(large, 30, "badge")))) == 30
    surest_last = np.argmin(np.diff(np.sort(large.probabilities, axis=1)[:, 1:], axis=1)[:, 0])
    assert rows(pick(large, 1, "margin")) == [surest_last]  # ranks every image


def test_the_setting_names_every_method():
    assert set(get_args(PickMethod)) == set(METHODS)


def test_a_method_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="method 'best': expected one of random, uncertainty"):
        pick(pool(), 1, "best")


def test_clusters_take_turns():
    cluster = np.array([0, 0, 0, 1, 1, 2])
    distance = np.array([3.0, 1.0, 2.0, 1.0, 2.0, 9.0])
    assert in_turn(cluster, distance, np.bincount(cluster)).tolist() == [1, 3, 5, 2, 4, 0]
    assert in_turn(cluster, distance, np.bincount(cluster), np.array([1, 0, 0])).tolist() == [3, 5, 1, 4, 2, 0]


def test_the_middle_of_a_cluster_is_typical():
    x = np.array([[0.0], [1.0], [-1.0], [50.0]])
    assert np.argsort(neighbour_distance(x))[[0, -1]].tolist() == [0, 3]
    assert neighbour_distance(x[:1]).tolist() == [0]
