"""Plain names of measures, checks and metrics: what a person reads where the code says `ood.rate`.

Names of classes, sources and columns inside a code come from the user and stay as they are.
"""

import re

NAMES = {
    # drift: findings of a window
    "image.brightness": "brightness",
    "image.contrast": "contrast",
    "image.sharpness": "sharpness",
    "image.entropy": "detail in the image",
    "image.width": "image width",
    "image.height": "image height",
    "image.format": "file format",
    "image.mode": "colour mode",
    "image.exif_orientation": "stored orientation",
    "confidence": "how certain the model is",
    "ood": "how unfamiliar images are",
    "ood.rate": "share of unfamiliar images",
    "prediction.mix": "mix of answers",
    "prediction.probabilities": "probabilities of one class",
    "prediction.mean": "mean probabilities",
    "embedding": "what images look like to the model",
    "label.shift": "estimated mix of true classes",
    "accuracy.estimated": "accuracy, estimated without labels",
    "accuracy.reference": "accuracy on the reference",
    "accuracy.true": "accuracy on late labels",
    "repeats": "repeated images",
    "sources": "number of sources",
    # decisions
    "rows": "enough images",
    "measures": "measures that failed",
    "drift": "measures that drifted",
    "persistence": "drift that lasts",
    "warm_up": "time since the release",
    "cooldown": "time since the last retraining by drift",
    "daily_cap": "retrainings in 24 hours",
    "labels": "new labels, for any retraining",
    "pause": "automatic action is allowed",
    "label_count": "new labels, to retrain without drift",
    "age": "age of the model",
    "accuracy": "accuracy",
    # the gate
    "parity.max_difference": "exported model answers as the trained one",
    "bundle.max_difference": "published model gives the answers that were judged",
    "images": "test and hard images that were measured",
    "latency_ms.p50": "time for one image, median",
    "latency_ms.p99": "time for one image, 99th percentile",
    "size_mb": "size of the model",
    "class_collapse": "no class is given up",
    "hard_set": "hard set",
    "hard.images": "images of the hard set answered correctly",
    "hard.looks": "how often the hard set was asked",
    "test.looks": "how often the test split was asked",
    "few_shot.recall": "recall of the rare classes together",
    "many_shot.recall": "recall of the common classes together",
    "medium_shot.recall": "recall of the medium classes together",
    "test.skill": "better than chance on the test set",
    "calibration.skill": "better than chance on calibration images",
    "test.floor": "floor of a first model",
    "corruptions": "damaged images",
    "policy": "settings of the gate",
    "conformal.covered": "labels among the plausible classes",
    "conformal.class_coverage": "labels among the plausible classes, mean of classes",
    "conformal.set_length": "plausible classes of one image",
    "conformal.single": "images with one plausible class",
    "conformal.wanted": "wanted share of labels among the plausible classes",
    "test": "test set",
    "train_counts": "training images by class",
    "champion": "answers of the live model",
    "challenger": "answers of the new model",
    "metrics": "measured figures",
    # validation
    "rare_labels": "labels too rare to be classes",
    "null_labels": "images without a label",
    "quarantined": "quarantined images",
    "prior_change": "change of the label mix",
    "classes": "number of classes",
    "expectations": "evaluated expectations",
    "noise.comparable": "labels can be compared with the data so far",
}
METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "mean_average_precision": "mean average precision",
    "debiased_ece": "calibration error",
    "ece": "calibration error, with luck",
    "recall": "recall",
    "precision": "precision",
    "f1": "F1",
    "auc": "area under the ROC curve",
    "aurc": "mistakes by order of confidence (AURC)",
    "kappa": "Cohen's kappa",
    "top5": "label among the five likeliest",
    "cost": "mean cost of mistakes",
    "kept": "accuracy kept",
    "worst_group": "accuracy of the worst group",
}
SETS = {
    "test": "the test set",
    "newest": "the newest batch",
    "hard": "the hard set",
    "calibration": "calibration images",
    "audit": "audit samples",
    "production": "production samples",
    "worst_source": "the worst source",
    "worst_slice": "the worst slice",
}
CORRUPTED = {  # by tasks.scoring.corruptions
    "dark": "darkened images",
    "blur": "blurred images",
    "noise": "noisy images",
    "jpeg": "strongly compressed images",
    "grayscale": "images without colour",
    "crop": "cropped images",
    "motion_blur": "images with motion blur",
    "occlusion": "partly covered images",
}
PEOPLE = re.compile(r"at_(\d+)\.(share|low|high|bound)")  # of metrics/evaluate.json
SHARES = {
    "share": "images that people must see",
    "low": "fewest images that people must see",
    "high": "most images that people must see",
    "bound": "confidence from which the model answers alone",
}
COLUMNS = {
    "image": "images that cannot be read",
    "features": "features",
    "probabilities": "probabilities",
    "prediction": "answers",
    "confidence": "confidence",
    "ood": "out-of-distribution score",
}


