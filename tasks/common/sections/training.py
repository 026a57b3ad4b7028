"""Sections of params.yaml about features, label cleaning, training and calibration."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from tasks.common import domains
from tasks.common.presets import backbone_name
from tasks.common.section import Count, Positive, Section, Share

Backbone = Annotated[str, AfterValidator(backbone_name)]  # the name of timm that a preset stands for


class EmbedParams(Section):
    """The frozen pretrained backbone that gives the pretrained features."""

    backbone: Backbone = Field(
        "tf_efficientnet_lite0", description="frozen pretrained timm model for cleaning, or a preset; keyed cache"
    )
    batch_size: Positive = 64


class CleanParams(Section):
    """Limits of automatic changes to training labels that are probably wrong; the others are queued for review."""

    folds: Annotated[int, Field(ge=2, le=20)] = Field(5, description="cross-validation folds; groups stay whole")
    relabel_confidence: Share = Field(
        0.9, description="relabel when another class is right with at least this probability, image and label weighed"
    )
    drop_quality: Share = Field(
        0.1, description="else drop when the given label is right with at most this probability; 0: never drop"
    )
    max_changed_share: Share = Field(0.2, description="at most this share of a given class is relabelled or dropped")
    rare_class: Count = Field(20, description="classes with at most this many images are queued, never changed")
    seed: Count = Field(0, description="of the folds")


class UnfreezePhases(Section):
    """Epochs of the phases: classifier alone, last blocks at a fifth of the rate, everything with cosine to zero."""

    frozen: Count = 0
    last: Count = 0
    all: Count = 5


Change = Literal[  # a name of train_backbone.augment
    *("crop", "resized_crop", "flip", "vertical_flip", "rotate", "affine", "perspective"),
    *("colour", "hue", "grey", "erase", "rand_augment", "trivial_augment", "auto_augment"),
]
RareChange = Literal[  # a name of train_backbone.rare_augment, which come after those of augment
    *("crop", "flip", "vertical_flip", "rotate", "affine", "perspective", "colour", "hue", "grey", "erase")
]


class DistillParams(Section):
    """What stage 1 learns from teachers beside the labels; without teachers it learns from labels alone."""

    teachers: list[Backbone] = Field(
        [],
        description="bundles by digest (`evergreen distill` finds it), or pretrained timm models, which get a linear "
        "classifier; their mean teaches. Each batch costs a pass through every teacher",
    )
    temperature: Annotated[float, Field(ge=1, le=20)] = Field(
        4.0, description="softens the answers: more of what the teachers think of the other classes"
    )
    weight: Share = Field(0.5, description="of the teachers' answers in the loss; the labels have the rest")
    features: Annotated[float, Field(ge=0)] = Field(
        0.0, description="weight of seeing the same images as alike; 0: off. Trains in one process"
    )
    attention: Annotated[float, Field(ge=0)] = Field(
        0.0, description="weight of looking at the same places; 0: off. Needs teachers of timm"
    )


class TrainBackboneParams(Section):
    """Stage 1 of the training: the backbone."""

    backbone: Backbone = Field(
        "tf_efficientnet_lite0",
        description="any timm model name, hf_hub:OWNER/NAME, or a preset (edge, balanced, accurate, largest)",
    )
    pretrained: Literal["auto", "none"] = Field(
        "auto", description="auto: the packaged offline weights or timm's hub; none: from scratch"
    )
    tuning: Literal["auto", "full", "lora", "bitfit", "norm", "linear"] = Field(
        "full",
        description="what of the pretrained network trains: all weights, a change of low rank for each matrix (lora), "
        "biases (bitfit), scales and shifts of normalisation (norm), or the classifier alone (linear). auto: short "
        "trainings at the start of each training choose, which costs up to 400 steps",
    )
    head: Literal["linear", "mlp"] = Field(
        "linear", description="mlp: a hidden layer (512, GELU, dropout .3), whose output becomes the features"
    )
    pooling: Literal["average", "bilinear"] = Field(
        "average", description="bilinear: products of pairs of channels, too; for classes that differ in fine details"
    )
    attention_crop: bool = Field(
        False, description="look again, enlarged, at the part of the image that matters; each image costs twice as much"
    )
    epochs: UnfreezePhases = UnfreezePhases()
    last_blocks: Positive = Field(2, description="how many blocks the second phase opens")
    batch_size: Positive = 64
    learning_rate: Annotated[float, Field(gt=0)] = Field(
        5e-3, description="of the classifier while the pretrained backbone is frozen, and from scratch; else a fifth"
    )
    optimizer: str = Field("adamw", description="timm's name: sgd, nesterovw, adamw, lion, lamb, muon ...")
    schedule: Literal["cosine", "linear", "constant", "one_cycle", "warm_restarts"] = Field(
        "cosine", description="how the learning rate falls in the phase that trains everything; others keep theirs"
    )
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="factor of the learning rate per layer from the end; transformers often gain by 0.65 to 0.8"
    )
    head_rate: Annotated[float, Field(gt=0)] = Field(
        1.0, description="times the learning rate of the backbone, for its classifier (discriminative rates)"
    )
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="decay per step of the moving average of the weights that is judged and kept; 0: none"
    )
    accumulate: Positive = Field(1, description="batches that make one step: a larger batch in the same memory")
    self_supervised_epochs: Count = Field(
        0, description="first pretrain so long on all training images, with and without labels; for far domains"
    )
    drop_path: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="chance to leave out a residual branch in training, at the last block (stochastic depth)"
    )
    prune: Annotated[float, Field(ge=0, le=0.9)] = Field(
        0.0,
        description="share of the channels inside each block that is left out before the training, those of least "
        "norm; 0: none. A smaller, faster network for the edge (docs/distill.md)",
    )
    loss: Literal[
        "cross_entropy",
        "class_weighted",
        "focal",
        "class_balanced",
        "ldam_drw",
        "logit_adjusted",
        "balanced_softmax",
        "asymmetric",
    ] = Field(
        "cross_entropy",
        description="how errors count; what each does for rare classes: docs/long-tail.md. asymmetric needs several "
        "labels per image; ldam_drw, logit_adjusted and balanced_softmax need one",
    )
    label_smoothing: Share = 0.0
    sampler: Literal[
        "auto",
        "natural",
        "stratified",
        "class_balanced",
        "square_root",
        "progressive",
        "undersample",
        "repeat_factor",
        "oversample",
    ] = Field(
        "auto",
        description="how often an epoch draws the images of each class: docs/long-tail.md. auto: square_root from "
        "pretrained weights with one label per image, else natural",
    )
    batch_norm: Literal["frozen", "train"] = Field(
        "frozen", description="frozen: keep pretrained statistics (short fine-tuning with moving ones does harm)"
    )
    domain: Literal["natural", "document", "medical", "industrial", "satellite", "symbols"] | None = Field(
        None,
        description="kind of images: refuses changes that do them harm, and narrows others (docs/augmentation.md). "
        "null: everything is allowed",
    )
    augment: list[Change] = Field(["crop", "flip"], description="random changes of training images")
    rare_augment: list[RareChange] = Field(
        [],
        description="more changes, for images of rare classes only; if the sampler repeats images, for the repeats",
    )
    crop_area: Annotated[float, Field(gt=0, le=1)] = Field(
        0.25,
        description="least share of the area that resized_crop keeps. Images are decoded larger for it, at up to "
        "twice the side (four times the disk)",
    )
    rotation: Annotated[float, Field(ge=0, le=180)] = Field(15.0, description="degrees either way, of rotate")
    magnitude: Share = Field(0.3, description="strength of rand_augment; 0.3 is M = 9 of 30 in its paper")
    mix: list[Literal["mixup", "cutmix"]] = Field(
        [], description="mix each training image with another of its batch; with both, one is drawn for each batch"
    )
    resolution_schedule: list[Annotated[float, Field(ge=0.25, le=1)]] = Field(
        [],
        description="shares of images.resolution, each for an equal part of the phase `all`, e.g. [0.5, 0.75, 1]; the "
        "last must be 1. []: always the whole",
    )
    distill: DistillParams = DistillParams()
    patience: Count = Field(0, description="stop a phase after this many epochs without improvement; 0: never")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 on a GPU that has it, for networks of linear layers, which it makes faster"
    )
    threads: Count = Field(0, description="CPU threads of one process; 0: all cores, in several processes if that pays")
    seed: Count = 0
    start: Literal["pretrained", "champion", "shrink_perturb", "dash", "auto"] = Field(
        "pretrained",
        description="pretrained: every training starts over; champion: from the live model's weights; shrink_perturb, "
        "dash: from them, moved part of the way back; auto: from them where their features are as good or better",
    )
    start_bundle: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        None,
        description="sha256 of the bundle that a warm start takes its weights from; null: a run that has to train pins "
        "the live one",
    )
    warm_epochs: Annotated[float, Field(gt=0, le=1)] = Field(
        0.4, description="share of the epochs that a training from the champion takes"
    )
    seeds: Annotated[int, Field(ge=1, le=16)] = Field(1, description="trainings with seeds of their own")
    combine: Literal["best", "soup", "ensemble"] = Field(
        "best",
        description="what becomes of several seeds: the best on calibration images, the mean of their weights, or one "
        "network of all of them, which takes as many times as long for an answer",
    )

    @model_validator(mode="after")
    def _augmentation(self) -> "TrainBackboneParams":
        found = domains.problems(self.domain, [*self.augment, *self.rare_augment, *self.mix])
        if {"crop", "resized_crop"} <= set(self.augment):
            found.append("augment names crop and resized_crop: keep one of them, both are crops")
        if self.resolution_schedule and self.resolution_schedule[-1] != 1:
            found.append(
                f"resolution_schedule ends with {self.resolution_schedule[-1]:g}: expected 1, the resolution at which "
                "the model is used"
            )
        if found:
            raise ValueError("; ".join(found))
        return self


class TrainHeadParams(Section):
    """Stage 2 of the training: a class-balanced head on stage-1 features."""

    method: Literal["auto", "max_norm", "crt", "lws", "logit_adjust", "gda", "soup", "smote", "tau_norm", "stage1"] = (
        Field(
            "auto",
            description="classifier on frozen stage-1 features; auto: the best balanced accuracy on calibration data, "
            "by nested cross-validation; stage1: unchanged",
        )
    )
    common_loss: Annotated[float, Field(ge=0)] | None = Field(
        None,
        description="points of recall that classes of more than 100 training images may lose, together, for rare ones; "
        "null: as many as balanced accuracy gains from. For auto and multi-class",
    )
    epochs: Positive = 200
    seed: Count = 0


class CalibrateParams(Section):
    """Probabilities, thresholds of classes and of the out-of-distribution score."""

    method: Literal["auto", "none", "temperature", "classwise"] = Field(
        "auto",
        description="how logits become probabilities; no method moves an answer. auto: the simplest within one "
        "standard error of the best held-out log-loss",
    )
    cost_false_negative: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {},
        description="class -> cost of missing it (a false alarm costs 1): the answer has the least expected cost, and "
        "people see more images of the class. "
        "Or a list of {class: NAME, cost: COST}, which classes named size or nfiles need",
    )
    ood_method: Literal["auto", "knn", "energy", "energy+knn", "mahalanobis", "rmds", "rmds++", "vim", "vim++"] = Field(
        "auto", description="score that says how unfamiliar an image is; auto: the best on this model, see docs/ood.md"
    )
    ood_false_rejection: Share = Field(
        0.02, description="share of clean calibration images flagged out-of-distribution"
    )
    coverage: Annotated[float, Field(ge=0.5, lt=1)] | None = Field(
        0.9,
        description="share of the images of each class that have it among their plausible classes; more makes the "
        "sets longer. null: no sets",
    )

    @field_validator("cost_false_negative", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return _costs(value) if isinstance(value, list) else value


def _costs(listed: list[Any]) -> dict[str, Any]:
    """{class: cost} of [{class: NAME, cost: COST}, ...]."""
    costs: dict[str, Any] = {}
    for entry in listed:
        if not isinstance(entry, dict) or entry.keys() != {"class", "cost"} or not isinstance(entry["class"], str):
            raise ValueError(f"expected a list of {{class: NAME, cost: COST}}, found the entry {entry!r}")
        if entry["class"] in costs:
            raise ValueError(f"the class {entry['class']!r} is listed twice")
        costs[entry["class"]] = entry["cost"]
    return costs
