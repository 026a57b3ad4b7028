"""Stage 2: class-balanced classifiers on fixed features, and a choice among them that luck does not sway."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from flows.runs.summary import summary
from tasks.common import artifacts
from tasks.common.errors import DataError
from tasks.common.files import read_json, write_json
from tasks.common.params import EvaluateParams, ImagesParams, TrainHeadParams, load_params
from tasks.models import choice, stage1
from tasks.models.choice import Candidate
from tasks.models.head import Head
from tasks.models.heads import methods, moved, retrained
from tasks.scoring.targets import encode
from tasks.stages import train_head
from tasks.stages.bundle import stage as bundle_stage
from tasks.stages.calibrate import stage as calibrate_stage
from tasks.stages.evaluate import stage as evaluate_stage
from tests.support import small_project
from tests.support.small_project import SIZE

IMAGES = ImagesParams(resolution=SIZE)


def long_tailed(counts: tuple[int, ...], seed: int, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, 8) of overlapping classes, `counts` samples each, and their class numbers (N,)."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(len(counts)), counts)
    return (np.eye(8)[y] * 2 + rng.normal(size=(len(y), 8)) * spread).astype(np.float32), y


def recalls(head: Head, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    answers = head.logits(x).argmax(axis=1)
    return np.array([(answers[y == k] == k).mean() for k in np.unique(y)])


def plain(x: np.ndarray, y: np.ndarray) -> Head:
    """What stage 1 ends with: a classifier that has seen the natural distribution."""
    from tasks.models import probe

    fitted = probe.fit(x, y, 3, l2=1e-3)
    return Head(fitted.weight, fitted.bias)


# --- the methods -------------------------------------------------------------------------------------------------


def test_each_method_helps_the_rare_class_of_a_long_tail():
    x, y = long_tailed((500, 60, 15), seed=0)
    held_x, held_y = long_tailed((300, 300, 300), seed=1)
    own = plain(x, y)
    before = recalls(own, held_x, held_y)
    assert before[0] > before[2] + 0.2  # the tail suffers
    counts = np.bincount(y)
    better = {
        "crt": retrained.retrained(x, y, 3, 100)[-1],
        "logit_adjust": moved.logit_adjusted(own, counts),
        "tau_norm": moved.tau_normalised(own, 0.5),
    }
    for name, head in better.items():
        after = recalls(head, held_x, held_y)
        assert after[2] > before[2] + 0.1, name
        assert after.mean() > before.mean() + 0.03, name


def test_crt_weighs_every_class_the_same_however_often_it_is_there():
    x, y = long_tailed((200, 20, 10), seed=0)
    once = retrained.retrained(x, y, 3, 100)[-1]
    again = np.concatenate([np.arange(len(y)), np.flatnonzero(y == 0), np.flatnonzero(y == 0)])
    tripled = retrained.retrained(x[again], y[again], 3, 100)[-1]
    held = long_tailed((50, 50, 50), seed=1)[0]
    agreement = (once.logits(held).argmax(axis=1) == tripled.logits(held).argmax(axis=1)).mean()
    assert agreement > 0.97  # standardisation sees the copies, the loss does not


def test_logit_adjustment_moves_the_bias_by_the_log_of_the_share_only():
    own = Head(np.ones((3, 4), np.float32), np.zeros(3, np.float32))
    head = moved.logit_adjusted(own, np.array([90, 9, 1]))
    np.testing.assert_array_equal(head.weight, own.weight)
    np.testing.assert_allclose(head.bias[2] - head.bias[0], np.log(90), rtol=1e-6)
    assert np.isfinite(moved.logit_adjusted(own, np.array([10, 5, 0])).bias).all()  # a class without images


def test_tau_one_makes_all_norms_equal_and_keeps_their_mean():
    weight = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32) * np.array([[5], [1], [0.2]], np.float32)
    head = moved.tau_normalised(Head(weight, np.ones(3, np.float32)), 1.0)
    norms = np.linalg.norm(head.weight, axis=1)
    np.testing.assert_allclose(norms, np.linalg.norm(weight, axis=1).mean(), rtol=1e-5)
    np.testing.assert_array_equal(head.bias, 0)


def test_multi_label_crt_weighs_rare_labels_up():
    rng = np.random.default_rng(0)
    y = np.zeros((400, 2), np.float32)
    y[:200, 0], y[395:, 1] = 1, 1  # a common label, a rare one, and samples of neither
    x = np.concatenate([y * 1.5, np.zeros((400, 2))], axis=1) + rng.normal(size=(400, 4))
    balanced = retrained.retrained(x, y, 2, 100)[-1]
    from tasks.models import probe

    natural = probe.fit(x, y, 2)
    assert balanced.logits(x)[395:, 1].mean() > natural.logits(x)[395:, 1].mean() + 0.5


# --- the choice --------------------------------------------------------------------------------------------------


def logits_of(answers: np.ndarray, classes: int = 3) -> np.ndarray:
    return np.eye(classes)[answers]


def chosen(y: np.ndarray, **answers: np.ndarray) -> str:
    head = Head(np.zeros((3, 1)), np.zeros(3))
    found = {}
    for name, answer in answers.items():
        found[name] = Candidate(head, logits_of(answer), choice.score(y, logits_of(answer)))
    return choice.choose(found, y, 0)


def test_a_clearly_better_method_wins_over_the_preferred_one():
    y = np.repeat([0, 1, 2], 50)
    worse = np.where(np.arange(150) % 5 == 0, (y + 1) % 3, y)
    assert chosen(y, crt=worse, stage1=y) == "stage1"
    assert chosen(y, crt=y, stage1=worse) == "crt"


def test_one_image_of_a_rare_class_does_not_overturn_the_preference():
    y = np.array([0] * 60 + [1] * 39 + [2])
    crt = y.copy()
    crt[[5, 70, 99]] = (crt[[5, 70, 99]] + 1) % 3  # misses the one rare image: balanced accuracy falls by a third
    other = y.copy()
    other[[7, 8, 75]] = (other[[7, 8, 75]] + 1) % 3
    assert choice.score(y, logits_of(other)) > choice.score(y, logits_of(crt)) + 0.3
    assert choice.standard_error(y, logits_of(other), logits_of(crt), 0) > 0.05
    assert chosen(y, crt=y, stage1=y) == "crt"  # a tie goes to the first


def test_the_standard_error_is_that_of_repeated_draws():
    """Against brute force: the spread of the difference over 300 fresh calibration sets."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [80, 40, 20])

    def draw():
        right = rng.random((len(y), 2)) < np.array([0.8, 0.7])
        return [logits_of(np.where(right[:, i], y, (y + 1) % 3)) for i in range(2)]

    pairs = [draw() for _ in range(300)]
    spread = np.std([choice.score(y, a) - choice.score(y, b) for a, b in pairs])
    errors = [choice.standard_error(y, a, b, 0) for a, b in pairs]
    assert np.mean(errors) == pytest.approx(spread, rel=0.15)