def plain_name(code: str) -> str:
    """The plain name of a measure, check or metric; an unknown code with spaces for its dots and underscores."""
    return known_name(code) or re.sub(r"[._]+", " ", code).strip()


def known_name(code: str) -> str | None:
    """The plain name of `code`; None if it is not known."""
    if code in NAMES:
        return NAMES[code]
    first, _, rest = code.partition(".")
    if first == "missing":
        return "images that cannot be read" if rest == "image" else f"missing {_column(rest)}"
    if first == "values":
        return f"values in column {rest}"
    if first == "support":
        split, _, label = rest.partition(".")
        return f"{split} images of class {label}"
    if first == "noise":
        return f"labels of class {rest} that look wrong"
    if first == "expectation":
        return f"expectation {rest}"
    if first == "corruptions" and "." not in rest:
        return _corrupted(rest)
    if first == "metrics":
        return f"figure {rest}"
    if first == "people" and (found := PEOPLE.fullmatch(rest)):
        return f"{SHARES[found[2]]}, to be {found[1]} % right"
    if first == "floor":
        return _floor(rest)
    return _metric_of_set(code)


def _floor(code: str) -> str | None:
    """ "class.Bag.recall", "hard.class.Bag.recall", "test.cost", "image.3fa85f64"; ".kept": against the champion."""
    if code.startswith("image."):
        return f"floor: image {code.removeprefix('image.')} is right"
    if code.endswith(".kept"):
        name = _floor(code.removesuffix(".kept"))
        return None if name is None else f"{name}, against the live model"
    place, divided, rest = code.rpartition(".class.")
    if divided:
        name = _metric_of_set(f"class.{rest}")
        place = place.removeprefix("slice:") if place.startswith("slice:") else SETS.get(place, place.replace("_", " "))
        return None if name is None else f"floor: {name} on {place}"
    name = _metric_of_set(code)
    return None if name is None else f"floor: {name}"


def _metric_of_set(code: str) -> str | None:
    """ "class.Bag.recall", "slice:site=b.balanced_accuracy", "test.balanced_accuracy.recomputed"."""
    where, _, metric = code.removesuffix(".recomputed").rpartition(".")
    if metric not in METRICS or not where:
        return METRICS.get(code)
    again = ", computed again" if code.endswith(".recomputed") else ""
    if where.startswith("class."):
        return f"{METRICS[metric]} of class {where.removeprefix('class.')}{again}"
    if where.startswith("corruptions."):
        return f"{METRICS[metric]} on {_corrupted(where.removeprefix('corruptions.'))}{again}"
    if where.startswith("slice:"):
        return f"{METRICS[metric]} on {where.removeprefix('slice:')}{again}"
    if where in SETS or where.isidentifier():
        return f"{METRICS[metric]} on {SETS.get(where, where.replace('_', ' '))}{again}"
    return None


def _corrupted(name: str) -> str:
    return CORRUPTED.get(name, f"images with {name.replace('_', ' ')}")


def _column(name: str) -> str:
    return COLUMNS.get(name) or NAMES.get(f"image.{name}", name.replace("_", " "))
