"""What do 10^6, 10^8 and 10^9 images cost, and what breaks first?

    python -m benchmarks.scale_plan [--quick]

A simulation of a project's growth (benchmarks.scale_model), ingest by ingest, fed with unit costs: those of the
metadata paths from docs/benchmarks/metadata.json (real runs at up to 10^7 rows), training from train_speed.json, the
monitor from measure_speed.json. The others are measured here, in CPU seconds at the default resolution: hashing,
decoding and measuring a 640 x 480 photo, pretrained features, a pass of the noise model. It is checked against the real
runs: the cost at the largest size is predicted from the two smaller ones. Writes the tables of docs/scale-plan.md.

Expected: scale_plan_error, the largest measured over predicted cost of a step, below 2; 2 minutes.
"""

import argparse
import hashlib
import math
import re
import time
from pathlib import Path

import numpy as np

from benchmarks.fashion_mnist import photo
from benchmarks.record import FOLDER, Figure, report
from benchmarks.scale_model import (
    FEATURES,
    PHOTO,
    Costs,
    Life,
    Line,
    Machine,
    Prices,
    breaking_points,
    grow,
    money,
    prediction_errors,
)
from tasks.common.files import atomic_path, read_json

SIZES = (10**6, 10**8, 10**9)
PAGE = FOLDER.parent / "scale-plan.md"
SIDE = 64  # pixels, the default
POWERS: dict[str, float | None] = {"near": None}  # measured too: pairs grow faster than rows
USED = ("listing_again", "split", "record_again", "workspace", "stage_again", "near", "verify_again", "gc")
MADE_UP = {name: {10**5: 1.0, 10**6: 5.0, 10**7: 45.0} for name in USED}  # of a quick pass


def steps_measured(file: Path) -> tuple[dict[str, dict[int, float]], dict[str, float], float]:
    """(step -> rows -> CPU seconds, step -> bytes of memory per image, metadata bytes per image) of a record."""
    found, memory, size = {}, {}, 0.0
    for figure in read_json(file):
        if match := re.fullmatch(r"metadata_(\w+)_(1e\d+|\d+)", figure["name"]):
            found.setdefault(match[1], {})[int(float(match[2]))] = figure["value"]
        elif match := re.fullmatch(r"metadata_(\w+)_memory_per_image", figure["name"]):
            memory[match[1]] = figure["value"]
        elif figure["name"] == "metadata_bytes_per_image":
            size = figure["value"]
    return found, memory, size


def each(work, count: int) -> float:
    """CPU seconds of one of `count` units that `work()` does."""
    start = time.process_time()
    work()
    return (time.process_time() - start) / count


