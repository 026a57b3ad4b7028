"""Whole groups near the asked shares, with every class in every split where that is possible."""

from itertools import product

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.common.files import sha256_bytes
from tasks.common.sections.data import SplitFractions
from tasks.ingest import balance
from tasks.ingest.splits import GROWING, Lookalikes, NewRow, RecordedSplits, assign_splits

SHARES = np.array([0.7, 0.15, 0.15])


def units(counts: np.ndarray, **changes) -> balance.Units:
    """Units of rows with one class each; counts: (U, K)."""
    counts = np.asarray(counts)
    found = {
        "rows": counts.sum(axis=1),
        "classes": sp.csr_matrix(counts),
        "source": np.full(len(counts), -1),
        "rank": np.random.default_rng(len(counts)).permutation(len(counts)) * 7_919_333,
        "may": np.ones((len(counts), 3), bool),
        "cover": np.ones(counts.shape[1], bool),
    }
    return balance.Units(**found | changes)


def nothing(classes: int, sources: int = 0) -> balance.Recorded:
    return balance.Recorded(np.zeros(3, int), np.zeros((3, classes), int), np.zeros((3, sources), int))


def by_split(counts: np.ndarray, splits: np.ndarray) -> np.ndarray:
    """(3, K) rows of each class in each split."""
    return np.stack([np.asarray(counts)[splits == split].sum(axis=0) for split in range(3)])


def judged(counts: np.ndarray, recorded: np.ndarray, splits: np.ndarray) -> tuple:
    """What tasks.ingest.balance promises to minimise, computed plainly, for an ingest without sources."""
    have = recorded + by_split(counts, splits)
    missing = [int((have[split] == 0).sum()) for split in (0, 2, 1)]

    def beyond(rows, slack=0):
        return np.maximum(rows - SHARES * rows.sum() - slack, 0).sum() / rows.sum()

    new = by_split(counts, splits).sum(axis=1)
    found = 5 * beyond(have.sum(axis=1)) + np.mean([beyond(rows) for rows in have.T])
    return *missing, found + beyond(new, np.asarray(counts).sum(axis=1).max())


@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_a_few_units_get_the_best_of_all_assignments(number, classes, seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 12, (number, classes)) * (rng.random((number, classes)) < 0.6)
    counts[np.arange(number), rng.integers(0, classes, number)] += 1
    recorded = rng.integers(0, 9, (3, classes)) * rng.integers(0, 2) + (counts.sum(axis=0) == 0)
    have = balance.Recorded(recorded.sum(axis=1), recorded, np.zeros((3, 0), int))
    found = judged(counts, recorded, balance.assign(units(counts), have, SHARES))
    best = min(judged(counts, recorded, np.array(way)) for way in product(range(3), repeat=number))
    assert found[:3] == best[:3]
    assert found[3] == pytest.approx(best[3], abs=1e-4)


def test_five_cameras_of_240_rows_reach_every_split():
    counts = np.array([[30, 10], [25, 15], [40, 10], [35, 25], [20, 30]])
    have = by_split(counts, balance.assign(units(counts), nothing(2), SHARES))
    assert (have > 0).all()
    assert have.sum(axis=1).tolist() == [160, 40, 40]


def test_many_groups_come_near_the_shares_in_rows_and_classes():
    rng = np.random.default_rng(1)
    counts = rng.poisson(6, (60, 5)) * (rng.random((60, 5)) < 0.4)
    counts[np.arange(60), rng.integers(0, 5, 60)] += 2
    have = by_split(counts, balance.assign(units(counts), nothing(5), SHARES))
    assert np.abs(have.sum(axis=1) / counts.sum() - SHARES).max() < 0.02
    assert np.abs(have / counts.sum(axis=0) - SHARES[:, None]).max() < 0.08


def test_tracks_of_a_rare_class_reach_train_first_then_test_then_calibration():
    for tracks, expected in ((1, [1, 0, 0]), (2, [1, 0, 1]), (3, [1, 1, 1])):
        counts = np.zeros((100 + tracks, 2), int)
        counts[:100, 0] = 4
        counts[100:, 1] = 3
        have = by_split(counts, balance.assign(units(counts), nothing(2), SHARES))
        assert (have[:, 1] > 0).astype(int).tolist() == expected


