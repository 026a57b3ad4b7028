"""The batches that people are not asked about: tombstoned in this checkout, or in the release store."""

from pathlib import Path
from typing import Any

from flows.repo.tombstones import in_force
from tasks.common.params import Params, load_params
from tasks.dataset.shards import read_tombstones
from tasks.releases.store import open_store


def tombstones_now(root: Path, params: Params | None = None) -> dict[str, dict[str, Any]]:
    """Batch -> why, of the committed tombstones and of those that runs have set since then."""
    params = params or load_params(root / "params.yaml")
    return in_force(open_store(params.store, root).tombstones(), params) | read_tombstones(root)
