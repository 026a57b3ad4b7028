"""Which tombstones are in force: those of persons, and those of runs while their settings stay.

A run refuses a batch by the sections `data` and `validate` of params.yaml. After these have changed, the next run
judges the batch again. A person's tombstone stays until a person lifts it.
"""

from typing import Any

from tasks.common.files import content_key
from tasks.common.params import Params


def settings_of(params: Params) -> str:
    """The key of the settings by which a run refuses batches."""
    return content_key("refusal", params.data.model_dump(mode="json"), params.validate_.model_dump(mode="json"))[:24]


def in_force(tombstones: dict[str, dict[str, Any]], params: Params) -> dict[str, dict[str, Any]]:
    """The tombstones that persons have set, and those that runs have set under the settings of `params`."""
    settings = settings_of(params)
    return {batch: about for batch, about in tombstones.items() if about.get("settings") in (None, settings)}