def test_multi_label_errors_come_from_paired_resamples():
    rng = np.random.default_rng(0)
    y = (rng.random((80, 3)) < 0.3).astype(np.float32)
    good, poor = y + rng.normal(size=y.shape) * 0.3, y + rng.normal(size=y.shape) * 3
    assert choice.standard_error(y, good, good, 0) == 0
    error = choice.standard_error(y, good, poor, 0)
    assert 0 < error < choice.score(y, good) - choice.score(y, poor)


def test_a_candidates_setting_is_judged_on_samples_that_did_not_choose_it():
    """Of many heads that answer at random one scores well by luck; cross-fitting takes the luck away."""
    luck, judged = [], []
    y = np.repeat([0, 1, 2], 10)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(30, 20)).astype(np.float32)
        weights = rng.normal(size=(100, 3, 20)).astype(np.float32)
        heads = [Head(weight, np.zeros(3, np.float32), number) for number, weight in enumerate(weights)]
        found = choice.nested({"one": heads}, x, y, seed=0)
        luck.append(choice.score(y, found.found["one"].head.logits(x)))
        judged.append(found.found["one"].score)
    assert np.mean(luck) > 0.5
    assert np.mean(judged) == pytest.approx(1 / 3, abs=0.1)


def test_a_head_has_the_same_score_whether_auto_chose_it_or_its_name_was_given():
    """Experiments compare them. The nested score of auto also pays for the choice among methods, which names do not."""
    paid = []
    for seed in range(6):
        x, y = long_tailed((60, 20, 8), seed, spread=2.0)
        held_x, held_y = long_tailed((25, 9, 5), seed + 100, spread=2.0)
        arrays = {"train": x, "calibration": held_x}, {"train": y, "calibration": held_y}
        auto = train_head.fit(*arrays, plain(x, y), TrainHeadParams())
        if auto.method == "crt":
            continue  # by name it tries more strengths
        named = train_head.fit(*arrays, plain(x, y), TrainHeadParams(method=auto.method))
        np.testing.assert_array_equal(auto.best.head.weight, named.best.head.weight)
        assert auto.score == named.score
        paid.append(named.best.score - auto.best.score)
    assert max(paid) > 0.01, "no seed in which the folds of auto chose other methods"


