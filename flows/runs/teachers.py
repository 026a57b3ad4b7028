"""The teachers of a distillation, put into the cache before a run works towards its training."""

import re
from pathlib import Path

from tasks.common.errors import EvergreenError
from tasks.common.params import Params
from tasks.common.paths import cache_dir
from tasks.releases import bundle
from tasks.releases.store import Releases, cached_bundle

DIGEST = re.compile(r"[0-9a-f]{64}")


def fetch_teachers(root: Path, params: Params, releases: Releases) -> None:
    """Restore the bundles that teach from the release store. Raises EvergreenError for one that is nowhere."""
    for name in params.train_backbone.distill.teachers:
        if not DIGEST.fullmatch(name) or _whole(cache_dir("bundles", root) / name, name):
            continue
        try:
            cached_bundle(releases, name, root)
        except EvergreenError as error:
            raise EvergreenError(
                f"train_backbone.distill.teachers names the bundle {name}, which is neither in the release store nor "
                f"in {cache_dir('bundles', root)}: give its folder to `evergreen distill` again, or remove it from "
                f"params.yaml. ({error})"
            ) from error


def _whole(folder: Path, digest: str) -> bool:
    try:
        found = bundle.digest(folder)
        bundle.verify(folder)
    except bundle.BundleDamaged:
        return False
    return found == digest
