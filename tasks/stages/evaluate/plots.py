"""Plots of a model's test results: PNG files, the same bytes for the same metrics.

N images, K classes, B bins. Colour-blind readers can tell the colours apart (Okabe & Ito 2008). Names come from users:
they are cut to LETTERS, lose control characters, and are never read as markup ("$" starts mathematics in matplotlib).
The Agg renderer is used directly: no display, no global state.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tasks.common.files import atomic_path
from tasks.common.text import one_line
from tasks.scoring.metrics import Bins

BLUE, ORANGE, VERMILION, GREEN, PURPLE, SKY, GREY = (
    "#0072B2",
    "#E69F00",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#767676",
)
SHOT_COLOURS = {"many": BLUE, "medium": ORANGE, "few": VERMILION}
LETTERS = 22  # of a class name
MOST_CLASSES = 25  # in a plot by class; the report has all classes
DPI = 110
SIDE = 1.42  # inches of an image among the mistakes
# for scripts that matplotlib's own DejaVu lacks
FALLBACK = ("Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "Noto Sans Devanagari", "Noto Sans Thai")


def short_name(text: str, letters: int = LETTERS) -> str:
    """`text` on one line, cut to `letters`."""
    return one_line(text, letters)


@contextmanager
def _figure(path: Path, width: float, height: float, layout: str | None = "constrained", **grid) -> Iterator:
    """(figure, axes) of `width` x `height` inches, written to `path` at the end."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    style = {
        "text.parse_math": False,
        "text.usetex": False,
        "font.family": ["DejaVu Sans", *(font for font in FALLBACK if font in installed)],
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # no font for a script: boxes, and no warning
        figure = Figure((width, height), layout=layout)
        axes = figure.subplots(**grid)
        yield figure, axes
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})


def reliability(path: Path, bins: Bins, confidence: np.ndarray, title: str) -> None:
    """Accuracy against confidence; below, a histogram of the M events' confidence (M,)."""
    with _figure(path, 4.6, 4.8, nrows=2, sharex=True, height_ratios=[4, 1]) as (_, (top, low)):
        top.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="perfectly calibrated")
        spread = 1.96 * np.sqrt(bins.accuracy * (1 - bins.accuracy) / bins.count)
        low_edge, high_edge = np.minimum(spread, bins.accuracy), np.minimum(spread, 1 - bins.accuracy)
        top.errorbar(
            bins.confidence,
            bins.accuracy,
            [low_edge, high_edge],
            color=BLUE,
            marker="o",
            markersize=4,
            linewidth=1.2,
            elinewidth=0.8,
            capsize=2,
            label="this model (95 % interval of a bin)",
        )
        top.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="came true", title=title)
        top.legend(frameon=False, loc="upper left")
        low.hist(confidence, bins=np.linspace(0, 1, 41), color=BLUE)
        low.set(xlabel="predicted probability", ylabel="events", ylim=(0, None))


def confusion(path: Path, matrix: np.ndarray, classes: Sequence[str]) -> None:
    """Confusion matrix (K, K), rows given, columns predicted, as shares of a row; with many classes only the worst."""
    errors = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * np.diag(matrix)
    shown = np.sort(np.argsort(-errors, kind="stable")[:MOST_CLASSES])
    share = matrix[np.ix_(shown, shown)] / np.maximum(matrix[shown].sum(axis=1, keepdims=True), 1)
    side = max(2.6 + 0.36 * len(shown), 3.8)
    with _figure(path, side + 0.4, side) as (figure, axes):
        picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        labels = [short_name(classes[k]) for k in shown]
        axes.set_xticks(range(len(shown)), labels, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(shown)), labels)
        axes.set(
            xlabel="predicted", ylabel="given", title=_part_of(len(shown), len(classes), "share of each given class")
        )
        axes.spines[:].set_visible(False)
        for row, column in np.argwhere(matrix[np.ix_(shown, shown)] > 0):
            value = share[row, column]
            text = "1" if value == 1 else f"{value:.2f}"[1:]
            axes.text(
                column, row, text, ha="center", va="center", fontsize=7, color="white" if value > 0.5 else "black"
            )
        figure.colorbar(picture, ax=axes, shrink=0.6)


def label_errors(path: Path, rows: list[dict]) -> None:
    """For multi-label, in place of a confusion matrix: misses and false alarms by class; rows: figures.by_class."""
    missed = [0 if row["recall"] is None else round(row["support"] * (1 - row["recall"])) for row in rows]
    false = [0 if row["precision"] is None else round(row["predicted"] * (1 - row["precision"])) for row in rows]
    shown = np.argsort([-(a + b) for a, b in zip(missed, false, strict=True)], kind="stable")[:MOST_CLASSES]
    with _figure(path, 6, 1.5 + 0.28 * len(shown)) as (figure, axes):
        places = np.arange(len(shown))
        axes.barh(places, [-missed[k] for k in shown], color=VERMILION, label="missed")
        axes.barh(places, [false[k] for k in shown], color=SKY, label="false alarms")
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(places, [short_name(rows[k]["class"]) for k in shown])
        axes.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
        axes.set(
            xlabel="images", title=_part_of(len(shown), len(rows), "errors by label"), ylim=(len(shown) - 0.4, -0.6)
        )
        figure.legend(frameon=False, loc="outside lower center", ncols=2)