@pytest.mark.parametrize("y", [np.repeat([0, 1, 2], [50, 3, 1]), np.zeros((23, 2)), np.array([0, 1, 2])])
def test_folds_share_out_every_class(y):
    fold = choice.folds(y, 0)
    assert len(fold) == len(y)
    assert np.ptp(np.bincount(fold, minlength=choice.FOLDS)) <= 1
    if y.ndim == 1 and (y == 0).sum() > 10:
        assert np.ptp(np.bincount(fold[y == 0])) <= 1


# --- the stage ---------------------------------------------------------------------------------------------------


def run(root, method="auto"):
    train_head.run(root, train_head=TrainHeadParams(method=method), images=IMAGES)
    return load_file(root / "artifacts/train_head/head.safetensors"), read_json(root / "artifacts/train_head/head.json")


def test_the_stage_writes_the_chosen_head_and_every_score(tmp_path):
    root = small_project.copy(tmp_path, "multiclass")
    head, about = run(root)
    assert set(about["scores"]) == set(methods.AUTO)
    assert about["method"] in about["scores"]
    assert about["metric"] == "balanced_accuracy"
    assert about["settings"]["tau_norm"] in methods.TAUS
    assert about["settings"]["crt"] == retrained.L2S[0]  # auto tries one strength, crt by name all of them
    assert head["weight"].shape[0] == head["bias"].shape[0] == 3
    assert {value.dtype for value in head.values()} == {np.dtype(np.float32)}
    # the network's own classifier is random: a newly trained one must beat it by far
    assert about["scores"]["crt"] > about["scores"]["stage1"] + 0.3
    figures = read_json(root / "metrics/train_head.json")
    kept = pq.read_table(root / "artifacts/train_head/cross_fitted.parquet")
    rows = artifacts.training_rows(root)["calibration"]
    assert kept["id"].to_pylist() == rows["id"].to_pylist()
    y = encode(rows["label"], small_project.CLASSES, "multiclass")
    assert figures["nested_score"] == pytest.approx(choice.score(y, np.array(kept["logits"].to_pylist())))
    assert figures["score"] == (about if about["network"] == "trained" else about["probe"])["scores"][about["method"]]
    assert (figures["imbalance"], figures["advice"]) == (1.0, [])
    again, _ = run(root)
    assert all(np.array_equal(head[name], again[name]) for name in head)


def change_network(root, change) -> None:
    """Put `change(state)` in the place of the trained network's state."""
    file = artifacts.trained_weights(root)
    state = change(load_file(file))
    file.unlink()  # the file may be a link into a shared copy
    save_file(state, file)


def good_classifier(root) -> None:
    """Give the trained network the classifier that one would fit on its features."""
    rows = artifacts.training_rows(root)["train"]
    x = stage1.stage1_features(root, rows, IMAGES)
    head = retrained.retrained(x, encode(rows["label"], small_project.CLASSES, "multiclass"), 3, 100)[-1]
    change_network(root, lambda state: state | {"classifier.weight": head.weight, "classifier.bias": head.bias})


def spoil(root) -> None:
    """Make the trained network one that has forgotten everything."""
    rng = np.random.default_rng(0)
    change_network(
        root,
        lambda state: {
            name: rng.normal(size=value.shape, scale=0.05).astype(np.float32) if value.ndim > 1 else value
            for name, value in state.items()
        },
    )


