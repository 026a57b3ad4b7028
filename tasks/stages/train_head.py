"""Stage `train_head`: a class-balanced classifier on frozen features.

Reads what train_backbone read and wrote; writes artifacts/train_head/{head.safetensors: weight (K, D), bias (K,);
head.json: the network, the method and every candidate's score; cross_fitted.parquet} and metrics/train_head.json. N is
the number of samples, K of classes, D of feature dimensions.

Long-tailed data harms the classifier more than the features (Kang et al. 2020, "Decoupling representation and
classifier for long-tailed recognition"), so only the classifier is replaced. tasks.models.heads holds the methods.

They are chosen by nested cross-validation on the calibration split (tasks.models.choice). cross_fitted.parquet (id,
logits) holds for each calibration image the logits of what would have been chosen without its fold: the stage
`calibrate` fits on these, so what chose the head does not calibrate it.

The same methods are fitted on the features of the pretrained backbone, which no epoch has changed: the *probe*. Few
images can make fine-tuning worse than none. If the probe is better on the calibration split by more than luck, the
model is the pretrained network with the probe's classifier. Then artifacts/train_head/weights.safetensors holds that
network, and all later stages use it (tasks.models.stage1).

Classes may have changed since the network was trained. A renamed or retired one keeps its place in stage 1's
classifier or leaves it. Otherwise (a merge, say) a classifier of the natural distribution, fitted on the network's
features, stands in for stage 1's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.common import artifacts
from tasks.common.artifacts import classes_and_task, training_rows
from tasks.common.cores import on_all_cores
from tasks.common.errors import DataError
from tasks.common.files import atomic_path, read_json, write_json
from tasks.common.params import EmbedParams, ImagesParams, TrainHeadParams
from tasks.dataset.shard_table import ShardTable
from tasks.models import stage1
from tasks.models.choice import Advantage, Candidate, Chosen, Protected, advantage, nested
from tasks.models.head import CROSS_FITTED, Head
from tasks.models.heads import anomaly, rarity
from tasks.models.heads.methods import AUTO, METHODS, Given, methods_of
from tasks.models.heads.retrained import natural
from tasks.scoring.targets import class_counts, encode

FOLDER = artifacts.HEAD_FOLDER
MANY = 100  # training images: a class with more is common, and `common_loss` protects it


@dataclass(frozen=True)
class Fitted:
    """All candidates on one network's features, and what was chosen."""

    chosen: Chosen
    x: dict[str, ShardTable | np.ndarray]  # features by split

    @property
    def method(self) -> str:
        return self.chosen.method

    @property
    def best(self) -> Candidate:
        """The chosen head with the logits and the score of the whole procedure."""
        return Candidate(self.chosen.found[self.method].head, self.chosen.logits, self.chosen.score)

    @property
    def score(self) -> float:
        """The chosen method's own: its setting is chosen without the images that judge it, `auto` or not.

        So one head has one score, whatever named it. `best.score` pays for the choice of the method, too: it compares
        `auto` with a method unfairly, but is what the whole procedure is worth.
        """
        return self.chosen.found[self.method].score

    def scores(self) -> dict[str, float]:
        return {name: one.score for name, one in self.chosen.found.items()}

    def settings(self) -> dict[str, float]:
        found = self.chosen.found
        return {name: one.head.setting for name, one in found.items() if one.head.setting is not None}


