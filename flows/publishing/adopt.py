"""`evergreen adopt`: make a model that is already deployed the first champion.

As in a run, the work happens in a workspace of HEAD: inspect and validate run (or are restored), the bundle is built,
the gate judges it as a first model, and it is published the same way. The release's dvc.yaml holds these two stages and
a frozen stage `adopt` with the results. So `dvc pull` at its tag brings data and model, and `dvc repro` runs nothing.
"""

import os
import shlex
import shutil
from contextlib import chdir
from pathlib import Path

import yaml

from flows.publishing import run_records
from flows.publishing.history import open_project
from flows.publishing.judge_adopted import judge_adopted
from flows.publishing.outcomes import Ending
from flows.publishing.publish import Publication, publish
from flows.repo import run_inputs, workspace
from flows.repo.git import git
from flows.repo.pipeline import bring_up_to_date, open_repo, restore_data
from flows.repo.tombstones import in_force
from flows.scale.fill import fill_entries
from tasks.adopt.bounded import check_bounded
from tasks.adopt.build import build, open_model
from tasks.adopt.deployed import Deployed
from tasks.common.errors import EvergreenError
from tasks.common.files import atomic_path, parse_yaml, read_json, write_json
from tasks.common.params import load_run_params
from tasks.common.paths import main_checkout
from tasks.dataset.shards import read_task
from tasks.releases.pointer import Pointer
from tasks.stages.bundle.stage import check_params

NEEDED = ("inspect", "validate")
OUTS = ("calibrate", "evaluate", "bundle")
CAUSES = (
    "If it is better where it is deployed, it gets other input here: check --mean, --std, --bgr, --fit and "
    "--resolution against its own code, and the order of --classes"
)


def adopt(root: Path, model: Deployed, *, by: str, why: str, say=print) -> Pointer:
    """Publish `model` as the first version.

    Raises EvergreenError if the model does not fit the data, if there is no data, if a version is live, or if the gate
    rejects it as a first model. What the gate would hold is published: a person asks for it.
    """
    params, releases = open_project(root)
    if (live := releases.live()) is not None:
        raise EvergreenError(
            f"{live.version} is live: a deployed model is adopted as the first version. Challengers come from "
            "`evergreen retrain`"
        )
    run_inputs.refuse_dirty(root)
    load_run_params(root / "params.yaml")
    tombstones = in_force(releases.tombstones(), params)
    key = run_inputs.input_key(root, tombstones)
    if (root / "data/dataset.json").is_file():
        check_bounded(model, read_task(root / "data"))
        open_model(model, read_task(root / "data"))  # a model that does not fit is refused before any work
    main = main_checkout(root)
    run_id = workspace.new_run_id(key)
    tree, lock = workspace.create(main, run_id, tombstones)
    try:
        write_json(tree.parent / "started.json", {"key": None, "reason": f"adopt: {why}", "by": by})
        repo = open_repo(tree)
        restore_data(repo)
        for name in NEEDED:
            say(f"  {name:<15}{bring_up_to_date(repo, name, before=fill_entries)}")
        repo.close()
        for name, images in build(tree, model, params).items():
            say(f"  the model does not know the label {name!r}: its {images} images were left out of its measures")
        check_params(tree / "artifacts/bundle", tree / "params.yaml")
        _record(tree, model)
        verdict = judge_adopted(tree, model.classes, params)
        if verdict.outcome == "reject":
            raise EvergreenError(f"the gate rejects {model.path.name} as a first model: {verdict.sentence}. {CAUSES}")
        found = read_json(tree / "metrics/evaluate.json")["test"]
        metric = "balanced_accuracy" if found.get("balanced_accuracy") is not None else "macro_f1"
        sentence = f"adopted from {model.path.name}; {metric.replace('_', ' ')} on test {found[metric]:.3f}"
        new = Publication(worktree=tree, name=params.bundle.name, run_id=run_id, why=f"{sentence}: {why}", by=by)
        pointer = publish(new, releases, None)
        ending = Ending(outcome="promoted", sentence=sentence, version=pointer.version, verdict=verdict)
        run_records.record(releases, tree, run_id, ending)
        write_json(tree.parent / "ended.json", ending.model_dump())
        return pointer
    except BaseException:
        shutil.rmtree(tree.parent, ignore_errors=True)
        git(main, "worktree", "prune")
        raise
    finally:
        os.close(lock)


def _record(tree: Path, model: Deployed) -> None:
    """Write the release's dvc.yaml and dvc.lock: the stages that ran, and a frozen stage with what `adopt` made."""
    stages = parse_yaml((tree / "dvc.yaml").read_text())["stages"]
    named = ["--backbone", model.backbone] if model.backbone else []
    stage = {
        "cmd": shlex.join(["evergreen", "adopt", model.path.name, "--resolution", str(model.size), *named]),
        "frozen": True,
        "outs": [f"artifacts/{name}" for name in OUTS],
        "metrics": [{f"metrics/{name}.json": {"cache": False}} for name in OUTS],
    }
    text = yaml.safe_dump({"stages": {name: stages[name] for name in NEEDED} | {"adopt": stage}}, sort_keys=False)
    with atomic_path(tree / "dvc.yaml", tracked=True) as temporary:
        temporary.write_text(text)
    repo = open_repo(tree)
    try:
        with chdir(tree):  # DVC resolves stages against the current folder
            repo.commit("adopt", force=True)
    finally:
        repo.close()
