"""The schema of params.yaml: one section per stage, and every mistake reported at once.

Each field says what it does and what changing it costs; unknown keys are refused.

DVC decides from its own reading of params.yaml which stages run. So this module parses the text with DVC's parser,
and refuses whatever DVC would drop, mix up or fail on: see `_unsafe_for_dvc` and `load_run_params`.
"""

import difflib
import ipaddress
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import available_timezones

from pydantic import Field, ValidationError, field_validator, model_validator

from tasks.common.errors import ParamsError
from tasks.common.floors import Floor, check_unique
from tasks.common.section import Count, Positive, Section, Share
from tasks.common.yaml_errors import yaml_problem

# sections that stages read; dvc.yaml names the same
STAGE_SECTIONS = (
    *("data", "images", "inspect", "labels", "validate", "embed", "clean", "train_backbone", "train_head"),
    *("calibrate", "evaluate", "bundle", "gate"),
)
DROPPED_BY_DVC = ("size", "nfiles")  # dvc/stage/cache.py leaves these keys out of the run cache's key, at any depth
DEEPEST = 20  # levels of nesting in params.yaml


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


class EmbedParams(Section):
    """The frozen pretrained backbone that gives the pretrained features."""

    backbone: str = Field("tf_efficientnet_lite0", description="frozen pretrained timm model for cleaning; keyed cache")
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


class TrainBackboneParams(Section):
    """Stage 1 of the training: the backbone on the natural distribution."""

    backbone: str = Field("tf_efficientnet_lite0", description="any timm model name")
    pretrained: Literal["auto", "none"] = Field(
        "auto", description="auto: the packaged offline weights or timm's hub; none: from scratch"
    )
    epochs: UnfreezePhases = UnfreezePhases()
    last_blocks: Positive = Field(2, description="how many blocks the second phase opens")
    batch_size: Positive = 64
    learning_rate: Annotated[float, Field(gt=0)] = Field(
        5e-3, description="of the classifier while the pretrained backbone is frozen, and from scratch; else a fifth"
    )
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    label_smoothing: Share = 0.0
    batch_norm: Literal["frozen", "train"] = Field(
        "frozen", description="frozen: keep pretrained statistics (short fine-tuning with moving ones does harm)"
    )
    augment: list[Literal["crop", "flip", "rotate", "colour", "erase"]] = ["crop", "flip"]
    patience: Count = Field(0, description="stop a phase after this many epochs without improvement; 0: never")
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 on a GPU that has it")
    threads: Count = Field(0, description="CPU threads of one process; 0: all cores, in several processes if that pays")
    seed: Count = 0


class TrainHeadParams(Section):
    """Stage 2 of the training: a class-balanced head on stage-1 features."""

    method: Literal["auto", "crt", "tau_norm", "logit_adjust", "stage1"] = Field(
        "auto",
        description="classifier on frozen stage-1 features; auto: the best balanced accuracy on calibration data",
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


class StoreParams(Section):
    """Where releases are stored."""

    url: str = Field(
        ".evergreen/releases",
        description="release store: a folder (relative to the main checkout) or s3://bucket/prefix",
    )
    endpoint_url: str | None = Field(None, description="of an S3-compatible server; null: AWS")
    single_writer: bool = Field(
        False,
        description="true: accept an S3 server without conditional writes, and promise that one process at a time "
        "publishes; false: such a server is refused",
    )


class CaptureParams(Section):
    """Which answers the production log stores, and for how long."""

    url: str = Field(
        ".evergreen/production", description="the log: a folder (relative to the main checkout) or s3://bucket/prefix"
    )
    sample: Share = Field(1.0, description="share of answers that is logged, chosen by image id")
    images: Literal["full", "thumbnail"] = Field(
        "full",
        description="full: encoded bytes, so that a labelled sample can be trained on; thumbnail: 64 pixels only",
    )
    buffer_rows: Positive = Field(256, description="answers held in memory until they are written as one file")
    flush_seconds: Annotated[float, Field(gt=0)] = Field(10.0, description="an unfilled buffer is written after this")
    max_per_source_per_hour: Positive = Field(10_000, description="further answers of a source are counted, not kept")
    keep_days: Positive = Field(90, description="older files are removed by housekeeping")
    keep_gb: Annotated[float, Field(gt=0)] = Field(20.0, description="then the oldest, until the log is this small")


class DriftParams(Section):
    """How one window of production is measured against the model's own frozen reference."""

    max_window: Positive = Field(
        2_000,
        description="rows of a window that are measured (a random sample of more); never more than the reference has",
    )
    false_alarm_rate: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        0.01, description="share of windows without drift that may show any drift at all, over all measures together"
    )
    resamples: Positive = Field(
        2_000, description="windows without drift drawn to calibrate one model's thresholds, once for each window size"
    )
    seed: Count = 0


