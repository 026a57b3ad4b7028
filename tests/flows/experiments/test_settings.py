"""Settings of an experiment: read from text, and written into params.yaml line by line."""

import random
from pathlib import Path

import pytest

from flows.experiments.launch import Setup, check_settings
from flows.experiments.settings import Range, parse_change, parse_choices, with_settings
from tasks.common.errors import EvergreenError, ParamsError
from tasks.common.params import parse_params, parse_text
from tests.support.checkout import ROOT

TEXT = (ROOT / "params.yaml").read_text()


def changed_lines(text: str) -> list[str]:
    before = TEXT.splitlines()
    return [line for line in text.splitlines() if line not in before]


def test_values_are_yaml_and_a_list_may_hold_lists():
    assert parse_change("train_backbone.learning_rate=1e-3") == ("train_backbone.learning_rate", 0.001)
    assert parse_change("train_backbone.augment=[crop, flip]") == ("train_backbone.augment", ["crop", "flip"])
    assert parse_choices("train_backbone.augment=[crop],[crop,flip]")[1] == [["crop"], ["crop", "flip"]]
    assert parse_choices("train_head.method=crt,tau_norm")[1] == ["crt", "tau_norm"]
    assert parse_choices("train_backbone.learning_rate=0.001..0.1")[1] == Range(0.001, 0.1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("learning_rate=1", "expected e.g. train_backbone.learning_rate"),
        ("train_backbone.learning_rate", "expected e.g."),
        ("data.seed=1", "the split of the images stays as it is"),
        ("gate.margin=0.1", "judged by the same gate"),
        ("serve.port=1", "changes no model"),
        ("train_head.method=[crt", "cannot be read"),
    ],
)
def test_what_is_no_change_of_a_model_is_refused(text, said):
    with pytest.raises(EvergreenError, match=said):
        parse_change(text)


def test_a_range_needs_two_numbers_in_order():
    for text in ("train_head.epochs=9..3", "train_head.epochs=a..b"):
        with pytest.raises(EvergreenError, match="is not a range"):
            parse_choices(text)


def test_draws_stay_inside_and_keep_whole_numbers_whole():
    rng = random.Random(0)
    rates = [Range(0.0001, 0.1).draw(rng) for _ in range(400)]
    assert min(rates) >= 0.0001
    assert max(rates) <= 0.1
    assert 0.35 < sum(rate < 0.003162 for rate in rates) / 400 < 0.65, "a wide range is drawn in its logarithm"
    halves = [Range(1.0, 2.0).draw(rng) for _ in range(400)]
    assert 0.4 < sum(half < 1.5 for half in halves) / 400 < 0.6
    assert {Range(1, 4).draw(rng) for _ in range(200)} == {1, 2, 3, 4}


def test_only_the_named_lines_change():
    text = with_settings(TEXT, {"train_backbone.learning_rate": 0.001, "train_backbone.epochs.all": 9})
    assert changed_lines(text) == ["  epochs: {frozen: 0, last: 0, all: 9}", "  learning_rate: 0.001"]
    assert len(text.splitlines()) == len(TEXT.splitlines())
    assert text.startswith("# Everything that decides")


def test_keys_that_are_not_written_out_are_added():
    without = TEXT.replace("  method: auto\n  epochs: 200\n", "  epochs: 200\n")
    assert parse_params(parse_text(with_settings(without, {"train_head.method": "crt"}))).train_head.method == "crt"
    short = TEXT[: TEXT.index("labels:")] + TEXT[TEXT.index("validate:") :]
    params = parse_params(parse_text(with_settings(short, {"labels.consensus": "majority"})))
    assert params.labels.consensus == "majority"
    costs = with_settings(TEXT, {"calibrate.cost_false_negative.Bag": 3.0})
    assert "  cost_false_negative: {Bag: 3.0}" in changed_lines(costs)
    more = with_settings(costs, {"calibrate.cost_false_negative.Coat": 2.0})
    assert parse_params(parse_text(more)).calibrate.cost_false_negative == {"Bag": 3.0, "Coat": 2.0}


def test_a_block_of_lines_is_replaced_as_a_whole_and_comments_stay():
    block = TEXT.replace("epochs: {frozen: 0, last: 0, all: 5}", "epochs:  # mine\n    frozen: 1\n    all: 5  # five")
    text = with_settings(block, {"train_backbone.epochs.all": 7})
    assert "    all: 7  # five" in text
    assert "epochs:  # mine" in text
    whole = with_settings(block, {"train_backbone.epochs": {"frozen": 0, "last": 0, "all": 3}})
    assert parse_params(parse_text(whole)).train_backbone.epochs.all == 3


def test_the_schema_decides_which_settings_there_are():
    with pytest.raises(ParamsError, match="is 'learning_rate' meant"):
        with_settings(TEXT, {"train_backbone.learning_rat": 1})
    with pytest.raises(ParamsError, match=r"train_head\.method"):
        with_settings(TEXT, {"train_head.method": "magic"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train_backbone.learning_rate": -1}, "learning_rate: expected greater than 0"),
        ({"train_backbone.loss": "asymmetric"}, "asymmetric is not defined for images with one label"),
        ({"train_backbone.optimizer": "adamm"}, "'adamm' is not an optimizer"),
        (
            {"train_backbone.backbone": "test_resnett"},
            r"'test_resnett' is not a timm model: did you mean test_resnet.*lite0$",
        ),
        (
            {"train_backbone.combine": "soup", "train_backbone.seeds": 2, "train_backbone.pretrained": "none"},
            "soup means weights",
        ),
        ({"train_backbone.domain": "symbols"}, r"flip does harm .*\(null allows everything\)$"),
    ],
)
def test_what_a_training_would_refuse_is_refused_before_the_first_one(change, said):
    setup = Setup(Path(), "key", {}, TEXT, None, "a tester")
    check_settings(setup, [{"train_head.method": "crt"}])
    with pytest.raises(EvergreenError, match=said):
        check_settings(setup, [{"train_head.method": "crt"}, change])


def test_find_rate_refuses_what_it_would_ignore(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from flows.cli.main import app

    (tmp_path / "params.yaml").write_text(TEXT)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["experiment", "--find-rate", "20", "--set", "train_backbone.optimizer=sgd"])
    assert isinstance(result.exception, EvergreenError)
    assert "give it alone" in str(result.exception)
