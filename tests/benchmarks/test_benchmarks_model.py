"""The model benchmarks measure what they claim, and a quick pass of each runs."""

import gzip
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks import (
    calibration,
    first_model,
    label_noise,
    recipe,
    recipe_figures,
    recipe_peers,
    recipe_sets,
    record,
    siblings,
    train_speed,
    two_stage,
)
from benchmarks.label_noise import LabelSet, Result
from benchmarks.scratch import FASHION, ROOT, scratch_project, small_set
from benchmarks.two_stage import Arm
from tasks.common.errors import DataError
from tasks.common.params import load_params
from tasks.dataset import shards
from tasks.dataset.decode import decode


@pytest.fixture
def kept(tmp_path, monkeypatch) -> Path:
    """The folder for recorded figures, which a quick pass must leave empty."""
    monkeypatch.setattr(record, "FOLDER", tmp_path / "kept")
    return tmp_path / "kept"


def labelled(given: list[int], true: list[int], classes: int = 3) -> LabelSet:
    names = [f"class {k}" for k in range(classes)]
    return LabelSet("toy", np.zeros((len(given), 2)), np.array(given), np.array(true), np.array(given, str), names)


# --- scratch projects


def test_a_scratch_project_has_this_checkouts_parameters_with_the_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("EVERGREEN_STATE", str(tmp_path / "elsewhere"))
    source = small_set(tmp_path / "small.parquet", divisor=100, least=2)
    project = scratch_project(tmp_path / "project", source, {"train_backbone": {"epochs": {"all": 7}}})
    shipped, found = (load_params(folder / "params.yaml") for folder in (ROOT, project))
    epochs = shipped.train_backbone.epochs.model_copy(update={"all": 7})
    assert found.train_backbone == shipped.train_backbone.model_copy(update={"epochs": epochs})
    assert found.model_copy(update={"train_backbone": shipped.train_backbone}) == shipped
    (batch,) = shards.batches(project / "data")
    assert batch.rows == pq.ParquetFile(source).metadata.num_rows
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(FileExistsError, match="starts from nothing"):
        scratch_project(project, source)


