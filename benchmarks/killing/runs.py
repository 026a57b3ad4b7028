"""Kills of a run's bookkeeping: its workspace and stages, a held model, its approval."""

import os
import shutil
from pathlib import Path

from benchmarks.killing.checks import NAME, check, no_leftovers, objects_are_whole, start
from benchmarks.killing.releases import make_bundle
from flows.publishing import held, run_records
from flows.publishing.outcomes import Ending
from flows.repo import run_inputs, workspace
from flows.repo.git import git
from flows.repo.pipeline import bring_up_to_date, open_repo, restore_data
from tasks.common.files import write_json
from tests.support import versions_project

DVC_YAML = """stages:
  bundle:
    cmd: python -m tasks.stages bundle
    deps: [data]
    outs: [artifacts/bundle, artifacts/other]
    metrics: [{metrics/inspect.json: {cache: false}}]
"""


def _toy(root: Path) -> None:
    """A project with one stage, one batch and no release."""
    versions_project.start(root)
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / "tasks").mkdir()
    (root / "tasks/code.py").write_text("code = 1\n")
    git(root, "add", "-A")
    git(root, "commit", "--quiet", "-m", "a stage")
    versions_project.add_batch(root, 1, 5)


def _run(root: Path, run_id: str, seed: int) -> tuple[Path, int, str]:
    """A run up to its bundle: (worktree, descriptor of its lock, how the stage was done)."""

    def stage(name: str, tree: Path) -> None:
        make_bundle(tree, seed)
        write_json(tree / "artifacts/other/out.json", {"of": seed})
        write_json(tree / "metrics/inspect.json", {"rows": 5})

    tree, lock = workspace.create(root, run_id, {})
    write_json(tree.parent / "started.json", {"key": f"key-{seed}", "reason": "a test", "by": "ann"})
    repo = open_repo(tree)
    try:
        restore_data(repo)
        outcome = bring_up_to_date(repo, "bundle", stage)
        check(repo.status() == {} or outcome != "unchanged", "dvc status")
    finally:
        repo.close()
    return tree, lock, outcome


class Workspace:
    every = 3
    points = ("workspace.folder", "workspace.added", "workspace.configured", "workspace.died", "workspace.removed")
    points += ("pipeline.removed", "pipeline.ran", "pipeline.committed", "pipeline.restored")

    @staticmethod
    def make(root: Path) -> None:
        _toy(root)

    @staticmethod
    def act(root: Path, seed: int) -> None:
        for number in range(2):  # the second run finds the first, which died, and restores its stage
            _, lock, _ = _run(root, f"run-{number}", seed)
            os.close(lock)
            workspace.reconcile(root)

    @staticmethod
    def state(root: Path) -> object:
        objects_are_whole(root)
        return [git(root, "status", "--porcelain"), git(root, "rev-parse", "HEAD"), git(root, "branch")]

    @staticmethod
    def again(root: Path, seed: int) -> None:
        workspace.reconcile(root)
        tree, lock, outcome = _run(root, "run-9", seed)
        check(outcome in ("ran", "restored"), outcome)
        repo = open_repo(tree)
        check(repo.status() == {}, "dvc status is not clean")
        repo.close()
        os.close(lock)
        check(set(workspace.reconcile(root)) == {"run-9"}, "runs")
        check("run-9" in workspace.crashed_runs(root), "Prefect could not be told")

    @staticmethod
    def whole(root: Path) -> None:
        no_leftovers(root)
        check(git(root, "worktree", "list").count("\n") == 0, "worktrees")


class Keep:
    every = 3
    points = ("held.uploaded", "held.pushed", "held.kept")

    @staticmethod
    def make(root: Path) -> None:
        _toy(root)

    @staticmethod
    def act(root: Path, seed: int, run_id: str = "run-1") -> None:
        tree, lock, _ = _run(root, run_id, seed)
        releases = versions_project.store(root)
        rev = run_records.preserve_held(tree, releases, NAME, run_id, "held: a test")
        run_records.record(releases, tree, run_id, Ending(outcome="held", sentence="held: a test"), rev)
        write_json(tree.parent / "ended.json", {"outcome": "held", "version": None, "sentence": "held: a test"})
        os.close(lock)

    @staticmethod
    def state(root: Path) -> object:
        return sorted(run["outcome"] for run in versions_project.store(root).runs().values())

    @staticmethod
    def again(root: Path, seed: int) -> None:
        start(root)
        if not Keep.state(root):
            Keep.act(root, seed, "run-2")

    @staticmethod
    def whole(root: Path) -> None:
        no_leftovers(root)
        refs = git(root, "for-each-ref", "--format=%(refname:lstrip=3)", "refs/evergreen/held").split()
        check(refs == list(versions_project.store(root).runs()), f"held are {refs}")


class Override:
    every = 3
    points = ("held.published", "held.noted", "held.released", "publish.promoted")

    @staticmethod
    def make(root: Path) -> None:
        _toy(root)
        Keep.act(root, 7)
        shutil.rmtree(root / ".evergreen/runs")  # so that its workspace is created again
        git(root, "worktree", "prune")

    @staticmethod
    def act(root: Path, seed: int) -> None:
        held.override(root, "run-1", by="bob", why=f"because {seed}")

    @staticmethod
    def state(root: Path) -> object:
        live = versions_project.store(root).live()
        return live and [live.seq, live.version, live.bundle]

    @staticmethod
    def again(root: Path, seed: int) -> None:
        start(root)
        if Override.state(root) is None:
            Override.act(root, seed)

    @staticmethod
    def whole(root: Path) -> None:
        no_leftovers(root)
        run = versions_project.store(root).run("run-1")
        check((run["outcome"], run["version"], len(run["decisions"])) == ("promoted", "v0.1.0", 1), f"{run}")
        check(git(root, "for-each-ref", "refs/evergreen/held") == "", "a ref holds a published run")
        check(run_inputs.recorded_ending(root, "key-7")["outcome"] == "promoted", "its inputs")
