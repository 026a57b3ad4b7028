"""The `evergreen` commands about runs: runs, cancel.

Every `evergreen` command loads this module, so it imports only light modules at the top.
"""

import json
from collections.abc import Callable
from typing import Annotated

import typer

from tasks.common.paths import project_root

COMMANDS: list[Callable] = []


def runs(
    most: Annotated[int, typer.Option("--most", min=1, help="How many, the newest first.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the retraining runs: how each ended, why it was started, how long it took."""
    from rich.console import Console

    from flows.cli.tables import print_run_rows
    from flows.publishing.history import open_project
    from flows.runs.overview import list_runs

    root = project_root()
    page = list_runs(root, open_project(root)[1], most=most)
    if as_json:
        typer.echo(json.dumps([row.as_json() for row in page.rows], indent=2, ensure_ascii=False))
    elif not page.rows:
        typer.echo("no run has started yet: `evergreen retrain` starts one")
    else:
        print_run_rows(Console(), page.rows)


def cancel(
    run: Annotated[str, typer.Argument(help="Run id; `evergreen status` names the one at work.")],
    why: Annotated[str, typer.Option(help="Why; recorded with the run.")] = "",
) -> None:
    """End a run that is at work. Its finished stages stay: the next run goes on from there."""
    from flows.runs.cancel import cancel as cancel_run
    from tasks.common.person import person

    root = project_root()
    typer.echo(cancel_run(root, run, by=person(root), why=why))


COMMANDS += [runs, cancel]
