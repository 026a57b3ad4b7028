"""The benchmark of cleaning measures what it claims, keeps its results, and a quick pass of it runs."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import cleaning, judge_again, record
from benchmarks.cleaning import Case
from benchmarks.label_noise import LabelSet
from tasks.common.params import CleanParams
from tasks.stages.clean.judge import Judgement


@pytest.fixture
def kept(tmp_path, monkeypatch) -> Path:
    """The folder for recorded figures, which a quick pass must leave empty."""
    monkeypatch.setattr(record, "FOLDER", tmp_path / "figures")
    return tmp_path / "figures"


def blobs(apart: float) -> LabelSet:
    rng = np.random.default_rng(0)
    true = np.repeat(np.arange(3), 120)
    x = (apart * rng.normal(size=(3, 12))[true] + rng.normal(size=(360, 12))).astype(np.float16)
    return LabelSet("blobs", x, true, true, np.arange(360).astype(str), ["a", "b", "c"])


def test_each_class_gets_its_share_of_wrong_labels():
    y = np.repeat([0, 1, 2], [100, 50, 10])
    given = cleaning.inject(y, 0.3, 0)
    assert [int((given[y == k] != k).sum()) for k in range(3)] == [30, 15, 3]
    assert (cleaning.inject(y, 0.3, 0) == given).all()
    assert (cleaning.inject(y, 0.3, 1) != given).any()


def test_before_is_what_confident_learning_suspects_within_the_caps():
    y = np.repeat([0, 1, 2], [50, 50, 10])
    quality = np.full(110, 0.9)
    quality[:12] = np.linspace(0.0, 0.09, 12)  # 12 of 50, the cap is 10
    quality[100] = 0.0  # of a rare class
    judgement = Judgement(np.where(quality < 0.5, 1, y), np.where(quality < 0.05, 0.99, 0.5), quality)
    relabel, drop = cleaning.suspected(judgement, y, CleanParams())
    assert np.flatnonzero(relabel | drop).tolist() == list(range(10))
    assert not (relabel & drop).any()
    assert (quality[relabel] < 0.05).all()


def test_results_are_measured_once_and_clean_labels_cost_nothing(tmp_path, monkeypatch, capsys):
    case = Case(blobs(1.5), "clean", 2)
    first = cleaning.kept_results(case, tmp_path, CleanParams())
    assert [one["wrong"] for one in first] == [0, 0]
    assert [one["changed_after"] for one in first] == [0, 0]
    assert all(one["score_after"] == one["score_given"] for one in first)
    monkeypatch.setattr(cleaning, "measure", lambda *_: pytest.fail("was measured already"))
    assert cleaning.kept_results(case, tmp_path, CleanParams()) == first


def test_the_figures_name_the_worst_set_and_both_arms():
    def result(damage, gain, before):
        arms = {"damage_after": damage, "damage_before": 0.05, "score_after": 60 + gain, "score_before": 60 + before}
        return arms | {"score_given": 60.0, "allowed": True}

    found = {
        ("a", "clean"): [result(0.0, 0, -1), result(0.002, -0.2, -2)],
        ("b", "clean"): [result(0.0, 0, -1), result(0.0, 0, -1)],
        ("a", 0.1): [result(0.0, 2, 1)],
    }
    figures = {figure.name: figure for figure in cleaning.figures_of(found)}
    assert figures["clean_wrong_changes"].value == pytest.approx(0.001)
    assert figures["clean_wrong_changes"].met
    assert figures["clean_harm_points"].value == pytest.approx(0.1 + 1.645 * 0.1, abs=0.001)
    assert figures["clean_gain_points_10_percent"].value == pytest.approx(2)
    assert "before +1.00" in figures["clean_gain_points_10_percent"].peer


def test_a_quick_pass_runs_and_records_nothing(tmp_path, kept, capsys):
    cleaning.main([str(tmp_path / "work"), "--quick"])
    printed = capsys.readouterr().out
    for name in ("clean_wrong_changes", "clean_harm_points", "clean_gain_points_10_percent", "as_given"):
        assert name in printed
    assert not kept.exists()
    assert len(list((tmp_path / "work/results").iterdir())) == 4


def test_a_judgement_is_scored_by_ranking_evidence_and_the_heads_gain(tmp_path):
    """Features that show the truth, against features that show the given labels, as a network does that learnt them."""
    one = blobs(2.5)
    given = cleaning.inject(one.true, 0.15, 0)
    rng = np.random.default_rng(1)
    learnt = 6 * np.eye(3, 12)[given] + rng.normal(size=(360, 12))
    arrays = {"groups": one.groups, "given": given, "true": one.true, "pretrained": one.x, "stage1": learnt}
    np.savez(tmp_path / "0.npz", **{f"{name}_{split}": a for name, a in arrays.items() for split in ("train", "test")})
    found = judge_again.measure(tmp_path / "0.npz")
    assert found["pretrained"]["auroc"] > 0.95 > 0.7 > found["stage1"]["auroc"]
    assert found["pretrained"]["noise_found"] == pytest.approx(1, abs=0.35)
    assert found["stage1"]["noise_found"] == 0
    figures = {figure.name: figure for figure in judge_again.figures_of([found, found])}
    assert figures["judge_again_noise_found"].value == 0
    assert figures["judge_again_auroc"].seeds == 2
