"""`evergreen upgrade` and `evergreen --version`.

Only light imports at the top: every command loads this module.
"""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from tasks.common.errors import EvergreenError
from tasks.common.paths import project_root

HERE = Path(__file__).resolve().parents[2]
MOST = 12  # files of one kind that are named
KINDS = {
    "added": "new files of Evergreen",
    "updated": "taken over (you did not change them)",
    "moved": "moved and taken over",
    "removed": "removed by Evergreen",
    "kept": "moved with your changes",
    "merged": "merged with your changes",
    "conflict": "CONFLICT",
}


def version(wanted: bool) -> None:
    """Print the version of the code that runs, and of the project's own code where that is another."""
    if not wanted:
        return
    from flows.project.origin import template_revision, version_at
    from tasks.common.version import VERSION

    typer.echo(f"evergreen {VERSION}{_revision(HERE, template_revision(HERE))}")
    try:
        root = project_root()
    except EvergreenError:
        raise typer.Exit() from None
    if root.resolve() != HERE:
        typer.echo(f"{root} runs its own copy: evergreen {version_at(root)}{_revision(root, None)}")
    raise typer.Exit()


def _revision(folder: Path, found: str | None) -> str:
    """ " (commit ...)" of Evergreen's own repository, where it is known."""
    from flows.project.origin import RECORD, parse_record

    if (folder / RECORD).is_file():
        found = parse_record((folder / RECORD).read_text(encoding="utf-8"), str(folder / RECORD))["template"]
    elif not (folder / "CONTRIBUTING.md").is_file():  # a project without a record: its commit is its own
        found = None
    return f" (commit {found[:12]}{'+changes' if found.endswith('+changes') else ''})" if found else ""


def upgrade(
    project: Annotated[Path | None, typer.Argument(help="Folder of the project; default: the current one.")] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="Checkout of the newer Evergreen; default: the one that runs this.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, only say what would change.")] = False,
    base: Annotated[
        str | None, typer.Option(help="Commit that holds Evergreen's code unchanged, where none is recorded.")
    ] = None,
) -> None:
    """Give a project this Evergreen's code: your changes are merged, data and releases stay. Starts no training."""
    root = project_root(project)
    if source is not None and source.resolve() != HERE:
        raise typer.Exit(_run_newer(source.resolve(), root, yes, base))
    from flows.project.upgrade.apply import apply
    from flows.project.upgrade.plan import plan

    found = plan(root, HERE, base)
    busy = _busy(root)
    for line in report(found):
        typer.echo(line)
    if found.nothing:
        return
    if busy:
        message = f"{busy} in {root}: stop it with `evergreen down`, so that all of it starts again with the new code"
        if yes:
            raise EvergreenError(message)
        typer.echo(f"\nbefore the upgrade: {message}")
    if not yes:
        typer.echo("\nNothing was changed. `evergreen upgrade --yes` does it; it starts no training.")
        return
    commit = apply(found)
    for line in ending(found, commit):
        typer.echo(line)
    if commit is None:
        raise typer.Exit(1)


def _run_newer(source: Path, root: Path, yes: bool, base: str | None) -> int:
    """Let the newer Evergreen upgrade `root` itself: only it knows where its files moved. Its exit code."""
    if not (source / "flows/cli/upgrade.py").is_file():
        raise EvergreenError(f"{source} is not a checkout of Evergreen 0.2 or newer: it lacks flows/cli/upgrade.py")
    command = [sys.executable, "-m", "flows.cli", "upgrade", str(root.resolve())]
    command += ["--yes"] * yes + (["--base", base] if base else [])
    return subprocess.run(command, cwd=source, env=os.environ | {"PYTHONPATH": str(source)}).returncode


def _busy(root: Path) -> str:
    """What runs with the project's present code, or ""."""
    from flows.repo.workspace import alive_runs
    from flows.services.up import supervised

    runs = list(alive_runs(root))
    found = ["the services run"] * supervised(root) + [f"run {', '.join(runs)} is under way"] * bool(runs)
    return " and ".join(found)


def report(plan) -> list[str]:
    """What the upgrade changes, for the terminal."""
    if plan.nothing:
        return [f"{plan.root} has the code of Evergreen {plan.new} already: nothing to do"]
    lines = [f"{plan.root}: Evergreen {plan.old} -> {plan.new}"]
    counts = Counter(step.kind for step in plan.steps)
    for kind, about in KINDS.items():
        steps = [step for step in plan.steps if step.kind == kind]
        if not steps:
            continue
        lines.append(f"\n{counts[kind]} {about}:" if kind != "conflict" else f"\n{counts[kind]} in conflict:")
        most = len(steps) if kind in ("kept", "merged", "conflict") else MOST
        for step in steps[:most]:
            was = f"{step.was} -> " if step.was else ""
            lines.append(f"  {was}{step.path}{f': {step.about}' if step.about else ''}")
        if len(steps) > most:
            lines.append(f"  ... and {len(steps) - most} more")
    if plan.params and (plan.params.changes or plan.params.problem):
        lines += ["\nparams.yaml (your values, comments and order stay):", *(f"  {c}" for c in plan.params.changes)]
        if plan.params.problem:
            lines.append(f"  to correct by hand, the new version refuses it: {plan.params.problem}")
    if plan.own:
        lines += ["\nyour own files, which stay:", *(f"  {name}" for name in plan.own)]
    if plan.stale:
        lines.append("\nyour lines that use a name which moved; change them:")
        lines += [f"  {one.path}:{one.line}: {one.old} is now {one.new}" for one in plan.stale]
    lines += ["", *_retraining(plan)]
    return lines


def _retraining(plan) -> list[str]:
    if not plan.stages:
        return ["No stage has to run again."]
    if plan.seconds is None:
        how_long = "how long is not known, as no run is recorded"
    else:
        minutes = plan.seconds / 60
        how_long = f"the longest run so far took {f'{minutes:.0f} min' if minutes >= 2 else f'{plan.seconds:.0f} s'}"
    return [
        "The next `evergreen retrain` runs these stages again, because their code, params or inputs changed:",
        f"  {', '.join(plan.stages)} ({how_long})",
        "The upgrade itself starts nothing, and does not touch data/, logs or releases.",
    ]


def ending(plan, commit: str | None) -> list[str]:
    """What was done and what comes next."""
    setup = "`make setup` installs what the new version needs; then `evergreen retrain` when you like."
    if commit:
        return [
            f'\nDone: commit {commit[:12]}, "Upgrade Evergreen to {plan.new}". {setup}',
            f"To undo it: `git revert {commit[:12]}`.",
        ]
    names = "\n".join(f"  {step.path}: {step.about}" for step in plan.conflicts)
    return [
        f"\nThe upgrade is in the working tree and not committed: {len(plan.conflicts)} file(s) conflict:\n{names}",
        "Resolve them (`git status`, `git diff`), `git add` each (or `git rm` it), then `git commit` (the message is "
        "ready).",
        f"To give up: `git reset --hard`, which leaves the project as it was. After the commit: {setup}",
    ]
