"""`evergreen quantise`: the int8 form of a version becomes a judged run that waits for a person.

As in `evergreen adopt`, the work happens in a worktree and leaves what a run leaves: here a worktree of the version's
commit, with its data and models. The gate judges the int8 model against what is live now. It is never published by
itself, even if the gate would promote it: speed for points is a trade, and the gate does not see speed.
The run's dvc.yaml has a frozen stage `quantise` instead of the stages whose outputs it replaces.
"""

import os
import shlex
import shutil
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import yaml

from flows.publishing import registry, run_records
from flows.publishing.decisions import refusal_of, refusal_sentence
from flows.publishing.experiment_table import add_run
from flows.publishing.history import open_project
from flows.publishing.judge_run import judge_run, with_floors
from flows.publishing.outcomes import Ending
from flows.publishing.recorded_run import check_out, hash_outs
from flows.repo import workspace
from flows.repo.git import git
from flows.repo.pipeline import open_repo
from flows.repo.progress import Progress, Step
from tasks.common.errors import EvergreenError
from tasks.common.files import atomic_path, content_key, parse_yaml, write_json
from tasks.common.params import Params, load_params
from tasks.common.paths import main_checkout
from tasks.gate.verdict import GateVerdict
from tasks.int8.build import build
from tasks.int8.figures import Quantised
from tasks.releases.store import Releases

STAGE = "quantise"
OUTS = ("calibrate", "evaluate", "bundle")
STEPS = ("data", STAGE, "gate", "keep")


def quantise(
    root: Path, name: str, *, bound: float, by: str, why: str, say: Callable[[str], None] = print
) -> tuple[str, Quantised, Ending]:
    """Make and judge the int8 form of `name` ("live", a version or a held run); returns (run id, costs, ending).

    bound: of tasks.int8.search.choose, in nats. Raises EvergreenError for an unknown name, and as `build`.
    """
    current, releases = open_project(root)
    main = main_checkout(root)
    name, rev = _named(releases, name)
    if not registry.has_commit(main, rev):
        raise EvergreenError(
            f"this repository lacks commit {rev[:12]} of {name}: fetch it from where it was made (its version's tag, "
            "or 'refs/evergreen/held/*:refs/evergreen/held/*')"
        )
    run_id = workspace.new_run_id(content_key([STAGE, rev, bound]))
    tree, lock = workspace.create(main, run_id, {}, rev)
    try:
        reason = f"int8 of {name}{f': {why}' if why else ''}"
        write_json(tree.parent / "started.json", {"key": None, "reason": reason, "by": by})
        progress = Progress(tree.parent, [Step(step) for step in STEPS])
        progress.save()
        with progress.running("data") as line:
            check_out(tree)
            hash_outs(tree)
            line.outcome = "here"
        params = with_floors(load_params(tree / "params.yaml"), current.gate)
        with progress.running(STAGE) as line, progress.printing():
            found = build(tree, params, bound, say)
            _record(tree, name, bound)
            line.outcome, line.found = "ran", found.lines()[0]
        with progress.running("gate") as line:
            verdict = judge_run(tree, params, releases, releases.live(), run=run_id, by=by)
            write_json(tree.parent / "verdict.json", verdict.model_dump())
            line.outcome = verdict.outcome
        with progress.running("keep") as line:
            ending, rev = _end(tree, params, releases, run_id, verdict, f"{reason}. {found.sentence()}")
            line.outcome = ending.outcome
        run_records.record(releases, tree, run_id, ending, rev)
        write_json(tree.parent / "ended.json", ending.model_dump())
        _show(tree, params, releases, run_id, by, ending, reason, say)
        return run_id, found, ending
    except BaseException:
        shutil.rmtree(tree.parent, ignore_errors=True)
        git(main, "worktree", "prune")
        raise
    finally:
        os.close(lock)


def _named(releases: Releases, name: str) -> tuple[str, str]:
    """(version or run id, its commit) of "live", a version or a held run. Raises EvergreenError for another name."""
    live = releases.live()
    if name == "live" and live is not None:
        return live.version, live.git_rev
    history = releases.history()
    if found := next((one for one in reversed(history) if one.version == name), None):
        return name, found.git_rev
    record = releases.runs().get(name)
    if record and record["outcome"] == "held" and record.get("rev"):
        return name, record["rev"]
    versions = ", ".join(dict.fromkeys(one.version for one in history)) or "none: `evergreen retrain` makes the first"
    raise EvergreenError(f"{name} is not a version or a held run; versions: {versions}")


def _end(
    tree: Path, params: Params, releases: Releases, run_id: str, verdict: GateVerdict, said: str
) -> tuple[Ending, str | None]:
    """(how the run ends, the commit that keeps a held one)."""
    if verdict.outcome == "reject":
        return Ending(outcome="rejected", sentence=f"{said} The gate: {verdict.sentence}", verdict=verdict), None
    if refused := refusal_of(releases, verdict.challenger):
        return Ending(outcome="rejected", sentence=f"{said} {refusal_sentence(*refused)}", verdict=verdict), None
    sentence = f"{said} The gate: {verdict.sentence}"
    rev = run_records.preserve_held(tree, releases, params.bundle.name, run_id, sentence)
    sentence += f" `evergreen approve {run_id}` publishes it."
    return Ending(outcome="held", sentence=sentence, verdict=verdict), rev


def _record(tree: Path, name: str, bound: float) -> None:
    """Put the frozen stage into dvc.yaml and dvc.lock, in place of the stages whose outputs it wrote."""
    outs = [f"artifacts/{part}" for part in OUTS]
    about = parse_yaml((tree / "dvc.yaml").read_text())
    replaced = [
        stage
        for stage, values in about["stages"].items()
        if set(outs) & {one if isinstance(one, str) else next(iter(one)) for one in values.get("outs", [])}
    ]
    stage = {
        "cmd": shlex.join(["evergreen", STAGE, name, "--most-lost", f"{bound:g}"]),
        "frozen": True,
        "outs": outs,
        "metrics": [{f"metrics/{part}.json": {"cache": False}} for part in OUTS],
    }
    about["stages"] = {k: v for k, v in about["stages"].items() if k not in replaced} | {STAGE: stage}
    locked = parse_yaml((tree / "dvc.lock").read_text())
    locked["stages"] = {k: v for k, v in locked["stages"].items() if k not in replaced}
    for file, content in (("dvc.yaml", about), ("dvc.lock", locked)):
        with atomic_path(tree / file, tracked=True) as temporary:
            temporary.write_text(yaml.safe_dump(content, sort_keys=False))
    repo = open_repo(tree)
    try:
        with chdir(tree):  # DVC resolves stages against the current folder
            repo.commit(STAGE, force=True)
    finally:
        repo.close()


def _show(
    tree: Path, params: Params, releases: Releases, run_id: str, by: str, ending: Ending, reason: str, say
) -> None:
    """Write the run's page and its row of experiments. The run has ended: an error here is said and changes nothing."""
    from flows.release_report import page

    for what, work in (
        ("report", lambda: page.write(tree, params, releases, run_id, ending, reason)),
        ("row of experiments", lambda: add_run(tree, run_id, by, ending.sentence, ending.verdict, params)),
    ):
        try:
            work()
        except Exception as error:
            say(f"  no {what}: {error}")