def test_a_small_set_keeps_every_class_and_split_and_the_long_tail(tmp_path):
    small = pq.read_table(small_set(tmp_path / "small.parquet", divisor=10, least=5))
    whole = pq.read_table(FASHION / "base.parquet", columns=["label", "split"])
    counts, all_counts = (
        Counter(zip(table["split"].to_pylist(), table["label"].to_pylist(), strict=True)) for table in (small, whole)
    )
    assert counts == {place: max(5, number // 10) for place, number in all_counts.items()}


# --- label_noise


def test_a_redraw_moves_the_errors_but_keeps_the_confusions():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 3, 300)
    given = np.where(rng.random(300) < 0.2, (true + 1) % 3, true)
    before = labelled(given.tolist(), true.tolist())
    after, again = label_noise.redraw(before, 1), label_noise.redraw(before, 1)
    assert Counter(zip(after.given, after.true, strict=True)) == Counter(zip(given, true, strict=True))
    assert (after.wrong != before.wrong).sum() > 20
    assert np.array_equal(after.given, again.given)
    assert np.array_equal(before.given, given)


def test_the_ratio_is_to_the_best_peer_of_each_draw():
    first = {"clean": Result(0.9, 0.8, 10), "a": Result(0.8, 0.4, 10), "b": Result(0.8, 0.5, 10)}
    second = {"clean": Result(0.7, 0.6, 10), "a": Result(0.8, 0.6, 10), "b": Result(0.8, 0.1, 10)}
    auroc, ratio = label_noise.figures_of([first, second])
    assert auroc.value == pytest.approx(0.8)
    assert ratio.value == pytest.approx((0.8 / 0.5 + 0.6 / 0.6) / 2)
    assert (ratio.goal, ratio.seeds, ratio.met) == (1.0, 2, True)
    assert "min 1.000, max 1.600" in ratio.spread


def test_cifar10n_rows_keep_their_labels_together(tmp_path):
    base = pq.read_table(FASHION / "base.parquet", columns=["image"])[:40]
    names = [f"class {number % 4}" for number in range(40)]
    columns = {"clean_label": names, "aggre": names[1:] + names[:1], "worse": names[2:] + names[:2]}
    table = pa.table({"image": base["image"], **columns})
    pq.write_table(table, tmp_path / "cifar.parquet", row_group_size=7)
    params = load_params(ROOT / "params.yaml")
    worse, aggre = label_noise.cifar10n(tmp_path / "cifar.parquet", params, 20)
    assert [worse.name, aggre.name] == ["cifar10n_worse", "cifar10n_aggre"]
    assert worse.x.shape == (20, 1280)
    assert np.array_equal((aggre.given - aggre.true) % 4, np.full(20, 1))
    assert np.array_equal((worse.given - worse.true) % 4, np.full(20, 2))
    other, _ = label_noise.cifar10n(tmp_path / "cifar.parquet", params, 20, draw=1)
    assert not (worse.x[:, None] == other.x[None]).all(axis=-1).any()  # no image is in two draws


def test_a_quick_pass_of_label_noise(kept, capsys):
    label_noise.main(["--quick"])
    said = capsys.readouterr()
    assert "label_noise_auroc" in said.out
    assert "label_noise_f1_vs_cleanlab_ratio" in said.out
    for method in ("clean ", "cleanlab, probe", "cleanlab, clean's", "CleanLearning"):
        assert said.err.count(f" {method}") == 2, method  # once per draw
    assert not kept.exists()


# --- two_stage


def test_gains_are_paired_by_seed_and_grouped_by_support():
    def arm(*recall: float) -> Arm:
        return Arm(np.array(recall), 10.0, "crt")

    two, own, one = [arm(0.8, 0.6), arm(0.7, 0.7)], [arm(0.9, 0.1), arm(0.9, 0.1)], [arm(0.9, 0.4), arm(0.8, 0.6)]
    parts = {"many": np.array([True, False]), "medium": np.array([False, False]), "few": np.array([False, True])}
    found = {figure.name: figure for figure in two_stage.figures_of(two, own, one, parts)}
    assert found["two_stage_gain_points"].value == pytest.approx(2.5)
    assert "+5.00, +0.00" in found["two_stage_gain_points"].spread
    assert found["two_stage_gain_over_own_stage1_points"].value == pytest.approx(20)
    assert found["two_stage_gain_many_shot_points"].value == pytest.approx(-10)
    assert found["two_stage_gain_few_shot_points"].value == pytest.approx(15)
    assert "two_stage_gain_medium_shot_points" not in found


def test_a_quick_pass_of_two_stage(kept, capsys):
    two_stage.main(["--quick"])
    assert "two_stage_gain_points" in capsys.readouterr().out
    assert not kept.exists()


# --- recipe


def test_splits_keep_groups_whole_and_give_every_class_something_to_train_on():
    labels = np.repeat(["a", "b", "c"], [300, 200, 3])
    groups = np.concatenate([np.arange(500) // 4, [900, 900, 900]])  # class c is a single group
    split = recipe_sets.split_by_group(labels, groups, seed=0)
    assert all(len(set(split[groups == one])) == 1 for one in np.unique(groups))
    assert set(split[labels == "c"]) == {"train"}
    for name in ("a", "b"):
        found = Counter(split[labels == name])
        assert found["train"] / 300 > 0.6 if name == "a" else found["train"] / 200 > 0.6
        assert min(found["test"], found["calibration"]) >= 16
    assert np.array_equal(split, recipe_sets.split_by_group(labels, groups, seed=0))
    assert not np.array_equal(split, recipe_sets.split_by_group(labels, groups, seed=1))


def measured(name: str, seed: int, ours: float, script: float, probe: float) -> dict:
    arms = zip(recipe_figures.ARMS, (ours, script, script - 2, probe), strict=True)
    return {"set": name, "seed": seed} | {arm: {"score": score, "seconds": 1.0, "how": ""} for arm, score in arms}


def test_a_set_is_behind_when_its_whole_interval_is_below_zero():
    sure = [measured("sure", seed, 80.0, 85.0 + 0.1 * seed, 70.0) for seed in range(3)]
    unsure = [measured("unsure", seed, 80.0 + 10 * seed, 95.0, 70.0) for seed in range(3)]
    found = {figure.name: figure for figure in recipe_figures.figures_of(sure + unsure)}
    assert found["recipe_vs_script_points"].value == pytest.approx((-5.1 - 5) / 2)
    assert found["recipe_vs_probe_points"].value == pytest.approx((10 + 20) / 2)
    assert found["recipe_vs_strong_script_points"].value == pytest.approx((-3.1 - 3) / 2)
    assert found["recipe_sets_behind"].value == 1
    assert found["recipe_sets_behind"].spread == "sure (script), sure (strong)"
    assert found["recipe_unsure_points"].value == pytest.approx(90)
    one = {figure.name: figure for figure in recipe_figures.figures_of(sure[:1])}
    assert one["recipe_sets_behind"].value == 0  # a single seed shows nothing


def test_the_strong_script_draws_rare_classes_as_often_changes_images_and_averages_weights():
    targets, rng = np.repeat([0, 1], [990, 10]), np.random.default_rng(0)
    assert np.array_equal(np.sort(recipe_peers.epoch_order(targets, rng, balanced=False)), np.arange(1000))
    assert 0.45 < targets[recipe_peers.epoch_order(targets, rng, balanced=True)].mean() < 0.55
    names = [
        [type(step).__name__ for step in recipe_peers.transforms("tf_efficientnet_lite0", 32, how)[0].transforms]
        for how in (recipe_peers.PLAIN, recipe_peers.STRONG)
    ]
    assert set(names[1]) - set(names[0]) == {"RandAugment"}
    model = torch.nn.Linear(1, 1)
    average = recipe_peers.weight_average(model, recipe_peers.STRONG)
    for step in range(1, 41):
        torch.nn.init.constant_(model.weight, float(step))
        average.update(model, step)
    assert 25 < average.module.weight.item() < 40, "behind the weights, and not by many steps"
    assert recipe_peers.weight_average(model, recipe_peers.PLAIN) is None


def test_the_probe_of_the_recipes_benchmark_learns():
    rng = np.random.default_rng(0)
    y = {split: np.repeat([0, 1, 2], 20) for split in ("train", "calibration", "test")}
    x = {split: rng.normal(size=(60, 8)) + 3 * np.eye(3, 8)[y[split]] for split in y}
    assert recipe_peers.linear_probe(x, y, 3)[0] > 0.9


def test_a_quick_pass_of_recipe_is_kept_until_the_recipe_changes(kept, tmp_path, capsys, monkeypatch):
    recipe.main([str(tmp_path / "results"), "--quick"])
    said = capsys.readouterr()
    assert "recipe_vs_script_points" in said.out
    assert "epochs" in (result := tmp_path / "results/fashion-0.json").read_text()
    recipe.main([str(tmp_path / "results"), "--quick"])
    again = capsys.readouterr()
    assert "recipe_vs_script_points" in again.out
    assert "recipe ..." in said.err
    assert "recipe ..." not in again.err
    monkeypatch.setattr(recipe, "recipe_key", lambda params: "another")
    monkeypatch.setattr(recipe, "run_stages", lambda *stages: pytest.fail("measured again"))
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        recipe.main([str(tmp_path / "results"), "--quick"])
    assert result.is_file()
    assert not kept.exists()


# --- siblings


def test_pairs_are_counted_and_names_without_structure_are_different_ones():
    keys, groups = np.array(["a", "a", "a", "b", ""]), np.array(["1", "1", "2", "3", "3"])
    assert siblings.pair_scores(keys, groups) == (1 / 2, 1 / 3)
    assert siblings.pair_scores(np.array(["", ""]), np.array(["1", "1"])) == (0, 0)
    made = siblings.random_names(["x"] * 50, 0)
    assert all(len(set(names)) == 50 for names in made.values())
    assert set(made) == set(siblings.RANDOM)


def test_a_quick_pass_of_siblings(kept, tmp_path, capsys):
    siblings.main([str(tmp_path / "siblings"), "--quick"])
    said = capsys.readouterr()
    assert "sibling_recall" in said.out
    assert "sibling_false_proposals" in said.out
    assert not kept.exists()


# --- calibration


@pytest.fixture
def fashion_mnist(tmp_path) -> tuple[Path, np.ndarray]:
    """A folder in the form of Fashion-MNIST, half of whose test images are in datasets/fashion; and which are not."""
    table = pq.read_table(FASHION / "base.parquet", columns=["image", "label"])[:240]
    images = np.stack([np.asarray(decode(row["bytes"], 10**6)) for row in table["image"].to_pylist()])
    new = np.arange(240) % 2 == 0
    images[new, 0, 0] ^= 255  # one pixel makes it an image that is not in datasets/
    names, _ = calibration.in_repository()
    new &= np.array([f"t10k-{number:05d}.png" not in names for number in range(240)])
    classes = calibration.fashion_script().CLASSES
    labels = np.array([classes.index(name) for name in table["label"].to_pylist()], np.uint8)
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    header = struct.pack(">IIII", 2051, 240, 28, 28)
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images.tobytes()))
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header[:8] + labels.tobytes()))
    return folder, images[new]


