"""Sections of params.yaml about images, labels and what is checked before training."""

import difflib
import unicodedata
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

from pydantic import Field, field_validator, model_validator

from tasks.common.section import Count, Positive, Section, Share


class SplitFractions(Section):
    """Shares of the images that go to each split, which sum to 1, and what decides which image goes where."""

    train: Share = 0.7
    calibration: Share = 0.15
    test: Share = 0.15
    by: Literal["random", "time"] = Field(
        "random",
        description="random: balanced over classes and sources; time: new images are divided by when they were taken, "
        "the newest are test, those before them calibration. Recorded splits never move; needs times of images",
    )

    @model_validator(mode="after")
    def _sum(self) -> "SplitFractions":
        total = self.train + self.calibration + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + calibration + test must be 1, found {total:g}")
        return self


class DataParams(Section):
    """What the data set is. Changing `task` or `classes` retrains everything."""

    task: Literal["multiclass", "multilabel"] = Field("multiclass", description="one label an image, or a list")
    classes: list[str] | None = Field(
        None, description="allowed labels; null: every label with enough support in the training split"
    )
    seed: Count = Field(
        0, description="seed that decides between equally good splits; recorded splits never move when it changes"
    )
    split: SplitFractions = Field(
        SplitFractions(),
        description="shares of images per split; groups stay whole. by: random, or time: the newest images are test",
    )
    synthetic_share: Share = Field(
        0.5,
        description="synthetic images are at most this share of the training images of a class; the others are left "
        "out. 0: none are used, 1: all",
    )
    layout: str | None = Field(
        None,
        description="what the paths of a source say, e.g. {site}/{class+group}/{group}_{*}: class, group, source, "
        "split, time and slices; null: class folders, or a manifest's columns. Used by `evergreen ingest`; images "
        "that are in the data set keep what they have",
    )

    time_format: str | None = Field(
        None,
        description="how a source writes times, e.g. %d.%m.%Y %H:%M (as Python's strptime reads it); null: ISO 8601, "
        "EXIF and Unix times only. Used by `evergreen ingest` and `score`",
    )
    time_zone: str | None = Field(
        None, description="zone of times that name none, e.g. Europe/Berlin; null: UTC. Used where time_format is"
    )

    @field_validator("time_format")
    @classmethod
    def _format(cls, form: str | None) -> str | None:
        day = datetime(2026, 11, 22)
        try:
            named = form is None or datetime.strptime(day.strftime(form), form).date() == day.date()
        except ValueError as error:
            raise ValueError(f"{form!r} is not a format of times ({error}): expected e.g. %d.%m.%Y %H:%M") from None
        if not named:
            raise ValueError(f"{form!r} does not name day, month and year: expected e.g. %d.%m.%Y %H:%M")
        return form

    @field_validator("time_zone")
    @classmethod
    def _zone(cls, name: str | None) -> str | None:
        if name is not None and name not in available_timezones():
            near = difflib.get_close_matches(name, available_timezones(), 1, 0.4)
            hint = f": did you mean {near[0]}?" if near else ": expected e.g. Europe/Berlin"
            raise ValueError(f"{name!r} is not a time zone{hint}")
        return name

    @field_validator("classes")
    @classmethod
    def _composed(cls, names: list[str] | None) -> list[str] | None:
        """Class names in Unicode's form NFC, as labels are."""
        return names and [unicodedata.normalize("NFC", name) for name in names]


def current_names(images: Mapping[str, Any]) -> dict[str, Any]:
    """`images` (of params.yaml, or `preprocess` of a bundle) with today's names: `size` is now `resolution`.

    Everything that reads stored params or bundles goes through here. Raises ValueError when both names are given.
    """
    if "size" not in images:
        return dict(images)
    if "resolution" in images:
        raise ValueError(
            f"both `resolution` ({images['resolution']!r}) and its old name `size` ({images['size']!r}) are given: "
            "remove `size`"
        )
    return {"resolution" if name == "size" else name: value for name, value in images.items()}


