"""The backbone, tried before a run works towards a training that cannot start or cannot be exported."""

from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import yaml

from flows.repo.pipeline import open_repo
from tasks.backbones.timm_models import OFFLINE_BACKBONE, check_weights
from tasks.common.errors import EvergreenError
from tasks.common.files import parse_yaml
from tasks.common.params import Params
from tasks.models.exportable import check_backbone

STAGE = "train_backbone"


def check_training_weights(root: Path, params: Params) -> None:
    """Raise EvergreenError if the network cannot be trained or exported, or its weights are not to be had.

    A run whose training DVC may restore is never refused: a training with the same settings has ended before.
    """
    stage = params.train_backbone
    if stage.backbone == OFFLINE_BACKBONE or trained_before(root):
        return
    try:
        if stage.pretrained != "none":
            check_weights(stage.backbone)
        check_backbone(root, stage.backbone, params.images.resolution)
    except EvergreenError as error:
        raise EvergreenError(
            f"{error}. Nothing has run yet: change train_backbone.backbone in params.yaml, or train from scratch with "
            "train_backbone.pretrained: none, commit, and `evergreen retrain`"
        ) from error


def trained_before(root: Path) -> bool:
    """Whether dvc.lock or DVC's run cache has a training with the settings that the workspace `root` has now."""
    repo = open_repo(root)
    try:
        with chdir(root):  # DVC looks for dvc.yaml and params.yaml in the current folder
            (stage,) = repo.stage.collect(STAGE)
            wanted = {dep.def_path: dep.read_params() for dep in stage.deps if hasattr(dep, "read_params")}
        return any(entry.get("params") == wanted for entry in _recorded(root, Path(repo.stage_cache.cache_dir)))
    finally:
        repo.close()


def _recorded(root: Path, run_cache: Path) -> Iterator[dict]:
    """What DVC recorded of earlier runs: of the stage in dvc.lock, and of all stages in the run cache."""
    for file in [root / "dvc.lock", *run_cache.glob("*/*/*")]:
        try:
            found = parse_yaml(file.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError):  # removed meanwhile, or torn
            continue
        found = found if isinstance(found, dict) else {}
        yield (found.get("stages") or {}).get(STAGE) or {} if file.name == "dvc.lock" else found
