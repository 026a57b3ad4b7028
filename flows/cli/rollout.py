"""The `evergreen rollout` commands: how a challenger does in production, next, promote, stop, begin.

Every `evergreen` command loads this module, so it imports only light modules at the top.
"""

import json
from typing import Annotated

import typer

from flows.cli.app import App
from flows.cli.text import for_terminal
from tasks.common.paths import project_root
from tasks.common.person import person

app = App(help="A challenger that answers unseen or a share of the traffic: how it does, and what people order.")

SENTENCE = 2000  # characters of a sentence that is shown
Why = Annotated[str, typer.Option(help="Why; stored with the rollout.")]


@app.callback(invoke_without_command=True)
def rollout(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the rollout, what production says about it now, and what the monitor would do. Nothing changes."""
    if context.invoked_subcommand is not None:
        return
    from flows.rollout.status import status

    found = status(project_root())
    if as_json:
        typer.echo(json.dumps(found.model_dump(mode="json"), indent=2, ensure_ascii=False))
        return
    for line in found.lines():
        typer.echo(for_terminal(line, SENTENCE))


@app.command()
def begin(run: str, why: Why = "") -> None:
    """Let the model of the held run RUN answer as release.strategy in params.yaml says."""
    from flows.rollout.begin import begin_rollout

    root = project_root()
    new = begin_rollout(root, run, by=person(root), why=why)
    typer.echo(for_terminal(new.sentence(), SENTENCE))


@app.command("next")
def next_step(why: Why) -> None:
    """Go to the next share of the traffic now."""
    from flows.rollout import act

    _order(act.next_step, why)


@app.command()
def promote(why: Why) -> None:
    """Publish the challenger now, before its steps are over. The gate's floors hold."""
    from flows.rollout import act

    _order(act.promote, why)


@app.command()
def stop(why: Why) -> None:
    """End the rollout: the live model answers everything again. The run stays held."""
    from flows.rollout import act

    _order(act.stop, why)


def _order(order, why: str) -> None:
    root = project_root()
    typer.echo(for_terminal(order(root, by=person(root), why=why, say=typer.echo), SENTENCE))
