"""The `evergreen` commands about experiments: experiment, experiments.

Every `evergreen` command loads this module, so it imports only light modules at the top.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from tasks.common.errors import EvergreenError
from tasks.common.paths import project_root

COMMANDS: list[Callable] = []
SET_HELP = "One change, e.g. train_backbone.learning_rate=0.003. Can be repeated: all of them together."
GRID_HELP = "Values to combine, e.g. train_head.method=crt,tau_norm. Can be repeated: every combination is tried."
SWEEP_HELP = (
    "Values or a range to draw from, e.g. train_backbone.learning_rate=0.001..0.02. Can be repeated. Needs --minutes."
)
MINUTES_HELP = "Start no experiment that would not end in this time, as long as the slowest one took."
RATE_HELP = "Train on so many batches at rising rates (120 say enough), name a learning_rate to try, and stop."
APPLY_HELP = "Write the winner's settings into params.yaml; alone: the winner of what was tried here so far."


def experiment(
    changes: Annotated[list[str] | None, typer.Option("--set", help=SET_HELP)] = None,
    grids: Annotated[list[str] | None, typer.Option("--grid", help=GRID_HELP)] = None,
    sweeps: Annotated[list[str] | None, typer.Option("--sweep", help=SWEEP_HELP)] = None,
    find_rate: Annotated[int | None, typer.Option("--find-rate", min=10, metavar="BATCHES", help=RATE_HELP)] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", min=0.0, help=MINUTES_HELP)] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the sweep: the same seed draws the same settings.")] = 0,
    apply: Annotated[bool, typer.Option("--apply", help=APPLY_HELP)] = False,
    name: Annotated[str | None, typer.Option("--name", help="With --apply: this experiment, not the winner.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Train and judge with other settings, and publish nothing. Each row of the table has the same champion.

    The settings as they are come first, then one change (--set), a grid (--grid) or a sweep (--sweep).
    """
    from flows.experiments import launch
    from flows.experiments.choose import choose

    root = project_root()
    if find_rate is not None:
        if changes or grids or sweeps or apply or name or as_json or minutes is not None:
            raise EvergreenError("--find-rate tries the settings of params.yaml and stops: give it alone")
        _find_rate(root, find_rate)
        return
    setup = launch.prepare(root)
    say = _quiet if as_json else typer.echo
    planned, checked = _planned(changes or [], grids or [], sweeps or [], minutes, seed)
    if planned is None and not apply:
        raise EvergreenError("nothing to try: name a change (--set), a grid (--grid) or a sweep (--sweep)")
    if name and not apply:
        raise EvergreenError("--name says which experiment --apply takes: give both")
    made = launch.Made(launch.comparable(setup))
    if planned is not None:
        launch.check_settings(setup, checked)
        made = launch.make_all(setup, planned, minutes, say, sys.stderr if as_json else None)
    choice = choose(made.rows)
    if as_json:
        about = {"winner": choice.row.name if choice.row else None, "sentence": choice.sentence}
        rows = [row.model_dump(mode="json") for row in made.rows]
        typer.echo(json.dumps(about | {"rows": rows, "failed": dict(made.failed)}, indent=2, ensure_ascii=False))
    else:
        print_rows(made.rows)
        say(choice.sentence)
        if made.out_of_time:
            say("the time is over: the same command with more --minutes goes on from here")
    if apply:
        _apply(launch, root, _named(made.rows, name) if name else choice.row, say)
    if made.failed:
        raise EvergreenError("; ".join(f"{one} failed: {why}" for one, why in made.failed))


def _find_rate(root: Path, steps: int) -> None:
    from flows.project.trials.rates import find_project_rate

    found = find_project_rate(root, steps, typer.echo)
    if found is None:
        typer.echo("no rate lowered the loss: the start is as good as what so few batches reach; try more")
    else:
        typer.echo(f"the highest rate that still trains: try --set train_backbone.learning_rate={found:g}")


def experiments(
    everything: Annotated[
        bool, typer.Option("--all", help="Of other data, settings and code, too, and the runs: not only what HEAD has.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the experiments with their figures; `dvc exp show` has them, too, with every setting and metric."""
    from flows.publishing.experiment_table import rows
    from flows.repo.run_inputs import current_inputs

    root = project_root()
    found = rows(root)
    if not everything:
        key = current_inputs(root)[0]
        found = [row for row in found if row.kind == "experiment" and row.inputs == key]
    if as_json:
        typer.echo(json.dumps([row.model_dump(mode="json") for row in found], indent=2, ensure_ascii=False))
    elif not found:
        typer.echo(
            "no experiment on these data, settings and code yet: `evergreen experiment --set SETTING=VALUE` makes one"
        )
    else:
        print_rows(found)


def _planned(changes: list[str], grids: list[str], sweeps: list[str], minutes: float | None, seed: int):
    """(experiments to make, the baseline first; what to check before); (None, ()) if nothing is asked."""
    from itertools import chain

    from flows.experiments import plan
    from flows.experiments.settings import Range, parse_change, parse_choices

    change = dict(parse_change(text) for text in changes)
    choices: dict[str, Any] = {}
    for text in [*grids, *sweeps]:
        setting, values = parse_choices(text)
        if isinstance(values, Range) and text in grids:
            raise EvergreenError(f"{text!r}: a grid needs values, as in 0.001,0.01; a range is for --sweep")
        choices[setting] = values
    if grids and sweeps:
        raise EvergreenError("a grid tries every combination, a sweep draws some: give --grid or --sweep")
    if sweeps and minutes is None:
        raise EvergreenError("a sweep goes on until its time is over: give it --minutes")
    if sweeps:
        planned = plan.sweep(change, choices, seed)
        return chain([plan.BASELINE], planned), plan.corners(change, choices)
    if not change and not grids:
        return None, ()
    planned = list(plan.grid(change, choices))
    return [plan.BASELINE, *planned], planned


def _named(rows: list, name: str):
    for row in rows:
        if row.name == name:
            return row
    known = ", ".join(row.name for row in rows) or "none"
    raise EvergreenError(f"no experiment {name!r} on these inputs against the live model; there are: {known}")


def _apply(launch, root, row, say: Callable[[str], None]) -> None:
    if row is None or not row.changes:
        say("params.yaml stays as it is")
        return
    for line in launch.apply(root, row):
        say(f"params.yaml: {line}")
    say(f'commit it (`git commit -am "{row.name}"`), then `evergreen retrain`: the training is in the cache')


def print_rows(rows: list) -> None:
    """Print rows of the table of experiments on the terminal."""
    from rich.console import Console

    from flows.cli.tables import print_experiments

    print_experiments(Console(), rows)


def _quiet(line: str) -> None:
    """Say nothing: standard output is for the JSON."""


COMMANDS += [experiment, experiments]
