"""Pictures: whole, bounded and repeatable, whatever the classes are called."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageColor

from tasks.scoring import metrics
from tasks.stages.evaluate import figures, plots

HOSTILE = [
    "$\\frac{1}{",
    "</script><script>alert(1)</script>",
    "two\nlines\tand a tab",
    "日本語",
    "x" * 200,
    "_^{}",
    "%s%n",
    "مرحبا",
    "\x00nul",
    "😀",
    "",
]


@pytest.fixture(scope="module")
def results():
    """(targets, probabilities, classes, rows) of 600 images of 60 classes, eleven of them with hostile names."""
    rng = np.random.default_rng(0)
    classes = HOSTILE + [f"class {k}" for k in range(60 - len(HOSTILE))]
    targets = rng.integers(0, 59, 600)  # the last class has no image
    logits = rng.normal(size=(600, 60))
    logits[np.arange(600), targets] += 2.5
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    train = rng.integers(1, 300, 60)
    rows = figures.by_class(targets, probabilities.argmax(axis=1), probabilities, classes, train, 100, 20)
    return targets, probabilities, classes, rows


def draw(results, folder):
    targets, probabilities, classes, rows = results
    predicted = probabilities.argmax(axis=1)
    bins = metrics.reliability(probabilities, targets)
    curves = {
        name: (*metrics.precision_recall(targets == k, probabilities[:, k])[:2], rows[k]["average_precision"])
        for k, name in enumerate(classes[:-1])
    }
    pixels = np.random.default_rng(1).integers(0, 256, (11, 32, 32, 3), dtype=np.uint8)
    captions = [(name, HOSTILE[place - 1], 0.5) for place, name in enumerate(HOSTILE)]
    plots.reliability(folder / "reliability.png", bins, probabilities.max(axis=1), "$title_{")
    plots.confusion(folder / "confusion.png", metrics.confusion(targets, predicted, 60), classes)
    plots.label_errors(folder / "label_errors.png", rows)
    plots.precision_recall(folder / "precision_recall.png", curves)
    plots.per_class(folder / "per_class.png", rows)
    plots.worst(folder / "worst.png", pixels, captions, "given → predicted")
    plots.worst(folder / "none.png", pixels[:0], [], "given → predicted")
    return {file.name: file.read_bytes() for file in sorted(folder.glob("*.png"))}


def test_every_picture_is_drawn_twice_alike_and_readable(results, tmp_path, recwarn):
    first, second = (draw(results, tmp_path / str(turn)) for turn in range(2))
    assert len(first) == 7
    assert first == second
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]
    for file in (tmp_path / "0").glob("*.png"):
        with Image.open(file) as picture:
            picture.load()
            assert 200 < picture.width < 1400, file.name
            assert 150 < picture.height < 1400, file.name  # 60 classes: the worst 25 are shown
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 20, file.name


def test_shots_are_told_apart_by_colour(results, tmp_path):
    plots.per_class(tmp_path / "few.png", [row | {"shot": shot} for row, shot in zip(results[3], figures.SHOTS * 20)])  # noqa: B905
    colours = {colour for _, colour in Image.open(tmp_path / "few.png").convert("RGB").getcolors(1 << 24)}
    assert {ImageColor.getrgb(colour) for colour in plots.SHOT_COLOURS.values()} <= colours


def test_a_picture_shows_its_figures(tmp_path):
    """Every image of class 0 right, every one of class 1 taken for class 0: two dark cells in the left column."""
    plots.confusion(tmp_path / "c.png", np.array([[5, 0], [5, 0]]), ["a", "b"])
    picture = np.asarray(Image.open(tmp_path / "c.png").convert("RGB")).astype(int)
    dark = (abs(picture - (8, 48, 107)).sum(axis=2) < 6)[:, : picture.shape[1] * 3 // 4]  # not the colour bar
    light = (abs(picture - (247, 251, 255)).sum(axis=2) < 6)[:, : picture.shape[1] * 3 // 4]
    assert dark.sum() > 1000
    assert np.flatnonzero(dark.any(axis=0)).max() <= np.flatnonzero(light.any(axis=0)).min() + 1


def test_names_are_cut_and_kept_on_one_line():
    assert plots.short_name("a\nb\x00c") == "a b c"
    assert plots.short_name("x" * 200) == "x" * 21 + "…"
    assert plots.short_name("$\\alpha$") == "$\\alpha$"


def test_importing_the_module_loads_no_matplotlib():
    code = "import tasks.stages.evaluate.plots, tasks.gate.judge, sys; "
    code += "assert not {'matplotlib', 'scipy', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