def run(root: Path, *, train_head: TrainHeadParams, images: ImagesParams) -> None:
    """Fit the candidates, choose one, write it. Raises DataError for a method that does not fit the task."""
    rows, (classes, task) = training_rows(root), classes_and_task(root)
    if train_head.method not in ("auto", *methods_of(task)):
        raise DataError(
            f"train_head.method is {train_head.method}, which needs classes that exclude each other: for "
            f"data.task: {task} set it to auto or one of {', '.join(methods_of(task))}"
        )
    if train_head.common_loss is not None and task != "multiclass":
        raise DataError(
            f"train_head.common_loss is {train_head.common_loss:g}, which counts answers that exclude each other: for "
            f"data.task: {task} set it to null"
        )
    groups = rows["calibration"]["group"].to_pylist()
    y = {split: encode(rows[split]["label"], classes, task) for split in ("train", "calibration")}
    trained_file = artifacts.trained_weights(root)

    def fitted(features: Callable[[pa.Table], ShardTable], own: Callable[[ShardTable], Head]) -> Fitted:
        x = {split: features(rows[split]) for split in y}
        return fit(x, y, own(x["train"]), train_head, groups)

    def own(x: ShardTable) -> Head:
        places = same_classes(artifacts.network_classes(root), classes, artifacts.class_names(root))
        return natural(x, y["train"], len(classes)) if places is None else stage1_head(root).part(places)

    trained = fitted(lambda table: stage1.stage1_features(root, table, images, weights=trained_file), own)
    about, pretrained, lead = read_json(root / artifacts.FOLDER / "model.json"), None, None
    if about["pretrained"] != "none" and not about.get("prune"):  # the probe would be the whole network again
        from tasks.models.pretrained import pretrained_features

        embed = EmbedParams(backbone=about["backbone"])  # the stage `embed` may have computed the same ones
        pretrained = fitted(
            lambda table: pretrained_features(root, table, embed=embed, images=images),
            lambda x: natural(x, y["train"], len(classes)),
        )
        lead = advantage(pretrained.best, trained.best, y["calibration"], groups, train_head.seed)
    metric = "balanced_accuracy" if task == "multiclass" else "mean_average_precision"
    write(root, trained, pretrained, lead, metric, rows["calibration"]["id"].to_pylist())
    if task == "multiclass":
        best = pretrained if lead is not None and lead.clear else trained
        file = root / "metrics" / "train_head.json"
        write_json(file, read_json(file) | rare_classes(best, y, classes, rows["train"]))


def rare_classes(fitted: Fitted, y: dict[str, np.ndarray], classes: Sequence[str], train: pa.Table) -> dict:
    """Figures and advice about the rarest class and about classes that were collected in one place only."""
    ratio, rarest = rarity.imbalance(counts := class_counts(y["train"], len(classes)))
    days = [None if at is None else at.date().isoformat() for at in train["taken_at"].to_pylist()]
    places = rarity.in_one_place(y["train"], classes, {"source": train["source"].to_pylist(), "day": days})
    said = rarity.sentences(ratio, classes[rarest], int(counts[rarest]), places)
    found = {"imbalance": ratio, "rarest": classes[rarest]}
    if ratio > rarity.EXTREME:
        pairs = [(np.asarray(fitted.x[split][:], np.float32), y[split]) for split in ("train", "calibration")]
        if scores := anomaly.compare(*pairs, fitted.best.logits, rarest):
            found["anomaly"] = scores.aucs | {"images": scores.images}
            said.append(scores.sentence(classes[rarest]))
    return found | {"advice": said}


def fit(
    x: dict[str, ShardTable | np.ndarray],
    y: dict[str, np.ndarray],
    own: Head,
    params: TrainHeadParams,
    groups: Sequence[str | None] | None = None,
) -> Fitted:
    """The methods on features `x` and targets `y` of train and calibration; `own`: the network's own classifier.

    groups: (N,) names of the calibration samples.
    """
    task = "multiclass" if y["train"].ndim == 1 else "multilabel"
    thorough = params.method != "auto" or task == "multilabel"
    given = Given(x["train"], y["train"], own, params.epochs, params.seed, thorough)
    names = AUTO if params.method == "auto" else (params.method, "stage1")
    import scipy.optimize  # noqa: F401 - it brings a BLAS, which on_all_cores limits only if it is loaded

    names = [name for name in METHODS if name in names and name in methods_of(task)]
    made = on_all_cores(lambda name: METHODS[name](given), names)
    heads = {name: some for name, some in zip(names, made, strict=True) if some}
    protected = None
    if params.common_loss is not None:
        protected = Protected(class_counts(y["train"], given.classes) > MANY, params.common_loss / 100)
    held_out = x["calibration"], y["calibration"], params.seed
    if params.method == "auto":
        return Fitted(nested(heads, *held_out, groups=groups, protected=protected), x)
    return Fitted(only(heads, params.method, *held_out, groups), x)


