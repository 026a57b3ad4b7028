"""Make the int8 form of the bundle in a worktree, measured on the same held-out images.

Probabilities, thresholds and sets of plausible classes stay those of the float model: int8 moves its logits little, and
`evaluate` shows by how much. Only the out-of-distribution score is fitted again, because it compares features. Ranges
of activations and the parts that stay in float are found on the calibration split; the test split is not read before
the choice. The outputs lie where the stages would leave theirs:

    artifacts/calibrate/, metrics/calibrate.json     the int8 model
    artifacts/evaluate/, metrics/evaluate.json       see tasks.stages.evaluate.stage
    artifacts/bundle/, metrics/bundle.json           `quantised` in bundle.json, see `Quantised`; its weights are the
                                                     float model's, so a training can start from it

N images, S the side of the input in pixels, K classes, D feature dimensions.
"""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from tasks.adopt.build import labelled_rows
from tasks.common import artifacts
from tasks.common.errors import EvergreenError
from tasks.common.files import atomic_path, read_json, sha256_file, write_json
from tasks.common.params import ImagesParams, Params
from tasks.dataset.pixels import pixel_table
from tasks.inference.onnx_model import OnnxModel, Outputs
from tasks.inference.ood.scores import BANK_ROWS, Training, bank_rows, strata
from tasks.inference.thresholds import answers, read_rule
from tasks.int8 import graph, search
from tasks.int8.figures import Quantised, by_class
from tasks.releases import bundle
from tasks.scoring.targets import encode
from tasks.stages.calibrate.calibration import FOLDER, PARITY_IMAGES, training_samples
from tasks.stages.calibrate.choice import Seen
from tasks.stages.calibrate.unfamiliar import PROBED_IMAGES, Probed, fit_score

IMAGES = 256  # of the calibration split: ranges of activations change little with more
COMPARED = 64  # of them, for each candidate of the search
SPEED_RUNS = 20  # single images by each model in turn
BATCH = 256  # images in memory at once


def build(root: Path, params: Params, bound: float, say: Callable[[str], None] = print) -> Quantised:
    """Replace the float model in the worktree `root` by its int8 form; the outputs are those at the top.

    bound: the largest divergence, see tasks.int8.search. Raises EvergreenError if every part had to stay in float, or
    if the bundle is quantised already.
    """
    from safetensors.numpy import load_file

    about, before = bundle.read(root / "artifacts/bundle"), bundle.digest(root / "artifacts/bundle")
    if "quantised" in about:
        raise EvergreenError("this model computes in int8 already: name the version that it was made from")
    images = ImagesParams.model_validate(about["preprocess"])
    calibration = read_json(artifacts.stage_output(root / FOLDER / "calibration.json", "calibrate"))
    classes, task = calibration["classes"], calibration["task"]
    rows = labelled_rows(root, classes)[0] if "adopted" in about else artifacts.training_rows(root)
    float_file = artifacts.stage_output(root / FOLDER / "model.onnx", "calibrate")
    float_bytes, weights = float_file.read_bytes(), load_file(root / "artifacts/bundle/weights.safetensors")

    taken = rows["calibration"].take(bank_rows(strata(encode(rows["calibration"]["label"], classes, task)), IMAGES))
    pixels = pixel_table(root, taken, images)[:]
    float_model = OnnxModel(float_file)
    of_float = _test_answers(root, float_model, rows["test"], images, calibration)
    speed_pixels = pixels[:SPEED_RUNS]
    made, choice, count = smallest_loss(float_file, float_model, pixels, task, bound, say)
    with atomic_path(root / FOLDER / "model.onnx") as temporary:
        temporary.write_bytes(made)
    model = OnnxModel(root / FOLDER / "model.onnx")
    speedup = _speedup(float_model, model, speed_pixels)

    _calibrate(root, model, rows, images, params, calibration)
    _evaluate(root, model, rows, images, params)
    targets, said = of_float
    now = _test_answers(root, model, rows["test"], images, calibration)[1]
    quantised = Quantised(
        of=before,
        parts=count,
        in_float=choice.in_float,
        loss=float(f"{choice.loss:.4g}"),
        images=len(pixels),
        speedup=round(speedup, 2),
        size_before_mb=round(len(float_bytes) / 1e6, 3),
        size_mb=round(len(made) / 1e6, 3),
        changed=round(100 * float((said != now).mean()), 3),
        lost=round(100 * float((said == targets).mean() - (now == targets).mean()), 3),
        classes=by_class(targets, said, now, classes),
    )
    _bundle(root, rows, weights, images, params, about, quantised)
    return quantised


