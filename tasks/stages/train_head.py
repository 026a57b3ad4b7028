"""Stage `train_head`: a class-balanced classifier on frozen features.

Reads what train_backbone read and wrote; writes artifacts/train_head/{head.safetensors: weight (K, D), bias (K,);
head.json: the network, the method and every candidate's score} and metrics/train_head.json. N is the number of
samples, K of classes, D of feature dimensions.

Long-tailed data harms the classifier more than the features (Kang et al. 2020, "Decoupling representation and
classifier for long-tailed recognition"), so only the classifier is replaced. The methods:

- crt: trained again on the features, with the same total weight for every class (Kang et al.)
- logit_adjust: stage 1's, minus the log of the class's share (Menon et al. 2021, "Long-tail learning via logit
  adjustment")
- tau_norm: stage 1's, each class's weights divided by their norm to the power tau (Kang et al.)
- stage1: stage 1's, unchanged

Multi-label classes do not compete for one answer, so there only crt and stage1 apply.

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

from tasks.common import artifacts
from tasks.common.artifacts import classes_and_task, training_rows
from tasks.common.errors import DataError
from tasks.common.files import atomic_path, read_json, write_json
from tasks.common.params import EmbedParams, ImagesParams, TrainHeadParams
from tasks.dataset.shard_table import ShardTable
from tasks.models import probe, stage1
from tasks.models.choice import Advantage, Candidate, advantage, candidate, choose
from tasks.models.head import Head
from tasks.scoring.targets import class_counts, encode

FOLDER = artifacts.HEAD_FOLDER
PREFERENCE = {"multiclass": ("crt", "logit_adjust", "tau_norm", "stage1"), "multilabel": ("crt", "stage1")}
L2S = (0.1, 0.03, 0.01)  # of crt, on standardised features: the best differs with the backbone's training
NATURAL_L2 = 0.03  # of the probe's classifier before it is balanced, in place of stage 1's
TAUS = (0.25, 0.5, 0.75, 1.0)  # of tau_norm


@dataclass(frozen=True)
class Fitted:
    """All candidates on one network's features, and the name of the chosen method."""

    found: dict[str, Candidate]
    method: str

    @property
    def best(self) -> Candidate:
        return self.found[self.method]

    def scores(self) -> dict[str, float]:
        return {name: one.score for name, one in self.found.items()}

    def settings(self) -> dict[str, float]:
        return {name: one.head.setting for name, one in self.found.items() if one.head.setting is not None}


def run(root: Path, *, train_head: TrainHeadParams, images: ImagesParams) -> None:
    """Fit the candidates, choose one, write it. Raises DataError for a method that does not fit the task."""
    rows, (classes, task) = training_rows(root), classes_and_task(root)
    if train_head.method not in ("auto", *PREFERENCE[task]):
        raise DataError(
            f"train_head.method is {train_head.method}, which needs classes that exclude each other: for "
            f"data.task: {task} set it to auto or one of {', '.join(PREFERENCE[task])}"
        )
    y = {split: encode(rows[split]["label"], classes, task) for split in ("train", "calibration")}
    trained_file = artifacts.trained_weights(root)

    def fitted(features: Callable[[pa.Table], ShardTable], own: Callable[[ShardTable], Head]) -> Fitted:
        x = {split: features(rows[split]) for split in y}
        return fit(x, y, own(x["train"]), len(classes), train_head)

    def own(x: ShardTable) -> Head:
        places = same_classes(artifacts.network_classes(root), classes, artifacts.class_names(root))
        return natural(x, y["train"], len(classes)) if places is None else stage1_head(root).part(places)

    trained = fitted(lambda table: stage1.stage1_features(root, table, images, weights=trained_file), own)
    about, pretrained, lead = read_json(root / artifacts.FOLDER / "model.json"), None, None
    if about["pretrained"] != "none":
        from tasks.models.pretrained import pretrained_features

        embed = EmbedParams(backbone=about["backbone"])  # the stage `embed` may have computed the same ones
        pretrained = fitted(
            lambda table: pretrained_features(root, table, embed=embed, images=images),
            lambda x: natural(x, y["train"], len(classes)),
        )
        groups = rows["calibration"]["group"].to_pylist()
        lead = advantage(pretrained.best, trained.best, y["calibration"], groups, train_head.seed)
    metric = "balanced_accuracy" if task == "multiclass" else "mean_average_precision"
    write(root, trained, pretrained, lead, metric)


