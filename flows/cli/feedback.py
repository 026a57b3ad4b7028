"""The `evergreen feedback` commands: labels that clients of the predictor sent.

Every `evergreen` command loads this module, so it imports only light modules at the top.
"""

from typing import Annotated

import typer

from flows.cli.app import App
from flows.cli.text import for_terminal
from tasks.common.paths import project_root

app = App(help="See, take or drop true labels that clients of the predictor sent.")

WHY_HELP = "Why; `evergreen feedback list` and the page Label show it."
DECISIONS = 5  # of people that are listed
SHOWN = 10  # labels of each kind that are listed


@app.command("list")
def list_() -> None:
    """List the labels that wait: by client, and why they wait."""
    from collections import Counter

    from flows.production.feedback import decided_lately, waiting_feedback
    from flows.production.feedback_verdicts import WHY
    from tasks.common.plural import counted

    judged = waiting_feedback(project_root())
    typer.echo(f"waiting: {counted(len(judged), 'label')} of clients")
    for (client, verdict), count in Counter((each.one.label.client, each.verdict) for each in judged).items():
        typer.echo(f"  {for_terminal(client)}: {count} {WHY[verdict]}")
        those = [each.one.label for each in judged if (each.one.label.client, each.verdict) == (client, verdict)]
        for one in those[:SHOWN]:
            label = one.label if isinstance(one.label, str) else ", ".join(one.label) or "(none)"
            told = f"{one.name[:40]}: {label}, by {one.who} at {one.at:%Y-%m-%d %H:%M} UTC"
            typer.echo(f"    {for_terminal(f'{told}; {one.why}' if one.why else told)}")
        if count > SHOWN:
            typer.echo(f"    ... and {count - SHOWN} more")
    for one in decided_lately(project_root(), DECISIONS):
        typer.echo(f"decided: {for_terminal(one.sentence(), 400)}")


@app.command()
def take(
    client: Annotated[str | None, typer.Option(help="Only labels of this client (name of its token).")] = None,
    beyond: Annotated[
        bool, typer.Option("--beyond-quota", help="Also take what is beyond the quota of a client or source.")
    ] = False,
    commit: Annotated[bool, typer.Option(help="Commit data.dvc (and nothing else) to git.")] = True,
    why: Annotated[str, typer.Option(help=WHY_HELP)] = "",
) -> None:
    """Take the labels into the production log, and their images into data/. Housekeeping does it every night."""
    from flows.production.feedback import take_feedback

    for line in take_feedback(project_root(), quota=not beyond, client=client, commit=commit, why=why).lines():
        typer.echo(for_terminal(line, 2000))


@app.command()
def drop(
    client: Annotated[str, typer.Argument(help="The client (name of its token) whose labels are wrong.")],
    why: Annotated[str, typer.Option(help=WHY_HELP)] = "",
) -> None:
    """Delete the labels of a client that wait. `evergreen undo` takes back a batch that was taken."""
    from flows.production.feedback import drop_feedback
    from tasks.common.plural import counted

    dropped = drop_feedback(project_root(), client, why)
    typer.echo(f"{counted(dropped, 'label')} of {for_terminal(client)} dropped")
