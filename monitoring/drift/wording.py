"""What a measure found, in words for a person: "images are 31 % darker (92, was 133)"."""

import numpy as np

WORDS = {  # image property -> less, more
    "brightness": ("images are {} % darker", "images are {} % brighter"),
    "contrast": ("images have {} % less contrast", "images have {} % more contrast"),
    "sharpness": ("images are {} % less sharp", "images are {} % sharper"),
    "entropy": ("images hold {} % less detail", "images hold {} % more detail"),
    "width": ("images are {} % narrower", "images are {} % wider"),
    "height": ("images are {} % lower", "images are {} % higher"),
}
LONGEST = 40  # characters of a class or category


def quoted(name: str) -> str:
    """A class name as it may stand in a sentence: one line, short."""
    clean = "".join(c if c.isprintable() else " " for c in name)
    return f"'{clean if len(clean) <= LONGEST else clean[: LONGEST - 1] + '…'}'"


def percent(share: float) -> str:
    if 0 < share < 0.1:
        return f"{100 * share:.1f} %"
    return f"{100 * share:.0f} %"


def moved(name: str, window: np.ndarray, reference: np.ndarray) -> str:
    """How the finite numbers `window` (N,) differ from `reference` (M,); name: brightness, ..., confidence, ood."""
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


def times(now: float, was: float) -> str:
    if was <= 0:
        return "new"
    if now <= 0:
        return "gone"
    return f"{now / was:.2g}x as common" if now / was < 100 else "far more common"


def mixed(names: list[str], now: np.ndarray, was: np.ndarray, most: int = 2) -> str:
    """The categories whose shares, (C,) each, changed most, by their part of the stability index."""
    smooth = 1e-3
    part = (now - was) * np.log((now + smooth) / (was + smooth))
    chosen = [k for k in np.argsort(-part, kind="stable")[:most] if part[k] > 0.2 * part.max()]
    return (
        ", ".join(
            f"{quoted(names[k])} is {times(now[k], was[k])} ({percent(now[k])}, was {percent(was[k])})" for k in chosen
        )
        or "shares are as before"
    )


def _figure(value: float) -> str:
    """Four digits, and none of the exponents that people stumble over."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"
