"""What the service says about a rollout: which answers failed, and whether the challenger loads.

The production log holds only answers that were given.

rollouts/<id>/failed/<worker>.json in the release store    totals of one process of the service since it started
"""

import json
from collections.abc import Iterable, Mapping

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


class Report(Frozen):
    """What one process of the service says. loaded: can it compute with the challenger; None: it does not know yet."""

    counts: dict[Arm, Failures] = {}
    loaded: bool | None = None
    why: str = ""  # it cannot


def count_failures(
    releases: Releases,
    rollout_id: str,
    worker: str,
    counts: Mapping[Arm, Failures],
    loaded: bool | None = None,
    why: str = "",
) -> None:
    """Store the totals of one process of the service, replacing its earlier ones. worker: a name of its own.

    loaded, why: as in Report. For its background thread: this writes to the store.
    """
    about = Report(counts=dict(counts), loaded=loaded, why=why).model_dump()
    releases.update(f"{FOLDER}{rollout_id}/failed/{worker}.json", lambda _: {"schema": SCHEMA} | about)


def reports(releases: Releases, rollout_id: str) -> list[Report]:
    """What each process said last. Raises StoreDamaged."""
    found = []
    for key in releases.store.list(f"{FOLDER}{rollout_id}/failed/"):
        if (content := releases.store.read(key)) is None:
            continue
        try:
            about = json.loads(content[0])
            refuse_newer(about.pop("schema"), SCHEMA, f"{key} in the release store")
            found.append(Report.model_validate({"counts": about["counts"]} | about))
        except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
            raise StoreDamaged(f"{key} in the release store cannot be read ({error}): delete it") from None
    return found


def failures(releases: Releases, rollout_id: str) -> dict[Arm, Failures]:
    """The totals of all processes, by arm. Raises StoreDamaged."""
    return total(reports(releases, rollout_id))


def total(found: Iterable[Report]) -> dict[Arm, Failures]:
    """The counts of several processes together, by arm."""
    summed: dict[Arm, Failures] = {}
    for report in found:
        for arm, one in report.counts.items():
            so_far = summed.get(arm, Failures())
            summed[arm] = Failures(asked=so_far.asked + one.asked, failed=so_far.failed + one.failed)
    return summed
