"""What each kind of image (`train_backbone.domain`) allows of augmentation, as plain tables.

A change does harm where it alters what the label says: a mirrored traffic sign is another sign, and erasing a small
defect leaves the label "defect" on a clean part. `Domain.forbidden` are names of train_backbone.augment and .mix that
are refused. A policy such as RandAugment goes on without the operations in `Domain.left_out`. Ranges are narrowed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

COLOUR_SWAPS = ("invert", "solarize", "equalize", "saturation")  # operations of policies that give other colours
COLOUR_TELLS = "its colour may be what tells the classes apart"


@dataclass(frozen=True)
class Domain:
    """Why names are forbidden, the operations that policies leave out, and the widest ranges.

    `rotation`: degrees either way. `crop_area`: the least share of the image's area that a crop may keep.
    """

    forbidden: dict[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    rotation: float = 180.0
    crop_area: float = 0.0


DOMAINS = {
    "natural": Domain({"vertical_flip": "nobody takes photos upside down"}, rotation=45.0),
    "document": Domain(
        dict.fromkeys(("flip", "vertical_flip"), "mirrored writing is not writing"),
        ("invert", "solarize"),
        rotation=5.0,
        crop_area=0.5,
    ),
    "medical": Domain(
        dict.fromkeys(("hue", "grey"), COLOUR_TELLS)
        | dict.fromkeys(("erase", "cutmix"), "it may hide the finding, and the label would stay"),
        (*COLOUR_SWAPS, "posterize"),
        crop_area=0.5,
    ),
    "industrial": Domain(
        dict.fromkeys(("hue", "grey"), COLOUR_TELLS)
        | dict.fromkeys(("erase", "cutmix"), "it may hide the defect, and the label would stay"),
        (*COLOUR_SWAPS, "posterize"),
        crop_area=0.5,
    ),
    "satellite": Domain(dict.fromkeys(("hue", "grey"), COLOUR_TELLS), COLOUR_SWAPS),
    "symbols": Domain(
        dict.fromkeys(("flip", "vertical_flip"), "a mirrored sign or character is another one, or none")
        | dict.fromkeys(("hue", "grey"), COLOUR_TELLS),
        COLOUR_SWAPS,
        rotation=10.0,
        crop_area=0.5,
    ),
}


def domain_of(name: str | None) -> Domain:
    """The domain called `name`; None: one that allows everything."""
    return DOMAINS[name] if name else Domain()


def problems(name: str | None, changes: Sequence[str]) -> list[str]:
    """One sentence for each of `changes` (names of augment and mix) that the domain `name` forbids."""
    forbidden = domain_of(name).forbidden
    return [
        f"{change} does harm to images of the domain {name} ({forbidden[change]}): remove it, or change "
        "train_backbone.domain (null allows everything)"
        for change in changes
        if change in forbidden
    ]
