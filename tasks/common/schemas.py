"""The contracts between stages: schemas of the tables that they exchange.

N is the number of samples, K of classes, D of feature dimensions, S the side of the model's input in pixels.
Tables are Parquet; `label` is a string for multi-class and a list of strings for multi-label data sets.

| file (under the project or worktree) | written by | rows |
|---|---|---|
| data/ (see tasks.dataset.shards)                    | ingest   | samples, annotations |
| artifacts/inspect/samples.parquet           | inspect  | every live sample: SAMPLES |
| artifacts/validate/accepted.parquet         | validate | samples fit for use: ACCEPTED |
| artifacts/validate/classes.json             | validate | K class names, in model order |
| artifacts/embed/index.json                  | embed    | where each shard's pretrained features lie |
| artifacts/clean/labels.parquet              | clean    | labelled accepted samples: CLEANED |
| artifacts/train_backbone/weights.safetensors | train_backbone | stage-1 network |
| artifacts/train_head/head.safetensors       | train_head | stage-2 classifier: weight (K, D), bias (K,) |
| artifacts/calibrate/{calibration.json, ood.safetensors, model.onnx} | calibrate | the finished model |
| artifacts/evaluate/predictions.parquet      | evaluate | test and hard samples: PREDICTIONS |
| artifacts/bundle/                           | bundle   | what is published |
| metrics/<stage>.json                        | each stage | its figures |
"""

from typing import Literal

import pyarrow as pa

Split = Literal["train", "calibration", "test", "hard"]
SPLITS: tuple[str, ...] = ("train", "calibration", "test", "hard")

# Why a row was quarantined. A closed list: dashboards and tests rely on it.
QUARANTINE_REASONS = (
    "empty_file",  # 0 bytes
    "unknown_format",  # magic bytes are not of an allowed image format
    "too_many_pixels",  # larger than images.max_pixels
    "truncated",  # the decoder ran out of data
    "undecodable",  # the decoder raised anything else
    "decoder_crashed",  # the decoding process died or ran out of its memory or time
    "too_small",  # under 8 pixels on a side
    "outside_root",  # the manifest's path leaves its folder or is a link out of it
    "missing_file",  # the manifest names a file that does not exist
    "archive",  # an archive where an image was expected
    "bad_row",  # the manifest's row cannot be read: fields that the header lacks, broken JSON
    "bad_label",  # empty, over 200 characters, or of the wrong type
    "unknown_label",  # not among data.classes
    "bad_path",  # the path does not fit the layout (data.layout)
    "bad_split",  # not train, calibration, test or hard
    "bad_time",  # taken_at cannot be read as a time
    "bridges_splits",  # near-duplicate of samples in two splits, or of another split than its group's
    "in_hard_set",  # near-duplicate of a hard-set image
    "forgotten",  # its bytes were erased on request (`evergreen forget`)
    "expectation",  # breaks an expectation of the validation suite
)

SLICE = pa.list_(pa.struct([("name", pa.string()), ("value", pa.string())]))

# How an image was picked for labelling. Only representative and audit images may measure a model: what was picked for
# being hard (queue) or was sent in by somebody (feedback) is not a sample of what the model meets.
PICKED = ("representative", "audit", "queue", "feedback", "unknown")
MEASURING = ("representative", "audit")


def label_type(task: str) -> pa.DataType:
    """Arrow type of a label: a string, or a list of strings for a multi-label data set."""
    return pa.string() if task == "multiclass" else pa.list_(pa.string())


def sample_schema(task: str) -> pa.Schema:
    """Schema of a data shard (immutable, named by content). `split` is the recorded first assignment."""
    return pa.schema(
        [
            ("id", pa.string()),  # sha256 of the encoded bytes, hex
            ("key", pa.string()),  # the owner's: order number, part id, file name; null: none
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("label", label_type(task)),  # as first given; null if not labelled
            ("source", pa.string()),  # where it comes from (camera, site): a slice
            ("group", pa.string()),  # what is never divided (object, session, track); version 1 of shards has none
            ("taken_at", pa.timestamp("us", tz="UTC")),
            ("origin", pa.string()),  # import | production | review | synthetic
            ("batch", pa.string()),
            ("slice", SLICE),
            ("split", pa.string()),
            ("picked", pa.string()),  # one of PICKED
            ("sampling_probability", pa.float32()),  # with which an audit sample was drawn; null: not a random draw
        ]
    )


ROLES = ("import", "annotator", "reviewer")  # of who gives a label: a reviewer's newest word overrides, others vote