def test_a_method_that_is_asked_for_is_used(tmp_path):
    root = small_project.copy(tmp_path, "multiclass")
    good_classifier(root)
    head, about = run(root, "stage1")
    own = train_head.stage1_head(root)
    assert (about["network"], about["method"]) == ("trained", "stage1")
    np.testing.assert_array_equal(head["weight"], own.weight)
    np.testing.assert_array_equal(head["bias"], own.bias)


def test_where_training_did_harm_the_model_is_the_pretrained_network(tmp_path):
    root = small_project.copy(tmp_path, "multiclass")
    intact = load_file(artifacts.trained_weights(root))
    spoil(root)
    head, about = run(root)
    assert about["network"] == "pretrained"
    assert about["method"] == about["probe"]["method"]
    assert about["probe"]["lead"] > about["probe"]["standard_error"] > 0
    figures = read_json(root / "metrics/train_head.json")
    assert figures["network"] == "pretrained"
    assert figures["score"] > about["scores"][about["method"]] + 0.1
    assert "a probe of the frozen backbone is better by" in summary("train_head", root)
    network = load_file(artifacts.network_weights(root))
    np.testing.assert_array_equal(network["classifier.weight"], head["weight"])
    assert all(np.array_equal(network[name], intact[name]) for name in intact if not name.startswith("classifier"))
    model, _ = stage1.load(root)
    np.testing.assert_array_equal(model.classifier.bias.detach().numpy(), head["bias"])

    good_classifier_after = intact | {"classifier.weight": head["weight"], "classifier.bias": head["bias"]}
    change_network(root, lambda _: good_classifier_after)
    _, about = run(root)  # a later run, in which training does no harm, leaves nothing of the probe's network
    assert about["network"] == "trained"
    assert artifacts.network_weights(root) == artifacts.trained_weights(root)


def test_the_pretrained_network_goes_through_the_later_stages(tmp_path):
    root = small_project.copy(tmp_path, "multiclass")
    spoil(root)
    params = load_params(root / "params.yaml")
    train_head.run(root, train_head=params.train_head, images=params.images)
    calibrate_stage.run(root, images=params.images, calibrate=params.calibrate)
    evaluate_stage.run(
        root, images=params.images, embed=params.embed, evaluate=EvaluateParams(corruptions=["dark"], latency_runs=2)
    )
    bundle_stage.run(root, images=params.images, bundle=params.bundle, gate=params.gate)
    figures = read_json(root / "metrics/evaluate.json")
    assert figures["parity"]["max_difference"] < 1e-3  # exported and loaded are the same network
    assert figures["test"]["balanced_accuracy"] > 0.6
    weights = load_file(root / "artifacts/bundle/weights.safetensors")
    chosen = load_file(artifacts.network_weights(root))
    assert all(np.array_equal(weights[f"backbone.{name}"], value) for name, value in chosen.items())
    assert "as it came" in (root / "artifacts/bundle/card.md").read_text()


def test_without_pretrained_weights_there_is_no_probe(tmp_path):
    root = small_project.copy(tmp_path, "multiclass")
    spoil(root)
    file = root / "artifacts/train_backbone/model.json"
    about = read_json(file)
    file.unlink()
    write_json(file, about | {"pretrained": "none"})
    _, about = run(root)
    assert about["network"] == "trained"
    assert "probe" not in about


def test_a_lead_of_an_image_or_two_is_not_clear():
    """Twelve classes of one or two images each: the spread within classes is nothing, luck is not."""
    y = np.concatenate([np.arange(12), np.arange(6)])
    head = Head(np.zeros((12, 1)), np.zeros(12))
    right = Candidate(head, logits_of(y, 12), 1.0)
    for images, clear in ((1, False), (2, False), (5, True)):
        other = y.copy()
        other[6 : 6 + images] = (other[6 : 6 + images] + 1) % 12  # of classes with a single image
        lead = choice.advantage(
            right, Candidate(head, logits_of(other, 12), choice.score(y, logits_of(other, 12))), y, [None] * 18, 0
        )
        assert lead.error > 0
        assert lead.clear == clear, images