def test_images_of_the_repository_do_not_count_as_unseen(fashion_mnist):
    folder, new = fashion_mnist
    pixels, labels = calibration.unseen(folder)
    assert np.array_equal(pixels, new)
    assert len(labels) == len(new) > 50


def test_a_missing_package_is_reported(tmp_path):
    with pytest.raises(DataError, match="install Debian's package dataset-fashion-mnist"):
        calibration.unseen(tmp_path)


def test_too_few_images_give_no_figure(fashion_mnist, kept):
    with pytest.raises(DataError, match="at least 5000 expected"):
        calibration.main([str(fashion_mnist[0])])
    assert not kept.exists()


def test_a_quick_pass_of_calibration(fashion_mnist, kept, capsys):
    calibration.main([str(fashion_mnist[0]), "--quick"])
    assert "ece_after" in capsys.readouterr().out
    assert not kept.exists()


# --- stage 1's speed


def test_a_quick_pass_of_train_speed(kept, capsys):
    train_speed.main(["--quick"])
    assert "train_speed_ratio_48" in capsys.readouterr().out
    assert not kept.exists()


def test_the_ratio_of_speeds_is_the_median_of_the_rounds():
    found = train_speed.figure(64, [300, 330, 200], [200, 220, 200])
    assert found.value == 1.5
    assert "best 330 / 220" in found.spread


