"""How often a set of images may be asked before luck alone finds a model that looks good on it.

Every challenger that is judged on a set is one look. Of k models that are equally good, the luckiest looks better by
about `spread * sqrt(2 ln k)` at most (the expected maximum of k sub-Gaussian variables), with `spread` =
sqrt(differ / n): n images, of which the two compared models differ on the share `differ` in being right. A set is asked
too often once that luck reaches `margin`: after exp(n * margin^2 / (2 * differ)) looks. A set that only says "fine" or
"not fine" on a change people chose anyway is asked less than this counts; so the count errs on the careful side.
"""

import math
from dataclasses import dataclass

DIFFER = 0.2  # share of images on which one of two models is right, where no look has measured it
MOST = 10**6  # looks: more are never counted


@dataclass(frozen=True)
class Asked:
    """How often a set was asked, with the look that is being taken."""

    what: str  # "hard set", "test split"
    images: int
    used: int
    differ: float | None = None  # share of images on which one of two models is right; None: nothing measured it


@dataclass(frozen=True)
class Looks:
    """How often a set was asked, and how many looks its images bear."""

    what: str  # "hard set", "test split"
    images: int
    used: int
    budget: int
    missing: int = 0  # new images that would bear twice as many looks; 0 while the set bears its looks

    def sentence(self) -> str:
        """What people read."""
        times = "not asked yet" if not self.used else "asked once" if self.used == 1 else f"asked {self.used:,} times"
        images = f"{self.images:,} image{'s' * (self.images != 1)}"
        bear = f"bear{'s' * (self.images == 1)}"
        if not self.missing:
            return f"the {self.what} was {times}; its {images} {bear} {_looks(self.budget)}"
        return (
            f"the {self.what} was {times}, more often than its {images} {bear} ({_looks(self.budget)}): by now luck "
            f"alone can find a model that looks good on it. Add {self.missing:,} new images to it"
        )


def measure_looks(asked: Asked, margin: float) -> Looks:
    """Compare how often a set was asked with what its images bear."""
    n, used = asked.images, asked.used
    differ = DIFFER if asked.differ is None else max(asked.differ, 1 / max(n, 1))
    budget = looks_allowed(n, margin, differ)
    missing = max(images_for(2 * used, margin, differ) - n, 1) if used > budget else 0
    return Looks(asked.what, n, used, budget, missing)


def looks_allowed(images: int, margin: float, differ: float) -> int:
    """So many looks `images` images bear before the luckiest of equal models looks better by `margin`; at least 1."""
    return int(min(MOST, math.exp(min(images * margin**2 / (2 * differ), 40.0)) + 1e-9))


def images_for(looks: int, margin: float, differ: float) -> int:
    """The images that bear so many looks."""
    return math.ceil(2 * differ * math.log(max(looks, 1)) / margin**2)


def _looks(budget: int) -> str:
    return "a million looks" if budget >= MOST else f"{budget:,} look{'s' * (budget != 1)}"