def measured_costs(quick: bool) -> dict[str, float]:
    """Unit costs of one image on one core."""
    from threadpoolctl import threadpool_limits

    from tasks.common.params import ImagesParams
    from tasks.dataset.decode import preprocess
    from tasks.inspection.measure import measure

    count = 20 if quick else 300
    rng = np.random.default_rng(0)
    encoded = [photo(rng.integers(0, 256, (28, 28), dtype=np.uint8), number) for number in range(20)] * (count // 20)
    images = ImagesParams(resolution=SIDE)
    block, rows = rng.bytes(1 << 24), 1024 if quick else 8192
    features = rng.normal(size=(rows, FEATURES)).astype(np.float32)

    def decode() -> None:
        for data in encoded:
            measure(data, images.max_pixels)
            preprocess(data, SIDE, images.fit, images.max_pixels)

    with threadpool_limits(1):
        found = {
            "hashing": each(lambda: hashlib.sha256(block), len(block)),
            "decode": each(decode, len(encoded)),
            "noise": each(lambda: features.T @ features, rows),
            "features": 1 / 700 if quick else _features(rng),
            "train": _training(),
        }
    return found


def _training() -> float:
    """CPU seconds of an image in an epoch, as benchmarks.train_speed recorded them at SIDE pixels."""
    (found,) = (f for f in read_json(FOLDER / "train_speed.json") if f["name"] == f"train_speed_ratio_{SIDE}")
    return int(found["machine"].split()[0]) / float(re.search(r"best ([\d.]+) /", found["spread"])[1])


def _features(rng: np.random.Generator) -> float:
    from tasks.backbones import frozen, timm_models
    from tasks.common.params import EmbedParams

    embed = EmbedParams()
    network = frozen.frozen_network(
        lambda: timm_models.create_model(embed.backbone, "auto", 0, SIDE),
        *timm_models.normalisation(embed.backbone),
        size=SIDE,
        batch_size=embed.batch_size,
    )
    pixels = rng.integers(0, 256, (embed.batch_size, SIDE, SIDE, 3), np.uint8)
    network(pixels)
    return each(lambda: [network(pixels) for _ in range(8)], 8 * len(pixels))


def costs_of(units: dict[str, float], steps: dict, memory: dict[str, float], metadata: float) -> Costs:
    """Unit costs together with the lines through what benchmarks.metadata has measured."""
    line = {name: Line.fit(costs, POWERS.get(name, 1.0)) for name, costs in steps.items() if len(costs) > 1}
    monitor = next(f["value"] for f in read_json(FOLDER / "measure_speed.json") if f["name"] == "monitor_run_s_1e5")
    return Costs(
        **units,
        monitor=monitor / 1e5,
        listing=line["listing_again"],
        split=line["split"],
        record=line["record_again"],
        workspace=line["workspace"],
        unchanged=line["stage_again"],
        near=line["near"],
        verify=line.get("verify_again") or line["verify"],
        gc=line["gc"],
        metadata=metadata,
        memory_split=Line(2e8, memory.get("split", 300.0)),
        memory_near=Line(2e8, memory.get("near", 400.0)),
    )


def tables(costs: Costs, life: Life, machine: Machine, prices: Prices) -> str:
    """The tables of docs/scale-plan.md as Markdown."""
    grown = [grow(costs, life, size) for size in SIZES]
    bills = [money(found, prices, machine) for found in grown]
    rows = {
        "data, TB": [f"{one.bytes / 1e12:,.2f}" for one in grown],
        "of it metadata, caches of measures and columns, GB": [
            f"{one.images * costs.metadata / 1e9:,.1f}" for one in grown
        ],
        "objects in the remote": [f"{one.objects:,}" for one in grown],
        "DVC's listing of data/, MB": [f"{one.listing / 1e6:,.1f}" for one in grown],
        "one ingest (a thousandth), hours": [f"{one.ingest.hours(machine):,.2f}" for one in grown],
        "one retraining, hours": [f"{one.retrain.hours(machine):,.1f}" for one in grown],
        "of it serial, hours": [f"{one.retrain.serial / 3600:,.2f}" for one in grown],
        "hashing every shard would add, hours": [f"{one.images * PHOTO * costs.hashing / 3600:,.1f}" for one in grown],
        "everything from scratch, hours": [f"{one.scratch.hours(machine):,.0f}" for one in grown],
        "all ingests and retrainings so far, hours": [f"{one.total.hours(machine):,.0f}" for one in grown],
    }
    rows |= {f"{name}, USD": [f"{bill[name]:,.2f}" for bill in bills] for name in bills[0]}
    lines = ["| | " + " | ".join(f"{size:,} images" for size in SIZES) + " |", "|---|" + "---:|" * len(SIZES)]
    lines += [f"| {name} | {' | '.join(values)} |" for name, values in rows.items()]
    lines += ["", "| what breaks | from about so many images |", "|---|---:|"]
    lines += [f"| {name} | {at:.1e} |" for name, at in breaking_points(costs, life, machine)]
    lines += ["", "| unit cost, one core | |", "|---|---:|"]
    units = {
        f"hash {PHOTO // 1000} kB": f"{costs.hashing * PHOTO * 1e3:.3f} ms",
        "decode, measure and shrink a photo": f"{costs.decode * 1e3:.2f} ms",
        "pretrained features of an image": f"{costs.features * 1e3:.2f} ms",
        "one image in one epoch": f"{costs.train * 1e3:.2f} ms",
        "one image in one pass of the noise model": f"{costs.noise * 1e3:.3f} ms",
        "one logged answer in the monitor": f"{costs.monitor * 1e6:.0f} us",
        "read what is known of a row": f"{costs.listing.each * 1e6:.1f} us",
        "a row when an ingest decides splits": f"{costs.split.each * 1e6:.1f} us",
        "near-duplicate search": f"{costs.near.each:.2e} s x images^{costs.near.power:.2f}",
        "bytes of metadata per image": f"{costs.metadata:.0f} B",
    }
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in units.items())])


def write_page(text: str) -> None:
    """Put the tables between the marks of docs/scale-plan.md."""
    before, start, rest = PAGE.read_text(encoding="utf-8").partition("<!-- tables -->")
    end = "<!-- end of tables -->"
    with atomic_path(PAGE) as temporary:
        temporary.write_text(f"{before}{start}\n{text}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="made-up metadata costs, few images; checks the script")
    options = parser.parse_args(arguments)
    steps, memory, metadata = (MADE_UP, {}, 500.0) if options.quick else steps_measured(FOLDER / "metadata.json")
    costs = costs_of(measured_costs(options.quick), steps, memory, metadata)
    life, machine, prices = Life(), Machine(), Prices()
    text = tables(costs, life, machine, prices)
    if options.quick:
        print(text)
    else:
        write_page(text)
    report("scale_plan", "python -m benchmarks.scale_plan", figures_of(costs, life, machine, steps), options.quick)


def figures_of(costs: Costs, life: Life, machine: Machine, steps: dict) -> list[Figure]:
    """The error of the prediction, what breaks first, and one retraining at each size."""
    errors = prediction_errors(steps, POWERS)
    figures = []
    if errors:
        worst = max(errors, key=lambda name: max(errors[name], 1 / errors[name]))
        listed = ", ".join(f"{name} {value:.2f}" for name, value in errors.items())
        value = max(errors[worst], 1 / errors[worst])
        figures.append(_figure("scale_plan_error", value, "x", f"measured over predicted: {listed}", goal=2.0))
    first = breaking_points(costs, life, machine)
    listed = "; ".join(f"{name} {at:.1e}" for name, at in first)
    figures.append(_figure("scale_plan_first_break_images", first[0][1], "images", listed, better="higher"))
    for size in SIZES:
        found = grow(costs, life, size)
        spread = f"{found.retrain.serial / 3600:.2f} h serial; {found.bytes / 1e12:.2f} TB, {found.objects:,} objects"
        name = f"scale_plan_retrain_1e{math.log10(size):.0f}_h"
        figures.append(_figure(name, found.retrain.hours(machine), "h", spread))
    return figures


def _figure(name: str, value: float, unit: str, spread: str, goal: float | None = None, better="lower") -> Figure:
    return Figure(name=name, value=value, unit=unit, goal=goal, better=better, spread=spread)


if __name__ == "__main__":
    main()