class DecideParams(Section):
    """How drift measures become one decision: none, watch, label or retrain."""

    min_rows: Positive = Field(30, description="smaller windows decide nothing")
    persistence: tuple[Positive, Positive] = Field(
        (2, 3), description="k of the last n windows must have drifted before anything but `watch` is decided"
    )
    warm_up_hours: Annotated[float, Field(ge=0)] = Field(
        0.0, description="nothing but `watch` this long after a release"
    )
    cooldown_hours: Annotated[float, Field(ge=0)] = Field(24.0, description="between two retrainings because of drift")
    max_per_day: Positive = Field(1, description="retrainings because of drift in 24 hours")
    min_new_labels: Positive = Field(50, description="labelled samples since the last release that a retrain needs")
    new_labels: Positive = Field(1_000, description="so many new labels start a retrain without any drift")
    max_accuracy_drop: Share = Field(0.1, description="fall of accuracy on late labels (interval) that retrains")
    max_age_days: Positive = Field(180, description="an older model is retrained when there are new labels")
    max_silence_minutes: Positive = Field(120, description="no sample, or no monitor run, this long is an alarm")
    rollback_drop: Share = Field(
        0.15,
        description="a new champion whose accuracy on late labels is surely this much below its predecessor's is "
        "rolled back; 1: never",
    )


PickMethod = Literal[
    "random", "uncertainty", "margin", "class_margin", "diverse", "class_diverse", "badge", "dropquery", "typiclust"
]  # tasks.active.methods


class ReviewParams(Section):
    """How many samples the review queue gets, and from which sources."""

    budget: Positive = Field(100, description="samples put into the queue by one decision")
    method: PickMethod = Field(
        "diverse", description="how images are picked for labelling; without a model always typiclust"
    )
    min_gain: Share = Field(
        0.001, description="balanced accuracy (0..1) that more labels must be able to bring; below it: enough labels"
    )
    max_source_share: Annotated[float, Field(gt=0, le=1)] = Field(0.25, description="of the budget, per source")
    audit_per_day: Annotated[float, Field(ge=0)] = Field(
        20.0,
        description="answers a day, on average, that are drawn at random for labelling: only these measure the model; "
        "0: none",
    )
    audit_per_source: Annotated[float, Field(ge=0)] = Field(
        1.0, description="of these, at least so many a day and source, on average, for the 50 largest sources"
    )


class ReportParams(Section):
    """Drift reports for the browser."""

    rows: Positive = Field(500, description="sampled rows an Evidently snapshot holds")
    images: Positive = Field(12, description="images shown that moved most, and as many typical ones")
    keep: Positive = Field(5_000, description="reports kept; the oldest go first")


