"""Consensus of several annotators: on small ballots, and against simulated annotators whose truth is known."""

import numpy as np
import pytest

from tasks.labels import agreed, consensus
from tasks.labels.consensus import Votes

CLASSES = np.array(["cat", "dog", "fox"])
SKILL = {"ann": 0.95, "bob": 0.9, "carl": 0.55, "dora": 0.55}


def crowd(rows: int, seed: int = 0) -> tuple[np.ndarray, list[dict]]:
    """True classes (N,), and ballots of four annotators, two of whom are often wrong, and in the same way."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 3, rows)
    ballots = []
    for label in true:
        said = {n: label if rng.random() < right else (label + (right > 0.6) + 1) % 3 for n, right in SKILL.items()}
        ballots.append({name: str(CLASSES[value]) for name, value in said.items()})
    return true, ballots


def wrong(labels: list, true: np.ndarray) -> float:
    return float(np.mean(np.array(labels) != CLASSES[true]))


def test_the_majority_wins_and_a_tie_keeps_the_first_label():
    ballots = [{"a": "cat", "b": "dog", "c": "dog"}, {"a": "cat", "b": "dog"}, {"a": "cat", "b": "dog"}]
    assert agreed.agree(ballots, ["cat", "dog", None], "majority") == ["dog", "dog", "cat"]


def test_dawid_skene_trusts_good_annotators_more_than_many_bad_ones():
    true, ballots = crowd(1000)
    firsts = [ballot["carl"] for ballot in ballots]
    by_majority = wrong(agreed.agree(ballots, firsts, "majority"), true)
    by_skill = wrong(agreed.agree(ballots, firsts, "dawid_skene"), true)
    assert by_skill < by_majority / 2


def test_few_votes_are_left_to_the_majority():
    _, ballots = crowd(agreed.ENOUGH - 1)
    firsts = [ballot["carl"] for ballot in ballots]
    assert agreed.agree(ballots, firsts, "dawid_skene") == agreed.agree(ballots, firsts, "majority")


def test_dawid_skene_decides_each_class_of_a_label_set():
    true, ballots = crowd(600)
    sets = [
        {name: (label,) if name < "c" else tuple(sorted({label, "fox"})) for name, label in b.items()} for b in ballots
    ]
    found = agreed.agree(sets, [None] * len(sets), "dawid_skene")
    hit = np.mean([CLASSES[t] in labels for t, labels in zip(true, found, strict=True)])
    assert hit > 0.9
    assert {type(labels) for labels in found} == {tuple}


def test_the_order_of_ballots_does_not_matter():
    _, ballots = crowd(500)
    firsts = [ballot["ann"] for ballot in ballots]
    turned = agreed.agree(ballots[::-1], firsts[::-1], "dawid_skene")
    assert turned[::-1] == agreed.agree(ballots, firsts, "dawid_skene")


def test_quality_of_annotators_is_near_their_true_one_and_inside_its_interval():
    _, ballots = crowd(1500)
    found = agreed.qualities(ballots)
    assert set(found) == set(SKILL)
    for name, quality in found.items():
        assert quality.right == pytest.approx(SKILL[name], abs=0.06)
        assert quality.low <= SKILL[name] <= quality.high
        assert quality.labels == 1500


def test_a_label_that_nobody_else_gave_says_nothing_about_quality():
    assert agreed.qualities([{"ann": "cat"}, {"ann": "dog"}]) == {}


def test_dawid_skene_in_small_blocks_is_the_same(monkeypatch):
    _, ballots = crowd(400)
    before = agreed.qualities(ballots)
    monkeypatch.setattr(consensus, "BLOCK", 30)
    after = agreed.qualities(ballots)
    assert {n: round(q.right, 9) for n, q in before.items()} == {n: round(q.right, 9) for n, q in after.items()}


def test_crowdlab_lets_the_model_decide_between_annotators_but_not_against_all():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 3, 300)
    item, label = [], []
    for row, t in enumerate(true):
        item += [row, row]
        label += [t, (t + 1) % 3 if row % 3 == 0 else t]
    label[2:4] = [(true[1] + 1) % 3] * 2  # both wrong, together
    votes = Votes(np.array(item), np.tile([0, 1], 300), np.array(label))
    probabilities = np.full((300, 3), 0.05)
    probabilities[np.arange(300), true] = 0.9
    found = consensus.crowdlab(votes, probabilities, 2, prefer=np.full(300, -1))
    differ = np.arange(300) % 3 == 0
    assert (found[differ] == true[differ]).mean() > 0.95
    assert found[1] == (true[1] + 1) % 3