class ImagesParams(Section):
    """The one decode-and-resize spec of training, evaluation and serving (it travels in the bundle)."""

    resolution: Annotated[int, Field(ge=16, le=1024)] = Field(
        64, description="side S of the model's S x S input, pixels"
    )
    fit: Literal["squash", "crop", "pad"] = Field(
        "squash", description="how a non-square image becomes square: ignore aspect, centre crop, or grey padding"
    )
    max_pixels: Positive = Field(50_000_000, description="larger images are quarantined before they are decoded")
    bit_depth: Annotated[int, Field(ge=8, le=16)] | None = Field(
        None,
        description="bits that grey images of 16 bits use: 12 scales 0..4095 to black..white. null: as the file says "
        "(TIFF tags, sBIT of PNG), else what each image's largest value needs",
    )

    @model_validator(mode="before")
    @classmethod
    def _old_names(cls, values: Any) -> Any:
        return current_names(values) if isinstance(values, Mapping) else values


class InspectParams(Section):
    """How images are measured and near-duplicates found."""

    near_duplicate_bits: Annotated[int, Field(ge=0, le=7)] = Field(
        4,
        description="perceptual hashes (64 bit; distances are even) at most this far apart are candidate "
        "near-duplicates; more finds stronger crops and costs time on look-alikes",
    )
    near_duplicate_difference: Annotated[float, Field(ge=0)] = Field(
        4.0,
        description="candidates whose 16 x 16 grey thumbnails differ by at most this (mean, of 255) are confirmed; "
        "at 6 look-alike products begin to chain into one cluster",
    )
    workers: Annotated[int, Field(ge=-64, le=256)] = Field(-1, description="decoding processes; -1: one per core")


class Expectation(Section):
    """One Great Expectations expectation, e.g. {type: expect_column_values_to_be_between, kwargs: {...}}."""

    type: str
    kwargs: dict[str, Any] = {}
    severity: Literal["stop", "quarantine"] = Field(
        "quarantine", description="stop: the table is refused; quarantine: only the rows that break it"
    )


class LabelsParams(Section):
    """How people's labels are settled and checked."""

    consensus: Literal["majority", "dawid_skene"] = Field(
        "dawid_skene",
        description="how annotators who differ are settled: by most votes, or also by how reliable each of them is in "
        "each class (from 300 samples with three votes on; with fewer by most votes)",
    )
    second_look: Share = Field(
        0.02,
        description="share of the samples, chosen at random, whose label `evergreen queue --issues` shows to a second "
        "person, blind: it measures how often people err",
    )


class ValidateParams(Section):
    """When a batch or the whole table is refused, and which rows are quarantined."""

    min_rows: Positive = Field(50, description="fewer labelled training rows refuse the table")
    max_null_labels: Share = Field(0.5, description="share of a batch's rows without label above which it is refused")
    max_quarantined: Share = Field(0.2, description="share of a batch's rows quarantined above which it is refused")
    min_classes: Annotated[int, Field(ge=2)] = 2
    min_per_class: dict[Literal["train", "calibration", "test"], Count] = Field(
        {"train": 3, "calibration": 1, "test": 1}, description="fewer images of a class in a split refuse the table"
    )
    max_prior_change: Share = Field(
        0.35, description="total variation distance of a batch's label mix to the data before it that refuses the batch"
    )
    max_noise_increase: Share = Field(
        0.25,
        description="a class of a batch whose labels disagree with the data so far this much more often than that "
        "data disagrees with itself (lower confidence bound) refuses the batch",
    )
    min_batch: Positive = Field(30, description="smaller batches are not compared (too few rows to tell)")
    copies_of: list[Literal["hard", "test", "calibration"]] = Field(
        ["hard"],
        description="training images that are copies of an image in these splits (cropped, turned, re-encoded, "
        "augmented) are left out; each held-out image takes about a quarter of a second of one core, once",
    )
    expectations: list[Expectation] = Field(..., min_length=1, description="the Great Expectations suite")