def fit(x: dict[str, ShardTable], y: dict[str, np.ndarray], own: Head, classes: int, params: TrainHeadParams) -> Fitted:
    """Every method on features `x` and targets `y` of train and calibration; `own`: the network's own classifier."""
    makers: dict[str, Callable[[], list[Head]]] = {
        "crt": lambda: retrained(x["train"], y["train"], classes, params.epochs),
        "logit_adjust": lambda: [logit_adjusted(own, class_counts(y["train"], classes))],
        "tau_norm": lambda: [tau_normalised(own, tau) for tau in TAUS],
        "stage1": lambda: [own],
    }
    names = PREFERENCE["multiclass" if y["train"].ndim == 1 else "multilabel"]
    found = {name: candidate(makers[name](), x["calibration"], y["calibration"], params.seed) for name in names}
    method = choose(found, y["calibration"], params.seed) if params.method == "auto" else params.method
    return Fitted(found, method)


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


def natural(x: ShardTable | np.ndarray, y: np.ndarray, classes: int) -> Head:
    """A classifier of `x` (N, D) on `y` as often as each class is there: what stage 1 ends with, without stage 1."""
    fitted = probe.fit(x, y, classes, l2=NATURAL_L2)
    return Head(fitted.weight, fitted.bias)


def retrained(x: ShardTable | np.ndarray, y: np.ndarray, classes: int, iterations: int) -> list[Head]:
    """crt: new classifiers of `x` (N, D) on `y`, one for each of L2S, with the same total weight for every class.

    For multi-label `y`, a sample has the weight of its rarest label, or of the most common one if it has none.
    """
    share = 1 / np.maximum(class_counts(y, classes), 1)
    weight = share[y] if y.ndim == 1 else np.maximum((y * share).max(axis=1), share.min())
    heads, fitted = [], None
    for l2 in L2S:  # each starts from the one before, which has a stronger penalty
        fitted = probe.fit(x, y, classes, sample_weight=weight, l2=l2, iterations=iterations, start=fitted)
        heads.append(Head(fitted.weight, fitted.bias, l2))
    return heads


def logit_adjusted(stage1: Head, counts: np.ndarray) -> Head:
    """`stage1` as if all classes were equally common; `counts` (K,) training samples."""
    prior = np.maximum(counts, 1) / np.maximum(counts, 1).sum()
    return Head(stage1.weight, (stage1.bias - np.log(prior)).astype(np.float32))


def tau_normalised(stage1: Head, tau: float) -> Head:
    """`stage1` with each class's norm to the power 1 - tau, and no bias: common classes grow larger norms.

    Scaled by the mean norm, so that the logits keep their size and calibration starts from sensible values.
    """
    norms = np.linalg.norm(stage1.weight, axis=1, keepdims=True)
    weight = stage1.weight * (norms.mean() / np.maximum(norms, 1e-12)) ** tau
    return Head(weight.astype(np.float32), np.zeros_like(stage1.bias), tau)


def write(root: Path, trained: Fitted, pretrained: Fitted | None, lead: Advantage | None, metric: str) -> None:
    """Write the chosen head, its network if that is not stage 1's, and every candidate's score.

    lead: how much better the probe is; None: there is no probe.
    """
    from safetensors.numpy import save_file

    won = lead is not None and lead.clear
    chosen = pretrained if won else trained
    head, weights = chosen.best.head, root / FOLDER / "weights.safetensors"
    with atomic_path(root / FOLDER / "head.safetensors") as temporary:
        save_file({"weight": head.weight.astype(np.float32), "bias": head.bias.astype(np.float32)}, temporary)
    weights.unlink(missing_ok=True)  # of an earlier run
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
    write_json(
        root / "metrics" / "train_head.json", {"network": about["network"], "score": chosen.best.score} | figures
    )


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