def annotation_schema(task: str) -> pa.Schema:
    """Schema of data/annotations/*.parquet: what one person said about one sample, never overwritten."""
    return pa.schema(
        [
            ("id", pa.string()),
            ("label", label_type(task)),  # null with exclude, and in a retraction
            ("exclude", pa.bool_()),  # the sample is not to be used: not trained, calibrated or tested on
            ("annotator", pa.string()),  # null: not known
            ("role", pa.string()),  # one of ROLES
            ("at", pa.timestamp("us", tz="UTC")),  # null: not known, before all others
            ("why", pa.string()),  # free text
            ("batch", pa.string()),
            ("model_version", pa.string()),  # whose answer the person saw
            ("retracts", pa.string()),  # key of an annotation that no longer counts (tasks.labels.annotations)
        ]
    )


OLD_ANNOTATIONS = ("id", "label", "annotator", "at", "why", "model_version")  # columns before version 3


def samples_schema(task: str) -> pa.Schema:
    """artifacts/inspect/samples.parquet: one row per live sample, in canonical order (batch, shard, row)."""
    return pa.schema(
        [
            ("id", pa.string()),
            ("key", pa.string()),
            ("shard", pa.string()),  # file name under data/
            ("row", pa.int32()),  # row in that shard
            ("batch", pa.string()),
            ("split", pa.string()),
            ("label", label_type(task)),  # as first given
            ("source", pa.string()),
            ("group", pa.string()),  # of a version-1 shard: the source
            ("taken_at", pa.timestamp("us", tz="UTC")),
            ("origin", pa.string()),
            ("slice", SLICE),
            ("picked", pa.string()),  # of a shard before version 3: see tasks.dataset.shards
            ("sampling_probability", pa.float32()),
            *MEASURES,
            ("status", pa.string()),  # "ok" or one of QUARANTINE_REASONS
            ("cluster", pa.string()),  # smallest id of the near-duplicate cluster
            ("excluded", pa.string()),  # null, or "leaks_test" | "leaks_calibration" | "leaks_hard" of a
            # train row, or "out_of_hard_set"
        ]
    )


MEASURES = [  # of one image, by inspect; null where the image could not be decoded
    pa.field("format", pa.string()),  # JPEG, PNG, ...
    pa.field("mode", pa.string()),  # Pillow mode as stored
    pa.field("width", pa.int32()),  # pixels, after EXIF rotation
    pa.field("height", pa.int32()),
    pa.field("exif_orientation", pa.int8()),  # 1 where absent
    pa.field("brightness", pa.float32()),  # mean luma, 0..255
    pa.field("contrast", pa.float32()),  # standard deviation of luma
    pa.field("sharpness", pa.float32()),  # variance of the Laplacian of luma
    pa.field("entropy", pa.float32()),  # bits, of the luma histogram
    pa.field("phash", pa.uint64()),  # 64-bit DCT perceptual hash
]


def accepted_schema(task: str) -> pa.Schema:
    """artifacts/validate/accepted.parquet: decodable, valid, not excluded; labelled or not; canonical order."""
    keep = {"id", "key", "shard", "row", "batch", "split", "label", "source", "group", "taken_at", "slice"}
    keep |= {"picked", "sampling_probability"}
    return pa.schema([field for field in samples_schema(task) if field.name in keep])


def cleaned_schema(task: str) -> pa.Schema:
    """artifacts/clean/labels.parquet: every labelled accepted sample of every split, canonical order."""
    return pa.schema(
        [
            ("id", pa.string()),
            ("split", pa.string()),
            ("given", label_type(task)),
            ("label", label_type(task)),  # to train with; equals given unless action is relabel
            ("action", pa.string()),  # keep | relabel | drop | queue (queued rows are trained on as given)
            ("quality", pa.float32()),  # label quality in [0, 1], low = suspicious
            ("predicted", label_type(task)),  # out-of-fold prediction
            ("confidence", pa.float32()),  # of that prediction
            ("is_issue", pa.bool_()),
        ]
    )


def predictions_schema(task: str) -> pa.Schema:
    """artifacts/evaluate/predictions.parquet: calibrated probabilities of the *exported* model."""
    return pa.schema(
        [
            ("id", pa.string()),
            ("key", pa.string()),
            ("split", pa.string()),  # test | hard
            ("batch", pa.string()),
            ("label", label_type(task)),
            ("source", pa.string()),
            ("group", pa.string()),  # predictions of Evergreen 0.2 and earlier have none
            ("slice", SLICE),
            ("picked", pa.string()),  # predictions of earlier versions have no key, picked and sampling_probability
            ("sampling_probability", pa.float32()),
            ("probabilities", pa.list_(pa.float32())),  # (K,) in class order
            ("ood", pa.float32()),  # out-of-distribution score, high = unfamiliar
        ]
    )
