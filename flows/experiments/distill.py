"""`evergreen distill`: what to try so that a small student learns from teachers.

Each teacher becomes a name that always means the same: a bundle's digest, or a model of timm. So the winning settings
can go into params.yaml.
"""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.experiments.choose import Choice
from flows.publishing.experiment_table import Row
from tasks.common.errors import EvergreenError
from tasks.common.files import atomic_dir
from tasks.common.paths import cache_dir
from tasks.common.presets import backbone_name
from tasks.releases import bundle
from tasks.releases.store import Releases

DIGEST = re.compile(r"[0-9a-f]{64}")
SECTION = "train_backbone"


def pinned_teacher(root: Path, releases: Releases, name: str) -> str:
    """The digest of the bundle that `name` means, or the model of timm: see `evergreen distill --help`.

    A bundle's folder is copied into the cache. Raises EvergreenError for what is neither of them.
    """
    if (Path(name) / bundle.MANIFEST).is_file():
        return _copied(root, Path(name))
    if DIGEST.fullmatch(name):
        return name
    live = releases.live()
    if name == "live":
        if live is None:
            raise EvergreenError("no version is live: name a bundle's folder or a model of timm as the teacher")
        return live.bundle
    history = releases.history()
    if found := next((one for one in history if one.version == name), None):
        return found.bundle
    from tasks.backbones.timm_models import check_weights

    try:
        check_weights(backbone_name(name))
    except EvergreenError as error:
        versions = ", ".join(sorted({one.version for one in history})) or "none"
        raise EvergreenError(
            f"{name} is not a teacher: expected live, a version ({versions}), a folder with a bundle, or a timm model "
            f"with weights ({error})"
        ) from error
    return backbone_name(name)


def planned(student: str, teachers: list[str], settings: dict[str, float], alone: bool) -> list[dict[str, Any]]:
    """The changes to try: the student with its teachers and, if `alone`, without them.

    settings: of train_backbone.distill, without those that stay as they are.
    """
    of_student = {f"{SECTION}.backbone": student}
    taught = of_student | {f"{SECTION}.distill.teachers": teachers}
    taught |= {f"{SECTION}.distill.{name}": value for name, value in settings.items()}
    return [*([of_student] if alone else []), taught]


def better(rows: Sequence[Row]) -> Choice:
    """The student with teachers, unless the one alone, which comes before it, answers better on calibration."""
    *alone, taught = rows
    if not alone:
        return Choice(taught, "the student with its teachers")
    gain = 100 * (taught.figures["calibration_score"] - alone[-1].figures["calibration_score"])
    if gain >= 0:
        return Choice(taught, f"the student with its teachers is {gain:.1f} points better than alone (calibration)")
    return Choice(alone[-1], f"the student alone is {-gain:.1f} points better than with its teachers (calibration)")


def _copied(root: Path, folder: Path) -> str:
    bundle.verify(folder)
    digest = bundle.digest(folder)
    target = cache_dir("bundles", root) / digest
    if not target.is_dir():
        with atomic_dir(target) as temporary:
            shutil.copytree(folder, temporary, dirs_exist_ok=True)
    return digest