def test_single_rows_are_divided_within_each_class():
    rng = np.random.default_rng(2)
    of = np.concatenate([[9, 9, 9, 8, 8, 7], np.sort(rng.integers(0, 7, 4000))])
    counts = np.eye(10, dtype=int)[of]
    have = by_split(counts, balance.assign(units(counts), nothing(10), SHARES))
    assert have[:, :7].sum(axis=1) / 4000 == pytest.approx(SHARES, abs=0.003)
    assert np.abs(have[:, :7] / have[:, :7].sum(axis=0) - SHARES[:, None]).max() < 0.005
    assert have[:, 7:].T.tolist() == [[1, 0, 0], [1, 0, 1], [1, 1, 1]]


def test_rows_with_several_classes_are_divided_by_their_rarest():
    rng = np.random.default_rng(3)
    counts = (rng.random((2000, 6)) < [0.5, 0.3, 0.1, 0.05, 0.01, 0.004]).astype(int)
    counts[counts.sum(axis=1) == 0, 0] = 1
    found = balance.assign(units(counts, rows=np.ones(2000, int)), nothing(6), SHARES)
    have = by_split(counts, found)
    assert (have > 0).all()
    assert np.abs(have / counts.sum(axis=0) - SHARES[:, None])[:, :5].max() < 0.07


def test_a_split_that_nobody_asks_for_stays_empty():
    counts = np.eye(3, dtype=int)[np.arange(60) % 3]
    for size in (1, 5):
        found = balance.assign(units(counts * size), nothing(3), np.array([0.8, 0, 0.2]))
        assert set(found.tolist()) == {0, 2}
    assert set(balance.assign(units(counts), nothing(3), np.array([0, 0, 1.0])).tolist()) == {2}


def test_units_go_only_where_they_may():
    counts = np.eye(2, dtype=int)[np.arange(80) % 2]
    may = np.ones((80, 3), bool)
    may[:40, 2] = False
    for size in (1, 3):
        found = balance.assign(units(counts * size, may=may), nothing(2), SHARES)
        assert may[np.arange(80), found].all()
        assert len(set(found[:40].tolist())) == 2


def test_a_new_source_is_divided_although_what_is_recorded_has_little_in_train():
    recorded = balance.Recorded(np.array([600, 200, 200]), np.array([[600], [200], [200]]), np.zeros((3, 1), int))
    sessions = np.full((20, 1), 5)
    found = balance.assign(units(sessions, source=np.zeros(20, int)), recorded, SHARES)
    assert (np.bincount(found, minlength=3) >= 1).all()
    singles = np.ones((100, 1), int)
    found = balance.assign(units(singles, source=np.zeros(100, int)), recorded, SHARES)
    assert (np.bincount(found, minlength=3) >= 8).all()


def test_small_ingests_add_up_to_the_shares():
    have = nothing(2)
    rng = np.random.default_rng(4)
    for _ in range(60):
        counts = np.eye(2, dtype=int)[rng.integers(0, 2, rng.integers(1, 4))] * rng.integers(1, 4)
        new = by_split(counts, balance.assign(units(counts), have, SHARES))
        have = balance.Recorded(have.rows + new.sum(axis=1), have.classes + new, have.sources)
    assert have.rows / have.rows.sum() == pytest.approx(SHARES, abs=0.03)


def test_rows_without_a_label_are_divided_too():
    rows = [
        NewRow(sha256_bytes(str(n).encode()), labels=("x",) if n % 2 else (), group=f"g{n // 4}") for n in range(400)
    ]
    alike = Lookalikes(np.arange(400), np.empty((0, 2), int), {})
    splits = assign_splits(rows, RecordedSplits(), alike, seed=0, fractions=SplitFractions())
    shares = [np.mean([split == name for split in splits[::2]]) for name in GROWING]
    assert shares == pytest.approx(SHARES, abs=0.02)


def test_the_seed_chooses_between_equally_good_splits():
    rows = [NewRow(sha256_bytes(str(n).encode()), labels=("x",)) for n in range(60)]
    alike = Lookalikes(np.arange(60), np.empty((0, 2), int), {})
    found = [assign_splits(rows, RecordedSplits(), alike, seed=seed, fractions=SplitFractions()) for seed in (0, 1)]
    assert found[0] != found[1]
    assert all(abs(splits.count("train") - 42) <= 1 for splits in found)
