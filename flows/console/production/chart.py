"""The chart of windows: one linked bar each, as high as what moved most, coloured by the decision."""

import math
from collections.abc import Sequence

from markupsafe import Markup

from flows.console.production.incidents import Bar
from flows.console.production.words import OUTCOMES, span

WIDTH, HEIGHT = 1000, 120
LOW, HIGH = 0.25, 8.0  # ratios to the bound that are told apart
FEWEST = 30  # places for bars, so that three windows are not three walls


def chart(bars: Sequence[Bar], label: str) -> Markup:
    """The bars, the newest at the right. A line marks where a measure counts as drift."""
    step = WIDTH / max(len(bars), FEWEST)
    start, gap = WIDTH - step * len(bars), min(3.0, step * 0.25)
    drawn = []
    for place, bar in enumerate(bars):
        height = _height(bar.ratio)
        said = f"{span(bar.start, bar.end)}: {OUTCOMES[bar.outcome]}"
        said += f", {bar.ratio:.1f} times the bound" if bar.ratio is not None else ""
        said += ", marked as expected" if bar.expected else ""
        said += f" (the gravest of {bar.windows} windows)" if bar.windows > 1 else ""
        x = start + place * step
        kind = f"cell {bar.outcome}{' expected' * bar.expected}{' current' * bar.current}"
        drawn.append(
            Markup(
                '<a href="/production/{}" aria-label="{}"{}><title>{}</title><rect class="{}" x="{:.1f}" y="{:.1f}" '
                'width="{:.1f}" height="{:.1f}"/></a>'
            ).format(
                bar.window,
                said,
                Markup(' aria-current="true"') if bar.current else "",
                said,
                kind,
                x,
                HEIGHT - height,
                max(step - gap, 1),
                height,
            )
        )
    line = HEIGHT - _height(1.0)
    return Markup(
        '<svg class="windows" viewBox="0 0 {w} {h}" preserveAspectRatio="none" role="group" aria-label="{label}">'
        '<line class="bound" x1="0" x2="{w}" y1="{y:.1f}" y2="{y:.1f}"/>{bars}</svg>'
    ).format(w=WIDTH, h=HEIGHT, label=label, y=line, bars=Markup("").join(drawn))


def _height(ratio: float | None) -> float:
    """Of a bar, by the logarithm of its ratio; a window without one is low."""
    if ratio is None or ratio <= 0:
        return 10.0
    share = math.log(min(max(ratio, LOW), HIGH) / LOW) / math.log(HIGH / LOW)
    return 10.0 + share * (HEIGHT - 12)
