"""The `evergreen` commands by which a person decides about a run: approve, refuse, comment, promote.

Every `evergreen` command loads this module, so it imports only light modules at the top.
"""

from typing import Annotated

import typer

from flows.cli.text import SENTENCES, for_terminal
from tasks.common.paths import project_root
from tasks.common.person import person

Run = Annotated[str, typer.Argument(help="Run id; `evergreen releases --runs` lists them.")]


def approve(
    run: Run,
    why: Annotated[str, typer.Option(help="Why; recorded with the version.")] = "",
    preview: Annotated[
        bool, typer.Option("--preview", help="Only judge it again against what is live now, and say the verdict.")
    ] = False,
) -> None:
    """Publish a held run, unless the gate rejects it against the model that is live now."""
    from flows.publishing.decisions import preview as judge_again
    from flows.publishing.held import approve as publish_held

    root = project_root()
    if preview:
        found = judge_again(root, run, by=person(root))
        against = found.version or "nothing: it would be the first version"
        typer.echo(f"judged against {for_terminal(against)}: {for_terminal(found.verdict.sentence, SENTENCES)}")
        typer.echo("nothing was published")
        return
    live = publish_held(root, run, by=person(root), why=why)
    typer.echo(f"{live.version} is live (promotion {live.seq}): {live.why}")


def refuse(run: Run, why: Annotated[str, typer.Option(help="Why; recorded with the run.")] = "") -> None:
    """Refuse a held run: nobody is asked about it again, and only an override can still publish it."""
    from flows.publishing.decisions import refuse as refuse_held

    said = refuse_held(root := project_root(), run, by=person(root), why=why)
    typer.echo(f"refused {run}: {for_terminal(said, SENTENCES)}")


def comment(run: Run, text: Annotated[str, typer.Argument(help="What to say or ask.")]) -> None:
    """Add a comment or a question to a run; its page shows all of them."""
    from flows.publishing.decisions import comment as add_comment

    added = add_comment(root := project_root(), run, by=person(root), text=text)
    typer.echo(f"{for_terminal(added['by'])} on {run}: {for_terminal(added['text'], SENTENCES)}")


def promote(
    run: Run,
    why: Annotated[str, typer.Option(help="Why; recorded with the version.")] = "",
    override: Annotated[bool, typer.Option("--override", help="Overrule the gate.")] = False,
) -> None:
    """Publish a held or rejected run against the gate's verdict; who and why are recorded with the version."""
    from flows.publishing.held import override as publish_anyway
    from tasks.common.errors import EvergreenError

    if not override:
        raise EvergreenError(
            f"a run that passes the gate is promoted automatically. Approve a held run with `evergreen approve {run}`, "
            f'or overrule the gate with `evergreen promote {run} --override --why "..."`'
        )
    live = publish_anyway(root := project_root(), run, by=person(root), why=why)
    typer.echo(f"{live.version} is live (promotion {live.seq}): {live.why}")


COMMANDS = [approve, refuse, comment, promote]
