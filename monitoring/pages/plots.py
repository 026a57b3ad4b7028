"""Small drift plots as inline SVG, coloured by the page's style (light or dark).

They are sharp at any size and a few KB large. No function sets a colour or a font: CSS classes say what a shape means,
and templates/style.css styles them. Markup.format escapes texts. N values, B bins, W windows.
"""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

BINS = 32
LOW, HIGH = 0.25, 4.0  # ratios to the threshold that are distinguished
WIDTH, HEIGHT = 320, 110


def distribution(reference: np.ndarray, window: np.ndarray, title: str) -> Markup:
    """Both distributions over the same bins, as shares; "" if one is empty.

    reference, window: (N,) finite.
    """
    found = binned(reference, window)
    return draw_bins(*found, title) if found else Markup("")


def binned(reference: np.ndarray, window: np.ndarray) -> tuple[float, float, list[float], list[float]] | None:
    """(lowest edge, highest edge, B shares of the reference, B of the window); None if one is empty."""
    if not len(reference) or not len(window):
        return None
    both = np.concatenate([reference, window])
    low, high = np.quantile(both, [0.002, 0.998])  # one outlier must not put all others into one bin
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    shares = [np.histogram(np.clip(side, low, high), edges)[0] / len(side) for side in (reference, window)]
    return float(low), float(high), shares[0].tolist(), shares[1].tolist()


def draw_bins(low: float, high: float, was: Sequence[float], now: Sequence[float], title: str) -> Markup:
    """Two distributions over the same B bins from `low` to `high`."""
    top = max(*was, *now)
    floor = HEIGHT - 18
    outlines = []
    for share in (np.asarray(was), np.asarray(now)):
        heights = floor - share / top * (floor - 6)
        x = np.repeat(np.linspace(4, WIDTH - 4, len(share) + 1), 2)[1:-1]
        points = zip(x, np.repeat(heights, 2), strict=True)
        outlines.append(" ".join(f"{a:.1f},{b:.1f}" for a, b in points))
    left, right = f"4,{floor}", f"{WIDTH - 4},{floor}"
    return Markup(
        '<svg class="plot" viewBox="0 0 {w} {h}" role="img" aria-label="{title}"><title>{title}</title>'
        '<polygon class="was" points="{left} {was} {right}"/><polygon class="now-fill" points="{left} {now} {right}"/>'
        '<polyline class="now" points="{now}"/><line class="axis" x1="4" x2="{x}" y1="{floor}" y2="{floor}"/>'
        '<text x="4" y="{y}">{low}</text><text class="end" x="{x}" y="{y}">{high}</text></svg>'
    ).format(
        w=WIDTH, h=HEIGHT, title=title, left=left, right=right, was=outlines[0], now=outlines[1], x=WIDTH - 4,
        floor=floor, y=HEIGHT - 5, low=figure(low), high=figure(high),
    )  # fmt: skip


def spark(ratios: Sequence[float | None]) -> Markup:
    """One measure over W windows, oldest first, relative to its threshold (the line); None is a gap."""
    width, height = 120, 26
    x, y = _places(len(ratios), width, 4), _level(ratios, height, 4)
    last = Markup("")
    if ratios and ratios[-1] is not None:
        kind = "high" if ratios[-1] > 1 else "low"
        last = Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="3"/>').format(kind, x[-1], y[-1])
    middle = _level([1.0], height, 4)[0]
    return Markup(
        '<svg class="spark" viewBox="0 0 {} {}" role="img" aria-label="over the last {} windows">'
        '<line class="bound" x1="0" x2="{}" y1="{:.1f}" y2="{:.1f}"/>{}{}</svg>'
    ).format(width, height, len(ratios), width, middle, middle, _lines(x, y), last)


