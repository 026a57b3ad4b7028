"""Which experiments are planned, what they are called, and which of them wins."""

from itertools import islice

from flows.experiments.choose import choose
from flows.experiments.launch import fits
from flows.experiments.plan import BASELINE, corners, experiment_key, grid, name_of, sweep
from flows.experiments.settings import Range
from flows.publishing.experiment_table import NAME, Row

RATE, METHOD = "train_backbone.learning_rate", "train_head.method"


def row(name: str, score: float, outcome: str = "hold", **changes) -> Row:
    figures = {"outcome": outcome, "calibration_score": score}
    return Row(name=name, kind="experiment", changes=changes, champion="v0.1.0", sentence="", figures=figures)


def test_a_grid_has_every_combination_with_the_change():
    found = list(grid({"clean.folds": 3}, {RATE: [1, 2], METHOD: ["crt", "tau_norm"]}))
    assert len(found) == 4
    assert all(one["clean.folds"] == 3 for one in found)
    assert {(one[RATE], one[METHOD]) for one in found} == {(1, "crt"), (1, "tau_norm"), (2, "crt"), (2, "tau_norm")}
    assert list(grid({METHOD: "crt"}, {})) == [{METHOD: "crt"}], "one change is a grid of one"


def test_a_sweep_draws_the_same_for_a_seed_and_ends_when_all_was_tried():
    choices = {RATE: Range(0.001, 0.1), METHOD: ["crt", "tau_norm"]}
    first = list(islice(sweep({}, choices, 0), 5))
    assert first == list(islice(sweep({}, choices, 0), 5)) != list(islice(sweep({}, choices, 1), 5))
    assert len({str(one) for one in first}) == 5
    assert sorted(one[METHOD] for one in sweep({}, {METHOD: ["crt", "tau_norm"]}, 0)) == ["crt", "tau_norm"]
    assert list(corners({}, choices)) == [{RATE: 0.001}, {RATE: 0.1}, {METHOD: "crt"}, {METHOD: "tau_norm"}]


def test_the_key_changes_with_inputs_changes_and_champion():
    keys = {
        experiment_key(*about) for about in [("a", {}, None), ("b", {}, None), ("a", {RATE: 1}, None), ("a", {}, "c")]
    }
    assert len(keys) == 4


def test_names_are_short_and_say_the_change():
    assert name_of({METHOD: "tau_norm"}, "abcdef12") == "method-tau-norm-abcdef"
    assert name_of(BASELINE, "abcdef12") == "as-set-abcdef"
    for changes in ({RATE: 0.001, "train_backbone.augment": ["crop", "flip"] * 9}, {"calibrate.cost": {"ä/..": 1}}):
        assert NAME.fullmatch(name := name_of(changes, "abcdef12"))
        assert len(name) < 50
        assert ".." not in name


def test_no_experiment_starts_that_would_end_too_late():
    assert fits(0.0, 0.0, 0.0), "the first one always starts"
    assert fits(50.0, 10.0, 1.0)
    assert not fits(50.1, 10.0, 1.0)
    assert fits(1e9, 10.0, None)


def test_the_calibration_split_decides_and_the_gate_rules_out():
    baseline = row("as-set", 0.70)
    better, best = row("b", 0.72, x=1), row("c", 0.80, "reject", x=2)
    chosen = choose([baseline, better, best])
    assert chosen.row == better
    assert "2.0 points better" in chosen.sentence
    assert choose([baseline, best]).row is None
    assert choose([baseline, row("d", 0.70, x=3)]).row is None, "an equal one is not better"
    assert choose([baseline]).sentence == "no experiment with other settings came to a result"
    assert choose([better]).row == better
