"""What more labels would bring to this data set, in words: the learning curve of its training images."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from tasks.active.learning_curve import Curve, Gain, class_gains, enough, expected_gain, measure
from tasks.active.samples import class_names, features_of, live_samples, of_split
from tasks.common.code import code_version
from tasks.common.errors import DataError
from tasks.common.files import content_key
from tasks.common.params import Params
from tasks.common.paths import cache_dir
from tasks.common.sealed import read_sealed, write_sealed_json
from tasks.models.pretrained import network_key
from tasks.scoring.targets import encode

SHOWN = 20  # classes that are listed, those with the largest gain first


def training_curve(root: Path, params: Params, samples: pa.Table | None = None) -> tuple[Curve, list[str]]:
    """The learning curve of the labelled training images of data/, and their classes; cached by what it depends on.

    samples: tasks.active.samples.live_samples, if the caller has read them. Raises DataError for too few labels.
    """
    samples = live_samples(root, params) if samples is None else samples
    train = of_split(samples, "train", labelled=True)
    classes = class_names(train["label"])
    if len(classes) < 2:
        raise DataError(
            f"data/ has labelled training images of {len(classes)} classes, a learning curve needs at least 2: "
            "label more images (`evergreen queue --pick-data 100`)"
        )
    file = _cache_file(root, train, params)
    if (kept := read_sealed(file)) is not None:
        return _from_json(json.loads(kept)), classes
    y = encode(train["label"], classes, params.data.task)
    try:
        curve = measure(features_of(root, train, params), y, np.array(train["group"].to_pylist()), len(classes))
    except ValueError as error:
        raise DataError(f"{error}. Label more images (`evergreen queue --pick-data 100`)") from None
    write_sealed_json(file, _to_json(curve))
    return curve, classes


def known_curve(root: Path, params: Params) -> tuple[Curve, list[str]] | None:
    """The learning curve of the labels of today if one was measured, and their classes. It measures nothing."""
    if not any(cache_dir("curve", root).glob("*.json")):
        return None
    train = of_split(live_samples(root, params), "train", labelled=True)
    kept = read_sealed(_cache_file(root, train, params))
    return None if kept is None else (_from_json(json.loads(kept)), class_names(train["label"]))


def lines(curve: Curve, classes: list[str], more: int, least: float) -> list[str]:
    """What `more` labels would bring, for the terminal. least: the smallest gain worth labelling for (0..1)."""
    now, gain = 1 - curve.errors[:, -1].mean(), expected_gain(curve, more)
    part = f"{curve.labels[-1]:,.0f} of {curve.total:,} labelled training images"
    found = [f"a linear probe of {part} has a balanced accuracy of {100 * now:.1f} % on the others"]
    found.append(f"{more:,} more labels: {words(gain)}")
    found.append(f"twice the labels: {words(expected_gain(curve, curve.total))}")
    if enough(gain, least):
        found.append(
            f"enough: {more:,} more labels of this kind bring less than {100 * least:g} points (review.min_gain); "
            "correct wrong labels (`evergreen queue --issues`) or change the backbone or images.resolution instead"
        )
    recall = 1 - curve.class_errors[:, -1].mean(axis=0)
    gains = class_gains(curve, more)
    order = sorted(range(len(classes)), key=lambda k: (gains[k] is not None, -(gains[k].expected if gains[k] else 0)))
    for number in order[:SHOWN]:
        name, support, of_class = classes[number], curve.support[number], gains[number]
        if of_class is None:
            found.append(f"  {name}: {support} labels, too few to tell: label more of it")
        else:
            found.append(f"  {name}: {support} labels, recall {100 * recall[number]:.0f} %, {words(of_class)}")
    if len(classes) > SHOWN:
        found.append(f"  ... and {len(classes) - SHOWN} more classes, with less to gain")
    return found


def words(gain: Gain) -> str:
    """E.g. "about +1.2 points (+0.4 to +2.0)"."""
    expected, low, high = (100 * value for value in gain)
    digits = 1 if high >= 0.1 else 2
    return f"about {expected:+.{digits}f} points ({low:+.{digits}f} to {high:+.{digits}f})"


def _cache_file(root: Path, train: pa.Table, params: Params) -> Path:
    rows = [train[name].to_pylist() for name in ("id", "label", "group")]
    key = content_key(rows, network_key(params.embed), params.images.model_dump(), code_version("tasks.active.outlook"))
    return cache_dir("curve", root) / f"{key[:24]}.json"


def _to_json(curve: Curve) -> dict:
    recalls = np.where(np.isnan(curve.class_errors), None, curve.class_errors)  # JSON has no NaN
    return {
        "labels": curve.labels.tolist(),
        "errors": curve.errors.tolist(),
        "class_errors": recalls.tolist(),
        "support": curve.support.tolist(),
        "total": curve.total,
    }


def _from_json(found: dict) -> Curve:
    return Curve(
        np.array(found["labels"]),
        np.array(found["errors"]),
        np.array(found["class_errors"], dtype=float),
        np.array(found["support"]),
        found["total"],
    )
