"""Carrying out the plan of an upgrade: one commit, or conflicts in the working tree."""

import tempfile
from pathlib import Path

from flows.project.merge import File
from flows.project.upgrade.checks import check_clean_head
from flows.project.upgrade.plan import Plan
from flows.repo.git import git, git_bytes, identity_options
from tasks.common.paths import main_checkout, state_dir
from tasks.common.private import close_to_others


def apply(plan: Plan) -> str | None:
    """Do what `plan` says. Returns the new commit; None where conflicts wait in the working tree for the user."""
    root = plan.root
    check_clean_head(root)
    main = main_checkout(root)
    close_to_others(main, state_dir(main))  # earlier versions left them open
    entries = _written(plan)
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        lines = "".join(f"{file.mode} {file.id}\t{name}\0" for name, file in entries.items())
        git_bytes(root, "update-index", "-z", "--index-info", stdin=lines.encode(errors="surrogateescape"), env=index)
        tree = git(root, "write-tree", env=index)
    if not plan.conflicts:
        commit = git(root, *identity_options(root), "commit-tree", tree, "-p", "HEAD", "-m", message(plan))
        git(root, "-c", "core.hooksPath=/dev/null", "merge", "--ff-only", "--quiet", commit)
        return commit
    git(root, "read-tree", "-m", "-u", "HEAD", tree)
    lines = ""
    for step in plan.conflicts:
        lines += f"0 {'0' * 40}\t{step.path}\0"
        for number, side in enumerate(step.stages or (), 1):
            lines += f"{side.mode} {side.id} {number}\t{step.path}\0" if side else ""
    git_bytes(root, "update-index", "-z", "--index-info", stdin=lines.encode(errors="surrogateescape"))
    (root / git(root, "rev-parse", "--git-path", "MERGE_MSG")).write_text(message(plan) + "\n", encoding="utf-8")
    return None


def _written(plan: Plan) -> dict[str, File]:
    """The plan's files, each blob written to the project's git."""
    with tempfile.TemporaryDirectory() as folder:
        names = list(plan.texts)
        for number, name in enumerate(names):
            (Path(folder) / str(number)).write_bytes(plan.texts[name])
        listed = "".join(f"{Path(folder) / str(number)}\n" for number in range(len(names))).encode()
        ids = git_bytes(plan.root, "hash-object", "-w", "--no-filters", "--stdin-paths", stdin=listed).decode().split()
    written = dict(zip(names, ids, strict=True))
    return {name: File(file.mode, written.get(name, file.id)) for name, file in plan.entries.items()}


def message(plan: Plan) -> str:
    """Message of the upgrade's commit."""
    template = f"\nEvergreen-Template: {plan.template}" if plan.template else ""
    return (
        f"Upgrade Evergreen to {plan.new}\n\nFrom {plan.old}, by `evergreen upgrade`. `git revert` undoes it: no data, "
        f"log or release was changed.\n\nEvergreen-Version: {plan.new}{template}"
    )
