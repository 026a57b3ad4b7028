"""One experiment in its worktree: every stage, the gate's verdict, a row in DVC's experiment table.

It uses what a retraining uses (DVC's cache and run cache, the checkpoints of a training), so a stage that an experiment
does not change is restored, and one that was killed goes on. Nothing is published, and Prefect is not asked.
"""

import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from flows.labels.floor_places import places_of_run, unknown_costs, unknown_floors
from flows.publishing.experiment_table import Row, add_row, figures_of
from flows.publishing.judge_run import judge_run
from flows.repo.damage import repairing
from flows.repo.pipeline import bring_up_to_date, open_repo, restore_data
from flows.repo.progress import Progress, Step, cancel_sentence
from flows.runs.start import pin_start
from flows.runs.summary import summary
from flows.runs.teachers import fetch_teachers
from flows.runs.weights import check_training_weights
from flows.scale.fill import fill_entries
from flows.scale.stages import run_stage_scaled
from tasks.common.errors import EvergreenError, ParamsError
from tasks.common.files import read_json, write_json
from tasks.common.machine_limits import machine_error
from tasks.common.params import Params, load_run_params
from tasks.releases.pointer import Pointer
from tasks.releases.store import Releases, open_store
from tasks.stages.runner import STAGES, run_stage

console = Console(file=sys.stdout, highlight=False, soft_wrap=True)


def run_experiment(root: Path, about: dict[str, Any], champion: Pointer | None, alone: bool = False) -> Row:
    """Bring every stage in the worktree `root` up to date, judge against `champion`, and add the row.

    about: name, changes, key, by. alone: ask no cluster for workers. Raises EvergreenError for data or settings that
    a run would refuse.
    """
    params, began = settings_of(root, alone), time.monotonic()
    releases = open_store(params.store, root)
    check_training_weights(root, params)
    fetch_teachers(root, params, releases)
    progress = Progress(root.parent, [Step(name) for name in ("data", *STAGES, "gate")])
    with closing(open_repo(root)) as repo:

        def step(name: str, work, found) -> Any:
            if cancel_sentence(root.parent):
                raise KeyboardInterrupt
            start = time.monotonic()
            with progress.running(name) as line, progress.printing():
                result = work()
                line.outcome, line.found = found(result)
            seconds = time.monotonic() - start
            console.print(f"  [bold]{name:<15}[/]{line.outcome:<10}{seconds:7.1f} s   [dim]{escape(line.found)}[/]")
            return result

        step("data", lambda: restore_data(repo), lambda _: ("here", ""))
        for name in STAGES:
            step(
                name,
                lambda name=name: bring(repo, root, name, params, releases, alone),
                lambda outcome, name=name: (outcome, summary(name, root)),
            )
            if name == "validate":
                _check_floors(root, params)
        verdict = step(
            "gate",
            lambda: repairing(repo, lambda: _judge(root, params, releases, champion, about)),
            lambda verdict: (verdict.outcome, ""),
        )
    figures = figures_of(root, verdict, params.gate.metric, time.monotonic() - began)
    row = Row(kind="experiment", champion=verdict.champion, sentence=verdict.sentence, figures=figures, **about)
    return add_row(root, row)


def settings_of(root: Path, alone: bool) -> Params:
    """The settings in the worktree `root`; alone: with the engine that asks no cluster, for the gate too.

    A trial that is a task of the cluster holds cores there: it would wait for workers that other trials keep from it.
    """
    params = load_run_params(root / "params.yaml")
    return params.model_copy(update={"scale": params.scale.model_copy(update={"engine": "local"})}) if alone else params


def bring(repo, root: Path, name: str, params: Params, releases: Releases, alone: bool = False) -> str:
    """Bring stage `name` up to date as a run does, a training from the start that a run would pin; its outcome.

    alone: in this process, which may be a task of the cluster itself and would wait for its own place.
    """
    if name == "train_backbone":
        pin_start(root, params, releases)
    how = (run_stage, None) if alone else (run_stage_scaled, fill_entries)
    return repairing(repo, lambda: bring_up_to_date(repo, name, *how))


def _judge(root: Path, params: Params, releases: Releases, champion: Pointer | None, about: dict[str, Any]):
    """The gate's verdict. An experiment looks at the test split as a run does, so the look is recorded."""
    return judge_run(root, params, releases, champion, run=about["name"], by=about["by"], how="preview")


def _check_floors(root: Path, params: Params) -> None:
    known = places_of_run(root)
    lines = unknown_floors(params.gate.floors, known)
    lines += unknown_costs(params.calibrate.cost_false_negative, known)
    if lines:
        said = "\n  ".join(lines)
        raise ParamsError(f"params.yaml names what is not in the data, so nothing was trained:\n  {said}")


def main(root: Path) -> int:
    """Run the experiment that `asked.json` beside the worktree `root` describes; returns the exit code.

    The row, or what went wrong, is written to `made.json` there.
    """
    asked = read_json(root.parent / "asked.json")
    champion = Pointer.model_validate(asked["champion"]) if asked["champion"] else None
    try:
        row = run_experiment(root, asked["about"], champion, asked.get("alone", False))
    except Exception as error:
        said = machine_error(error) or (str(error) if isinstance(error, EvergreenError) else None)
        write_json(root.parent / "made.json", {"error": said or f"{type(error).__name__}: {error}"})
        if said is None:
            raise
        return 1
    write_json(root.parent / "made.json", {"row": row.model_dump(mode="json")})
    return 0