def timeline(points: Sequence[dict]) -> Markup:
    """The worst measure of W windows relative to its threshold; dots have the decision's colour.

    points, oldest first: {ratio: float | None, outcome, title, current: bool}.
    """
    width, height, edge = 1000, 150, 12
    x = _places(len(points), width, 16)
    y = _level([point["ratio"] for point in points], height, edge)
    middle = _level([1.0], height, edge)[0]
    dots = []
    for place, level, point in zip(x, y, points, strict=True):
        at = height - edge if level is None else level
        ring = (
            Markup('<circle class="ring" cx="{:.1f}" cy="{:.1f}" r="11"/>').format(place, at)
            if point["current"]
            else ""
        )
        dots.append(
            Markup('{}<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="{}"><title>{}</title></circle>').format(
                ring, point["outcome"], place, at, 6 if len(points) <= 60 else 4, point["title"]
            )
        )
    return Markup(
        '<svg class="timeline" viewBox="0 0 {w} {h}" role="img" aria-label="drift over the last {n} windows">'
        '<rect class="beyond" x="0" y="0" width="{w}" height="{m:.1f}"/>'
        '<line class="bound" x1="0" x2="{w}" y1="{m:.1f}" y2="{m:.1f}"/>{lines}{dots}</svg>'
    ).format(w=width, h=height, n=len(points), m=middle, lines=_lines(x, y), dots=Markup("").join(dots))


def strip(cells: Sequence[tuple[str, str]]) -> Markup:
    """A row of coloured cells, oldest first. cells: (outcome, title) each."""
    width, height = 1000, 34
    step = width / max(len(cells), 40)
    start = width - step * len(cells)  # the newest is always at the right end
    gap = min(2.0, step * 0.2)
    drawn = [
        Markup(
            '<rect class="cell {}" x="{:.2f}" y="0" width="{:.2f}" height="{}" rx="{}"><title>{}</title></rect>'
        ).format(outcome, start + place * step, step - gap, height, 2 if step > 6 else 0, title)
        for place, (outcome, title) in enumerate(cells)
    ]
    return Markup(
        '<svg class="strip" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="decisions over time">'
        "{}</svg>"
    ).format(width, height, Markup("").join(drawn))


def interval(value: float, low: float | None, high: float | None) -> Markup:
    """A share and its interval on a line from 0 to 1; "" without an interval."""
    if low is None or high is None:
        return Markup("")
    width, middle = 160, 7
    x = [4 + share * (width - 8) for share in (low, high, value)]
    return Markup(
        '<svg class="interval" viewBox="0 0 {w} 14" aria-hidden="true"><line class="track" x1="4" x2="{e}" y1="{m}" '
        'y2="{m}"/><line class="range" x1="{a:.1f}" x2="{b:.1f}" y1="{m}" y2="{m}"/>'
        '<circle class="value" cx="{c:.1f}" cy="{m}" r="4"/></svg>'
    ).format(w=width, e=width - 4, m=middle, a=x[0], b=x[1], c=x[2])


def figure(value: float | None) -> str:
    """A number for people; "–" for None and NaN."""
    if value is None or not np.isfinite(value):
        return "–"
    if value == 0 or abs(value) >= 1e6 or abs(value) < 1e-4:
        return f"{value:.3g}"
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:.3g}"


def _places(count: int, width: int, edge: int) -> list[float]:
    """Horizontal positions of W windows; a single one is at the right."""
    return [width - edge] if count == 1 else np.linspace(edge, width - edge, count).tolist()


def _level(ratios: Sequence[float | None], height: int, edge: int) -> list[float | None]:
    """Heights on a logarithmic scale from LOW to HIGH.

    Twice the threshold is as far from it as half of it.
    """
    span = np.log2(HIGH / LOW)
    return [
        None
        if ratio is None
        else float(edge + (1 - np.log2(np.clip(ratio, LOW, HIGH) / LOW) / span) * (height - 2 * edge))
        for ratio in ratios
    ]


def _lines(x: Sequence[float], y: Sequence[float | None]) -> Markup:
    """Lines through the points, with a gap for each missing value."""
    runs: list[list[str]] = [[]]
    for place, level in zip(x, y, strict=True):
        if level is None:
            runs.append([])
        else:
            runs[-1].append(f"{place:.1f},{level:.1f}")
    return Markup("").join(
        Markup('<polyline class="line" points="{}"/>').format(" ".join(run)) for run in runs if len(run) > 1
    )
