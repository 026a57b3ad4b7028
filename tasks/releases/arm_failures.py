"""Answers that the service could not give in a rollout, by arm.

The production log holds only answers that were given.

rollouts/<id>/failed/<worker>.json in the release store    totals of one process of the service since it started
"""

import json

from pydantic import Field, ValidationError

from tasks.common.checks import Frozen
from tasks.common.errors import refuse_newer
from tasks.releases.bundle_store import StoreDamaged
from tasks.releases.rollout import FOLDER, Arm
from tasks.releases.store import Releases

SCHEMA = 1


class Failures(Frozen):
    """Answers asked of an arm by one process since the rollout began, and how many of them failed."""

    asked: int = Field(0, ge=0)
    failed: int = Field(0, ge=0)


def count_failures(releases: Releases, rollout_id: str, worker: str, counts: dict[Arm, Failures]) -> None:
    """Store the totals of one process of the service, replacing its earlier ones. worker: a name of its own.

    For its background thread: this writes to the store.
    """
    about = {arm: one.model_dump() for arm, one in counts.items()}
    releases.update(f"{FOLDER}{rollout_id}/failed/{worker}.json", lambda _: {"schema": SCHEMA, "counts": about})


def failures(releases: Releases, rollout_id: str) -> dict[Arm, Failures]:
    """The totals of all processes, by arm. Raises StoreDamaged."""
    total: dict[Arm, Failures] = {}
    for key in releases.store.list(f"{FOLDER}{rollout_id}/failed/"):
        if (found := releases.store.read(key)) is None:
            continue
        try:
            about = json.loads(found[0])
            refuse_newer(about["schema"], SCHEMA, f"{key} in the release store")
            counts = {arm: Failures.model_validate(one) for arm, one in about["counts"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
            raise StoreDamaged(f"{key} in the release store cannot be read ({error}): delete it") from None
        for arm, one in counts.items():
            so_far = total.get(arm, Failures())
            total[arm] = Failures(asked=so_far.asked + one.asked, failed=so_far.failed + one.failed)
    return total
