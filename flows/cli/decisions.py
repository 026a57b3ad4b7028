"""The `evergreen` commands by which a person decides about a run: approve, refuse, comment, promote.

Every `evergreen` command loads this module, so it imports only light modules at the top.
"""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.text import SENTENCES, for_terminal
from tasks.common.paths import project_root
from tasks.common.person import person

if TYPE_CHECKING:
    from tasks.common.floors import Floor

Run = Annotated[str, typer.Argument(help="Run id; `evergreen releases --runs` lists them.")]


def approve(
    run: Run,
    why: Annotated[str, typer.Option(help="Why; recorded with the version.")] = "",
    preview: Annotated[
        bool, typer.Option("--preview", help="Only judge it again against what is live now, and say the verdict.")
    ] = False,
    floor: Annotated[
        list[str] | None,
        typer.Option(
            help="With --preview: judge any run, also a published one, as if this floor were set, such as "
            '"class: crack, recall: 0.98". Nothing is recorded.'
        ),
    ] = None,
) -> None:
    """Publish a held run, unless the gate rejects it against the model that is live now."""
    from flows.publishing.decisions import preview as judge_again
    from flows.publishing.decisions import try_floors
    from flows.publishing.held import approve as publish_held
    from tasks.common.errors import EvergreenError

    root = project_root()
    if floor:
        if not preview:
            raise EvergreenError("--floor tries a floor: add --preview; a floor that counts stands in gate.floors")
        version, verdict = try_floors(root, run, read_floors(floor))
        against = version or "nothing: it was the first version"
        typer.echo(f"judged against {for_terminal(against)}: {for_terminal(verdict.sentence, SENTENCES)}")
        for check in verdict.checks:
            if check.is_floor:
                typer.echo(f"  {for_terminal(check.name)}: {for_terminal(check.detail, SENTENCES)}")
        typer.echo("nothing was published or recorded")
        return
    if preview:
        found = judge_again(root, run, by=person(root))
        against = found.version or "nothing: it would be the first version"
        typer.echo(f"judged against {for_terminal(against)}: {for_terminal(found.verdict.sentence, SENTENCES)}")
        typer.echo("nothing was published")
        return
    live = publish_held(root, run, by=person(root), why=why)
    typer.echo(f"{live.version} is live (promotion {live.seq}): {live.why}")


def read_floors(texts: list[str]) -> "list[Floor]":
    """Floors as people type them. Raises EvergreenError."""
    from tasks.common.errors import EvergreenError
    from tasks.common.floors import parse_floor

    try:
        return [parse_floor(text) for text in texts]
    except ValueError as error:
        raise EvergreenError(f"--floor {error}") from None


def floors(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Versions, or runs that left a commit. Default: the newest five versions."),
    ] = None,
    floor: Annotated[
        list[str] | None,
        typer.Option(help='A floor to try beside those of params.yaml, such as "class: crack, recall: 0.98".'),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show how the live model and earlier ones stand to the floors, by the answers that their runs stored."""
    from flows.publishing.history import open_project
    from flows.publishing.judge_run import with_floors
    from flows.versions.floors import standings

    root = project_root()
    params = open_project(root)[0]
    asked = with_floors(params, params.gate, read_floors(floor or [])).gate.floors
    found = standings(root, asked, names or [])
    if as_json:
        typer.echo(json.dumps([one.model_dump(mode="json") for one in found], indent=2, ensure_ascii=False))
        return
    if not asked and not any(check.name.startswith("floor.") for one in found for check in one.checks):
        typer.echo("no floors: write some to gate.floors in params.yaml, or try one with --floor (docs/gate.md)")
    if not found:
        typer.echo("nothing has been released yet: `evergreen retrain` makes the first version")
    for one in found:
        typer.echo(
            f"{for_terminal(one.name)}{' (live)' if one.live else ''}{f': {for_terminal(one.why)}' if one.why else ''}"
        )
        for check in one.checks:
            typer.echo(f"  {for_terminal(check.name)}: {for_terminal(check.detail, SENTENCES)}")


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


COMMANDS = [approve, refuse, comment, promote, floors]
