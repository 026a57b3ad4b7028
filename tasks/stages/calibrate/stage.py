"""Stage `calibrate`: probabilities, thresholds, out-of-distribution score, exported model.

    artifacts/calibrate/calibration.json   {classes, task, temperature, scaling, thresholds {class: t},
                                           weights {class: w}, ood {...}, conformal, costs, hierarchy}
    artifacts/calibrate/ood.safetensors    what the out-of-distribution score compares with (empty for energy)
    artifacts/calibrate/model.onnx         the finished model, see tasks.stages.calibrate.export
    metrics/calibrate.json

Everything is fitted on the calibration split. No earlier stage trained on it, though the best epoch was chosen by it.
The head was, too: so each image's logits are those of the head that would have been chosen without its fold. The test
split is not read. The head is class-balanced, so its probabilities mean "if all classes were
equally frequent". Class-wise scaling turns them into those of the calibration split's mix, a temperature is a
compromise with it. Neither moves an answer: `weights` undo what scaling adds to a class, and hold its cost.
K is the number of classes, D of feature dimensions.
"""

from pathlib import Path

from tasks.common import artifacts
from tasks.common.errors import DataError
from tasks.common.params import CalibrateParams, ImagesParams
from tasks.inference.onnx_model import OnnxModel
from tasks.inference.ood.scores import Training, bank_rows, strata, training_rows
from tasks.inference.scaling import Scaling
from tasks.models import stage1
from tasks.models.head import cross_fitted_logits, read_head
from tasks.scoring.targets import encode
from tasks.stages.calibrate.calibration import (
    PARITY_IMAGES,
    HeldOut,
    fit_calibration,
    training_samples,
    write_calibration,
)
from tasks.stages.calibrate.choice import Seen
from tasks.stages.calibrate.unfamiliar import PROBED_IMAGES, FittedScore, Probed, fit_score


def run(root: Path, *, images: ImagesParams, calibrate: CalibrateParams) -> None:
    """Write artifacts/calibrate/ and metrics/calibrate.json. Raises DataError without labelled calibration images."""
    from tasks.dataset.pixels import pixel_table
    from tasks.stages.calibrate.export import Finished, export

    backbone, about = stage1.load(root)
    classes, task = artifacts.classes_and_task(root)
    head = read_head(root)
    rows = artifacts.training_rows(root)
    labelled = rows["calibration"]
    if not len(labelled):
        raise DataError(
            "the calibration split has no labelled image: label some of it, ingest images of more groups (a group is "
            "never divided between splits), or change data.split in params.yaml and ingest more"
        )
    features = stage1.stage1_features(root, labelled, images)[:]
    targets, groups = encode(labelled["label"], classes, task), labelled["group"].to_pylist()
    hierarchy = artifacts.class_groups(root)
    logits = head.logits(features)
    honest = cross_fitted_logits(root, labelled["id"].to_pylist(), logits)
    held_out = HeldOut(classes, task, targets, honest, features, groups, hierarchy)
    chosen = training_samples(rows["train"], training_rows(head.weight.shape[1]))
    known = stage1.stage1_features(root, chosen, images)[:]
    training = Training(known, head.logits(known), encode(chosen["label"], classes, task))
    sample = pixel_table(root, labelled.slice(0, PARITY_IMAGES), images)[:]
    rows_probed = bank_rows(strata(targets), PROBED_IMAGES)
    probed = labelled.take(rows_probed)
    pixels = pixel_table(root, probed, images)[:]

    def export_model(path: Path, scaling: Scaling) -> float:
        return export(path, Finished(backbone, about, head.weight, head.bias, scaling), sample)

    def score_of(model: OnnxModel) -> FittedScore:
        of = Probed(pixels, probed["id"].to_pylist(), strata(targets[rows_probed]))
        return fit_score(model, of, Seen(features, logits), targets, training, calibrate, task)

    write_calibration(root, fit_calibration(held_out, calibrate), export_model, score_of)
