"""Sections of params.yaml about evaluation, the bundle and the gate."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from tasks.common.floors import Floor, check_unique
from tasks.common.section import Count, Positive, Section, Share


class EvaluateParams(Section):
    """What the exported model is measured on."""

    corruptions: list[Literal["dark", "blur", "noise", "jpeg", "grayscale", "crop", "motion_blur", "occlusion"]] = (
        Field(
            ["dark", "blur", "noise", "jpeg"],
            description="damage that the model is tried under; challengers must not be worse under any",
        )
    )
    corruption_images: Positive = Field(300, description="test images per corruption (the first by id hash)")
    latency_runs: Positive = 50
    many_shot: Positive = Field(100, description="classes with more training images are many-shot")
    few_shot: Positive = Field(20, description="classes with fewer training images are few-shot")


class BundleParams(Section):
    """The published bundle: its name and its drift reference."""

    name: str = Field("classifier", pattern=r"^[a-z][a-z0-9-]{0,62}$", description="model name in tags and registry")
    reference_rows: Positive = Field(500, description="held-out samples kept as the model's drift reference")


class GateParams(Section):
    """When the gate promotes, holds or rejects a challenger."""

    superior_on: list[str] = Field(
        ["test", "newest"],
        min_length=1,
        description="sets on one of which the challenger must be better, and on none worse: test, newest (test images "
        "of the newest batch that has any), hard, slice:<name>=<value>",
    )
    metric: Literal["balanced_accuracy", "accuracy", "macro_f1"] = "balanced_accuracy"
    min_gain: float = Field(0.0, description="superiority margin in points (0.01 = one point)")
    margin: Annotated[float, Field(ge=0)] = Field(0.02, description="non-inferiority margin on every other set")
    class_margin: Annotated[float, Field(ge=0)] = Field(
        0.10, description="non-inferiority margin of one class's recall"
    )
    min_class_support: Positive = Field(20, description="classes with fewer test images are pooled")
    few_shot: Count = Field(20, description="classes with fewer training images are pooled, too")
    min_corruption_kept: Share = Field(
        0.3, description="share of accuracy kept under each corruption, where there is no champion to compare with"
    )
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = Field(
        0.98,
        description="of two-sided intervals; a model equal to the champion passes (1 - confidence) / 2 of the time",
    )
    resamples: Positive = 2000
    first_model: dict[str, float] | None = Field(
        None,
        min_length=1,
        description="lower bounds of figures in metrics/evaluate.json that the first model must reach; null: it must "
        "be better than chance beyond luck, and is provisional below a balanced accuracy of 0.5 (of 1.5 times chance "
        "with two classes, and for multi-label)",
    )
    max_ece: Share = 0.1
    max_parity_difference: Annotated[float, Field(gt=0)] = 1e-3
    max_latency_ms: Annotated[float, Field(gt=0)] = 200.0
    max_size_mb: Annotated[float, Field(gt=0)] = 500.0
    when_equal: Literal["promote", "hold", "reject"] = Field(
        "hold", description="verdict when nothing is worse but superiority is not shown"
    )
    floors: list[Floor] = Field(
        [],
        description="bounds that every model must keep, the first one and later ones (docs/gate.md), such as "
        "{class: crack, recall: 0.98}",
    )
    unproven: Literal["hold", "warn"] = Field(
        "warn", description="what a figure does that is above its floor, but on too few images to prove it"
    )

    look_margin: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1,
        description="points (0.1 = ten) by which the luckiest of several equal models may look better on the hard set "
        "or the test split, before the verdict says that the set was asked too often",
    )

    @field_validator("floors")
    @classmethod
    def _once(cls, floors: list[Floor]) -> list[Floor]:
        return check_unique(floors)