def precision_recall(path: Path, curves: dict[str, tuple[np.ndarray, np.ndarray, float]]) -> None:
    """Curves, class -> (precision, recall, average precision): the lowest six are named, the mean is bold."""
    with _figure(path, 7.2, 4.4) as (figure, axes):
        grid = np.linspace(0, 1, 201)
        ranked = sorted(curves, key=lambda label: curves[label][2])
        means = []
        for place, label in enumerate(ranked):
            precision, recall, average = curves[label]
            envelope = np.maximum.accumulate(precision[::-1])[::-1]  # best precision at this recall or higher
            means.append(envelope[np.minimum(np.searchsorted(recall, grid), len(recall) - 1)])
            if place < 6:
                colour = (VERMILION, ORANGE, PURPLE, GREEN, SKY, BLUE)[place]
                axes.plot(recall, precision, color=colour, linewidth=1.1, label=f"{short_name(label)}  {average:.3f}")
            else:
                axes.plot(recall, precision, color="#cccccc", linewidth=0.7, zorder=1)
        whole = np.mean([average for _, _, average in curves.values()])
        axes.plot(grid, np.mean(means, axis=0), color="black", linewidth=2, label=f"mean of all classes  {whole:.3f}")
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
        axes.set_title(f"precision and recall, the lowest {min(6, len(ranked))} of {len(ranked)} classes named")
        figure.legend(frameon=False, title="average precision", loc="outside right upper", fontsize=8)


def per_class(path: Path, rows: list[dict]) -> None:
    """Recall of each class with test images, most training images first; rows: figures.by_class."""
    known = [row for row in rows if row["recall"] is not None]
    shown = sorted(sorted(known, key=lambda row: row["recall"])[:MOST_CLASSES], key=lambda row: -row["train"])
    with _figure(path, 6.4, 1.5 + 0.3 * len(shown)) as (figure, axes):
        for shot, colour in SHOT_COLOURS.items():
            places = [place for place, row in enumerate(shown) if row["shot"] == shot]
            if places:
                axes.barh(places, [shown[place]["recall"] for place in places], color=colour, label=f"{shot}-shot")
        for place, row in enumerate(shown):
            text = f"{row['recall']:.2f}   {row['train']} train, {row['support']} test"
            axes.text(1.02, place, text, va="center", fontsize=8, color=GREY)
        mean = np.mean([row["recall"] for row in known])
        axes.axvline(mean, color="black", linewidth=1, linestyle="--", label=f"mean {mean:.2f}")
        axes.set_yticks(range(len(shown)), [short_name(row["class"]) for row in shown])
        axes.set(xlim=(0, 1), ylim=(len(shown) - 0.4, -0.6), xlabel="recall")
        axes.set_title(_part_of(len(shown), len(known), "recall by class"))
        figure.legend(frameon=False, loc="outside lower center", ncols=4)


def worst(path: Path, pixels: np.ndarray, captions: Sequence[tuple[str, str, float]], what: str) -> None:
    """The most confident mistakes. pixels: (M, S, S, 3) uint8.

    captions: two names and the confidence of each; `what` explains the names ("given → predicted").
    """
    columns = min(max(len(captions), 1), 6)
    rows = max(1, -(-len(captions) // columns))
    width, height = 1.55 * max(columns, 3), 2.05 * rows + 0.4
    title = f"most confident mistakes: {what}" if captions else "no mistakes on the test set"
    with _figure(path, width, height, layout=None) as (_, axes):
        # all in one place, in inches from the top left: laying out as many axes takes far longer
        axes.set_position((0, 0, 1, 1))
        axes.set_axis_off()
        axes.text(width / 2, 0.2, title, ha="center", va="center", fontsize=10)
        for place, (image, (given, predicted, confidence)) in enumerate(zip(pixels, captions, strict=True)):
            left, top = 1.55 * (place % columns) + (1.55 - SIDE) / 2, 2.05 * (place // columns) + 0.92
            axes.imshow(image, interpolation="nearest", extent=(left, left + SIDE, top + SIDE, top))
            caption = f"{short_name(given, 18)}\n→ {short_name(predicted, 16)}\n{confidence:.2f}"
            axes.text(left, top - 0.05, caption, ha="left", va="bottom", fontsize=7)
        axes.set(xlim=(0, width), ylim=(height, 0), aspect="auto")


def _part_of(shown: int, number: int, what: str) -> str:
    return what if shown == number else f"{what}: the worst {shown} of {number} classes"