def only(
    heads: Mapping[str, Sequence[Head]],
    method: str,
    x: ShardTable | np.ndarray,
    y: np.ndarray,
    seed: int,
    groups: Sequence[str | None] | None,
) -> Chosen:
    """The best setting of `method`, and of stage 1 for comparison."""
    if method not in heads:
        raise DataError(f"train_head.method is {method}, which has no solution here: set it to auto or another one")
    chosen = nested({method: heads[method]}, x, y, seed, groups=groups)
    rest = {name: some for name, some in heads.items() if name != method}
    found = nested(rest, x, y, seed, groups=groups).found if rest else {}
    return Chosen(chosen.found | found, method, chosen.logits, chosen.score)


def same_classes(trained: Sequence[str], classes: Sequence[str], names: Mapping[str, str | None]) -> list[int] | None:
    """The place in `trained` of each of `classes`; None unless each is exactly one of them.

    names: class of the network -> class of today.
    """
    found = [[place for place, name in enumerate(trained) if names.get(name, name) == one] for one in classes]
    return [places[0] for places in found] if all(len(places) == 1 for places in found) else None


def stage1_head(root: Path) -> Head:
    """The classifier that train_backbone trained."""
    from tasks.backbones import timm_models

    last = timm_models.classifier(stage1.load(root, artifacts.trained_weights(root))[0])
    bias = np.zeros(len(last.weight), np.float32) if last.bias is None else last.bias.detach().numpy()
    return Head(last.weight.detach().numpy(), bias)


def write(
    root: Path,
    trained: Fitted,
    pretrained: Fitted | None,
    lead: Advantage | None,
    metric: str,
    ids: list[str],
) -> None:
    """Write the chosen head, its network if that is not stage 1's, and every candidate's score.

    lead: how much better the probe is; None: there is no probe. ids: of the calibration images.
    """
    from safetensors.numpy import save_file

    won = lead is not None and lead.clear
    chosen = pretrained if won else trained
    head, weights = chosen.best.head, root / FOLDER / "weights.safetensors"
    with atomic_path(root / FOLDER / "head.safetensors") as temporary:
        save_file({"weight": head.weight.astype(np.float32), "bias": head.bias.astype(np.float32)}, temporary)
    weights.unlink(missing_ok=True)  # of an earlier run
    with atomic_path(root / FOLDER / CROSS_FITTED) as temporary:
        logits = pa.array(list(chosen.best.logits.astype(np.float32)), pa.list_(pa.float32()))
        pq.write_table(pa.table({"id": pa.array(ids, pa.string()), "logits": logits}), temporary)
    if won:
        save_pretrained(root, head, weights)
    about = {"network": "pretrained" if won else "trained", "method": chosen.method, "metric": metric}
    figures = {f"score_{name}": value for name, value in trained.scores().items()}
    parts = {"scores": trained.scores(), "settings": trained.settings()}
    if pretrained is not None:
        parts["probe"] = {
            "method": pretrained.method,
            "scores": pretrained.scores(),
            "settings": pretrained.settings(),
            "lead": lead.value,
            "standard_error": lead.error,
        }
        figures |= {f"probe_{name}": value for name, value in pretrained.scores().items()}
        figures |= {"probe_lead": lead.value, "probe_lead_error": lead.error}
    write_json(root / FOLDER / "head.json", about | parts)
    scores = {"score": chosen.score, "nested_score": chosen.best.score}
    write_json(root / "metrics" / "train_head.json", {"network": about["network"]} | scores | figures)


def save_pretrained(root: Path, head: Head, file: Path) -> None:
    """Write the pretrained network with the classifier `head` in the format of stage 1's weights."""
    import torch

    from tasks.backbones import timm_models

    about = read_json(root / artifacts.FOLDER / "model.json")
    model = timm_models.create_model(about["backbone"], about["pretrained"], len(head.weight), about["resolution"])
    last = timm_models.classifier(model)
    with torch.no_grad():
        last.weight.copy_(torch.from_numpy(head.weight))
        if last.bias is not None:
            last.bias.copy_(torch.from_numpy(head.bias))
    stage1.save_weights(model, file)