def test_a_lead_on_groups_that_answer_alike_is_no_clear_lead():
    y = np.repeat([0, 1], 20)
    better = logits_of(y, 2)
    worse = logits_of(np.where(np.arange(40) % 20 < 5, 1 - y, y), 2)
    head = Head(np.zeros((2, 1)), np.zeros(2))
    a, b = (Candidate(head, one, choice.score(y, one)) for one in (better, worse))
    assert choice.advantage(a, b, y, [None] * 40, 0).clear
    alike = [str(row % 20 // 10) for row in range(40)]  # two groups, one of which has all the errors
    spread = [str(row % 5) for row in range(40)]  # each group has its share of them
    leads = [choice.advantage(a, b, y, groups, 0) for groups in (alike, spread)]
    assert leads[0].value == leads[1].value
    assert leads[0].error > 2 * leads[1].error
    assert not leads[0].clear
    assert leads[1].clear
    assert not choice.advantage(a, b, y, ["one"] * 40, 0).clear
    labels = np.eye(2)[y]
    assert choice.advantage(a, b, labels, [None] * 40, 0).clear
    assert not choice.advantage(a, b, labels, ["one"] * 40, 0).clear


def test_multi_label_has_two_methods_and_refuses_the_others(tmp_path):
    root = small_project.copy(tmp_path, "multilabel")
    _, about = run(root)
    assert set(about["scores"]) == {"crt", "stage1"}
    assert about["metric"] == "mean_average_precision"
    with pytest.raises(DataError, match=r"tau_norm.*multilabel.*crt, stage1"):
        run(root, "tau_norm")


def test_above_a_hundred_to_one_the_stage_compares_an_anomaly_score():
    x, y = long_tailed((500, 60, 3), seed=0)
    held_x, held_y = long_tailed((100, 40, 10), seed=1)
    both = {"train": x, "calibration": held_x}, {"train": y, "calibration": held_y}
    fitted = train_head.fit(*both, plain(x, y), TrainHeadParams())
    train = pa.table({"source": ["a"] * len(y), "taken_at": pa.nulls(len(y), pa.timestamp("us"))})
    found = train_head.rare_classes(fitted, both[1], ["x", "y", "z"], train)
    assert (found["rarest"], found["anomaly"]["images"]) == ("z", 10)
    assert set(found["anomaly"]) == {"classifier", "knn", "mahalanobis", "images"}
    warning, compared = found["advice"]
    assert "167 times" in warning
    assert "10 calibration images of 'z'" in compared


# --- what the settings do ------------------------------------------------------------------------------------------


def fitted_with(**settings) -> train_head.Fitted:
    x, y = long_tailed((500, 60, 15), seed=0)
    held_x, held_y = long_tailed((100, 40, 10), seed=1)
    both = {"train": x, "calibration": held_x}, {"train": y, "calibration": held_y}
    return train_head.fit(*both, plain(x, y), TrainHeadParams(**settings))


@pytest.mark.parametrize("method", methods.METHODS)
def test_each_method_that_is_asked_for_is_fitted_and_compared_with_stage_1(method):
    found = fitted_with(method=method)
    assert found.method == method
    assert set(found.scores()) == {method, "stage1"}


def test_common_loss_bounds_what_common_classes_lose():
    free, bound = fitted_with(), fitted_with(common_loss=1.0)
    held_x, held_y = long_tailed((3000, 3000, 3000), seed=2)
    x, y = long_tailed((500, 60, 15), seed=0)
    before = recalls(plain(x, y), held_x, held_y)[0]
    after = {name: recalls(one.best.head, held_x, held_y) for name, one in (("free", free), ("bound", bound))}
    assert before - after["free"][0] > 0.03
    assert before - after["bound"][0] < 0.03
    assert after["bound"][2] < after["free"][2]


def test_common_loss_needs_classes_that_exclude_each_other(tmp_path):
    root = small_project.copy(tmp_path, "multilabel")
    with pytest.raises(DataError, match=r"common_loss is 1.*multilabel.*null"):
        train_head.run(root, train_head=TrainHeadParams(common_loss=1), images=IMAGES)
