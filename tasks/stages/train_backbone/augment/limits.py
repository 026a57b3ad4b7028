"""How far the changes go: the settings of params.yaml, narrowed to what their domain allows."""

import math
from dataclasses import dataclass

from tasks.common.domains import domain_of
from tasks.common.params import TrainBackboneParams

POLICIES = ("rand_augment", "trivial_augment", "auto_augment")  # names of `augment` that are lists of operations
WIDEST_ROTATION = 135.0  # degrees, of a policy
MOST_DETAIL = 2.0  # times the input's side that images are decoded at for `resized_crop`


@dataclass(frozen=True)
class Limits:
    """`crop_area`: least share of the area that resized_crop keeps. `rotation`: degrees either way.

    Of policies: `magnitude` from 0 to 1, operations `left_out`, and `policy_rotation`, the most degrees that they turn.
    """

    crop_area: float = 0.25
    rotation: float = 15.0
    magnitude: float = 0.3
    left_out: tuple[str, ...] = ()
    policy_rotation: float = 180.0


def limits(params: TrainBackboneParams) -> Limits:
    """What `params` asks for, as far as its domain allows."""
    domain = domain_of(params.domain)
    return Limits(
        crop_area=max(params.crop_area, domain.crop_area),
        rotation=min(params.rotation, domain.rotation),
        magnitude=params.magnitude,
        left_out=domain.left_out,
        policy_rotation=domain.rotation,
    )


def narrowed(params: TrainBackboneParams) -> list[str]:
    """What the domain takes away from the settings that are in use, for the training's log."""
    found, used = limits(params), []
    policies = [name for name in params.augment if name in POLICIES]
    if policies and found.left_out:
        used.append(f"{', '.join(policies)} without {', '.join(found.left_out)}")
    if policies and found.policy_rotation < WIDEST_ROTATION:
        used.append(f"{', '.join(policies)} with rotations of at most {found.policy_rotation:g} degrees")
    if found.rotation < params.rotation and "rotate" in params.augment:
        used.append(f"rotations of at most {found.rotation:g} degrees, not {params.rotation:g}")
    if found.crop_area > params.crop_area and "resized_crop" in params.augment:
        used.append(f"crops of at least {found.crop_area:g} of the area, not {params.crop_area:g}")
    return used


def decoded_side(side: int, params: TrainBackboneParams) -> int:
    """The side that training images are decoded at for an input of `side`, so that small crops keep their detail."""
    if "resized_crop" not in params.augment:
        return side
    return max(side, min(1024, round(side * min(MOST_DETAIL, 1 / math.sqrt(limits(params).crop_area)))))
