"""Tells a store that is away from one that never held a release."""

from pathlib import Path

from flows.publishing import registry
from tasks.common.params import Params
from tasks.common.paths import main_checkout
from tasks.releases.store import Releases
from tasks.storage.blobs import without_secrets


def store_away(root: Path, params: Params, releases: Releases) -> str | None:
    """A sentence if the release store is empty although git knows versions: it was moved, or is not mounted."""
    if releases.live() is not None or releases.runs():
        return None
    if not (known := list(registry.versions(main_checkout(root), params.bundle.name))):
        return None
    return (
        f"the release store {without_secrets(params.store.url)} is empty, but git knows {known[-1]}: it was moved, or "
        "is not mounted. Put it back, or name its new place in params.yaml (store.url)"
    )