class ServeParams(Section):
    """What `evergreen up` starts: schedules (cron, UTC) and pages (loopback unless `host` says otherwise)."""

    retrain_cron: str = Field("0 2 * * *", description="nightly retrain; does nothing when nothing is new")
    monitor_minutes: Positive = Field(15, description="a window is measured this often")
    reevaluate_cron: str = Field("0 4 * * 1", description="weekly evaluation on late labels")
    housekeeping_cron: str = Field("30 3 * * *", description="retention, sweeps")
    host: str = Field("127.0.0.1", description="address the pages listen on; anything but loopback needs a password")
    hosts: list[str] = Field(
        [], description="names under which browsers reach this machine, besides its own; with `host` beyond loopback"
    )
    public_url: str | None = Field(
        None,
        description="address at which people reach the console, for links in alerts: https://evergreen.example.com; "
        "null: what it listens on, by the machine's name where that is 0.0.0.0",
    )
    user_header: str | None = Field(
        None, description="header in which a proxy of `proxies` names the person that it signed in; null: none is read"
    )
    proxies: list[str] = Field([], description="addresses or networks of proxies that may send `user_header`")
    port: Positive = Field(4280, description="of the console; a free one is taken when it is in use")
    evidently_port: Positive = Field(4281, description="of the Evidently UI, likewise")
    prefect_port: Positive = Field(4200, description="of the project's Prefect server, likewise")
    password_env: str = Field("EVERGREEN_PASSWORD", description="environment variable with the pages' password")
    webhook_secret_env: str = Field("EVERGREEN_WEBHOOK_SECRET", description="environment variable with the HMAC key")
    database_env: str = Field(
        "EVERGREEN_DATABASE_URL", description="environment variable with a Postgres URL for the Prefect server"
    )

    @field_validator("public_url")
    @classmethod
    def _address(cls, url: str | None) -> str | None:
        """`url` without a slash at its end."""
        if url is None:
            return None
        try:
            parts = urlsplit(url)
            wrong = parts.port == 0 or not parts.hostname or not url.isprintable() or " " in url
        except ValueError:  # a port that is not a number, an unclosed bracket
            wrong = True
        if wrong or parts.scheme not in ("http", "https"):
            raise ValueError(f"{url!r} is not an address: expected e.g. https://evergreen.example.com")
        if parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError(
                f"{url!r} has more than scheme, name and port: expected e.g. {parts.scheme}://{parts.hostname}"
            )
        usual = {"http": 80, "https": 443}[parts.scheme]  # which browsers leave out
        netloc = parts.netloc.lower().removesuffix(f":{usual}").removesuffix(":")
        return f"{parts.scheme}://{netloc}"

    @field_validator("proxies")
    @classmethod
    def _networks(cls, given: list[str]) -> list[str]:
        for one in given:
            try:
                ipaddress.ip_network(one, strict=False)
            except ValueError:
                raise ValueError(
                    f"{one!r} is not an address or a network: expected e.g. 10.0.0.7 or 10.0.0.0/24"
                ) from None
        return given

    @field_validator("user_header")
    @classmethod
    def _header(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", name):
            raise ValueError(f"{name!r} is not the name of a header: expected e.g. X-Forwarded-User")
        if name is not None and name.lower() in ("authorization", "cookie", "host", "origin"):
            raise ValueError(f"{name} means something else: expected e.g. X-Forwarded-User")
        return name


class AlertsParams(Section):
    """Which events send alerts. Addresses hold secrets, so they come from the environment."""

    urls_env: str = Field("EVERGREEN_ALERTS", description="environment variable with apprise URLs, space-separated")
    events: list[
        Literal["watch", "label", "retrain", "silence", "promoted", "held", "rejected", "refused", "failed", "rollback"]
    ] = ["label", "retrain", "silence", "promoted", "held", "rejected", "refused", "failed", "rollback"]


class Params(Section):
    """All sections of params.yaml."""

    data: DataParams = DataParams()
    images: ImagesParams = ImagesParams()
    inspect: InspectParams = InspectParams()
    labels: LabelsParams = LabelsParams()
    validate_: ValidateParams = Field(alias="validate")
    embed: EmbedParams = EmbedParams()
    clean: CleanParams = CleanParams()
    train_backbone: TrainBackboneParams = TrainBackboneParams()
    train_head: TrainHeadParams = TrainHeadParams()
    calibrate: CalibrateParams = CalibrateParams()
    evaluate: EvaluateParams = EvaluateParams()
    bundle: BundleParams = BundleParams()
    gate: GateParams = GateParams()
    store: StoreParams = StoreParams()
    capture: CaptureParams = CaptureParams()
    drift: DriftParams = DriftParams()
    decide: DecideParams = DecideParams()
    review: ReviewParams = ReviewParams()
    report: ReportParams = ReportParams()
    serve: ServeParams = ServeParams()
    alerts: AlertsParams = AlertsParams()

    def section(self, name: str) -> Section:
        """The section `name` of params.yaml (`validate` is the attribute `validate_`: pydantic owns that name)."""
        return getattr(self, "validate_" if name == "validate" else name)


def parse_params(values: Any, source: str = "params.yaml") -> Params:
    """`values` (the parsed YAML) as `Params`. Raises ParamsError listing every mistake with its path."""
    if not isinstance(values, dict):
        raise ParamsError(f"{source}: expected a mapping of sections, found {type(values).__name__}")
    lines = [f"  {path}: {problem}" for path, problem in _unsafe_for_dvc(values)]
    params = None
    try:
        params = Params.model_validate(values)
    except ValidationError as error:
        lines += [
            f"  {'.'.join(map(str, mistake['loc']))}: {_message(mistake)} (found {repr(mistake['input'])[:80]})"
            for mistake in error.errors()
        ]
    if params is None or lines:
        raise ParamsError(f"{source} has {len(lines)} mistake(s):\n" + "\n".join(lines))
    return params


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


def _unsafe_for_dvc(values: dict[Any, Any]) -> Iterator[tuple[str, str]]:
    """(path, problem) of each value that DVC cannot read or cannot tell from another value.

    DVC compares params with ==, hashes them as JSON with sorted keys, and leaves out the keys DROPPED_BY_DVC. A
    change hidden in this way would restore the outputs of other params. DVC also fails on dates anywhere.
    """
    for section, value in values.items():
        if section == "images" and isinstance(value, dict):
            value = {key: inner for key, inner in value.items() if key != "size"}  # `load_run_params` refuses this one
        yield from _unsafe(value, (str(section),))


def _unsafe(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    where = ".".join(path)
    if len(path) > DEEPEST:
        yield where, f"nested more than {DEEPEST} levels deep: is an anchor part of itself?"
    elif isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                yield where, f"the key {key!r} is not text, and DVC may take it for another: put it in quotes"
            elif key in DROPPED_BY_DVC:
                yield where, _dropped(key, path)
            yield from _unsafe(inner, (*path, str(key)))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _unsafe(inner, (*path, str(place)))
    elif isinstance(value, float) and not math.isfinite(value):
        yield where, f"expected a finite number, found {value}"
    elif not (value is None or isinstance(value, str | int | float)):
        yield where, f"expected text, a number or true/false, found {value!r} ({type(value).__name__}): quote it"


def _dropped(key: str, path: tuple[str, ...]) -> str:
    """Why `key` is refused at `path`, and what to write instead."""
    if path == ("calibrate", "cost_false_negative"):
        instead = f"write the costs as a list: [{{class: {key}, cost: ...}}]"
    else:
        instead = "use another name"
    return f"DVC ignores keys named {key!r}, so a change of this one would retrain nothing: {instead}"


def _message(mistake: Any) -> str:
    """What is wrong, in plain words; for an unknown key, the similar key that may be meant."""
    if mistake["type"] != "extra_forbidden":
        return _plain(mistake["msg"])
    *above, key = mistake["loc"]
    section: Any = Params
    for part in above:
        fields = getattr(section, "model_fields", {})
        field = fields.get("validate_" if part == "validate" else part)
        section = field.annotation if field else None
    names = [field.alias or name for name, field in getattr(section, "model_fields", {}).items()]
    close = difflib.get_close_matches(str(key), names, 1)
    return f"there is no such key{f', is {close[0]!r} meant?' if close else ''}"


def _plain(text: str) -> str:
    """pydantic's message as a sentence about a setting."""
    for theirs, ours in (
        ("Input should be a valid ", "expected a valid "),
        ("Input should be ", "expected "),
        ("Value error, ", ""),
        ("Field required", "this key is missing"),
        ("unable to parse string as ", "the text is not "),
    ):
        text = text.replace(theirs, ours)
    return text


def current_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Stored params, as parsed or as recorded in a bundle, with today's names; unchecked otherwise."""
    images = values.get("images")
    if not isinstance(images, Mapping):
        return dict(values)
    try:
        return {**values, "images": current_names(images)}
    except ValueError as error:
        raise ParamsError(f"images: {error}") from None


def load_params(path: Path | str) -> Params:
    """Read and check params.yaml. Raises ParamsError for unreadable YAML and for every mistake at once."""
    return parse_params(read_values(path), str(path))


def load_run_params(path: Path | str) -> Params:
    """`load_params` for stages: also refuse what DVC would not notice or fail on. Raises ParamsError.

    Stored params may say `images.size`; those that stages are about to run with may not, because DVC does not see a
    change of it. DVC also fails on a section that dvc.yaml names and params.yaml lacks, after the stage has run.
    """
    values = read_values(path)
    params = parse_params(values, str(path))
    if "size" in values.get("images", {}):
        raise ParamsError(
            f"{path} says images.size ({params.images.resolution}), the old name of images.resolution. DVC ignores "
            "keys named `size`, so a change of it would retrain nothing: rename it to `resolution` and "
            "commit"
        )
    if missing := [name for name in STAGE_SECTIONS if name not in values]:
        raise ParamsError(
            f"{path} lacks the section(s) {', '.join(missing)}, which stages read: DVC needs them written out. Add "
            f"them, with their defaults for example: {_defaults(params, missing[0])}"
        )
    return params


def _defaults(params: Params, name: str) -> str:
    return f"{name}: {params.section(name).model_dump(mode='json')}"


def read_values(path: Path | str) -> Any:
    """params.yaml at `path` as DVC reads it. Raises ParamsError for a missing, unreadable or empty file."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ParamsError(f"{path} not found: run inside an Evergreen project") from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path} is not valid YAML in UTF-8: {error}") from None
    values = parse_text(text, str(path))
    if values is None:
        raise ParamsError(f"{path} is empty: expected a mapping of sections; `git checkout {path.name}` brings it back")
    return values


def parse_text(text: str, source: str = "params.yaml") -> Any:
    """The YAML `text` as DVC reads it (YAML 1.2: `on` is text, 1e-3 a number, 010 ten). Raises ParamsError."""
    from ruamel.yaml import YAML, YAMLError

    from tasks.common.yaml_bounds import bound_passed

    if problem := bound_passed(text):
        raise ParamsError(f"{source} cannot be read: {problem}: expected a mapping of sections")
    try:
        return YAML(typ="safe").load(text)
    except (YAMLError, ValueError) as error:  # ValueError: a date that does not exist, say
        raise ParamsError(f"{source} is not valid YAML: {yaml_problem(text, error)}") from None