def smallest_loss(
    file: Path, float_model: OnnxModel, pixels: np.ndarray, task: str, bound: float, say: Callable[[str], None]
) -> tuple[bytes, search.Choice, int]:
    """(the int8 model, which parts stay in float, number of parts)."""
    model = graph.prepared(file)
    parts = search.parts([(node.name, node.op_type in graph.WEIGHTED) for node in graph.network(model)])
    if not parts:
        raise EvergreenError(
            "this network has no convolution or matrix product before its features: int8 would gain nothing"
        )
    found = graph.ranges(model, pixels)
    compared = pixels[:: max(1, len(pixels) // COMPARED)][:COMPARED]
    expected = float_model(compared).probabilities

    made: dict[tuple[int, ...], bytes] = {}  # the newest candidate: often the chosen one

    def content(chosen: list[int]) -> bytes:
        if tuple(chosen) not in made:
            made.clear()
            made[tuple(chosen)] = graph.quantised(model, found, [name for part in chosen for name in parts[part]])
        return made[tuple(chosen)]

    def loss_of(chosen: list[int]) -> float:
        return search.divergence(expected, run(content(chosen), compared).probabilities, task)

    say(f"  trying int8 for {len(parts)} parts of the network, on {len(pixels)} calibration images")
    choice = search.choose(len(parts), loss_of, bound)
    return content([part for part in range(len(parts)) if part not in choice.in_float]), choice, len(parts)


def run(content: bytes, pixels: np.ndarray) -> Outputs:
    """Outputs of the ONNX model `content` for (N, S, S, 3) uint8."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return Outputs(*session.run(Outputs._fields, {"images": np.ascontiguousarray(pixels)}))


def _speedup(before: OnnxModel, after: OnnxModel, pixels: np.ndarray) -> float:
    """Median time of `before` over that of `after`, one image each in turn."""
    taken: list[list[float]] = [[], []]
    for place in range(-2, SPEED_RUNS):
        for model, times in zip((before, after), taken, strict=True):
            start = time.perf_counter()
            model(pixels[place % len(pixels)][None])
            if place >= 0:  # the first ones allocate memory
                times.append(time.perf_counter() - start)
    return float(np.median(taken[0]) / np.median(taken[1]))


def _test_answers(root: Path, model: OnnxModel, rows: pa.Table, images: ImagesParams, about: dict):
    """(targets, answers) of the test split: (N,) class numbers, or (N, K) labels as 0 and 1."""
    parts = [model(block).probabilities for _, block in pixel_table(root, rows, images).batches(BATCH)]
    return encode(rows["label"], about["classes"], about["task"]), answers(np.concatenate(parts), read_rule(about))


def _calibrate(
    root: Path, model: OnnxModel, rows: dict[str, pa.Table], images: ImagesParams, params: Params, about: dict
) -> None:
    """Fit the out-of-distribution score on the int8 model's features, and write what `calibrate` writes."""
    from safetensors.numpy import save_file

    classes, task, labelled = about["classes"], about["task"], rows["calibration"]

    def outputs(of: pa.Table) -> Outputs:
        parts = [model(block) for _, block in pixel_table(root, of, images).batches(BATCH)]
        return Outputs(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    targets, known = encode(labelled["label"], classes, task), outputs(labelled)
    chosen = training_samples(rows["train"] if len(rows["train"]) else labelled, BANK_ROWS)
    of_training = outputs(chosen)
    training = Training(of_training.features, of_training.logits, encode(chosen["label"], classes, task))
    places = bank_rows(strata(targets), PROBED_IMAGES)
    probed = labelled.take(places)
    of = Probed(pixel_table(root, probed, images)[:], probed["id"].to_pylist(), strata(targets[places]))
    seen = Seen(known.features, known.logits)
    score = fit_score(model, of, seen, targets, training, params.calibrate, task)
    with atomic_path(root / FOLDER / "ood.safetensors") as temporary:
        save_file(score.tensors, temporary)
    write_json(root / FOLDER / "calibration.json", about | {"ood": score.about})
    measured = read_json(root / "metrics/calibrate.json")
    write_json(root / "metrics/calibrate.json", measured | {"ood": score.measured})


def _evaluate(root: Path, model: OnnxModel, rows: dict[str, pa.Table], images: ImagesParams, params: Params) -> None:
    """Measure the int8 model as `evaluate` measures any; what is not about the model stays as it was."""
    from tasks.stages.evaluate.stage import measure

    def parity(finished: OnnxModel, pixels) -> dict:
        """An answer must not depend on its batch: singles against all at once."""
        sample = pixels[np.arange(min(PARITY_IMAGES, len(rows["test"])))]
        singly = np.concatenate([finished(image[None]).probabilities for image in sample])
        difference = float(np.abs(singly - finished(sample).probabilities).max())
        return {"max_difference": float(f"{difference:.3g}"), "images": len(sample)}

    file = root / "metrics/evaluate.json"
    before = read_json(file)
    about = read_json(root / FOLDER / "calibration.json")
    measure(root, rows, about, images, params.evaluate, parity)
    kept = {name: before[name] for name in ("cross_validated", artifacts.USED) if name in before}
    write_json(file, read_json(file) | kept)


def _bundle(
    root: Path,
    rows: dict[str, pa.Table],
    weights: dict[str, np.ndarray],
    images: ImagesParams,
    params: Params,
    before: dict,
    quantised: Quantised,
) -> None:
    from tasks.stages.bundle.stage import write_bundle

    write_bundle(
        root, rows, weights, images=images, bundle=params.bundle, gate=params.gate, adopted=before.get("adopted")
    )
    folder = root / "artifacts/bundle"
    about = read_json(folder / "bundle.json") | {"quantised": quantised.model_dump(mode="json")}
    (folder / bundle.MANIFEST).unlink()
    write_json(folder / "bundle.json", about)
    card = (folder / "card.md").read_text(encoding="utf-8")
    said = "\n".join(quantised.lines())
    with atomic_path(folder / "card.md") as temporary:
        temporary.write_text(f"{card.rstrip()}\n\n## int8\n\n```\n{said}\n```\n", encoding="utf-8")
    bundle.write_manifest(folder)
    metrics = read_json(root / "metrics/bundle.json")
    size = round(sum(file.stat().st_size for file in folder.iterdir()) / 1e6, 3)
    write_json(
        root / "metrics/bundle.json", metrics | {"digest": sha256_file(folder / bundle.MANIFEST), "size_mb": size}
    )