# --- a first model for everyone


def test_a_drawn_set_keeps_groups_whole_when_its_labels_are_shuffled(tmp_path):
    rows = {
        "image": [b""] * 600,
        "label": [f"class {n // 6 % 4}" for n in range(600)],
        "object": [n // 6 for n in range(600)],
    }
    pq.write_table(pa.table(rows), tmp_path / "set.parquet")
    source = first_model.Source(tmp_path / "set.parquet", "object")
    drawn, mixed = (first_model.draw(first_model.Draw(source, 0, shuffle)) for shuffle in (False, True))
    assert drawn["group"] == mixed["group"]
    assert drawn["label"] != mixed["label"]
    for group in set(mixed["group"].to_pylist()):
        labels = {row["label"] for row in mixed.to_pylist() if row["group"] == group}
        assert len(labels) == 1
    more = first_model.draw(first_model.Draw(source, 0, False, times=3))
    assert set(drawn["label"].to_pylist()) == set(more["label"].to_pylist())
    assert len(more) > len(drawn)
    assert "group" not in first_model.draw(first_model.Draw(source, 1, False)).column_names


def test_a_set_that_no_remedy_helps_is_a_dead_end_and_a_shuffled_live_one_is_counted():
    def measured(shuffled: bool, *outcomes: str) -> dict:
        return {"shuffled": shuffled, "tries": [{"outcome": outcome} for outcome in outcomes]}

    sets = [measured(False, "live"), measured(False, "refused", "provisional"), measured(False, "refused", "refused")]
    mixed = [measured(True, "refused"), measured(True, "provisional")]
    dead, live = first_model.figures_of(sets + mixed)
    assert (dead.name, dead.value, dead.seeds) == ("first_model_dead_ends", 1, 3)
    assert (live.name, live.value, live.seeds) == ("shuffled_live", 1, 2)


@pytest.mark.parametrize(
    ("remedy", "draws", "change"),
    [
        ({"kind": "labels", "text": ""}, 3, None),
        ({"kind": "resolution", "text": "`images.resolution: 96` in params.yaml"}, 1, {"images": {"resolution": 96}}),
        ({"kind": "setting", "text": "`gate.max_ece: 0.3`"}, 1, {"gate": {"max_ece": 0.3}}),
    ],
)
def test_remedies_are_followed_as_they_say(remedy, draws, change):
    how = first_model.Draw(first_model.Source(FASHION / "base.parquet", None), 0, False)
    then, changes = first_model.follow(remedy, how, [])
    assert then.times == draws
    assert changes == ([change] if change else [])
    assert first_model.follow({"kind": "override", "text": ""}, how, []) is None


def test_a_quick_pass_over_one_set(tmp_path, kept):
    small = first_model.SMALL | {
        "images": {"resolution": 32},
        "train_backbone": {"epochs": {"frozen": 1, "last": 1, "all": 0}},
    }
    how = first_model.Draw(first_model.Source(FASHION / "base.parquet", None), 1, False)
    found = first_model.measure(how, tmp_path / "work", 0, small)
    assert found["tries"][0]["outcome"] in (*first_model.LIVE, "refused")
    assert found["tries"][0]["test"]["images"] > 10
    assert not kept.exists()
