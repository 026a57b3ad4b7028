"""Describe in words what a measure found: "images are 31 % darker (median 92, was 133)"."""

import numpy as np

from tasks.common.text import one_line

WORDS = {  # image property -> less, more
    "brightness": ("images are {} % darker", "images are {} % brighter"),
    "contrast": ("images have {} % less contrast", "images have {} % more contrast"),
    "sharpness": ("images are {} % less sharp", "images are {} % sharper"),
    "entropy": ("images have {} % less detail", "images have {} % more detail"),
    "width": ("images are {} % narrower", "images are {} % wider"),
    "height": ("images are {} % lower", "images are {} % higher"),
}
LONGEST = 40  # characters of a class or category


def quoted(name: str) -> str:
    """A class name for a sentence: quoted, on one line, short."""
    return f"'{one_line(name, LONGEST)}'"


def percent(share: float) -> str:
    """A share as "58 %", with one decimal below 10 %."""
    if 0 < share < 0.1:
        return f"{100 * share:.1f} %"
    return f"{100 * share:.0f} %"


def describe_numbers(name: str, window: np.ndarray, reference: np.ndarray) -> str:
    """Describe how the finite numbers `window` (N,) differ from `reference` (M,).

    name: brightness, ..., confidence, ood.
    """
    now, was = float(np.median(window)), float(np.median(reference))
    if name == "confidence":
        return f"the model is {'less' if now < was else 'more'} certain (median {now:.2f}, was {was:.2f})"
    if name == "ood":
        return f"images are {'less' if now > was else 'more'} familiar (median score {now:.3g}, was {was:.3g})"
    change = 100 * abs(now / was - 1) if was else 0.0
    if round(change) >= 1:
        return f"{WORDS[name][int(now > was)].format(f'{change:.0f}')} (median {_figure(now)}, was {_figure(was)})"
    ends = [
        f"{_figure(low)} to {_figure(high)}" for low, high in (np.quantile(v, [0.1, 0.9]) for v in (window, reference))
    ]
    return f"the {name} of images is spread differently (80 % within {ends[0]}, was {ends[1]})"


def describe_shares(names: list[str], now: np.ndarray, was: np.ndarray, most: int = 2) -> str:
    """Up to `most` categories whose shares, (C,) each, contribute most to the stability index."""
    smooth = 1e-3
    part = (now - was) * np.log((now + smooth) / (was + smooth))
    chosen = [k for k in np.argsort(-part, kind="stable")[:most] if part[k] > 0.2 * part.max()]
    return (
        ", ".join(
            f"{quoted(names[k])} is {_times(now[k], was[k])} ({percent(now[k])}, was {percent(was[k])})" for k in chosen
        )
        or "shares are as before"
    )


def _times(now: float, was: float) -> str:
    if was <= 0:
        return "new"
    if now <= 0:
        return "gone"
    if now < was:
        return f"{was / now:.2g}x as rare" if was / now < 100 else "far rarer"
    return f"{now / was:.2g}x as common" if now / was < 100 else "far more common"


def _figure(value: float) -> str:
    """Four digits; no exponent for values that people meet."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"
